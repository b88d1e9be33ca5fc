"""Two processes that talk over the loopback interface train as one process does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from transferjax import checkpoint

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(workdir, cache, devices, *flags):
    command = [
        *(sys.executable, "-m", "experiments.train", "--config=configs/digits.py:smoke"),
        *(
            f"--workdir={workdir}",
            "--config.mechanisms=('SAM&IR',)",
            "--config.training.batch_size=32",
            *flags,
        ),
    ]
    env = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_equal_one(tmp_path):
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    pair = [
        launch(tmp_path / "two", tmp_path / "cache", 1, coordinator, "--num_processes=2", f"--process_id={i}")
        for i in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    alone = launch(tmp_path / "one", tmp_path / "cache", 1)
    assert alone.communicate(timeout=300)[1] == ""
    name = "networks/SAM+IR-seed0"
    two, one = (checkpoint.load_variables(tmp_path / run / name / "checkpoints") for run in ("two", "one"))
    for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)
    two, one = (pd.read_csv(tmp_path / run / name / "metrics.csv") for run in ("two", "one"))
    np.testing.assert_allclose(two["train_loss"], one["train_loss"], rtol=1e-3)
