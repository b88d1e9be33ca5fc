"""Training that is killed ends with the weights of training that was not, to the bit."""

import signal
import time

import jax
import numpy as np
import pytest

from transferjax import checkpoint

TRAINING = (
    "--config=configs/digits.py:smoke",
    "--config.seeds=(0,1)",
    "--config.mechanisms=('SAM',)",
    "--config.targets={}",
    "--config.training.epochs=40",
    "--config.training.checkpoint_every=1",
)
NETWORKS = ("SAM-seed0", "SAM-seed1")


def variables(workdir):
    return [checkpoint.load_variables(workdir / "networks" / name / "checkpoints") for name in NETWORKS]


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(request, finish, tmp_path_factory):
    """(arguments, variables, seconds) of two seeds, one after the other or side by side."""
    arguments = (*TRAINING, f"--config.training.seeds_at_once={request.param}")
    for name in ("cold", "warm"):  # the second knows how long a run takes that finds its programs compiled
        workdir = tmp_path_factory.mktemp(name)
        begin = time.monotonic()
        code, _, err = finish(workdir, *arguments, script="train")
        assert code == 0, err
    return arguments, variables(workdir), time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("moment", np.random.default_rng(0).random(10).round(2).tolist())
def test_killed_at_any_moment(undisturbed, start, finish, tmp_path, moment):
    arguments, expected, seconds = undisturbed
    process = start(tmp_path, *arguments, script="train")
    time.sleep(moment * seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, err = finish(tmp_path, *arguments, script="train")
    assert code == 0, err
    jax.tree.map(np.testing.assert_array_equal, variables(tmp_path), expected)


def test_seeds_side_by_side_are_those_one_by_one(finish, tmp_path):
    for count in (1, 2):
        few = (f"--config.training.seeds_at_once={count}", "--config.training.epochs=2")
        code, _, err = finish(tmp_path / str(count), *TRAINING, *few, script="train")
        assert code == 0, err
    pairs = zip(variables(tmp_path / "1"), variables(tmp_path / "2"), strict=True)
    for one, two in pairs:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, two)
