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
    # Three start vectors cost a product each, whatever they find, and then rank three is exhausted.
    assert (found.products <= jnp.array([SIZE, SIZE, 6, 3])).all(), found.products


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


REPEATED = {  # spectra as an iteration with one start vector loses them
    "identity": [2.0] * SIZE,
    "blocks": [3, 3, 1, 1, 1, *[0] * (SIZE - 5)],
    "signs": [2, -2, 2, -2, 1, *[0] * (SIZE - 5)],
    "nearly": [1, 1 - 1e-6, 1 - 2e-6, 0.5, *np.linspace(-0.3, 0.3, SIZE - 4)],
    "rank one": [-5, *[0] * (SIZE - 1)],
    "small": [1e-33, 1e-33, 5e-34, *[0] * (SIZE - 3)],
    "zero": [0] * SIZE,
}


@pytest.mark.parametrize("k", [1, 3, 6, SIZE])
def test_repeated_eigenvalues_are_found_as_often_as_they_occur(k):
    spectra = np.array(list(REPEATED.values()), float)
    with jax.enable_x64(True):
        matrix = np.asarray(matrices(jnp.asarray(spectra)), np.float32)
    start = jnp.asarray(np.broadcast_to(START[:1], (len(spectra), SIZE)), jnp.float32)
    found = np.asarray(lanczos(jnp.asarray(matrix), start, k, SIZE, 1e-3).values, float)
    largest = -np.sort(-np.abs(spectra))
    np.testing.assert_allclose(
        np.abs(found) / np.maximum(largest[:, :1], 1e-38),
        largest[:, :k] / np.maximum(largest[:, :1], 1e-38),
        atol=1e-3,
    )
    np.testing.assert_allclose(np.sort(found[:2]), np.sort(spectra[:2, :k]), atol=3e-3)


def test_every_one_of_the_k_is_within_the_tolerance():
    """Of 100 random indefinite matrices, whose gaps are small; k = 1 may miss one that has not shown yet."""
    noise = np.random.default_rng(1).normal(size=(100, SIZE, SIZE))
    matrix = noise + noise.swapaxes(1, 2)
    exact = -np.sort(-np.abs(np.linalg.eigvalsh(matrix)))
    start = jnp.asarray(np.broadcast_to(START[:1], (100, SIZE)), jnp.float32)
    for k, missed in ((1, 1), (2, 0), (5, 0)):
        found = lanczos(jnp.asarray(matrix, jnp.float32), start, k, SIZE, 1e-3)
        errors = np.abs(np.abs(found.values) / exact[:, :k] - 1).max(-1)
        assert (errors > 1e-3).sum() <= missed, k
        assert found.products.mean() < SIZE


@pytest.mark.parametrize(
    ("steps", "tol", "message"), [(0, 0, "steps"), (9, -1e-3, "tol"), (9, np.nan, "tol")]
)
def test_effort_out_of_range(steps, tol, message):
    with pytest.raises(ValueError, match=f"{message} must be"):
        lanczos_eigenvalues(lambda v: v, jnp.ones((1, SIZE)), 1, steps, tol)
