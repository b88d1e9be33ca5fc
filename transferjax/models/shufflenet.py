"""ShuffleNetV2.

Reference: Ma et al., "ShuffleNet V2", ECCV 2018; names as in torchvision.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from transferjax.models.layers import Layers, Net
from transferjax.models.pooling import global_pool, max_pool
from transferjax.typing import Array


class Block(nn.Module):
    """Convolves one half of the channels (to halve the resolution: both), then mixes the halves."""

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        left, right = (x, x) if self.stride > 1 else jnp.split(x, 2, -1)
        if self.stride > 1:
            left = self.pointwise(self.depthwise(left, "branch1.0", "branch1.1"), "branch1.2", "branch1.3")
        right = self.pointwise(right, "branch2.0", "branch2.1")
        right = self.depthwise(right, "branch2.3", "branch2.4")
        right = self.pointwise(right, "branch2.5", "branch2.6")
        return rearrange(jnp.concatenate([left, right], -1), "b h w (two c) -> b h w (c two)", two=2)

    def depthwise(self, x: Array, conv: str, norm: str) -> Array:
        width = x.shape[-1]
        return self.layers.norm(norm)(self.layers.conv(width, 3, self.stride, groups=width, name=conv)(x))

    def pointwise(self, x: Array, conv: str, norm: str) -> Array:
        return nn.relu(self.layers.norm(norm)(self.layers.conv(self.features // 2, 1, name=conv)(x)))


class ShuffleNetV2(Net):
    """A ShuffleNetV2 for images of about 224 x 224.

    Args:
        blocks, widths: the number of blocks in each stage, and their features.
        last: the features before the last layer.
    """

    blocks: tuple[int, ...] = (4, 8, 4)
    widths: tuple[int, ...] = (116, 232, 464)
    last: int = 1024

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "conv1.0"
    head: ClassVar[str] = "fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = nn.relu(layers.norm("conv1.1")(layers.conv(24, 3, 2, name="conv1.0")(x)))
        x = max_pool(x, 3, 2, padding=1)
        for stage, (count, features) in enumerate(zip(self.blocks, self.widths, strict=True), start=2):
            for i in range(count):
                x = Block(layers, features, 1 if i else 2, name=f"stage{stage}.{i}")(x)
        x = nn.relu(layers.norm("conv5.1")(layers.conv(self.last, 1, name="conv5.0")(x)))
        return layers.dense(self.num_classes, self.head)(global_pool(x))
