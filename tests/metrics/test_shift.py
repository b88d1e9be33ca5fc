import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from transferjax.metrics.shift import (
    frechet_distance,
    local_intrinsic_dimension,
    off_subspace,
    principal_subspace,
)

KEY = jax.random.key(0)


def test_frechet_against_the_textbook_formula(x64):
    a = jax.random.normal(KEY, (80, 6))
    b = 1 + jax.random.normal(jax.random.key(1), (50, 6)) @ jnp.diag(jnp.arange(1.0, 7))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-12)
    np.testing.assert_allclose(frechet_distance(a, a + 2), 4 * 6, rtol=1e-9)
    with pytest.raises(ValueError, match="one D"):
        frechet_distance(a, b[:, :3])


@pytest.mark.parametrize("dimension", [2, 5])
def test_intrinsic_dimension_of_a_flat_sheet(dimension):
    """Uniform points of a d-dimensional cube, rotated into 12 dimensions."""
    points = jax.random.uniform(KEY, (4000, dimension))
    frame = jnp.linalg.qr(jax.random.normal(KEY, (12, dimension)))[0]
    features = points @ frame.T
    inside = features[(jnp.abs(points - 0.5) < 0.3).all(1)][:200]
    found = jax.jit(local_intrinsic_dimension, static_argnames="neighbors")(inside, features, neighbors=40)
    assert found.mean() == pytest.approx(dimension, rel=0.12)


def test_intrinsic_dimension_bad_arguments():
    with pytest.raises(ValueError, match="neighbors must be from 2 to 4"):
        local_intrinsic_dimension(jnp.ones((3, 2)), jnp.ones((5, 2)), 5)


def test_distance_from_a_subspace():
    frame = jnp.linalg.qr(jax.random.normal(KEY, (7, 7)))[0]
    features = jax.random.normal(KEY, (30, 3)) @ frame[:3] + 5
    subspace = principal_subspace(features, 3)
    np.testing.assert_allclose(off_subspace(features, subspace), 0, atol=1e-4)
    np.testing.assert_allclose(off_subspace(features + 0.7 * frame[5], subspace), 0.7, rtol=1e-3)
    np.testing.assert_allclose(off_subspace(features + 9 * frame[0], subspace), 0, atol=1e-3)
    with pytest.raises(ValueError, match="rank"):
        principal_subspace(features, 8)


def test_a_single_example_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 examples; got 5 and 1"):
        frechet_distance(jnp.ones((5, 2)), jnp.ones((1, 2)))
