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

Where that kernel itself is slow, the same sums are taken in another order: by the taps of w, by its rows, by
the channels of x.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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

_ROWS = 1024
"""Of a matrix product in a convolution by taps: enough for full speed, few enough to stay in the cache."""

_WIDE = 2**16
"""Entries of a tap whose product is as fast as XLA's kernel, which does the same work with fewer reads."""


def largest_divisor(number: int, most: int) -> int:
    """Of those up to `most`; at least 1."""
    return next(n for n in range(max(1, min(most, number)), 0, -1) if number % n == 0)


def _in_batches(f: Callable[[Array], Array], x: Array, most: int) -> Array:
    """`f(x)`, about `most` images at a time; all at once where no divisor comes near."""
    count = largest_divisor(len(x), most)
    if len(x) <= most or 2 * count < most:
        return f(x)
    out = lax.map(f, x.reshape(-1, count, *x.shape[1:]))
    return out.reshape(len(x), *out.shape[2:])


def _by_rows(conv: Any, x: Array, w: Array) -> Array:
    """A convolution of stride 1: all rows of its kernel side by side, their outputs shifted and added.

    The patches are h times smaller and serve h times as many outputs: with 64 channels 1.5 times faster, with
    three outputs (the gradient of an image) 1.5 to 3.5 times.
    """
    height, width, channels, features = w.shape
    rows = w.transpose(1, 2, 0, 3).reshape(1, width, channels, height * features)

    def part(x: Array) -> Array:
        out = conv(x, rows)
        size = out.shape[1] - height + 1
        return sum(out[:, i : i + size, :, i * features : (i + 1) * features] for i in range(height))

    return _in_batches(part, x, max(1, _FITS * len(x) // max(1, jax.eval_shape(conv, x, rows).size)))


def _meeting(count: int, size: int, step: int, spread: int, shift: int) -> tuple[slice, slice]:
    """The n below `count` for which `n step + shift` is an entry of an image of `size`, and those entries.

    A place p of the output and a tap t of the kernel meet the entry `(p stride + t dilation - low) / spread`:
    with p fixed, n runs over taps; with t fixed, over places.
    """
    entries = [(n, divmod(n * step + shift, spread)) for n in range(count)]
    met = [(n, entry) for n, (entry, rest) in entries if rest == 0 and 0 <= entry < size]
    if not met:
        return slice(0, 0, 1), slice(0, 0, 1)
    (first, entry), (last, last_entry) = met[0], met[-1]
    by, entry_by = (met[1][0] - first, met[1][1] - entry) if len(met) > 1 else (1, 1)
    return slice(first, last + 1, by), slice(entry, last_entry + 1, entry_by)


def _by_taps(conv: Any, x: Array, w: Array) -> Array:
    """A convolution as a sum of matrix products, one for each tap of its kernel.

    Taps that meet padding, or the zeros between the entries of an image, take no part. With 512 channels on 4
    x 4 pixels 1.5 times faster, with stride 2 up to twice, its gradient 1.2 to 3 times; 1 x 1 kernels, which
    are one product, 1 to 6 times.
    """
    how = conv.keywords
    places = jax.eval_shape(conv, x, w).shape[1:3]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = {tap: w[tap] for tap in np.ndindex(w.shape[:2])}

    def meeting(axis: int, tap: int) -> tuple[slice, slice]:
        shift = tap * how["rhs_dilation"][axis] - how["padding"][axis][0]
        stride, spread = how["window_strides"][axis], how["lhs_dilation"][axis]
        return _meeting(places[axis], x.shape[1 + axis], stride, spread, shift)

    def part(x: Array) -> Array:
        total = jnp.zeros((len(x), *places, w.shape[3]), wide)
        for (i, j), tap in taps.items():
            (to_rows, rows), (to_columns, columns) = meeting(0, i), meeting(1, j)
            product = jnp.tensordot(
                x[:, rows, columns], tap, 1, precision=how["precision"], preferred_element_type=wide
            )
            edges = [
                (to.start, size - to.stop, to.step - 1)
                for to, size in zip((to_rows, to_columns), places, strict=True)
            ]
            total += lax.pad(product, jnp.zeros((), wide), [(0, 0, 0), *edges, (0, 0, 0)])
        return total.astype(x.dtype)

    return part(x) if len(taps) == 1 else _in_batches(part, x, max(1, _ROWS // max(1, math.prod(places))))


def _at_one_place(conv: Any, x: Array, w: Array) -> Array:
    """A convolution whose output is one place: a matrix product with the entries that the kernel meets there.

    The gradients w.r.t. the weights of 1 x 1 convolutions: 2 to 8 times faster. Their images and cotangents
    come with the batch in the place of channels; in their own order again, the copies that put it there fall
    away.
    """
    how = conv.keywords

    def meeting(axis: int) -> tuple[slice, slice]:
        dilation, spread, (low, _) = (how[k][axis] for k in ("rhs_dilation", "lhs_dilation", "padding"))
        return _meeting(w.shape[axis], x.shape[1 + axis], dilation, spread, -low)

    (taps, rows), (more_taps, columns) = meeting(0), meeting(1)
    x, w = x[:, rows, columns].transpose(3, 1, 2, 0), w[taps, more_taps].transpose(2, 0, 1, 3)
    return jnp.tensordot(x, w, ((0, 1, 2), (0, 1, 2)), precision=how["precision"])[:, None, None]


def _by_channels(conv: Any, x: Array, w: Array) -> Array:
    """A convolution as a sum over parts of its input channels.

    For gradients w.r.t. weights, which have few places, a kernel as large as an image, and the batch as
    channels. At 32 x 32 pixels, 64 channels and a batch of 128 that is 5 times faster than the whole.
    """
    height, width, channels, features = w.shape
    count = largest_divisor(channels, _CACHED // max(1, height * width * features))
    if count in (1, channels):
        return conv(x, w)
    parts = (
        jnp.moveaxis(x.reshape(*x.shape[:3], -1, count), 3, 0),
        jnp.moveaxis(w.reshape(height, width, -1, count, features), 2, 0),
    )
    out = jax.eval_shape(conv, x, w)
    zero = jnp.zeros(out.shape, out.dtype)
    return lax.scan(lambda total, pair: (total + conv(*pair), None), zero, parts)[0]


def _lax_conv(x: Array, w: Array, *, strides: Pair, pads: Any, dilation: Pair, spread: Pair, precision: Any):
    """The convolution, in the order that is fastest; see the functions above for what each gains.

    `dilation` is the kernel's (lax: `rhs_dilation`), `spread` the image's (lax: `lhs_dilation`).

    A kernel larger than its image reads mostly padding. Second derivatives w.r.t. weights have such
    convolutions (a cotangent of w against a whole feature map, 100 times the work); there image and kernel,
    both flipped, change places.
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
    taps, places = height * width, math.prod(jax.eval_shape(conv, x, w).shape[1:3])
    dense = strides == spread == dilation == (1, 1)
    wide = min(channels, features) >= _CHANNELS and channels * features >= (_WIDE if dense else _WIDE // 8)
    if taps == 1 or (wide and taps <= max(9, places) and len(x) * places >= _ROWS // 8):
        return _by_taps(conv, x, w)
    kernel = [_extent(n, d) for n, d in zip(w.shape[:2], dilation, strict=True)]
    image = [_extent(n, s) for n, s in zip(x.shape[1:3], spread, strict=True)]
    fits = all(i + low + high >= k for i, k, (low, high) in zip(image, kernel, pads, strict=True))
    if math.prod(kernel) > math.prod(image) and fits:
        wider = [i - k for i, k in zip(image, kernel, strict=True)]
        swapped = _lax_conv(
            lax.rev(w, (0, 1)).transpose(3, 0, 1, 2),
            lax.rev(x, (1, 2)).transpose(1, 2, 3, 0),
            strides=strides,
            pads=[(low + n, high + n) for (low, high), n in zip(pads, wider, strict=True)],
            dilation=spread,
            spread=dilation,
            precision=precision,
        )
        return swapped.transpose(3, 1, 2, 0)
    if places == 1:
        return _at_one_place(conv, x, w)
    if taps > places:
        return _by_channels(conv, x, w)
    if dense and 1 < height <= 7 and min(channels, features) <= _CHANNELS <= channels:
        return _by_rows(conv, x, w)
    return conv(x, w)


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
