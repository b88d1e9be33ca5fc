import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.metrics import bootstrap_interval, proportion_interval


def test_the_interval_of_a_mean_is_the_normal_one(x64):
    values = jax.random.normal(jax.random.key(0), (400,)) + 3
    found = bootstrap_interval(jax.random.key(1), values, resamples=4000)
    half = 1.96 * values.std(ddof=1) / 20
    np.testing.assert_allclose(found, (values.mean(), values.mean() - half, values.mean() + half), atol=0.01)


def test_coverage():
    """95 % intervals of 200 samples hold the true mean about 95 % of the time."""
    samples = jax.random.exponential(jax.random.key(0), (200, 100))
    keys = jax.random.split(jax.random.key(1), 200)
    found = jax.vmap(lambda key, values: bootstrap_interval(key, values, resamples=400))(keys, samples)
    covered = ((found.low < 1) & (found.high > 1)).mean()
    assert 0.88 < covered < 0.99


def test_the_supremum_and_joint_statistics():
    values = jnp.arange(50.0)
    found = bootstrap_interval(jax.random.key(0), values, jnp.max)
    assert found.estimate == found.high == 49
    assert found.low < 49
    pairs = (values, 2 * values)
    found = bootstrap_interval(jax.random.key(0), pairs, lambda ab: jnp.corrcoef(*ab)[0, 1])
    np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(jax.random.key(0), jnp.ones(3), level=95)
    with pytest.raises(ValueError, match="empty"):
        bootstrap_interval(jax.random.key(0), jnp.ones(0))


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (3, 7), (7, 7), (50, 1000)])
def test_wilsons_bounds_are_where_the_normal_test_just_accepts(successes, count):
    """`|p̂ - p| = z √(p(1-p)/n)` at both ends."""
    z = 1.959963984540054
    for bound in proportion_interval(successes, count):
        distance = abs(successes / count - bound)
        assert distance == pytest.approx(z * np.sqrt(bound * (1 - bound) / count), abs=1e-7)


def test_a_proportion_of_nothing_and_of_too_much():
    assert proportion_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="successes must lie in 0 … count; got 3 of 2"):
        proportion_interval(3, 2)
