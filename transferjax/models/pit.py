"""Vision transformers whose tokens are pooled: half as many and twice as wide from stage to stage.

Reference: Heo et al., "Rethinking Spatial Dimensions of Vision Transformers", ICCV 2021; names as in timm.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from transferjax.models.layers import Layers, Net
from transferjax.models.vit import Block, check_positions, placed
from transferjax.typing import Array


class PiT(Net):
    """A pooling-based vision transformer for images of exactly `image_size` (the positions are learned).

    Args:
        image_size: height and width of the images.
        patch, stride: the patches' size, and the distance from one to the next; they overlap.
        blocks, heads: the number of blocks in each stage, and of their attention's heads.
        head_width: the features of a head.
    """

    image_size: int = 224  # type: ignore[misc]  # a field: the positions depend on it
    patch: int = 14
    stride: int = 7
    blocks: tuple[int, ...] = (3, 6, 4)
    heads: tuple[int, ...] = (4, 8, 16)
    head_width: int = 64

    stem: ClassVar[str] = "patch_embed.conv"
    head: ClassVar[str] = "head"

    def forward(self, layers: Layers, x: Array) -> Array:
        check_positions(self, x)
        width = self.heads[0] * self.head_width
        x = layers.conv(width, self.patch, self.stride, padding=0, bias=True, name="patch_embed.conv")(x)
        x = placed(self, x, "pos_embed")
        token = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, width))
        token = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, width))
        for stage, (count, heads) in enumerate(zip(self.blocks, self.heads, strict=True)):
            name, width = f"transformers.{stage}", heads * self.head_width
            if stage:
                groups, pool = x.shape[-1], f"{name}.pool"
                x = layers.conv(width, 3, 2, groups=groups, bias=True, name=f"{pool}.conv")(x)
                token = layers.dense(width, f"{pool}.fc")(token)
            tokens = jnp.concatenate([token, rearrange(x, "b h w c -> b (h w) c")], 1)
            for i in range(count):
                tokens = Block(layers, heads, 4 * width, name=f"{name}.blocks.{i}")(tokens)
            token, x = tokens[:, :1], tokens[:, 1:].reshape(x.shape)
        return layers.dense(self.num_classes, self.head)(layers.layer_norm("norm")(token[:, 0]))
