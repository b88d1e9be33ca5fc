"""Visformer: a convolutional stage, then two of attention, all with batch normalization.

Reference: Chen et al., "Visformer: The Vision-friendly Transformer", ICCV 2021; names as in timm.
"""

from typing import ClassVar

import flax.linen as nn
from einops import rearrange

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import global_pool
from transferjax.models.vit import attend, check_positions, placed
from transferjax.typing import Array


class SpatialMLP(nn.Module):
    """1 x 1 convolutions with a GELU between; with `groups`, a grouped 3 x 3 one between them."""

    layers: Layers
    hidden: int
    groups: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, gelu = self.layers.conv, lambda y: nn.gelu(y, approximate=False)
        y = gelu(conv(self.hidden, 1, name="conv1")(x))
        if self.groups:
            y = gelu(conv(self.hidden, groups=self.groups, name="conv2")(y))
        return conv(x.shape[-1], 1, name="conv3")(y)


class ConvBlock(nn.Module):
    """An MLP with a 3 x 3 convolution inside, on normalized features and with a shortcut."""

    layers: Layers
    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        mlp = SpatialMLP(self.layers, 2 * x.shape[-1], self.groups, name="mlp")
        return x + Branch()(mlp(self.layers.norm("norm2")(x)))


class Attention(nn.Module):
    """Multi-head self-attention among all pixels, by 1 x 1 convolutions."""

    layers: Layers
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width, conv = x.shape[-1], self.layers.conv
        tokens = rearrange(conv(3 * width, 1, name="qkv")(x), "b h w c -> b (h w) c")
        return conv(width, 1, name="proj")(attend(tokens, self.heads).reshape(x.shape))


class Block(nn.Module):
    """Attention among all pixels and an MLP of each, on normalized features and with a shortcut."""

    layers: Layers
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = Attention(self.layers, self.heads, name="attn")
        x = x + Branch()(attention(self.layers.norm("norm1")(x)))
        mlp = SpatialMLP(self.layers, 4 * x.shape[-1], name="mlp")
        return x + Branch()(mlp(self.layers.norm("norm2")(x)))


class Visformer(Net):
    """A Visformer for images of exactly `image_size` (the positions are learned).

    Args:
        image_size: height and width of the images; a multiple of 32.
        blocks: the number of blocks in each of the three stages; those of the first convolve.
        width: the features of the second stage; the first has half, the third twice as many.
        heads: of the attention.
        stem_width: the features of the first layer.
        groups: of the convolutions in the first stage's blocks.
    """

    image_size: int = 224  # type: ignore[misc]  # a field: the positions depend on it
    blocks: tuple[int, int, int] = (7, 4, 4)
    width: int = 384
    heads: int = 6
    stem_width: int = 32
    groups: int = 8

    stem: ClassVar[str] = "stem.0"
    head: ClassVar[str] = "head"

    def forward(self, layers: Layers, x: Array) -> Array:
        check_positions(self, x)
        x = nn.relu(layers.norm("stem.1")(layers.conv(self.stem_width, 7, 2, name="stem.0")(x)))
        for stage, (patch, count) in enumerate(zip((4, 2, 2), self.blocks, strict=True), 1):
            x = self.embed(layers, x, patch, stage)
            for i in range(count):
                kind, option = (ConvBlock, self.groups) if stage == 1 else (Block, self.heads)
                x = kind(layers, option, name=f"stage{stage}.{i}")(x)
        return layers.dense(self.num_classes, self.head)(global_pool(layers.norm("norm")(x)))

    def embed(self, layers: Layers, x: Array, patch: int, stage: int) -> Array:
        """Patches of the features, and where they are."""
        width, name = self.width * 2 ** (stage - 1) // 2, f"patch_embed{stage}"
        x = layers.conv(width, patch, patch, padding=0, bias=True, name=f"{name}.proj")(x)
        return placed(self, layers.norm(f"{name}.norm")(x), f"pos_embed{stage}")
