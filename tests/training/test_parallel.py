"""Training and its checkpoints: how batches meet devices; eight equal one is a law of test_mechanisms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import data
from transferjax.training import parallel


def test_a_batch_does_not_divide_over_the_devices():
    """You see: "a batch of 20 does not divide over 8 devices; use a multiple of 8 as batch_size, such as 16".
    Do: that.
    """
    with pytest.raises(ValueError, match=r"batch of 20 does not divide over 8 devices.*such as 16"):
        parallel.shard(np.zeros((20, 3)))


def test_a_batch_does_not_divide_over_the_processes():
    """You see: "batch_size 4 does not split over 3 processes; use a multiple of 3".
    Do: that.
    """
    source = data.Dataset(np.zeros((8, 2, 2, 1), np.uint8), np.zeros(8, int), num_classes=2)
    with pytest.raises(ValueError, match="batch_size 4 does not split over 3 processes; use a multiple of 3"):
        next(data.train_batches(source, 4, seed=0, shard=(0, 3)))


def test_shards_are_contiguous():
    np.testing.assert_array_equal(parallel.shard(np.arange(16)), np.arange(16).reshape(8, 2))


def test_replicas_are_equal_and_come_back():
    tree = {"w": jnp.arange(3.0), "n": jnp.int32(2)}
    copies = parallel.replicate(tree)
    assert copies["w"].shape == (8, 3)
    for name, value in parallel.unreplicate(copies).items():
        np.testing.assert_array_equal(value, tree[name])


def test_a_step_is_placed_on_every_device_there_is():
    place = parallel.placement()
    assert place.axis_name == parallel.AXIS
    update = place.compile(lambda state, key, batch: state + jax.lax.pmean(batch.sum(), place.axis_name))
    state = update(place.put_state(jnp.float32(1)), jax.random.key(0), place.put_batch(np.arange(16.0)))
    assert place.get_state(state) == 1 + np.arange(16).sum() / 8
