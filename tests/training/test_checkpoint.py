"""Training and its checkpoints: what is saved comes back, the newest stay."""

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


def test_there_is_no_checkpoint(directory, tmp_path):
    """You see: "no checkpoint of step 2 in … (found steps [3, 4])", or "no checkpoints in …: train the
    network first".
    Do: name a step that there is.
    """
    with pytest.raises(FileNotFoundError, match=r"step 2 .*found steps \[3, 4\]"):
        checkpoint.load_variables(directory, 2)
    with pytest.raises(FileNotFoundError, match="train the network first"):
        checkpoint.load_variables(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_run_is_killed_while_it_saves_a_checkpoint(directory):
    """You see: nothing: half of one is not taken for one.
    Do: the same command: it goes on from the checkpoint before.
    """
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


def test_the_newest_checkpoint_is_cut(tmp_path):
    """You see: a warning: "the checkpoint … is damaged (…): training goes on from the one before".
    Do: nothing: the result has the same bits.
    """
    path = run(tmp_path / "run")
    cut(largest(path / "20"))
    with pytest.warns(UserWarning, match=r"checkpoint .*run/20 is damaged .*from the one before"):
        assert restored(path) == (10, {"step": 10})
    assert restored(path) == (10, {"step": 10})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_checkpoints_are_cut(tmp_path):
    """You see: that warning for each of them, and at last "training goes on from the start".
    Do: nothing.
    """
    path = run(tmp_path / "run")
    for step in ("10", "20"):
        for file in (path / step).rglob("*"):
            if file.is_file():
                cut(file)
    assert restored(path) is None
    assert restored(run(path)) == (20, {"step": 20})


def test_a_byte_of_a_checkpoint_is_flipped(tmp_path, monkeypatch):
    """You see: "the checkpoint … is damaged (… its checksum differs): training goes on from the one before".
    Do: nothing.
    """
    path = run(tmp_path / "run")
    flip = checkpoint._restored.__globals__["_checksum"]
    flipped = lambda tree: flip(jax.tree.map(lambda leaf: leaf + (int(tree.step) == 20), tree))  # noqa: E731
    monkeypatch.setattr(checkpoint, "_checksum", flipped)
    with pytest.warns(UserWarning, match="20 is damaged .*its checksum differs"):
        assert restored(path) == (10, {"step": 10})


def test_checkpoints_are_copied_elsewhere(tmp_path):
    """You see: nothing: they are read there.
    Do: nothing.
    """
    run(tmp_path / "here").rename(tmp_path / "there")
    assert restored(tmp_path / "there") == (20, {"step": 20})


def test_a_file_lies_where_checkpoints_belong(tmp_path):
    """You see: "cannot write …: Not a directory; expected a directory: choose another place".
    Do: that.
    """
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Unwritable, match=r"cannot write .*file: Not a directory; .*choose another place"),
        checkpoint.open_checkpoints(tmp_path / "file"),
    ):
        pass
