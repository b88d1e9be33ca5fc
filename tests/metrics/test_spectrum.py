"""Estimates from products against matrices with a prescribed spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.metrics.spectrum import (
    spectral_density,
    spectral_measure,
    top_eigenvalues,
    trace,
    trace_plus_plus,
    xtrace,
)

SIZE, KEY = 60, jax.random.key(0)
SPECTRUM = np.concatenate([[20.0, 10.0, 5.0], np.linspace(-0.5, 1, SIZE - 3)])


@pytest.fixture
def matvec(x64):
    frame = jnp.linalg.qr(jax.random.normal(jax.random.key(5), (SIZE, SIZE)))[0]
    matrix = (frame * SPECTRUM) @ frame.T
    return lambda v: matrix @ v


def test_top_eigenvalues(matvec):
    found = top_eigenvalues(KEY, matvec, SIZE, 3, tol=1e-8, dtype=jnp.float64)
    np.testing.assert_allclose(found.values, SPECTRUM[:3], rtol=1e-8)
    assert found.products < 32


@pytest.mark.parametrize("estimate", [trace, trace_plus_plus, xtrace])
def test_traces_lie_within_their_errors(matvec, estimate):
    def run(key):
        return estimate(key, matvec, SIZE, samples=30, dtype=jnp.float64)

    found = jax.vmap(run)(jax.random.split(KEY, 200))
    truth = SPECTRUM.sum()
    scores = (found.value - truth) / found.error
    assert abs(found.value.mean() - truth) < 4 * found.value.std() / 200**0.5  # unbiased
    assert 0.8 < jnp.sqrt((scores**2).mean()) < 1.6  # errors are honest


def test_fewer_products_for_few_large_eigenvalues(matvec):
    keys = jax.random.split(KEY, 50)
    spreads = [
        jax.vmap(lambda key, f=f: f(key, matvec, SIZE, samples=30, dtype=jnp.float64).value)(keys).std()
        for f in (trace, trace_plus_plus, xtrace)
    ]
    assert spreads[1] < 0.5 * spreads[0]
    assert spreads[2] < 0.9 * spreads[1]


@pytest.mark.parametrize("estimate", [trace_plus_plus, xtrace])
@pytest.mark.parametrize("size", [1, 2, 20, 60])
def test_as_many_products_as_rows_are_exact_in_single_precision(estimate, size):
    found = jax.vmap(lambda key: estimate(key, lambda v: 3 * v, size, max(size, 6)))(
        jax.random.split(KEY, 50)
    )
    np.testing.assert_allclose(found.value, 3 * size, rtol=1e-6)
    np.testing.assert_array_equal(found.error, 0)


@pytest.mark.parametrize("estimate", [trace_plus_plus, xtrace])
def test_a_low_rank_trace_is_exact(estimate, x64):
    found = estimate(KEY, lambda v: jnp.where(jnp.arange(SIZE) < 4, v, 0), SIZE, 30, jnp.float64)
    np.testing.assert_allclose(found.value, 4, rtol=1e-10)


def test_xtrace_against_its_definition(matvec):
    """Every probe with a basis of the products of all the others, one QR decomposition each."""
    probes = np.asarray(jax.random.normal(KEY, (6, SIZE), jnp.float64))
    probes = SIZE**0.5 * probes / np.linalg.norm(probes, axis=1, keepdims=True)
    products = np.asarray(jax.vmap(matvec)(probes))
    matrix = np.asarray(jax.vmap(matvec)(jnp.eye(SIZE)))
    expected = []
    for i, probe in enumerate(probes):
        basis = np.linalg.qr(np.delete(products, i, 0).T)[0]
        left = probe - basis @ (basis.T @ probe)
        scale = (SIZE - len(probes) + 1) / (left @ left)
        expected.append(np.trace(basis.T @ matrix @ basis) + scale * left @ matrix @ left)
    found = xtrace(KEY, matvec, SIZE, 12, jnp.float64)
    np.testing.assert_allclose(found.value, np.mean(expected), rtol=1e-10)
    np.testing.assert_allclose(found.error, np.std(expected, ddof=1) / 6**0.5, rtol=1e-10)


def test_xtrace_of_the_smallest_identity(x64):
    """Exact whatever is drawn; signs that agree would leave nothing beside the space of the other."""
    for key in jax.random.split(KEY, 8):
        np.testing.assert_allclose(xtrace(key, lambda v: v, 2, 4, jnp.float64).value, 2, rtol=1e-12)


def test_spectral_measure_integrates_polynomials(matvec):
    spectrum = spectral_measure(KEY, matvec, SIZE, samples=400, steps=6, dtype=jnp.float64)
    np.testing.assert_allclose(spectrum.weights.sum(-1), 1, rtol=1e-10)
    for power in (1, 2, 5):
        samples = (spectrum.weights * spectrum.nodes**power).sum(-1)
        error = samples.std() / 20
        assert abs(samples.mean() - (SPECTRUM**power).mean()) < 4 * error


def test_density_against_the_exact_one(matvec):
    spectrum = spectral_measure(KEY, matvec, SIZE, samples=300, steps=SIZE, dtype=jnp.float64)
    grid = jnp.linspace(-3, 23, 800)
    found = spectral_density(spectrum, grid, 0.4)
    exact = jax.scipy.stats.norm.pdf(grid[:, None], SPECTRUM, 0.4).mean(-1)
    np.testing.assert_allclose(jnp.trapezoid(found, grid), 1, rtol=1e-6)
    assert jnp.trapezoid(jnp.abs(found - exact), grid) < 0.03


def test_a_multiple_of_the_identity():
    np.testing.assert_allclose(top_eigenvalues(KEY, lambda v: 2 * v, SIZE, 3).values, [2, 2, 2], rtol=1e-6)


def test_bad_arguments():
    for options, message in (
        ({"k": 0}, "k must"),
        ({"k": 4}, "k must"),
        ({"steps": 0}, "steps must"),
        ({"tol": -1.0}, "tol must"),
    ):
        with pytest.raises(ValueError, match=message):
            top_eigenvalues(KEY, lambda v: v, 3, **options)
    with pytest.raises(ValueError, match="steps must"):
        spectral_measure(KEY, lambda v: v, 3, steps=0)
    with pytest.raises(ValueError, match="at least 2"):
        trace(KEY, lambda v: v, 3, samples=1)
    with pytest.raises(ValueError, match="use trace"):
        trace_plus_plus(KEY, lambda v: v, 3, samples=5)
    with pytest.raises(ValueError, match="at least 4"):
        xtrace(KEY, lambda v: v, 3, samples=3)
    with pytest.raises(ValueError, match=r"one vector \[3\].*shape \(1,\)"):
        top_eigenvalues(KEY, lambda v: v, 3, start=jnp.ones(1))
    with pytest.raises(ValueError, match="width"):
        spectral_density(None, jnp.ones(2), 0.0)
