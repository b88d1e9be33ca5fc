"""Swin transformers: attention within windows, which shift by half a window in every second block.

Reference: Liu et al., "Swin Transformer", ICCV 2021; names as in timm.
"""

import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from transferjax.models.layers import Attended, Branch, Layers, Net
from transferjax.models.pooling import global_pool
from transferjax.models.vit import MLP
from transferjax.typing import Array

EPS = 1e-5


def relative_positions(window: int) -> np.ndarray:
    """`[n, n]` with n = window²: for two places in a window, the index of their offset among all offsets."""
    y, x = np.divmod(np.arange(window**2), window)
    offset = lambda place: place[:, None] - place + window - 1  # noqa: E731
    return offset(y) * (2 * window - 1) + offset(x)


def same_region(size: int, window: int, shift: int) -> np.ndarray:
    """`[windows, n, n]`: do two places in a shifted window also lie side by side in the image?

    Shifting is cyclic, so that windows at the border hold pixels from both ends of the image.
    """
    band = np.digitize(np.arange(size), [size - window, size - shift])
    region = rearrange(3 * band[:, None] + band, "(h i) (w j) -> (h w) (i j)", i=window, j=window)
    return region[:, :, None] == region[:, None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention with a learned bias for each offset; `mask` says who sees whom."""

    layers: Layers
    heads: int
    window: int
    mask: np.ndarray | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        qkv = self.layers.dense(3 * x.shape[-1], "qkv")(x)
        q, k, v = rearrange(qkv, "b w n (three h d) -> three b w h n d", three=3, h=self.heads)
        scores = jnp.einsum("bwhnd,bwhmd->bwhnm", q, k) / q.shape[-1] ** 0.5
        shape = ((2 * self.window - 1) ** 2, self.heads)
        table = self.param("relative_position_bias_table", nn.initializers.truncated_normal(0.02), shape)
        scores += rearrange(table[relative_positions(self.window)], "n m h -> h n m").astype(scores.dtype)
        if self.mask is not None:
            scores += jnp.where(self.mask, 0, -100)[:, None].astype(scores.dtype)
        x = jnp.einsum("bwhnm,bwhmd->bwhnd", Attended()(jax.nn.softmax(scores)), v)
        return self.layers.dense(qkv.shape[-1] // 3, "proj")(rearrange(x, "b w h n d -> b w n (h d)"))


class Block(nn.Module):
    """Window attention and MLP, each on normalized features and with a shortcut."""

    layers: Layers
    heads: int
    window: int
    shifted: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = x.shape[1]
        window = min(self.window, size)
        shift = window // 2 if self.shifted and size > window else 0
        y = jnp.roll(self.layers.layer_norm("norm1", EPS)(x), (-shift, -shift), (1, 2))
        y = rearrange(y, "b (h i) (w j) c -> b (h w) (i j) c", i=window, j=window)
        mask = same_region(size, window, shift) if shift else None
        y = WindowAttention(self.layers, self.heads, window, mask, name="attn")(y)
        y = rearrange(y, "b (h w) (i j) c -> b (h i) (w j) c", h=size // window, i=window)
        x = x + Branch()(jnp.roll(y, (shift, shift), (1, 2)))
        y = MLP(self.layers, 4 * x.shape[-1], name="mlp")(self.layers.layer_norm("norm2", EPS)(x))
        return x + Branch()(y)


class Swin(Net):
    """A Swin transformer for square images whose size divides into windows at every stage.

    Args:
        image_size: height and width of the images.
        blocks, heads: the number of blocks in each stage, and of their attention's heads.
        width: the features of the first stage; each further stage doubles them and halves the resolution.
        window: the windows' size.
    """

    image_size: int = 224  # type: ignore[misc]  # a field: it says what `init` sees
    blocks: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    width: int = 96
    window: int = 7
    patch: int = 4

    stem: ClassVar[str] = "patch_embed.proj"
    head: ClassVar[str] = "head.fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        self.check(x)
        x = layers.conv(self.width, self.patch, self.patch, padding=0, bias=True, name="patch_embed.proj")(x)
        x = layers.layer_norm("patch_embed.norm", EPS)(x)
        for stage, (count, heads) in enumerate(zip(self.blocks, self.heads, strict=True)):
            if stage:
                x = rearrange(x, "b (h i) (w j) c -> b h w (j i c)", i=2, j=2)
                x = layers.layer_norm(f"layers.{stage}.downsample.norm", EPS)(x)
                name = f"layers.{stage}.downsample.reduction"
                x = layers.dense(x.shape[-1] // 2, name, bias=False)(x)
            for i in range(count):
                name = f"layers.{stage}.blocks.{i}"
                x = Block(layers, heads, self.window, shifted=i % 2 == 1, name=name)(x)
        return layers.dense(self.num_classes, self.head)(global_pool(layers.layer_norm("norm", EPS)(x)))

    def check(self, x: Array) -> None:
        height, width = x.shape[1:3]
        sizes = [height / self.patch / 2**stage for stage in range(len(self.blocks))]
        if height != width or any(s % min(self.window, s) or s % 1 for s in sizes):
            unit = self.patch * 2 ** (len(self.blocks) - 1) * self.window
            raise ValueError(
                f"Swin's windows of {self.window} do not tile {height} x {width} images; "
                f"use square images of a multiple of {unit}"
            )

    @classmethod
    def canonical(cls, name: str) -> str | None:
        if name.endswith("relative_position_index"):  # follows from the window
            return None
        place = re.match(r"features\.(\d+)\.", name)
        if place and place[1] != "0":  # torchvision's stages and what lies between them take turns
            stage, block = divmod(int(place[1]), 2)
            name = f"layers.{stage}.{'blocks' if block else 'downsample'}.{name[place.end() :]}"
        for pattern, replacement in _TORCHVISION:
            name = re.sub(pattern, replacement, name)
        return name


_TORCHVISION = [
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
]
