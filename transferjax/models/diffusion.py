"""The U-net of guided diffusion: which noise is in an image.

Reference: Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021; names as in the
official code, whose `256x256_diffusion_uncond.pt` fits with the defaults.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from transferjax.models.layers import Layers, Net
from transferjax.models.pooling import avg_pool
from transferjax.models.vit import attend
from transferjax.typing import Array


def embedding(times: Array, width: int) -> Array:
    """`[cos(t ω), sin(t ω)]`, the frequencies ω from 1 down to 1/10000: `[B]` -> `[B, width]`."""
    rates = jnp.exp(-jnp.log(10000.0) * jnp.arange(width // 2) / (width // 2))
    return jnp.concatenate([jnp.cos(times[:, None] * rates), jnp.sin(times[:, None] * rates)], -1)


def _same(x: Array) -> Array:
    return x


def _half(x: Array) -> Array:
    return avg_pool(x, 2)


def _double(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


class Block(nn.Module):
    """Two convolutions and a skip; the time scales and shifts what is between them."""

    layers: Layers
    groups: int
    features: int
    resize: Callable[[Array], Array] = _same

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        layers = self.layers
        y = self.resize(nn.silu(layers.group_norm("in_layers.0", self.groups)(x)))
        y = layers.conv(self.features, 3, bias=True, name="in_layers.2")(y)
        told = layers.dense(2 * self.features, "emb_layers.1")(nn.silu(time))[:, None, None]
        scale, shift = jnp.split(told, 2, -1)
        y = nn.silu(layers.group_norm("out_layers.0", self.groups)(y) * (1 + scale) + shift)
        x = self.resize(x)
        if x.shape[-1] != self.features:
            x = layers.conv(self.features, 1, bias=True, name="skip_connection")(x)
        zeros = nn.initializers.zeros
        return x + layers.conv(self.features, 3, bias=True, init=zeros, name="out_layers.3")(y)


class Attention(nn.Module):
    """Every place looks at every other; of each head, queries, keys and values stand together."""

    layers: Layers
    groups: int
    head_width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        heads = max(features // self.head_width, 1)
        y = self.layers.dense(3 * features, "qkv")(self.layers.group_norm("norm", self.groups)(x))
        y = attend(rearrange(y, "b h w (n three d) -> b (h w) (three n d)", n=heads, three=3), heads)
        return x + self.layers.dense(features, "proj_out")(y).reshape(x.shape)


class DiffusionUNet(Net):
    """Noisy images in [-1, 1] `[B, H, W, C]`, times `[B]` -> the noise, and its variance's: `[B, H, W, 2 C]`.

    Args:
        width: the features of the first stage.
        multiples: of the width, at each stage; each has half the resolution of the one before.
        blocks: at each stage on the way down; one more on the way up.
        attended: the stages with attention, counted from 0; so has the middle.
        head_width: features of an attention head.
        groups: of the group normalization.
    """

    width: int = 256
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attended: tuple[int, ...] = (3, 4, 5)
    head_width: int = 64
    groups: int = 32

    image_size: ClassVar[int] = 256
    stem: ClassVar[str] = "input_blocks.0.0"
    head: ClassVar[str] = "out.2"

    @nn.compact
    def __call__(self, images: Array, times: Array | None = None) -> Array:  # type: ignore[override]
        layers = Layers(dtype=self.dtype)
        time = embedding(jnp.zeros(len(images)) if times is None else times, self.width)
        time = nn.silu(layers.dense(4 * self.width, "time_embed.0")(time))
        time = layers.dense(4 * self.width, "time_embed.2")(time)

        def run(x: Array, name: str, *parts: Any) -> Array:
            """Blocks of so many features, or resizing ones, and `None` for attention: one after another."""
            for i, part in enumerate(parts):
                if part is None:
                    x = Attention(layers, self.groups, self.head_width, name=f"{name}.{i}")(x)
                else:
                    features, *resize = part
                    x = Block(layers, self.groups, features, *resize, name=f"{name}.{i}")(x, time)
            return x

        last = len(self.multiples) - 1
        widths = [self.width * multiple for multiple in self.multiples]
        looks = [(None,) * (stage in self.attended) for stage in range(last + 1)]
        x = layers.conv(widths[0], 3, bias=True, name="input_blocks.0.0")(images)
        features = [x]
        for stage in range(last + 1):
            parts = [((widths[stage],), *looks[stage])] * self.blocks
            for each in [*parts, *[((widths[stage], _half),)] * (stage < last)]:
                x = run(x, f"input_blocks.{len(features)}", *each)
                features.append(x)
        x = run(x, "middle_block", (widths[-1],), None, (widths[-1],))
        count = 0
        for stage in reversed(range(last + 1)):
            for i in range(self.blocks + 1):
                grow = ((widths[stage], _double),) * (stage > 0 and i == self.blocks)
                x = jnp.concatenate([x, features.pop()], -1)
                x = run(x, f"output_blocks.{count}", (widths[stage],), *looks[stage], *grow)
                count += 1
        x = nn.silu(layers.group_norm("out.0", self.groups)(x))
        out = layers.conv(2 * images.shape[-1], 3, bias=True, init=nn.initializers.zeros, name="out.2")(x)
        return out.astype(jnp.promote_types(out.dtype, jnp.float32))
