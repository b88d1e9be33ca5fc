"""Sharpness of quadratics, where both kinds have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.metrics.sharpness import average_sharpness, worst_case_sharpness

KEY, RADIUS = jax.random.key(0), 0.3
CURVATURES = jnp.array([8.0, 5.0, 2.0, 1.0, 0.5, 0.1])


def loss(params):
    return 0.5 * (CURVATURES * jnp.concatenate([params["a"], params["b"]]) ** 2).sum() + 7


MINIMUM = {"a": jnp.zeros(2), "b": jnp.zeros(4)}


def test_worst_case_at_a_minimum():
    found = worst_case_sharpness(KEY, loss, MINIMUM, RADIUS, steps=50)
    np.testing.assert_allclose(found, RADIUS**2 * 8 / 2, rtol=1e-4)


def test_worst_case_on_a_slope_is_at_the_end_of_the_gradient():
    def slope(params):
        return 3 * params["a"][0] - 4 * params["b"][0]

    np.testing.assert_allclose(worst_case_sharpness(KEY, slope, MINIMUM, RADIUS), 5 * RADIUS, rtol=1e-5)


def test_worst_case_of_a_maximum_is_zero():
    found = worst_case_sharpness(KEY, lambda params: -loss(params), MINIMUM, RADIUS)
    assert found == 0


def test_worst_case_in_no_ball():
    assert worst_case_sharpness(KEY, loss, MINIMUM, 0.0) == 0


def test_average_in_the_ball():
    """For δ uniform in a ball of N dimensions, E δδᵀ = ρ²/(N + 2)."""
    found = average_sharpness(KEY, loss, MINIMUM, RADIUS, samples=4000)
    expected = RADIUS**2 * CURVATURES.sum() / (2 * (6 + 2))
    assert abs(found.value - expected) < 4 * found.error
    assert found.error < 0.03 * expected
    with pytest.raises(ValueError, match="samples"):
        average_sharpness(KEY, loss, MINIMUM, RADIUS, samples=1)
