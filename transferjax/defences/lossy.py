"""Lossy pre-processing: fewer bits, JPEG, feature distillation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.inputs import dct_matrix
from transferjax.typing import Array, Predict

LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def straight_through(x: Array, y: Array) -> Array:
    """The value of y with the gradient of x (BPDA with the identity)."""
    return x + jax.lax.stop_gradient(y - x)


@dataclass(frozen=True)
class _BitDepth:
    levels: int

    def __call__(self, predict: Predict, x: Array) -> Array:
        return predict(straight_through(x, jnp.round(x * self.levels) / self.levels))


def bit_depth(predict: Predict, bits: int = 3) -> Predict:
    """Every channel rounded to `bits` bits.

    Reference: Xu et al., "Feature Squeezing", NDSS 2018.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must lie in 1 … 8; got {bits}")
    return jax.tree_util.Partial(_BitDepth(2**bits - 1), predict)


def quality_table(table: np.ndarray, quality: int) -> np.ndarray:
    """The quantization table of a quality in 1 … 100, by libjpeg's formula."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie in 1 … 100; got {quality}")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((table * scale + 50) // 100, 1, 255)


def quantize_blocks(planes: Array, table: np.ndarray) -> Array:
    """Planes `[B, H, W]` in 0–255, the DCT of their 8 x 8 blocks rounded to multiples of the table."""
    height, width = planes.shape[1:]
    padded = jnp.pad(planes, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge") - 128
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(-1, rows, 8, columns, 8)
    dct, steps = jnp.asarray(dct_matrix(8), planes.dtype), jnp.asarray(table, planes.dtype)
    coefficients = jnp.einsum("ih,brhcw,jw->bricj", dct, blocks, dct)
    rounded = jnp.round(coefficients / steps[:, None, :]) * steps[:, None, :]
    blocks = jnp.einsum("ih,bricj,jw->brhcw", dct, rounded, dct)
    return blocks.reshape(padded.shape)[:, :height, :width] + 128


def _halve(planes: Array) -> Array:
    """The mean of 2 x 2 pixels."""
    batch, height, width = planes.shape
    return planes.reshape(batch, height // 2, 2, width // 2, 2).mean((2, 4))


def _double(planes: Array, axis: int, size: int) -> Array:
    """libjpeg's smooth upsampling to `size`: 3/4 of the nearer pixel and 1/4 of the farther."""
    count = planes.shape[axis]
    at = lambda step: jnp.take(planes, jnp.clip(jnp.arange(count) + step, 0, count - 1), axis)  # noqa: E731
    pairs = jnp.stack([0.75 * planes + 0.25 * at(-1), 0.75 * planes + 0.25 * at(1)], axis + 1)
    whole = pairs.reshape(*planes.shape[:axis], 2 * count, *planes.shape[axis + 1 :])
    return jax.lax.slice_in_dim(whole, 0, size, axis=axis)


def jpeg_round_trip(x: Array, quality: int) -> Array:
    """`decode(encode(x))` of images `[B, H, W, 3]` in [0, 1]; the entropy coding in between loses nothing."""
    if x.shape[-1] != 3:
        raise ValueError(f"JPEG here is for RGB images; got {x.shape[-1]} channels")
    height, width = x.shape[1:3]
    pixels = jnp.pad(jnp.round(x * 255), ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
    planes = jnp.einsum("dc,bhwc->dbhw", jnp.asarray(YCBCR, x.dtype), pixels)
    planes = jnp.round(planes + jnp.array([0, 128, 128]).reshape(3, 1, 1, 1))
    level = lambda plane: jnp.clip(jnp.round(plane), 0, 255)  # noqa: E731
    tables = quality_table(LUMINANCE, quality), quality_table(CHROMINANCE, quality)
    luminance = level(quantize_blocks(planes[0], tables[0]))[:, :height, :width]
    colours = []
    for plane in planes[1:]:
        half = level(quantize_blocks(jnp.round(_halve(plane)), tables[1]))
        half = half[:, : (height + 1) // 2, : (width + 1) // 2]
        colours.append(jnp.round(_double(_double(half, 1, height), 2, width)) - 128)
    decoded = jnp.stack([luminance, *colours], -1)
    rgb = jnp.einsum("cd,bhwd->bhwc", jnp.asarray(np.linalg.inv(YCBCR), x.dtype), decoded)
    return level(rgb) / 255


@dataclass(frozen=True)
class _Jpeg:
    quality: int

    def __call__(self, predict: Predict, x: Array) -> Array:
        return predict(straight_through(x, jpeg_round_trip(x, self.quality)))


def jpeg(predict: Predict, quality: int = 75) -> Predict:
    """JPEG compression (baseline, chroma at half resolution), computed in JAX so that it stays on the device.

    Reference: Das et al., "Shield", KDD 2018; Guo et al., ICLR 2018.
    """
    quality_table(LUMINANCE, quality)
    return jax.tree_util.Partial(_Jpeg(quality), predict)


@dataclass(frozen=True)
class _FeatureDistillation:
    low: int
    high: int

    def __call__(self, predict: Predict, x: Array) -> Array:
        table = np.full((8, 8), self.high)
        table[:4, :4] = self.low
        planes = jnp.moveaxis(x * 255, -1, 1).reshape(-1, *x.shape[1:3])
        y = quantize_blocks(planes, table).reshape(x.shape[0], x.shape[3], *x.shape[1:3])
        return predict(straight_through(x, jnp.clip(jnp.moveaxis(y, 1, -1) / 255, 0, 1)))


def feature_distillation(predict: Predict, low: int = 25, high: int = 30) -> Predict:
    """JPEG's quantization with steps chosen against perturbations, for every channel of RGB.

    Args:
        low: the step of the 4 x 4 lowest frequencies, in 0–255 levels.
        high: of the others.

    Raises:
        ValueError: a step below 1.

    Reference: Liu et al., "Feature Distillation: DNN-Oriented JPEG Compression Against Adversarial Examples",
    CVPR 2019.
    """
    if min(low, high) < 1:
        raise ValueError(f"low {low}, high {high}: expected steps of at least 1")
    return jax.tree_util.Partial(_FeatureDistillation(low, high), predict)
