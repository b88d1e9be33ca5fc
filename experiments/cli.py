"""What every script shares: its flags, the compilation cache, several processes."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.run import open_run
from transferjax.data import cache_dir

CACHE_SWITCH = "TRANSFERJAX_COMPILATION_CACHE"

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/<file>.py[:variant]; override fields with --config.x.y=z", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", "", "the run directory; made, or continued")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for several processes")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes there are")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_PROFILE = flags.DEFINE_bool("profile", False, "write a JAX trace to profile/ of the run directory")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the other processes of a cluster that says who they are (Slurm, TPU pods, …)"
)


def enable_compilation_cache() -> None:
    """Compiled programs are kept in the user's cache directory; `TRANSFERJAX_COMPILATION_CACHE=off` does not.

    `JAX_COMPILATION_CACHE_DIR` is obeyed where it is set.
    """
    if os.environ.get(CACHE_SWITCH, "on") == "off" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _join_processes() -> None:
    if _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif _DISTRIBUTED.value:
        jax.distributed.initialize()


def main(stage: Callable[[ConfigDict, Path], None]) -> None:
    """Runs a stage on the run directory that the flags name; a user's mistake ends in one clear line."""

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}; overrides are --config.x.y=z")
        logging.set_verbosity(logging.WARNING)  # Orbax tells its life story at INFO
        _join_processes()
        enable_compilation_cache()
        try:
            if not _WORKDIR.value:
                raise ValueError(
                    "--workdir is missing: where should the run go? For example --workdir=runs/1"
                )
            root = open_run(_WORKDIR.value, _CONFIG.value)
            with jax.profiler.trace(str(root / "profile")) if _PROFILE.value else nullcontext():
                stage(_CONFIG.value, root)
        except (ValueError, FileNotFoundError, FloatingPointError) as error:
            if os.environ.get("TRANSFERJAX_TRACEBACK"):
                raise
            sys.exit(f"{type(error).__name__}: {error}\n(TRANSFERJAX_TRACEBACK=1 shows where)")

    flags.mark_flag_as_required("config")
    app.run(run)
