"""Nets that clean images: ComDefend and NRP; the high-level guided denoiser is `models.denoised.Denoiser`.

A purifier maps images in [0, 1] to images. `models.predictor(net, variables)` makes it a function,
`purified(predict, purifier)` puts it in front of a classifier, and `models.load(net, file)` imports weights:
NRP's modules carry the names of its published PyTorch code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.defences.lossy import straight_through
from transferjax.models.layers import Layers, Net
from transferjax.typing import Array, Predict

Purify = Callable[[Array], Array]
"""Images `[B, H, W, C]` in [0, 1] -> images."""


@dataclass(frozen=True)
class _Purified:
    bpda: bool

    def __call__(self, predict: Predict, purifier: Purify, x: Array) -> Array:
        y = jnp.clip(purifier(jax.lax.stop_gradient(x) if self.bpda else x), 0, 1)
        return predict(straight_through(x, y) if self.bpda else y)


def purified(predict: Predict, purifier: Purify, *, bpda: bool = False) -> Predict:
    """The net behind a purifier.

    Args:
        bpda: attacks see the gradient of the identity; else that of the purifier.
    """
    return jax.tree_util.Partial(_Purified(bpda), predict, purifier)


class ComDefend(Net):
    """Two nets around a binary code: nine convolutions to 12 bits a pixel, nine back to an image.

    Reference: Jia et al., "ComDefend: An Efficient Image Compression Model to Defend Adversarial Examples",
    CVPR 2019; what is penalized is the noisy code's sigmoid, as in their code.

    Args:
        widths: of the compressing net's first eight convolutions; the reconstructing net begins with the
            second of them and ends with the first.
        bits: of the code, per pixel.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 128, 64, 32)
    bits: int = 12

    stem: ClassVar[str] = "com1"

    @nn.nowrap
    def stack(self, layers: Layers, x: Array, name: str, widths: tuple[int, ...], out: int) -> Array:
        for i, width in enumerate(widths, start=1):
            x = nn.elu(layers.conv(width, 3, name=f"{name}{i}", bias=True)(x))
        return layers.conv(out, 3, name=f"{name}{len(widths) + 1}", bias=True)(x)

    def forward(self, layers: Layers, x: Array) -> Array:
        code = self.stack(layers, x - 0.5, "com", self.widths, self.bits)
        if layers.train:  # noise pushes the code away from zero, so that rounding it loses nothing
            noise = jax.random.normal(self.make_rng("dropout"), code.shape, code.dtype)
            bits = nn.sigmoid(code + 20.0 * noise)
            self.sow("intermediates", "code", bits)
        else:
            bits = straight_through(nn.sigmoid(code), (code > 0).astype(code.dtype))
        return nn.sigmoid(self.stack(layers, bits, "rec", self.widths[1:] + self.widths[:1], x.shape[-1]))


class _DenseBlock(nn.Module):
    layers: Layers
    features: int
    growth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        seen = x
        for i in range(1, 5):
            y = nn.leaky_relu(self.layers.conv(self.growth, 3, name=f"conv{i}", bias=True)(seen), 0.2)
            seen = jnp.concatenate([seen, y], -1)
        return x + 0.2 * self.layers.conv(self.features, 3, name="conv5", bias=True)(seen)


class _ResidualInResidual(nn.Module):
    layers: Layers
    features: int
    growth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for name in ("RDB1", "RDB2", "RDB3"):
            y = _DenseBlock(self.layers, self.features, self.growth, name=name)(y)
        return x + 0.2 * y


class NRP(Net):
    """The purifier network of NRP: residual-in-residual dense blocks at full resolution.

    Reference: Naseer et al., "A Self-supervised Approach for Adversarial Robustness", CVPR 2020; names as in
    the official code, whose weights `models.load` takes.
    """

    features: int = 64
    growth: int = 32
    blocks: int = 23

    stem: ClassVar[str] = "conv_first"

    def forward(self, layers: Layers, x: Array) -> Array:
        y = layers.conv(self.features, 3, name="conv_first", bias=True)(x)
        for i in range(self.blocks):
            y = _ResidualInResidual(layers, self.features, self.growth, name=f"RRDB_trunk.{i}")(y)
        return layers.conv(x.shape[-1], 3, name="trunk_conv", bias=True)(y)
