"""Functions of NumPy arrays inside compiled programs, such as a PyTorch module.

`jax.pure_callback` hands its function JAX arrays. To read them waits for a copy on the pool of threads that
runs the program, which waits for the function: on one core both wait for ever
(https://github.com/jax-ml/jax/issues/24255). Here the function gets the program's own buffers as NumPy
arrays, and no JAX runs on its way.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from transferjax.typing import Array, Predict

RowsFn = Callable[..., np.ndarray]
"""float32 arrays `[B, …]` -> float32 `[B, *row]`, each row by itself; NumPy and what is not JAX alone."""

_call = Primitive("host_call")


def host_call(function: RowsFn, x: Any, row: int | tuple[int, ...]) -> Array:
    """`function(x)` `[B, *row]` on the host, inside `jit`, `vmap`, `scan` and `pmap`; without derivative.

    Args:
        function: called again whenever the program runs; may be called more than once, or never.
        x: `[B, …]`, or a tuple of such arrays, one for each argument.
        row: the shape of a row; K for a row of K numbers.
    """
    arrays = x if isinstance(x, tuple) else (x,)
    row = (row,) if isinstance(row, int) else tuple(row)
    return _call.bind(*map(jnp.asarray, arrays), function=function, row=row)


@_call.def_impl
def _(*arrays: Array, function: RowsFn, row: tuple[int, ...]) -> Array:
    return jnp.asarray(function(*map(np.asarray, arrays)))


@_call.def_abstract_eval
def _(*arrays: Any, function: RowsFn, row: tuple[int, ...]) -> ShapedArray:
    return ShapedArray((arrays[0].shape[0], *row), np.dtype(np.float32))


def _lower(ctx: Any, *arrays: Any, function: RowsFn, row: tuple[int, ...]) -> Any:
    results, _, _ = mlir.emit_python_callback(
        ctx,
        lambda *arrays: (function(*arrays),),
        None,
        list(arrays),
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
    )
    return results


def _batch(arguments: Any, axes: Any, *, function: RowsFn, row: tuple[int, ...]) -> tuple[Array, int]:
    """Rows are rows: those of all batches go in one call."""
    size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
    every = [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arguments, axes, strict=True)
    ]
    rows = tuple(a.reshape(math.prod(a.shape[:2]), *a.shape[2:]) for a in every)
    return host_call(function, rows, row).reshape(*every[0].shape[:2], *row), 0


mlir.register_lowering(_call, _lower, cacheable=False)
batching.primitive_batchers[_call] = _batch


def without_gradient(function: RowsFn, num_classes: int, name: str) -> Predict:
    """A `Predict` that calls the host, inside `jit` too; a TypeError where a gradient is asked for.

    Args:
        function: images `[B, H, W, C]`, NumPy -> logits `[B, num_classes]`, float32; see `host_call`.
        num_classes: K.
        name: what the error calls it.
    """

    @jax.custom_jvp
    def predict(images: Array) -> Array:
        return host_call(function, images, num_classes)

    @predict.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        raise TypeError(f"{name} has no gradient: attack a surrogate, and evaluate here")

    return jax.tree_util.Partial(predict)
