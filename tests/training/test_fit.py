"""Training and its checkpoints: the host loop, and that a run in two parts is the run in one."""

import itertools
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from transferjax.stopping import Stopped
from transferjax.training import checkpoint
from transferjax.training.fit import fit

PER_EPOCH, LAST = 5, 20


def update(state, example):
    w = 0.9 * state["w"] + jnp.sin(state["step"] * example)
    return {"w": w, "step": state["step"] + 1}, {"loss": jnp.abs(w).mean() / 3}


def fresh():
    return {"w": jnp.linspace(0.0, 1.0, 7), "step": jnp.float32(0)}


def train(directory=None, stops=(LAST,), stopped=lambda: False, save_epochs=2):
    batches = lambda start: (jnp.float32(0.1 * step) for step in itertools.count(start))  # noqa: E731
    options = {"stops": stops, "steps_per_epoch": PER_EPOCH, "directory": directory}
    return list(fit(update, fresh(), batches, **options, save_epochs=save_epochs, stopped=stopped))


def after(steps):
    """Asks to stop after so many looks."""
    looks = itertools.count(1)
    return lambda: next(looks) == steps


def same(one, other):
    np.testing.assert_array_equal(one.state["w"], other.state["w"])
    assert one.history == other.history


@pytest.mark.parametrize("step", [1, 5, 7, 10, 18])
def test_a_training_is_asked_to_stop(tmp_path, step):
    """You see: Stopped, which is a KeyboardInterrupt, at the next step; a checkpoint of that step is kept.
    Do: the same call: it goes on from there, and ends with the same bits.
    """
    with pytest.raises(Stopped):
        train(tmp_path / "run", stopped=after(step))
    assert (tmp_path / "run" / str(step)).is_dir()
    (stop,) = train(tmp_path / "run")
    assert stop.trained == LAST - step
    same(stop, train()[0])


def test_the_directory_of_a_training_is_copied_elsewhere(tmp_path):
    """You see: nothing: the training goes on there with the same bits.
    Do: nothing.
    """
    with pytest.raises(Stopped):
        train(tmp_path / "here", stopped=after(12))
    shutil.move(tmp_path / "here", tmp_path / "there")
    (stop,) = train(tmp_path / "there")
    assert stop.trained == LAST - 12
    same(stop, train()[0])


def test_a_stop_in_the_epoch_that_was_interrupted_has_its_row(tmp_path):
    """A stop where the run was interrupted, inside of an epoch, has the history of a run that was not."""
    with pytest.raises(Stopped):
        train(tmp_path, stops=(7, LAST), stopped=after(7))
    for one, other in zip(train(tmp_path, stops=(7, LAST)), train(stops=(7, LAST)), strict=True):
        same(one, other)


def test_what_was_spent_before_an_interruption_counts(tmp_path):
    """Steps since the stop before, and the seconds of earlier calls on them."""
    look = after(12)

    def slow():
        time.sleep(0.02)
        return look()

    with pytest.raises(Stopped):
        train(tmp_path, stops=(7, LAST), stopped=slow)
    (stop,) = train(tmp_path)
    assert (stop.trained, stop.steps) == (LAST - 12, LAST - 7)
    assert 5 * 0.02 <= stop.before < 60
    assert train(stops=(7, LAST))[1].before == 0


def test_a_training_without_checkpoints_is_asked_to_stop(tmp_path):
    """You see: Stopped at the next step; nothing is kept.
    Do: give a directory, and save_epochs, where a training is long.
    """
    with pytest.raises(Stopped):
        train(tmp_path, stopped=after(3), save_epochs=0)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_an_older_version_is_gone_on_from(tmp_path):
    """A checkpoint from before there were checksums is read, and the run ends with the same bits."""
    with pytest.raises(Stopped):
        train(tmp_path, stopped=after(10))
    with checkpoint.open_checkpoints(tmp_path) as manager:
        state, note = checkpoint.restore(manager, fresh())
        manager.delete(10)
        items = {
            "state": ocp.args.StandardSave(jax.device_get(state)),
            "meta": ocp.args.JsonSave(note["history"]),
        }
        manager.save(10, args=ocp.args.Composite(**items), force=True)
    (stop,) = train(tmp_path)
    assert stop.trained == LAST - 10
    same(stop, train()[0])


@pytest.mark.parametrize("stopped", [12, 17])
def test_an_earlier_stop_than_all_checkpoints(tmp_path, stopped):
    """From the start, as often as one likes, and who looks at an early moment alone leaves the rest alone."""
    with pytest.raises(Stopped):
        train(tmp_path, stopped=after(stopped))
    same(train(tmp_path, stops=(7,))[0], train(stops=(7,))[0])
    (stop,) = train(tmp_path)
    assert stop.trained == LAST - stopped
    same(stop, train()[0])
    for _ in range(2):
        for one, other in zip(train(tmp_path, stops=(7, LAST)), train(stops=(7, LAST)), strict=True):
            same(one, other)


def test_an_early_moment_is_interrupted_too(tmp_path):
    """It goes on from its own checkpoint, and the long training from the one that came further."""
    for stops, stopped in (((LAST,), 18), ((7,), 4)):
        with pytest.raises(Stopped):
            train(tmp_path, stops=stops, stopped=after(stopped))
    assert [train(tmp_path, stops=stops)[0].trained for stops in ((7,), (LAST,))] == [3, LAST - 18]


def test_a_checkpoint_of_another_training(tmp_path):
    """You see: "the checkpoint … is of another training (its state has other names, shapes or types): choose
    another directory, or delete this one"; it stays.
    Do: that.
    """
    with pytest.raises(Stopped):
        train(tmp_path, stopped=after(12))
    with checkpoint.open_checkpoints(tmp_path) as manager:
        for other in ({"w": jnp.zeros(7)}, {"w": jnp.zeros(8), "step": jnp.float32(0)}):
            with pytest.raises(ValueError, match=r"12 is of another training .*choose another directory"):
                checkpoint.restore(manager, other)
    (stop,) = train(tmp_path)
    assert stop.trained == LAST - 12
