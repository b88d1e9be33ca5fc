"""The command as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from transferjax.study.resolve import Context
from transferjax.study.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts the command on a store, with one device and a compilation cache that all share."""
    cache = tmp_path_factory.mktemp("cache")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": flags,
    }

    def start(store, *arguments, config="configs/digits.py:smoke", devices=1, terminal=subprocess.PIPE):
        command = [sys.executable, "-m", "experiments.study", f"--store={store}", *arguments]
        command += [f"--config={config}"] if config else []
        here = env | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
        return subprocess.Popen(command, cwd=ROOT, env=here, stdout=terminal, stderr=terminal, text=True)

    return start


@pytest.fixture(scope="session")
def finish(start):
    """Runs the command to its end: (exit code, output, errors)."""

    def finish(*args, **kwargs):
        process = start(*args, **kwargs)
        out, err = process.communicate(timeout=400)
        return process.returncode, out, err

    return finish


def said(out):
    """The object that `--json` ends with."""
    return json.loads(out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def one_device():
    """This process as if it had one device: what eight virtual ones add is compile time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        patch.setattr(jax, "local_device_count", lambda: 1)
        yield


@pytest.fixture(scope="module")
def context(one_device, tmp_path_factory):
    """A store of the module's, and what makes results in it."""
    return Context(Store(tmp_path_factory.mktemp("store")), batch_size=64)
