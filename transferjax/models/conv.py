"""A convolution whose derivatives are fast on CPU inside `scan`, `fori_loop`, `while_loop` and `cond`.

XLA's CPU back end has a fast kernel for one layout, `b01f_01io->b01f` (NHWC images, HWIO kernels). Outside a
loop it rewrites the derivatives of a convolution into that layout; inside a loop it does not, and emits naive
code (https://github.com/jax-ml/jax/issues/12868). An attack is a loop over gradients, so it hits this every
time.

A convolution is bilinear, and both its transposes are convolutions again. This module states that in the fast
layout: a primitive that is closed under differentiation, so derivatives of any order stay in it.

    y = conv(x, w)                 x as [B, H, W, I], w as [h, w, I, O], y as [B, H', W', O]
    cotangent of x                 conv(ȳ, w flipped, with I and O exchanged)
    cotangent of w                 conv(x as [I, H, W, B], ȳ as [H', W', B, O]) as [I, h, w, O]

Where that kernel itself is slow, the same sums are taken in another order: with few channels by the kernel's
rows, with a kernel as large as a feature map in parts of its channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from transferjax.typing import Array

_NHWC = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]


def _extent(size: int, spacing: int) -> int:
    """How far `size` samples reach, `spacing` apart."""
    return (size - 1) * spacing + 1


_CACHED = 2**18
"""Entries of a kernel that a core keeps close; one that is larger is read from memory again and again."""

_CHANNELS = 64
"""With more channels than these on both sides XLA's kernel runs at full speed, with fewer at half of it."""

_FITS = 2**23
"""Entries of an intermediate result that stays in a CPU's last cache."""


def largest_divisor(number: int, most: int) -> int:
    """Of those up to `most`; at least 1."""
    return next(n for n in range(max(1, min(most, number)), 0, -1) if number % n == 0)


def _by_rows(conv: Any, x: Array, w: Array) -> Array:
    """A convolution of stride 1: all rows of its kernel side by side, their outputs shifted and added.

    The patches are h times smaller and serve h times as many outputs: with 64 channels 1.5 times faster, with
    three outputs (the gradient of an image) 1.5 to 3.5 times. Large batches go through in parts.
    """
    height, width, channels, features = w.shape
    rows = w.transpose(1, 2, 0, 3).reshape(1, width, channels, height * features)

    def part(x: Array) -> Array:
        out = conv(x, rows)
        size = out.shape[1] - height + 1
        return sum(out[:, i : i + size, :, i * features : (i + 1) * features] for i in range(height))

    most = max(1, _FITS * len(x) // max(1, jax.eval_shape(conv, x, rows).size))
    count = largest_divisor(len(x), most)
    if len(x) <= most or 2 * count < most:  # too many parts cost more than they bring
        return part(x)
    out = lax.map(part, x.reshape(-1, count, *x.shape[1:]))
    return out.reshape(len(x), *out.shape[2:])


def _by_channels(conv: Any, x: Array, w: Array, count: int) -> Array:
    """A convolution as a sum over its input channels, `count` of them at a time."""
    parts = (
        jnp.moveaxis(x.reshape(*x.shape[:3], -1, count), 3, 0),
        jnp.moveaxis(w.reshape(*w.shape[:2], -1, count, w.shape[3]), 2, 0),
    )
    out = jax.eval_shape(conv, x, w)
    zero = jnp.zeros(out.shape, out.dtype)
    return lax.scan(lambda total, pair: (total + conv(*pair), None), zero, parts)[0]


def _fast_conv(x: Array, w: Array, strides: Pair, pads: Any, spread: Pair, dilation: Pair, precision: Any):
    """The convolution, in another order where XLA's kernel would be slow: by rows where channels are few.

    And by channels where its kernel is a feature map: gradients w.r.t. weights have few places, a kernel as
    large as an image, and the batch as channels. At 32 x 32 pixels, 64 channels and a batch of 128 that is 5
    times faster than the whole.
    """
    conv = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=_NHWC,
        precision=precision,
    )
    height, width, channels, features = w.shape
    _, out_height, out_width, _ = jax.eval_shape(conv, x, w).shape
    count = largest_divisor(channels, _CACHED // max(1, height * width * features))
    if height * width > out_height * out_width and 1 < count < channels:
        return _by_channels(conv, x, w, count)
    dense = strides == spread == dilation == (1, 1)
    if dense and 1 < height <= 7 and min(channels, features) <= _CHANNELS <= channels:
        return _by_rows(conv, x, w)
    return conv(x, w)


def _lax_conv(x: Array, w: Array, *, strides: Pair, pads: Any, dilation: Pair, spread: Pair, precision: Any):
    """`dilation` is the kernel's (lax: `rhs_dilation`), `spread` the image's (lax: `lhs_dilation`).

    A kernel larger than its image reads mostly padding. Second derivatives w.r.t. weights have such
    convolutions (a cotangent of w against a whole feature map, 100 times the work); there image and kernel,
    both flipped, change places.
    """
    kernel = [_extent(n, d) for n, d in zip(w.shape[:2], dilation, strict=True)]
    image = [_extent(n, s) for n, s in zip(x.shape[1:3], spread, strict=True)]
    fits = all(i + low + high >= k for i, k, (low, high) in zip(image, kernel, pads, strict=True))
    if kernel[0] * kernel[1] <= image[0] * image[1] or not fits:
        return _fast_conv(x, w, strides, pads, spread, dilation, precision)
    wider = [i - k for i, k in zip(image, kernel, strict=True)]
    out = _fast_conv(
        lax.rev(w, (0, 1)).transpose(3, 0, 1, 2),
        lax.rev(x, (1, 2)).transpose(1, 2, 3, 0),
        strides,
        [(low + n, high + n) for (low, high), n in zip(pads, wider, strict=True)],
        dilation,
        spread,
        precision,
    )
    return out.transpose(3, 1, 2, 0)


def _transpose_x(ct: Array, x: ad.UndefinedPrimal, w: Array, *, strides, pads, dilation, spread, precision):
    kernel = [_extent(n, d) for n, d in zip(w.shape[:2], dilation, strict=True)]
    image = [_extent(n, s) for n, s in zip(x.aval.shape[1:3], spread, strict=True)]
    grown = [_extent(n, s) for n, s in zip(ct.shape[1:3], strides, strict=True)]
    low = [k - lo - 1 for k, (lo, _) in zip(kernel, pads, strict=True)]
    high = [i + k - 1 - g - lo for i, k, g, lo in zip(image, kernel, grown, low, strict=True)]
    return conv_p.bind(
        ct,
        lax.rev(w, (0, 1)).swapaxes(2, 3),
        strides=spread,
        pads=tuple(zip(low, high, strict=True)),
        dilation=dilation,
        spread=strides,
        precision=precision,
    )


def _transpose_w(ct: Array, x: Array, w: ad.UndefinedPrimal, *, strides, pads, dilation, spread, precision):
    kernel = [_extent(n, d) for n, d in zip(w.aval.shape[:2], dilation, strict=True)]
    image = [_extent(n, s) for n, s in zip(x.shape[1:3], spread, strict=True)]
    grown = [_extent(n, s) for n, s in zip(ct.shape[1:3], strides, strict=True)]
    low = [lo for lo, _ in pads]
    high = [g - i + k - lo - 1 for g, i, k, lo in zip(grown, image, kernel, low, strict=True)]
    out = conv_p.bind(
        x.transpose(3, 1, 2, 0),
        ct.transpose(1, 2, 0, 3),
        strides=dilation,
        pads=tuple(zip(low, high, strict=True)),
        dilation=strides,
        spread=spread,
        precision=precision,
    )
    return out.transpose(1, 2, 0, 3)


def _batch(args: tuple[Array, Array], dims: tuple[Any, Any], **params: Any) -> tuple[Array, int]:
    """`vmap`: more images, or more output channels; over both it is a grouped convolution, which is lax's."""
    (x, w), (x_dim, w_dim) = args, dims
    if w_dim is None:
        x = jnp.moveaxis(x, x_dim, 0)
        out = conv_p.bind(x.reshape(-1, *x.shape[2:]), w, **params)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    if x_dim is None:
        w = jnp.moveaxis(w, w_dim, -2)
        out = conv_p.bind(x, w.reshape(*w.shape[:3], -1), **params)
        return out.reshape(*out.shape[:3], *w.shape[3:]), 3
    return jax.vmap(lambda x, w: _lax_conv(x, w, **params), (x_dim, w_dim))(x, w), 0


def _abstract(x: Any, w: Any, **params: Any) -> jax.core.ShapedArray:
    out = jax.eval_shape(partial(_lax_conv, **params), x, w)
    return jax.core.ShapedArray(out.shape, out.dtype)


conv_p = Primitive("conv_nhwc")
conv_p.def_impl(jax.jit(_lax_conv, static_argnames=("strides", "pads", "dilation", "spread", "precision")))
conv_p.def_abstract_eval(_abstract)
mlir.register_lowering(conv_p, mlir.lower_fun(_lax_conv, multiple_results=False))
ad.defbilinear(conv_p, _transpose_x, _transpose_w)
batching.primitive_batchers[conv_p] = _batch


def runs_on_cpu() -> bool:
    """Where the code being traced will run, as far as tracing can tell: the default device or back end.

    The numbers are the same either way; a wrong guess costs time, never correctness. That is why this is not
    `lax.platform_dependent`, whose branches would all be differentiated, and stored, for nothing.
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=…)`, with derivatives fast on CPU.

    The same values and derivatives of every order. Groups, other layouts than NHWC/HWIO and other platforms
    than CPU go to `lax` unchanged.

    Args:
        lhs: images `[B, H, W, I]`.
        rhs: kernels `[h, w, I, O]`.
        window_strides, padding, …: as in `lax.conv_general_dilated`.

    Returns:
        `[B, H', W', O]`.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    nhwc = lhs.ndim == 4 and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    spread, dilation = tuple(lhs_dilation or (1, 1)), tuple(rhs_dilation or (1, 1))
    if not nhwc or feature_group_count != 1 or not runs_on_cpu():
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
        )
    strides = tuple(window_strides)
    if isinstance(padding, str):
        kernel = [_extent(n, d) for n, d in zip(rhs.shape[:2], dilation, strict=True)]
        image = [_extent(n, s) for n, s in zip(lhs.shape[1:3], spread, strict=True)]
        padding = lax.padtype_to_pads(image, kernel, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    params = {"strides": strides, "pads": pads, "dilation": dilation, "spread": spread}
    return conv_p.bind(lhs, rhs, **params, precision=precision)
