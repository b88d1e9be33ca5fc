"""A convolution that is closed under differentiation, in the one layout that XLA's CPU kernel is fast in.

That layout is `b01f_01io->b01f` (NHWC images, HWIO kernels). Outside a loop XLA rewrites the derivatives of a
convolution into it; inside `scan`, `fori_loop`, `while_loop` and `cond` it does not, and emits naive code
(https://github.com/jax-ml/jax/issues/12868). An attack is a loop over gradients, so it hits this every time.

A convolution is bilinear, and both its transposes are convolutions again. This primitive states that in the
fast layout, so that derivatives of any order stay in it:

    y = conv(x, w)                 x as [B, H, W, I], w as [h, w, I, O], y as [B, H', W', O]
    cotangent of x                 conv(ȳ, w flipped, with I and O exchanged)
    cotangent of w                 conv(x as [I, H, W, B], ȳ as [H', W', B, O]) as [I, h, w, O]
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from transferjax.models.conv.orderings import Pair, convolve, extent
from transferjax.typing import Array


def _transpose_x(ct: Array, x: ad.UndefinedPrimal, w: Array, *, strides, pads, dilation, spread, precision):
    kernel = [extent(n, d) for n, d in zip(w.shape[:2], dilation, strict=True)]
    image = [extent(n, s) for n, s in zip(x.aval.shape[1:3], spread, strict=True)]
    grown = [extent(n, s) for n, s in zip(ct.shape[1:3], strides, strict=True)]
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
    if w.aval.shape[:2] == spread == (1, 1) and not np.any(pads):
        return product(x, ct, strides, precision)
    kernel = [extent(n, d) for n, d in zip(w.aval.shape[:2], dilation, strict=True)]
    image = [extent(n, s) for n, s in zip(x.shape[1:3], spread, strict=True)]
    grown = [extent(n, s) for n, s in zip(ct.shape[1:3], strides, strict=True)]
    low = [lo for lo, _ in pads]
    high = [g - i + k - lo - 1 for g, i, k, lo in zip(grown, image, kernel, low, strict=True)]
    out = conv_p.bind(
        moved_p.bind(x, order=(3, 1, 2, 0)),
        ct.transpose(1, 2, 0, 3),
        strides=dilation,
        pads=tuple(zip(low, high, strict=True)),
        dilation=strides,
        spread=spread,
        precision=precision,
    )
    return out.transpose(1, 2, 0, 3)


def product(x: Array, ct: Array, strides: Pair, precision: Any) -> Array:
    """The cotangent of a 1 x 1 kernel, `Σ_bp x[b, s p, i] ct[b, p, o]`: a matrix product."""
    rows, columns = (slice(0, extent(n, s), s) for n, s in zip(ct.shape[1:3], strides, strict=True))
    x = moved_p.bind(x[:, rows, columns], order=(3, 0, 1, 2))
    return jnp.tensordot(x, ct, ((1, 2, 3), (0, 1, 2)), precision=precision)[None, None]


def _moved(x: Array, *, order: tuple[int, ...]) -> Array:
    """`x.transpose(order)`, read from memory; the order may be that of x.

    XLA's fusions do not read an array as often as they need it, but compute it again, with all that leads to
    it: a transpose all of a residual stage, in its own order (a fifth of a ResNet-50's training step), a
    pooling's gradient a stage for each place of its windows. They do not look into a branch. One that is no
    work at all would be taken out, so that in x's own order the branches ask for NaNs.
    """
    if not x.size:
        return x.transpose(order)
    same = order == tuple(range(x.ndim))
    move = (lambda x: jnp.where(jnp.isnan(x), jnp.nan, x)) if same else (lambda x: x.transpose(order))
    return lax.cond(x.ravel()[0] == 0, move, move, x)


def _batch_moved(args: tuple[Array], dims: tuple[Any], *, order: tuple[int, ...]) -> tuple[Array, int]:
    x = jnp.moveaxis(args[0], dims[0], 0)
    return moved_p.bind(x, order=(0, *(axis + 1 for axis in order))), 0


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
    return jax.vmap(lambda x, w: convolve(x, w, **params), (x_dim, w_dim))(x, w), 0


def _abstract(x: Any, w: Any, **params: Any) -> jax.core.ShapedArray:
    out = jax.eval_shape(partial(convolve, **params), x, w)
    return jax.core.ShapedArray(out.shape, out.dtype)


conv_p = Primitive("conv_nhwc")
conv_p.def_impl(jax.jit(convolve, static_argnames=("strides", "pads", "dilation", "spread", "precision")))
conv_p.def_abstract_eval(_abstract)
mlir.register_lowering(conv_p, mlir.lower_fun(convolve, multiple_results=False))
ad.defbilinear(conv_p, _transpose_x, _transpose_w)
batching.primitive_batchers[conv_p] = _batch

moved_p = Primitive("moved")
moved_p.def_impl(jax.jit(_moved, static_argnames="order"))
moved_p.def_abstract_eval(
    lambda x, *, order: jax.core.ShapedArray([x.shape[axis] for axis in order], x.dtype)
)
mlir.register_lowering(moved_p, mlir.lower_fun(_moved, multiple_results=False))
ad.deflinear2(moved_p, lambda ct, x, *, order: [moved_p.bind(ct, order=tuple(np.argsort(order).tolist()))])
batching.primitive_batchers[moved_p] = _batch_moved
