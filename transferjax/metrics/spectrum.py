"""Top eigenvalues, trace and spectral density of one symmetric matrix, from products with it.

Here a matrix is `matvec: [N] -> [N]`. Probes run one after another: several at once would turn products with
a convolutional net's weights into grouped convolutions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.metrics.lanczos import (
    Eigenvalues,
    check_effort,
    lanczos_eigenvalues,
    lanczos_tridiagonal,
)
from transferjax.norms import unit
from transferjax.random import one_key
from transferjax.typing import Array, Key

Product = Callable[[Array], Array]
"""A symmetric matrix: vector `[N]` -> product `[N]`."""


class Estimate(NamedTuple):
    """A mean over probes and its standard error."""

    value: Array
    error: Array


def _estimate(samples: Array) -> Estimate:
    return Estimate(samples.mean(), samples.std(ddof=1) / jnp.sqrt(len(samples)))


def _signs(key: Key, count: int, size: int, dtype: jnp.dtype) -> Array:
    """Rademacher probes `[count, N]`: of all with unit covariance, these have the least variance."""
    return jax.random.rademacher(key, (count, size), dtype)


def top_eigenvalues(
    key: Key,
    matvec: Product,
    size: int,
    k: int = 1,
    *,
    steps: int = 32,
    tol: float = 1e-3,
    start: Array | None = None,
    dtype: jnp.dtype = jnp.float32,
) -> Eigenvalues:
    """The k eigenvalues `[k]` of largest magnitude, each as often as it occurs, and the products they took.

    Args:
        key: one key, for the start vector.
        matvec, size: the matrix and its number of rows.
        k: how many.
        steps: the most products; keeps that many vectors of length N.
        tol: estimated relative error at which it stops, see `lanczos_eigenvalues`.
        start: a vector `[N]` that leans towards the leading eigenvectors, see `WeightMatrix`. A tenth of a
            random one is added, so that a bad guess costs products and not the result.

    Raises:
        ValueError: a start of another shape than `[N]`, or a k, steps or tol out of range.
    """
    check_effort(steps, tol)
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to {size} (the rows of the matrix); got {k}")
    if start is not None and start.shape != (size,):
        raise ValueError(f"start must be one vector [{size}], a row of the matrix; got shape {start.shape}")
    first = jax.random.normal(one_key(key), (size,), dtype)
    if start is not None:
        first = unit(start) + 0.1 * unit(first)
    found = lanczos_eigenvalues(lambda v: matvec(v[0])[None], first[None], k, max(steps, k), tol)
    return Eigenvalues(found.values[0], found.products[0])


def trace(
    key: Key, matvec: Product, size: int, samples: int = 32, dtype: jnp.dtype = jnp.float32
) -> Estimate:
    """Hutchinson's estimate `tr H ≈ mean_i z_iᵀ H z_i` with random signs z, unbiased.

    Its variance is `2 (‖H‖²_F - Σ_j H_jj²) / samples`.

    Args:
        key: one key.
        matvec, size: the matrix and its number of rows.
        samples: products to spend, at least 2.

    Reference: Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1990.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to know the error; got {samples}")
    keys = jax.random.split(one_key(key), samples)

    def quadratic(key: Key) -> Array:
        probe = jax.random.rademacher(key, (size,), dtype)
        return probe @ matvec(probe)

    return _estimate(jax.lax.map(quadratic, keys))


def trace_plus_plus(
    key: Key, matvec: Product, size: int, samples: int = 33, dtype: jnp.dtype = jnp.float32
) -> Estimate:
    """Hutch++: the trace on a random low-rank space exactly, and Hutchinson's estimate on the rest.

    `tr H = tr QᵀHQ + tr (I - QQᵀ) H (I - QQᵀ)`, Q an orthonormal basis of H times samples/3 sign vectors.
    Takes O(1/ε) products for a relative error ε of a positive semi-definite H where Hutchinson takes O(1/ε²);
    keeps 2 samples/3 vectors of length N.

    Args:
        key: one key.
        matvec, size: the matrix and its number of rows.
        samples: products to spend, at least 6; the error that is reported is that of the rest. As many as
            the matrix has rows give its trace.

    Reference: Meyer et al., "Hutch++: Optimal Stochastic Trace Estimation", SOSA 2021, Algorithm 1.
    """
    key, third = one_key(key), samples // 3
    if third < 2:
        raise ValueError(f"samples must be at least 6; got {samples}: use trace")
    if samples >= size:
        return _multiplied_out(matvec, size, dtype)
    sketch_key, probe_key = jax.random.split(key)
    sketch = jax.lax.map(matvec, _signs(sketch_key, third, size, dtype))
    basis, _ = jnp.linalg.qr(sketch.T)
    low = (basis * jax.lax.map(matvec, basis.T).T).sum()
    probes = _signs(probe_key, third, size, dtype)
    probes = probes - (probes @ basis) @ basis.T
    rest = _estimate(jnp.vecdot(probes, jax.lax.map(matvec, probes)))
    return Estimate(low + rest.value, rest.error)


def xtrace(
    key: Key, matvec: Product, size: int, samples: int = 32, dtype: jnp.dtype = jnp.float32
) -> Estimate:
    """XTrace: Hutch++ in which every probe also widens the space of all the others, unbiased.

    With Q_i an orthonormal basis of the products of all probes but ω_i, which are uniform on a sphere,

        tr H ≈ mean_i tr Q_iᵀHQ_i + c_i μ_iᵀHμ_i,  μ_i = (I - Q_iQ_iᵀ) ω_i,  c_i = (N - p + 1) / ‖μ_i‖²

    for p = samples/2 probes: all from one product with each and one QR decomposition. At as many products its
    error is below that of `trace_plus_plus` where the spectrum decays; keeps samples vectors of length N.
    c_i belongs to the sphere: with random signs it is biased, to 3/4 of the trace of an identity of 2 rows.

    Args:
        key: one key.
        matvec, size: the matrix and its number of rows.
        samples: products to spend, at least 4. As many as the matrix has rows give its trace.

    Returns:
        The estimate. Its standard error is that of p independent ones, which these, of the same products, are
        not: the true one is larger, by three tenths with p = 8 where eigenvalues fall as 0.7^i.

    Reference: Epperly, Tropp and Webber, "XTrace: Making the Most of Every Sample in Stochastic Trace
    Estimation", SIAM J. Matrix Anal. Appl. 45, 2024; with the normalization c_i that they recommend.
    """
    key, half = one_key(key), samples // 2
    if half < 2:
        raise ValueError(f"samples must be at least 4; got {samples}")
    if samples >= size:
        return _multiplied_out(matvec, size, dtype)
    probes = size**0.5 * unit(jax.random.normal(key, (half, size), dtype), -1)
    products = jax.lax.map(matvec, probes)
    basis, upper = jnp.linalg.qr(products.T)
    small = jnp.finfo(dtype).eps * jnp.abs(upper).max()
    safe = upper + jnp.diag(jnp.where(jnp.abs(jnp.diag(upper)) > small, 0, small + (small == 0)))
    without = jax.scipy.linalg.solve_triangular(safe, jnp.eye(half, dtype=dtype), trans=1)
    without = unit(without, 0)  # column i: what leaves the basis with probe i
    inner = basis.T @ jax.lax.map(matvec, basis.T).T
    inside = basis.T @ probes.T
    inside = inside - without * (without * inside).sum(0)
    low = jnp.trace(inner) - (without * (inner @ without)).sum(0)
    rest = jnp.vecdot(probes, products) - 2 * (inside * upper).sum(0) + (inside * (inner @ inside)).sum(0)
    left = size - (inside**2).sum(0)
    scale = jnp.where(left > size * jnp.finfo(dtype).eps ** 0.5, (size - half + 1) / left, 0)
    return _estimate(low + scale * rest)


def _multiplied_out(matvec: Product, size: int, dtype: jnp.dtype) -> Estimate:
    """The trace itself: probes that nearly span the space would leave the rest to cancellation."""
    found = jnp.trace(jax.lax.map(matvec, jnp.eye(size, dtype=dtype)))
    return Estimate(found, jnp.zeros_like(found))


class Spectrum(NamedTuple):
    """A discrete spectral measure for each probe: nodes and weights `[samples, steps]`, weights sum to 1."""

    nodes: Array
    weights: Array


def spectral_measure(
    key: Key, matvec: Product, size: int, samples: int = 8, steps: int = 40, dtype: jnp.dtype = jnp.float32
) -> Spectrum:
    """Stochastic Lanczos quadrature: `(1/N) Σ_j g(λ_j) ≈ mean_i Σ_m w_im g(θ_im)` for any smooth g.

    θ are the eigenvalues of probe i's Lanczos matrix, w the squared first entries of its eigenvectors; exact
    in each probe for polynomials up to degree `2 steps - 1`.

    Args:
        key: one key.
        matvec, size: the matrix and its number of rows.
        samples: probes; each costs `steps` products.
        steps: of Lanczos, with full reorthogonalization: keeps that many vectors of length N.

    Reference: Ghorbani, Krishnan and Xiao, "An Investigation into Neural Net Optimization via Hessian
    Eigenvalue Density", ICML 2019, Section 2; Golub and Welsch, 1969.
    """
    check_effort(steps, 0.0)
    steps = min(steps, size)

    def one(probe: Array) -> tuple[Array, Array]:
        tridiagonal = lanczos_tridiagonal(lambda v: matvec(v[0])[None], probe[None], steps)[0]
        nodes, vectors = jnp.linalg.eigh(tridiagonal)
        return nodes, vectors[0] ** 2

    return Spectrum(*jax.lax.map(one, _signs(one_key(key), samples, size, dtype)))


def spectral_density(spectrum: Spectrum, grid: Array, width: float) -> Array:
    """The measure smoothed by Gaussians, `ρ(t) = mean_i Σ_m w_im N(t; θ_im, width²)`, at the grid `[G]`.

    Its integral is 1: multiply by the number of rows for a count of eigenvalues.
    """
    if width <= 0:
        raise ValueError(f"width must be positive; got {width}")
    bumps = jax.scipy.stats.norm.pdf(grid[:, None, None], spectrum.nodes, width)
    return (spectrum.weights * bumps).sum(-1).mean(-1)
