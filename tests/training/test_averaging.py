"""Averages of weights against NumPy, and batch statistics against the data's own moments."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferjax.training.averaging import averaged_params, ema, recompute_batch_stats, swa


def trajectory(average, steps=12):
    """Weights after each step of SGD on a random walk, and what is averaged at the end."""
    optimizer = optax.chain(optax.sgd(0.1), average)
    w = {"w": jnp.array([1.0, -2.0])}
    state, path = optimizer.init(w), []
    for grads in np.random.default_rng(0).normal(size=(steps, 2)):
        updates, state = optimizer.update({"w": jnp.asarray(grads, jnp.float32)}, state, w)
        w = optax.apply_updates(w, updates)
        path.append(np.asarray(w["w"]))
    return np.array(path), averaged_params(state)


def test_ema():
    path, average = trajectory(ema(0.8))
    expected = np.array([1.0, -2.0])
    for w in path:
        expected = 0.8 * expected + 0.2 * w
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def test_swa_is_the_mean_of_the_last_epochs():
    path, average = trajectory(swa(12, 2, start=0.5))
    np.testing.assert_allclose(average["w"], path[[7, 9, 11]].mean(0), rtol=1e-5)


def test_nothing_averaged_is_none():
    assert trajectory(swa(100, 10))[1] is None
    assert trajectory(optax.identity())[1] is None


def test_batch_statistics_are_the_mean_of_the_batches_own():
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    batches = [jnp.asarray(x, jnp.float32) for x in np.random.default_rng(1).normal(2, 3, size=(5, 40, 3))]
    variables = norm.init(jax.random.key(0), batches[0])

    def batch_stats_of(old, images):
        return norm.apply({"params": variables["params"], "batch_stats": old}, images, mutable="batch_stats")[
            1
        ]["batch_stats"]

    stats = recompute_batch_stats(batch_stats_of, variables["batch_stats"], batches)
    np.testing.assert_allclose(stats["mean"], np.mean([b.mean(0) for b in batches], 0), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], np.mean([b.var(0) for b in batches], 0), rtol=1e-4)
    assert recompute_batch_stats(batch_stats_of, {}, batches) == {}
    with pytest.raises(ValueError, match="no batches"):
        recompute_batch_stats(batch_stats_of, variables["batch_stats"], [])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="decay=1"):
        ema(1)
    with pytest.raises(ValueError, match="start=1"):
        swa(10, start=1)
    with pytest.raises(
        ValueError, match=r"start=0.75: no epoch of 10 steps ends between step 11 and the last"
    ):
        swa(15, 10)
    swa(16, 4)
