"""Checkpoints: what is saved comes back, the newest stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import training
from transferjax.files import Unwritable
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


def run(path):
    with checkpoint.open_checkpoints(path) as manager:
        for step in (10, 20):
            checkpoint.save(manager, step, state(step), {"step": step})
    return path


def restored(path):
    with checkpoint.open_checkpoints(path) as manager:
        found = checkpoint.restore(manager, state(0))
        return found and (int(found[0].step), found[1])


def largest(path):
    return max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_truncated_newest_checkpoint_is_replaced_by_the_one_before(tmp_path):
    """The newest checkpoint is truncated: a warning names it, and training goes on from the one before."""
    path = run(tmp_path / "run")
    cut(largest(path / "20"))
    with pytest.warns(UserWarning, match=r"checkpoint .*run/20 is damaged .*from the one before"):
        assert restored(path) == (10, {"step": 10})
    assert restored(path) == (10, {"step": 10})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_where_all_checkpoints_are_damaged_training_starts_anew(tmp_path):
    """All checkpoints are truncated: training starts anew, and saves under the same steps again."""
    path = run(tmp_path / "run")
    for step in ("10", "20"):
        for file in (path / step).rglob("*"):
            if file.is_file():
                cut(file)
    assert restored(path) is None
    assert restored(run(path)) == (20, {"step": 20})


def test_a_flipped_byte_in_a_checkpoint_is_noticed(tmp_path, monkeypatch):
    """A byte of a checkpoint's weights is flipped: its checksum differs, and it is not gone on from."""
    path = run(tmp_path / "run")
    flip = checkpoint._restored.__globals__["_checksum"]
    flipped = lambda tree: flip(jax.tree.map(lambda leaf: leaf + (int(tree.step) == 20), tree))  # noqa: E731
    monkeypatch.setattr(checkpoint, "_checksum", flipped)
    with pytest.warns(UserWarning, match="20 is damaged .*its checksum differs"):
        assert restored(path) == (10, {"step": 10})


def test_checkpoints_that_are_copied_elsewhere_are_read_there(tmp_path):
    """A directory of checkpoints copied to another place, the first one gone: training goes on there."""
    run(tmp_path / "here").rename(tmp_path / "there")
    assert restored(tmp_path / "there") == (20, {"step": 20})


def test_checkpoints_where_a_file_is_are_refused(tmp_path):
    """A file where the directory of checkpoints belongs: one line with the place and the way out."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Unwritable, match=r"cannot write .*file: Not a directory; .*choose another place"),
        checkpoint.open_checkpoints(tmp_path / "file"),
    ):
        pass
