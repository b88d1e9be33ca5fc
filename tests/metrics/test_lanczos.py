"""Lanczos against matrices with a prescribed spectrum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.metrics.lanczos import lanczos_eigenvalues, power_eigenvalue

SIZE = 40


def matrices(spectra):
    """Symmetric matrices `[B, N, N]` with the given eigenvalues `[B, N]`, in random orthonormal bases."""
    keys = jax.random.split(jax.random.key(3), len(spectra))
    frames = jax.vmap(lambda key: jnp.linalg.qr(jax.random.normal(key, (SIZE, SIZE), float))[0])(keys)
    return jnp.einsum("bij,bj,bkj->bik", frames, spectra, frames)


def operator(matrix):
    return lambda v: jnp.einsum("bij,bj->bi", matrix, v)


@partial(jax.jit, static_argnames=("k", "steps"))
def lanczos(matrix, start, k, steps, tol):
    return lanczos_eigenvalues(operator(matrix), start, k, steps, tol)


@pytest.fixture
def spectra(x64):
    decaying = 0.7 ** jnp.arange(SIZE)
    indefinite = jnp.where(jnp.arange(SIZE) % 2, -1, 1) * 0.8 ** jnp.arange(SIZE)
    low_rank = jnp.where(jnp.arange(SIZE) < 3, 3.0 - jnp.arange(SIZE), 0)
    return jnp.stack([decaying, indefinite, 1e-9 * low_rank, jnp.zeros(SIZE)])


START = np.random.default_rng(0).standard_normal((4, SIZE))


def test_finds_prescribed_eigenvalues(spectra):
    found = lanczos(matrices(spectra), jnp.array(START), 3, SIZE, tol=1e-10)
    np.testing.assert_allclose(found.values, spectra[:, :3], rtol=1e-9, atol=1e-20)
    assert (found.products <= jnp.array([SIZE, SIZE, 5, 2])).all(), found.products


def test_full_length_gives_the_whole_spectrum(spectra):
    found = lanczos(matrices(spectra), jnp.array(START), SIZE, SIZE, tol=0)
    np.testing.assert_allclose(found.values[:2], spectra[:2], atol=1e-12)


def test_an_example_does_not_depend_on_its_batch(spectra):
    matrix, start = matrices(spectra), jnp.array(START)
    together = lanczos(matrix, start, 2, SIZE, tol=1e-2)
    for i in (0, 3):
        alone = lanczos(matrix[i : i + 1], start[i : i + 1], 2, SIZE, tol=1e-2)
        np.testing.assert_allclose(alone.values[0], together.values[i], rtol=1e-9, atol=1e-20)
        assert alone.products[0] == together.products[i]


def test_the_residual_bounds_the_error_when_it_stops(spectra):
    for tol in (1e-1, 1e-2, 1e-4):
        found = lanczos(matrices(spectra), jnp.array(START), 1, SIZE, tol)
        error = jnp.abs(found.values[:, 0] - spectra[:, 0])
        assert (error <= tol * jnp.abs(spectra[:, 0]) + 1e-20).all()


def test_power_iteration(spectra):
    found = power_eigenvalue(operator(matrices(spectra)), jnp.array(START), 500, tol=1e-9)
    np.testing.assert_allclose(found.values[:, 0], spectra[:, 0], rtol=1e-6, atol=1e-20)
    by_lanczos = lanczos(matrices(spectra), jnp.array(START), 1, SIZE, 1e-5)
    assert (by_lanczos.products[:2] < found.products[:2]).all()


@pytest.mark.parametrize("k", [0, SIZE + 1])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match="k must be at least 1"):
        lanczos_eigenvalues(lambda v: v, jnp.ones((1, SIZE)), k, SIZE, 0)
