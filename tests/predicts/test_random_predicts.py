"""Predicts that draw: fresh keys reach them wherever they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.defences import bit_depth
from transferjax.predicts.snapshots import mean_logits
from transferjax.predicts.stochastic import Stochastic, with_keys
from transferjax.random import per_example, sample

X = jnp.zeros((3, 2, 2, 1))


def noisy(seed):
    return Stochastic(
        jax.tree_util.Partial(lambda keys, x: sample(jax.random.normal, keys, (4,))), jax.random.key(seed)
    )


def behind(predict):
    """A random predict around another: both draw."""
    draw = jax.tree_util.Partial(
        lambda inner, keys, x: inner(x) + 10 * sample(jax.random.normal, keys, (4,)), predict
    )
    return Stochastic(draw, jax.random.key(9))


PLACES = {
    "bare": noisy(0),
    "behind a defence": bit_depth(noisy(0)),
    "in an ensemble": mean_logits(noisy(0), noisy(0)),
    "in another one": behind(noisy(0)),
    "deep": bit_depth(mean_logits(behind(bit_depth(noisy(1))), noisy(2))),
}


@pytest.mark.parametrize("place", PLACES)
def test_fresh_keys_are_fresh_draws(place):
    predict = PLACES[place]
    one, two = (per_example(jax.random.key(seed), 3) for seed in (1, 2))
    first, again, second = (with_keys(predict, keys)(X) for keys in (one, one, two))
    np.testing.assert_array_equal(first, again)
    assert np.all(np.abs(first - second) > 0)
    order = jnp.array([2, 0, 1])  # an example's draw is its key's, wherever it stands in the batch
    np.testing.assert_allclose(with_keys(predict, one[order])(X[order]), first[order], rtol=1e-6)


def test_two_in_one_ensemble_draw_apart():
    keys = per_example(jax.random.key(0), 3)
    single = with_keys(noisy(0), keys)(X)
    both = with_keys(mean_logits(noisy(0), noisy(0)), keys)(X)
    assert np.std(both) < 0.95 * np.std(single)


def test_inside_and_outside_draw_apart():
    """With one key for both, 10 u + u would be 11 u."""
    keys = per_example(jax.random.key(0), 3)
    outer = with_keys(noisy(0), keys)(X)
    assert np.all(np.abs(with_keys(behind(noisy(0)), keys)(X) - 11 * outer) > 1e-3)


def test_a_predict_that_does_not_draw_is_left_alone():
    weights = jnp.arange(4.0)
    predict = jax.tree_util.Partial(lambda w, x: x.mean((1, 2)) + w, weights)
    np.testing.assert_array_equal(with_keys(predict, per_example(jax.random.key(0), 3))(X), predict(X))
    assert with_keys(len, per_example(jax.random.key(0), 3))("ab") == 2
