"""Scripts as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a script on a run directory, with one device and a compilation cache that the module shares."""
    cache = tmp_path_factory.mktemp("cache")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "XLA_FLAGS": flags}

    def start(workdir, *arguments, script="blueprint"):
        command = [sys.executable, "-m", f"experiments.{script}", f"--workdir={workdir}", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture(scope="module")
def finish(start):
    def finish(*args, **kwargs):
        process = start(*args, **kwargs)
        out, err = process.communicate(timeout=400)
        return process.returncode, out, err

    return finish
