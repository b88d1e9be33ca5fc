"""In which order a convolution on CPU takes its sums: the rule, and what it chooses from.

XLA's own kernel is the fastest nearly everywhere, once YNNPACK leaves it convolutions (`transferjax.xla`).
What wins over it, in milliseconds (float32, batch 32, two cores of an AMD EPYC; `benchmarks/orderings.py`):

    cotangent of the weights of 1 x 1 kernels       XLA's kernel    one product (`primitive.product`)
    64 -> 256 channels, 32 x 32 pixels                      27.5           25.8
    512 -> 128, 16 x 16                                     22.9           20.8
    64 -> 128, 32 x 32, stride 2                             9.9            4.6
    3 x 3, stride 1: y / cotangent of x             XLA's kernel    one product (`_columns`)
    512 channels, 2 x 2 pixels                       413 /  410      5.6 / 12.0
    512, 1 x 1                                      14.1 / 19.1      4.6 / 10.1
    3 x 3, stride 1: y / cotangent of x / of w      XLA's kernel    Winograd's order
    64 channels, 32 x 32 pixels                  18 / 18 / 26      22 / 35 / 44: not taken
    128, 16 x 16                                 19 / 18 / 20      15 / 12 / 12
    256, 8 x 8                                   16 / 18 / 21      10 / 14 / 12
    512, 4 x 4 (32 tiles)                        17 / 25 / 17      27 / 75 / 20: not taken

The first product reads its images from memory (`moved_p`), which costs it most of its lead here, where
nothing leads to them. Within a net it saves far more: XLA would compute what does anew.

At batch 128 Winograd's order wins for the cotangent of w alone. And it costs compilation, some 3 s for each
convolution: `cifar_resnet18`, batch 32, takes 397 / 743 / 1310 ms forward / gradient of x / of w without it
and 371 / 646 / 1162 ms with it, but compiles in 1.3 / 3.1 / 6.0 s without it and in 11 / 20 / 34 s with it.
So it is for whoever trains for hours, has looked (`benchmarks/choices.py`: of two nets one gains and one does
not) and says so: `TRANSFERJAX_WINOGRAD=on` in the environment.

What was tried and lost: matrix products tap by tap, of a kernel's rows or of all its taps side by side (two
to five times slower; the second wins for the cotangent of an image with three channels, 0.5 % of a net),
sums over parts of the channels; in Winograd's order parts of 32 images, in a loop, unrolled or chained,
batched products, and its transforms as products; oneDNN's kernels, which jaxlib 0.12 calls where
`--xla_cpu_experimental_onednn_custom_call` asks for them (0.10 does not): level but for the cotangent of 64
channels' weights, 48 ms against 26 of XLA's.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from transferjax import xla
from transferjax.models.conv import winograd
from transferjax.typing import Array

NHWC = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]
ONE = (1, 1)

_WIDE = {"on": 128, "off": math.inf}[xla.setting("TRANSFERJAX_WINOGRAD", ("off", "on"))]
"""Channels on both sides from which Winograd's fewer products outweigh its transforms."""

_TILES = 128
"""Rows of its matrix products; with fewer its kernel's transform, and reading its kernel, cost more."""


_FEW = 9
"""Taps of a kernel that may stand side by side in memory."""


def extent(size: int, spacing: int) -> int:
    """How far `size` samples reach, `spacing` apart."""
    return (size - 1) * spacing + 1


def convolve(x: Array, w: Array, *, strides: Pair, pads: Any, dilation: Pair, spread: Pair, precision: Any):
    """The convolution of x `[B, H, W, I]` and w `[h, w, I, O]`, in the order that is fastest.

    `dilation` is the kernel's (lax: `rhs_dilation`), `spread` the image's (lax: `lhs_dilation`). Whoever asks
    for a `precision`, here or as JAX's default, gets the direct sum.
    """
    direct = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=NHWC,
        precision=precision,
    )
    kernel = extent(w.shape[0], dilation[0]), extent(w.shape[1], dilation[1])
    image = extent(x.shape[1], spread[0]), extent(x.shape[2], spread[1])
    padded = [i + low + high for i, (low, high) in zip(image, pads, strict=True)]
    places = (padded[0] - kernel[0]) // strides[0] + 1, (padded[1] - kernel[1]) // strides[1] + 1
    exact = precision is None and jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]
    if exact and strides == dilation == spread == ONE and x.dtype in (jnp.float32, jnp.float64):
        if kernel == (3, 3) and _pays(x.shape[0], places, w.shape[2:]):
            return winograd.forward(_pad(x, pads), w)
        if places == (3, 3) and _pays(x.shape[3], kernel, (x.shape[0], w.shape[3])):
            gradient = winograd.kernel_gradient(_pad(x.transpose(3, 1, 2, 0), pads), w.transpose(2, 0, 1, 3))
            return gradient.transpose(2, 0, 1, 3)
    if math.prod(kernel) > math.prod(image) and padded[0] >= kernel[0] and padded[1] >= kernel[1]:
        if math.prod(kernel) <= _FEW and dilation == spread == ONE:
            return _columns(_pad(x, pads), w, strides, places, precision)
        return _swapped(x, w, strides, pads, dilation, spread, precision)
    return direct(x, w)


def _pays(images: int, places: Pair, channels: Sequence[int]) -> bool:
    """Whether Winograd's order beats the direct sum: whole tiles, enough of them, wide enough."""
    (height, rest), (width, more) = (divmod(p, winograd.TILE) for p in places)
    return rest == more == 0 and min(channels) >= _WIDE and images * height * width >= _TILES


def _pad(x: Array, pads: Any) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])


def _columns(x: Array, w: Array, strides: Pair, places: Pair, precision: Any) -> Array:
    """One product of the pixels under all taps, side by side, with the kernel."""
    rows, columns = (extent(n, s) for n, s in zip(places, strides, strict=True))
    taps = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(w.shape[0])
        for j in range(w.shape[1])
    ]
    return jnp.tensordot(jnp.concatenate(taps, -1), w.reshape(-1, w.shape[-1]), 1, precision=precision)


def _swapped(
    x: Array, w: Array, strides: Pair, pads: Any, dilation: Pair, spread: Pair, precision: Any
) -> Array:
    """Image and kernel, both flipped, change places.

    A kernel larger than its image reads mostly padding. Second derivatives w.r.t. weights have such
    convolutions: a cotangent of w against a whole feature map, 100 times the work.
    """
    sizes = zip(x.shape[1:3], spread, w.shape[:2], dilation, strict=True)
    wider = [extent(size, between) - extent(taps, apart) for size, between, taps, apart in sizes]
    out = convolve(
        lax.rev(w, (0, 1)).transpose(3, 0, 1, 2),
        lax.rev(x, (1, 2)).transpose(1, 2, 3, 0),
        strides=strides,
        pads=tuple((low + n, high + n) for (low, high), n in zip(pads, wider, strict=True)),
        dilation=spread,
        spread=dilation,
        precision=precision,
    )
    return out.transpose(3, 1, 2, 0)
