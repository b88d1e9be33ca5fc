"""Functions of NumPy arrays inside compiled programs, such as a PyTorch module.

`jax.pure_callback` hands its function JAX arrays. To read them waits for a copy on the pool of threads that
runs the program, which waits for the function: on one core both wait for ever
(https://github.com/jax-ml/jax/issues/24255). Here the function gets the program's own buffers as NumPy
arrays, and no JAX runs on its way.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from transferjax.typing import Array

RowsFn = Callable[[np.ndarray], np.ndarray]
"""float32 `[B, …]` -> float32 `[B, K]`, each row by itself; NumPy and what is not JAX alone."""

_call = Primitive("host_call")


def host_call(function: RowsFn, x: Array | np.ndarray, width: int) -> Array:
    """`function(x)` on the host, `[B, K]`, inside `jit`, `vmap`, `scan` and `pmap` too; it has no derivative.

    Args:
        function: called again whenever the program runs; may be called more than once, or never.
        x: `[B, …]`.
        width: K.
    """
    return _call.bind(jnp.asarray(x), function=function, width=width)


@_call.def_impl
def _(x: Array, *, function: RowsFn, width: int) -> Array:
    return jnp.asarray(function(np.asarray(x)))


@_call.def_abstract_eval
def _(x: Any, *, function: RowsFn, width: int) -> ShapedArray:
    return ShapedArray((x.shape[0], width), np.dtype(np.float32))


def _lower(ctx: Any, x: Any, *, function: RowsFn, width: int) -> Any:
    results, _, _ = mlir.emit_python_callback(
        ctx, lambda x: (function(x),), None, [x], ctx.avals_in, ctx.avals_out, has_side_effect=False
    )
    return results


def _batch(arguments: Any, axes: Any, *, function: RowsFn, width: int) -> tuple[Array, int]:
    """Rows are rows: those of all batches go in one call."""
    x = jnp.moveaxis(arguments[0], axes[0], 0)
    rows = x.reshape(math.prod(x.shape[:2]), *x.shape[2:])
    return host_call(function, rows, width).reshape(*x.shape[:2], width), 0


mlir.register_lowering(_call, _lower, cacheable=False)
batching.primitive_batchers[_call] = _batch
