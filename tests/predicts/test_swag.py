"""Nets drawn around the weights of one training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks
from transferjax.predicts import Snapshots, mean_logits, swag, swag_mean

WEIGHTS = {
    "params": {"w": jnp.array([[0.0, 10.0], [2.0, 10.0], [4.0, 10.0]])},
    "batch_stats": jnp.array([[1.0], [2.0], [6.0]]),
}


def nets():
    """Three nets whose first weight has mean 2 and variance 8/3, whose second is always 10."""
    of = lambda i: jax.tree.map(lambda a: a[i], WEIGHTS)  # noqa: E731
    function = lambda w, x: x.reshape(len(x), -1)[:, :2] * w["params"]["w"] + w["batch_stats"]  # noqa: E731
    return [jax.tree_util.Partial(function, of(i)) for i in range(3)]


def test_draws_have_the_mean_and_the_scaled_spread_of_the_weights():
    drawn = swag(nets(), jax.random.key(0), count=4000, scale=1.5)
    found = drawn.predict.args[0]
    first, second = np.asarray(found["params"]["w"]).T
    spread = 1.5 * np.sqrt(8 / 3)
    assert abs(first.mean() - 2) < 4 * spread / np.sqrt(4000)
    assert abs(first.std() / spread - 1) < 0.06
    np.testing.assert_allclose(second, 10)
    np.testing.assert_allclose(found["batch_stats"], 3)


def test_they_are_snapshots_that_attacks_take():
    few = swag(Snapshots.stack(nets()), jax.random.key(1), count=3)
    assert len(few) == 3
    np.testing.assert_allclose(
        swag(nets(), jax.random.key(1), count=3, scale=0.0).at(2).args[0]["params"]["w"], [2, 10]
    )
    images = jnp.full((2, 2, 2, 1), 0.5)
    x = attacks.lgv(0.1, 3)(jax.random.key(0), few, images, jnp.array([0, 1]))
    assert np.abs(x - images).max() > 0.01
    with pytest.raises(ValueError, match="at least 2 nets to tell their spread; got 1"):
        swag(nets()[:1], jax.random.key(0))


def test_their_mean_is_one_predict():
    x = jnp.linspace(0, 1, 3 * 4).reshape(3, 2, 2, 1)
    one = swag_mean(*nets(), count=4, scale=1.5, seed=7)
    draws = swag(nets(), jax.random.key(7), count=4)
    np.testing.assert_allclose(one(x), mean_logits(*(draws.at(i) for i in range(4)))(x), rtol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda predict, x: predict(x))(one, x), jax.jit(one)(x))
    with pytest.raises(ValueError, match="at least 2 nets"):
        swag_mean(nets()[0])
