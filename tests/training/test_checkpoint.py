"""Checkpoints: what is saved comes back, the newest stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import training
from transferjax.training import TrainState, checkpoint

OPTIMIZER = training.sgd(0.1, weight_decay=1e-4)


def state(step):
    params = {"dense": {"kernel": jnp.full((3, 2), float(step)), "bias": jnp.arange(2.0)}}
    memory = {"batch_stats": {"bn": {"mean": jnp.full(3, step / 7)}}, "metrics": {"loss": jnp.float32(step)}}
    return TrainState(jnp.int32(step), params, OPTIMIZER.init(params), memory)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoints"
    with checkpoint.open_checkpoints(path, newest=2) as manager:
        assert checkpoint.restore(manager, state(0)) is None
        for step in range(5):
            checkpoint.save(manager, step, state(step), [{"epoch": step}])
    return path


def test_the_newest_stay(directory):
    with checkpoint.open_checkpoints(directory) as manager:
        assert sorted(manager.all_steps()) == [3, 4]


def test_the_newest_comes_back_whole(directory):
    with checkpoint.open_checkpoints(directory) as manager:
        restored, meta = checkpoint.restore(manager, state(0))
    assert meta == [{"epoch": 4}]
    assert jax.tree.structure(restored) == jax.tree.structure(state(4))
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(4)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_variables_without_the_optimizer(directory):
    for step, loaded in [
        (4, checkpoint.load_variables(directory)),
        (3, checkpoint.load_variables(directory, 3)),
    ]:
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(state(step).variables), strict=True):
            np.testing.assert_array_equal(a, b)


def test_missing_checkpoints_are_named(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"step 2 .*found steps \[3, 4\]"):
        checkpoint.load_variables(directory, 2)
    with pytest.raises(FileNotFoundError, match="train the network first"):
        checkpoint.load_variables(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_a_killed_save_leaves_is_ignored(directory):
    (directory / "9.orbax-checkpoint-tmp-123").mkdir()
    with checkpoint.open_checkpoints(directory) as manager:
        assert manager.latest_step() == 4
