"""Eigenvalues of symmetric operators from products alone, for a batch of operators at once.

Every example has an operator of its own, `matvec` applies all of them in one call, and each example stops on
its own: what it gets does not depend on its batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transferjax.norms import norm, unit
from transferjax.typing import Array

Matvec = Callable[[Array], Array]
"""Vectors `[B, N]` -> products `[B, N]`, one operator per row."""


class Eigenvalues(NamedTuple):
    """Eigenvalues `[B, k]`, largest magnitude first, and how many products `[B]` each example took."""

    values: Array
    products: Array


class _Krylov(NamedTuple):
    """A Krylov basis that grows by one vector a step."""

    basis: Array  # [B, steps, N], the rows that are not there yet are zero
    tridiagonal: Array  # [B, steps, steps]
    vector: Array  # [B, N], the next basis vector; zero once the space is exhausted
    coupling: Array  # [B], the off-diagonal entry that comes with it
    step: Array


def normalize(vector: Array) -> tuple[Array, Array]:
    """Vectors of norm one, or zero where they are zero, and their norms."""
    return unit(vector, -1), norm(vector, -1)


_BLOCK = 8
"""Basis vectors that are projected out at once."""


def orthogonalize(vector: Array, basis: Array, count: Array) -> Array:
    """Gram-Schmidt against the first `count` rows of the basis, twice: once is not enough in floating point.

    In blocks, so that the rows that are not there yet are not read; the loop also keeps XLA from copying a
    basis that may be gigabytes.
    """
    size = basis.shape[1]
    width = min(_BLOCK, size)

    def project_out(block: Array, vector: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(basis, jnp.minimum(block * width, size - width), width, 1)
        return vector - jnp.einsum("bm,bmn->bn", jnp.einsum("bmn,bn->bm", rows, vector), rows)

    for _ in range(2):
        vector = jax.lax.fori_loop(0, (count + width - 1) // width, project_out, vector)
    return vector


def _begin(start: Array, steps: int) -> _Krylov:
    count, size = start.shape
    zeros = jnp.zeros_like(start, shape=(count,))
    return _Krylov(
        basis=jnp.zeros_like(start, shape=(count, steps, size)),
        tridiagonal=jnp.zeros_like(start, shape=(count, steps, steps)),
        vector=normalize(start)[0],
        coupling=zeros,
        step=jnp.int32(0),
    )


def _extend(matvec: Matvec, krylov: _Krylov) -> _Krylov:
    """One product; `H v_m = β_m v_{m-1} + α_m v_m + β_{m+1} v_{m+1}`."""
    at, before, vector = krylov.step, jnp.maximum(krylov.step - 1, 0), krylov.vector
    basis = krylov.basis.at[:, at].set(vector)
    product = matvec(vector)
    tridiagonal = krylov.tridiagonal.at[:, at, before].add(krylov.coupling)
    tridiagonal = tridiagonal.at[:, before, at].add(krylov.coupling)
    tridiagonal = tridiagonal.at[:, at, at].set(jnp.vecdot(product, vector))
    following, coupling = normalize(orthogonalize(product, basis, at + 1))
    largest = jnp.maximum(jnp.abs(tridiagonal).max((-1, -2)), norm(product, -1))
    more = coupling > 8 * jnp.finfo(vector.dtype).eps * largest
    return _Krylov(
        basis, tridiagonal, jnp.where(more[:, None], following, 0), jnp.where(more, coupling, 0), at + 1
    )


def ritz_error(residual: Array, gap: Array) -> Array:
    """`min(r, r²/gap)`, how far a Ritz value is from an eigenvalue (Parlett 1998, Theorem 11.7.1)."""
    return residual * jnp.minimum(1, residual / jnp.where(gap > 0, gap, residual + (residual == 0)))


def _ritz(krylov: _Krylov, k: int) -> tuple[Array, Array]:
    """The k Ritz values θ of largest magnitude, and estimates of their errors, `min(r, r²/gap)`.

    The residual `r = ‖H y - θ y‖` is the coupling times the last entry of the tridiagonal matrix's
    eigenvector; the gap, to the nearest other eigenvalue, is taken between Ritz values.
    """
    values, vectors = jnp.linalg.eigh(krylov.tridiagonal)
    order = jnp.argsort(-jnp.abs(values), axis=-1)[:, :k]
    residual = krylov.coupling[:, None] * jnp.abs(jnp.take(vectors, krylov.step - 1, axis=1))
    distances = jnp.abs(values[:, :, None] - values[:, None, :])
    gap = jnp.where(jnp.eye(values.shape[-1], dtype=bool), jnp.inf, distances).min(-1)
    return jnp.take_along_axis(values, order, -1), jnp.take_along_axis(ritz_error(residual, gap), order, -1)


def lanczos_tridiagonal(matvec: Matvec, start: Array, steps: int) -> Array:
    """The Lanczos matrices `[B, steps, steps]` of start vectors `[B, N]`; zero after a space is exhausted."""
    krylov = jax.lax.fori_loop(0, steps, lambda _, k: _extend(matvec, k), _begin(start, steps))
    return krylov.tridiagonal


def lanczos_eigenvalues(matvec: Matvec, start: Array, k: int, steps: int, tol: float) -> Eigenvalues:
    """The k eigenvalues of largest magnitude, by Lanczos with full reorthogonalization.

    Step m spans the Krylov space `{v, Hv, …, H^m v}`; the eigenvalues θ of the projected tridiagonal matrix
    approach those of H from inside. With the residual `r = ‖H y - θ y‖`, an eigenvalue of H lies within r of
    θ, and within `r²/gap` if the others stay away by the gap; an example stops when the smaller of the two is
    at most `tol |θ_1|` for all k.

    Args:
        matvec: products with one symmetric operator per row.
        start: start vectors `[B, N]`, not zero.
        k: how many eigenvalues, at most N.
        steps: the most products per example; at least k.
        tol: estimated relative error at which an example stops; 0 for all steps.

    Returns:
        Signed eigenvalues `[B, k]`, largest magnitude first, with the products used.

    Reference: Parlett, "The Symmetric Eigenvalue Problem", 1998, Theorems 4.5.1 and 11.7.1.
    """
    count, size = start.shape
    steps = min(steps, size)
    if not 1 <= k <= steps:
        raise ValueError(f"k must be at least 1 and at most min(steps, N) = {steps}; got {k}")

    def advance(carry: tuple[_Krylov, Eigenvalues, Array]) -> tuple[_Krylov, Eigenvalues, Array]:
        krylov, found, done = carry
        krylov = _extend(matvec, krylov)
        values, errors = _ritz(krylov, k)
        found = Eigenvalues(jnp.where(done[:, None], found.values, values), found.products + ~done)
        converged = (errors <= tol * jnp.abs(values[:, :1])).all(-1) & (krylov.step >= k)
        return krylov, found, done | converged | (krylov.coupling == 0)

    nothing = jnp.zeros((count,), jnp.int32)
    found = Eigenvalues(jnp.zeros_like(start, shape=(count, k)), nothing)
    _, found, _ = jax.lax.while_loop(
        lambda carry: (carry[0].step < steps) & ~carry[2].all(),
        advance,
        (_begin(start, steps), found, nothing > 0),
    )
    return found


def power_eigenvalue(matvec: Matvec, start: Array, steps: int, tol: float) -> Eigenvalues:
    """The eigenvalue of largest magnitude by power iteration, `v ← Hv / ‖Hv‖`, `θ = vᵀHv`.

    An example stops when θ changes by less than `tol |θ|`, PyHessian's rule, which says nothing of the error:
    with a small gap the iteration crawls and stops early. For comparison; Lanczos needs fewer products.
    """

    def advance(state: Any) -> Any:
        vector, value, done, products, step = state
        product = matvec(vector)
        new = jnp.vecdot(product, vector)
        still = jnp.abs(new - value) <= tol * jnp.abs(new)
        vector = jnp.where(done[:, None], vector, normalize(product)[0])
        return vector, jnp.where(done, value, new), done | (still & (step > 0)), products + ~done, step + 1

    vector, _ = normalize(start)
    zeros = jnp.zeros_like(start, shape=start.shape[:1])
    state = (vector, zeros, zeros > 0, zeros.astype(jnp.int32), jnp.int32(0))
    _, value, _, products, _ = jax.lax.while_loop(lambda s: (s[4] < steps) & ~s[2].all(), advance, state)
    return Eigenvalues(value[:, None], products)
