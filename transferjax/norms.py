"""Euclidean norms that neither underflow nor overflow where the norm itself does not.

In float32 the squares of entries below 1e-19 are zero, and with them naive norms of the gradients of sure
predictions; the squares of entries above 1e19 are infinite. Every norm of the library is one of these.
"""

import math
from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp

from transferjax.typing import Array, PyTree

Axis = int | Sequence[int] | None


def _scaled(tree: PyTree, axis: Axis) -> tuple[Array, Array]:
    """The largest entry m, and `‖tree / m‖`, both in float32 at least and with the reduced axes kept.

    A norm is homogeneous, so m is a constant to its derivatives; those of the root are zero at zero.
    """
    keep = axis is not None
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree)]
    entries = [jnp.abs(x).max(axis, keepdims=keep, initial=0) for x in jax.lax.stop_gradient(wide)]
    largest = reduce(jnp.maximum, entries)
    largest = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
    square = reduce(jnp.add, [jnp.square(x / largest).sum(axis, keepdims=keep) for x in wide])
    positive = square != 0  # NaN stays NaN
    return largest, jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def norm(tree: PyTree, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """`‖x‖₂ = m √Σ (x/m)²` with `m = max |x|`; the zero vector has derivatives zero, of every order.

    Args:
        tree: an array, or a pytree of arrays that is one long vector.
        axis: to reduce, of an array; None for all entries together.
        keepdims: keep reduced axes, with one entry each.

    Returns:
        Norms in the dtype of x, summed in float32 at least.
    """
    largest, size = _scaled(tree, axis)
    found = (largest * size).astype(jnp.result_type(*jax.tree.leaves(tree)))
    return found if keepdims or axis is None else found.squeeze(axis)


def flat_unit(x: Array) -> Array:
    """Each example as one row `[B, N]` of length one; zero stays zero."""
    return unit(x.reshape(len(x), math.prod(x.shape[1:])), -1)


def cosine(x: Array, y: Array) -> Array:
    """`⟨x_b, y_b⟩ / (‖x_b‖ ‖y_b‖)`, `[B]`; 0 where either is zero."""
    return (flat_unit(x) * flat_unit(y)).sum(-1)


def unit(tree: PyTree, axis: Axis = None) -> PyTree:
    """`x / ‖x‖₂` in the dtype of x; zero, with derivative zero, where x is zero. Arguments as in `norm`."""
    largest, size = _scaled(tree, axis)
    zero = size == 0
    along = lambda x: jnp.where(zero, 0, x / largest / jnp.where(zero, 1, size)).astype(x.dtype)  # noqa: E731
    return jax.tree.map(along, tree)
