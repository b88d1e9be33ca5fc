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
    """A basis Q that grows by one vector a product, and p vectors that wait to join it.

    These are the start vectors at first; then what `H q` has outside of the basis, for the last p of the q.
    """

    basis: Array  # [B, steps, N], the rows that are not there yet are zero
    projected: Array  # QᵀHQ / scale: [B, steps, steps]
    waiting: Array  # [B, p, N], each orthogonal to the basis; zero where it had nothing to add
    owner: Array  # [B, p], whose `H q` that is; negative for start vectors. The smallest is next.
    scale: Array  # [B], the size of the first product, so that small operators do not underflow
    step: Array


def normalize(vector: Array) -> tuple[Array, Array]:
    """Vectors of norm one, or zero where they are zero, and their norms."""
    return unit(vector, -1), norm(vector, -1)


_OTHERS = 0x4C616E63
"""Seed of the start vectors beyond the caller's, the same for all examples; not one that others use."""

_MARGIN = 10
"""How much smaller than the tolerance the estimate of an error must be. It takes an eigenvalue that has not
shown yet for absent: with 1, of 300 images of a softplus net 2 are up to 27 % off, with 10 none by more than
0.01 %, for one product more (8.8 instead of 7.8)."""

_NOISE = 16
"""Units of rounding of the largest eigenvalue to which any can be known: zero ones have no relative error."""

_BLOCK = 8
"""Basis vectors that are projected out at once."""


def orthogonalize(vector: Array, basis: Array, count: Array) -> tuple[Array, Array]:
    """Gram-Schmidt against the first `count` rows of the basis, twice: once is not enough in floating point.

    In blocks, so that the rows that are not there yet are not read; the loop also keeps XLA from copying a
    basis that may be gigabytes.

    Returns:
        What is left, and the coefficients `[B, m]` of what was taken out.
    """
    size = basis.shape[1]
    width = min(_BLOCK, size)

    def project_out(block: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        vector, taken = state
        at = jnp.minimum(block * width, size - width)
        rows = jax.lax.dynamic_slice_in_dim(basis, at, width, 1)
        found = jnp.einsum("bmn,bn->bm", rows, vector)
        before = jax.lax.dynamic_slice_in_dim(taken, at, width, 1)
        taken = jax.lax.dynamic_update_slice_in_dim(taken, before + found, at, 1)
        return vector - jnp.einsum("bm,bmn->bn", found, rows), taken

    state = vector, jnp.zeros_like(basis, shape=basis.shape[:2])
    for _ in range(2):
        state = jax.lax.fori_loop(0, (count + width - 1) // width, project_out, state)
    return state


def _begin(starts: Array, steps: int) -> _Krylov:
    count, several, size = starts.shape
    return _Krylov(
        basis=jnp.zeros_like(starts, shape=(count, steps, size)),
        projected=jnp.zeros_like(starts, shape=(count, steps, steps)),
        waiting=unit(starts, -1),
        owner=jnp.broadcast_to(jnp.arange(-several, 0), (count, several)),
        scale=jnp.zeros_like(starts, shape=(count,)),
        step=jnp.int32(0),
    )


def _extend(matvec: Matvec, krylov: _Krylov) -> _Krylov:
    """One product: of the vector that has waited longest among those that add something."""
    at, waiting, rows = krylov.step, krylov.waiting, jnp.arange(len(krylov.basis))
    turn = jnp.where((waiting != 0).any(-1), krylov.owner, krylov.basis.shape[1]).argmin(-1)
    vector = waiting[rows, turn]
    if waiting.shape[1] > 1:  # a lone one has just been made orthogonal
        vector, _ = orthogonalize(vector, krylov.basis, at)
    vector, _ = normalize(vector)
    basis = krylov.basis.at[:, at].set(vector)
    product = matvec(vector)
    largest = jnp.abs(product).max(-1)
    scale = jnp.where(krylov.scale > 0, krylov.scale, largest)
    product = product / jnp.where(scale > 0, scale, 1)[:, None]
    rest, column = orthogonalize(product, basis, at + 1)
    projected = krylov.projected.at[:, at].set(column).at[:, :, at].set(column)
    waiting = waiting - jnp.einsum("bpn,bn->bp", waiting, vector)[..., None] * vector[:, None]
    waiting = waiting.at[rows, turn].set(rest)
    noise = 8 * jnp.finfo(vector.dtype).eps
    floor = noise * jnp.maximum(jnp.abs(projected).max((-1, -2)), norm(product, -1))
    owner = krylov.owner.at[rows, turn].set(at)
    floor = jnp.where(owner < 0, noise, floor[:, None])  # start vectors are of length one
    waiting = jnp.where((norm(waiting, -1) > floor)[..., None], waiting, 0)
    return _Krylov(basis, projected, waiting, owner, scale, at + 1)


def ritz_error(residual: Array, gap: Array) -> Array:
    """`min(r, r²/gap)`, how far a Ritz value is from an eigenvalue (Parlett 1998, Theorem 11.7.1)."""
    return residual * jnp.minimum(1, residual / jnp.where(gap > 0, gap, residual + (residual == 0)))


def _ritz(krylov: _Krylov, k: int) -> tuple[Array, Array]:
    """The k Ritz values θ of largest magnitude, and estimates of their errors, `min(r, r²/gap)`; unscaled.

    The residual `r = ‖H y - θ y‖` comes from the vectors that wait; the gap, to the nearest other eigenvalue,
    is taken between Ritz values.
    """
    values, vectors = jnp.linalg.eigh(krylov.projected)
    order = jnp.argsort(-jnp.abs(values), axis=-1)[:, :k]
    outside = jnp.take_along_axis(vectors, jnp.maximum(krylov.owner, 0)[..., None], 1)
    outside = jnp.where(krylov.owner[..., None] < 0, 0, outside)
    gram = jnp.einsum("bpn,bqn->bpq", krylov.waiting, krylov.waiting)
    residual = jnp.sqrt(jnp.maximum(jnp.einsum("bpm,bpq,bqm->bm", outside, gram, outside), 0))
    distances = jnp.abs(values[:, :, None] - values[:, None, :])
    gap = jnp.where(jnp.eye(values.shape[-1], dtype=bool), jnp.inf, distances).min(-1)
    return jnp.take_along_axis(values, order, -1), jnp.take_along_axis(ritz_error(residual, gap), order, -1)


def lanczos_tridiagonal(matvec: Matvec, start: Array, steps: int) -> Array:
    """The Lanczos matrices `[B, steps, steps]` of start vectors `[B, N]`; zero after a space is exhausted."""
    krylov = _begin(start[:, None], steps)
    krylov = jax.lax.fori_loop(0, steps, lambda _, krylov: _extend(matvec, krylov), krylov)
    return krylov.scale[:, None, None] * krylov.projected


def check_effort(steps: int, tol: float | Array) -> None:
    """What an iteration may spend, and the error at which it stops; a traced tolerance passes.

    Raises:
        ValueError: fewer than one step, or a tolerance that is negative or NaN.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1 product; got {steps}")
    if not isinstance(tol, jax.core.Tracer) and not tol >= 0:
        raise ValueError(f"tol must be a relative error of at least 0 (0: all steps); got {tol}")


def lanczos_eigenvalues(matvec: Matvec, start: Array, k: int, steps: int, tol: float) -> Eigenvalues:
    """The k eigenvalues of largest magnitude with their multiplicities, by band Lanczos.

    The basis spans the block Krylov space `{V, HV, H²V, …}` of k start vectors V, one product at a time, with
    full reorthogonalization; for k = 1 this is Lanczos. The eigenvalues θ of the projected matrix QᵀHQ
    approach those of H from inside. With the residual `r = ‖H y - θ y‖`, an eigenvalue of H lies within r of
    θ, and within `r²/gap` if the others stay away by the gap; an example stops when the smaller of the two is
    at most a tenth of `tol |θ_j|` for every one of the k, or of the rounding of θ_1.

    A Krylov space of one vector holds one vector of each eigenspace. That of k random ones holds, with
    probability one, k of them or all there are: so a multiple eigenvalue is found as often as it is among the
    first k, when the space is exhausted as when it is not. What no residual shows is an eigenvalue whose
    vectors have hardly entered the space yet; that risk is small but not zero, see `_MARGIN`.

    Args:
        matvec: products with one symmetric operator per row.
        start: the first start vectors `[B, N]`, not zero; the k - 1 others are random.
        k: how many eigenvalues, at most N.
        steps: the most products per example; at least k. About twice as many are needed for k = 5 as Lanczos
            takes to find five simple eigenvalues.
        tol: estimated relative error at which an example stops; 0 for all steps.

    Returns:
        Signed eigenvalues `[B, k]`, largest magnitude first, with the products used.

    Reference: Ruhe, "Implementation Aspects of Band Lanczos Algorithms", Math. Comp. 33, 1979; Parlett, "The
    Symmetric Eigenvalue Problem", 1998, Theorems 4.5.1 and 11.7.1.
    """
    check_effort(steps, tol)
    count, size = start.shape
    steps = min(steps, size)
    if not 1 <= k <= steps:
        raise ValueError(f"k must be at least 1 and at most min(steps, N) = {steps}; got {k}")
    others = jax.random.normal(jax.random.key(_OTHERS), (k - 1, size), start.dtype)
    starts = jnp.concatenate([start[:, None], jnp.broadcast_to(others, (count, *others.shape))], 1)

    def advance(carry: tuple[_Krylov, Eigenvalues, Array]) -> tuple[_Krylov, Eigenvalues, Array]:
        krylov, found, done = carry
        krylov = _extend(matvec, krylov)
        values, errors = _ritz(krylov, k)
        values_now = jnp.where(done[:, None], found.values, krylov.scale[:, None] * values)
        found = Eigenvalues(values_now, found.products + ~done)
        sizes = jnp.abs(values)
        rounding = _NOISE * jnp.finfo(sizes.dtype).eps * sizes[:, :1]
        close = _MARGIN * errors <= jnp.maximum(tol * sizes, rounding)
        exhausted = (krylov.waiting == 0).all((1, 2))
        return krylov, found, done | (close.all(-1) & (krylov.step >= k)) | exhausted

    nothing = jnp.zeros((count,), jnp.int32)
    found = Eigenvalues(jnp.zeros_like(start, shape=(count, k)), nothing)
    _, found, _ = jax.lax.while_loop(
        lambda carry: (carry[0].step < steps) & ~carry[2].all(),
        advance,
        (_begin(starts, steps), found, nothing > 0),
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
