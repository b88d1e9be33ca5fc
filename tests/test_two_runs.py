"""Two runs at once: in one directory the second ends at once, and the first is not disturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, data
from transferjax.files import Taken, alone
from transferjax.training import checkpoint
from transferjax.training.fit import fit

ROOT = Path(__file__).parents[1]
STEPS = 6


def training(directory, pause=0.0):
    """Counts to six, a checkpoint after every second step."""

    def update(state, examples):
        time.sleep(pause)
        return {"count": state["count"] + 1}, {"loss": jnp.float32(1)}

    batches = lambda start: iter(lambda: None, 0)  # noqa: E731  without end
    stops = {"stops": (3, STEPS), "steps_per_epoch": 2, "directory": directory, "save_epochs": 1}
    return fit(update, {"count": jnp.zeros(())}, batches, **stops)


def test_a_second_training_in_one_directory(tmp_path):
    """You see: "another run writes its checkpoints to …: let it end, or name another directory"; the first
    goes on.
    Do: that.
    """
    first = training(tmp_path)
    assert next(first).step == 3
    with pytest.raises(
        Taken, match=rf"another run writes its checkpoints to {tmp_path}: let it end, or name"
    ):
        next(training(tmp_path))
    assert next(first).step == STEPS
    first.close()
    stop = next(training(tmp_path))
    assert (stop.step, float(stop.state["count"])) == (3, 3.0)


def test_looking_at_the_checkpoints_of_a_training_does_not_disturb_it(tmp_path):
    """Whoever reads takes no lock and makes no directory."""
    with (
        checkpoint.open_checkpoints(tmp_path) as manager,
        checkpoint.open_checkpoints(tmp_path, read_only=True) as other,
    ):
        checkpoint.save(manager, 2, {"count": jnp.ones(())}, [])
        manager.wait_until_finished()
        other.reload()
        assert other.latest_step() == 2


SCRIPT = f"""if True:
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.test_two_runs import training
    print("begins", flush=True)
    for stop in training(sys.argv[1], float(sys.argv[2])):
        print(stop.step, float(stop.state["count"]), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """A process that trains in one directory."""
    processes = []

    def start(pause):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(pause)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_first_of_two_processes_in_one_directory_is_killed(start, tmp_path):
    """You see: nothing: the directory is free at once.
    Do: the same command: it goes on from the last checkpoint.
    """
    holder = start(600)
    assert holder.stdout.readline() == "begins\n"
    while not (tmp_path / "run/.lock").exists():
        time.sleep(0.01)
    loser = start(0)
    _, err = loser.communicate(timeout=60)
    assert loser.returncode == 1
    assert "Taken: another run writes its checkpoints to" in err.strip().splitlines()[-1]
    assert len(err.splitlines()) < 30
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    out, err = start(0).communicate(timeout=60)
    assert out == f"begins\n3 3.0\n{STEPS} {STEPS}.0\n", err


def test_adversarial_images_in_a_directory_that_another_run_fills(tmp_path):
    """You see: "another run writes its adversarial images to …: let it end, or name another directory";
    nothing there changes.
    Do: that.
    """
    images = np.full((8, 4, 4, 1), 128, np.uint8)
    dataset = data.Dataset(images, np.zeros(8, np.int32), ("a", "b"))
    predict = lambda x: jnp.stack([x.mean((1, 2, 3)), 3 - x[:, 0, 0, 0]], -1)  # noqa: E731
    craft = lambda: attacks.craft(attacks.fgsm(0.1), predict, dataset, tmp_path, batch_size=8)  # noqa: E731
    with (
        alone(tmp_path, "images"),
        pytest.raises(Taken, match="writes its adversarial images to"),
    ):
        craft()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert craft().images.shape == images.shape
