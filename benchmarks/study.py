"""What does the study engine cost over the bare functions? The digits study with and without store and plan.

    python benchmarks/study.py [--rounds 5] [--config configs/digits.py]

`bare` makes the same results with the same compiled functions and keeps them in memory: no files, no
checksums, no locks, no checkpoints, no provenance. `engine` is `study.run` on an empty store, checkpoints
included. Imports, reading the config and drawing are in neither, and compiled programs come from the user's
cache. `the command again` is the whole command on the finished store, from the shell.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
from harness import HERE, Contender

KEPT: list[tempfile.TemporaryDirectory] = []  # until the process ends


def directory() -> Path:
    KEPT.append(tempfile.TemporaryDirectory())
    return Path(KEPT[-1].name)


def demand_of(config: str):
    from transferjax.study import config as configs
    from transferjax.study import views

    module = importlib.import_module(config.removesuffix(".py").replace("/", "."))
    study = configs.read(module.get_config(), views.VIEWS)
    rows = [row for view in study.views for row in views.rows_of(study, view)]
    return study, list(dict.fromkeys(spec for row in rows for spec in row.needs.values()))


def bare(config: str):
    """The functions alone."""
    from transferjax.study.make import make
    from transferjax.study.plan import make_plan
    from transferjax.study.resolve import Context
    from transferjax.study.run import enable_compilation_cache
    from transferjax.study.store import Store

    class Memory(Store):
        """What was made, in memory."""

        def __init__(self):
            super().__init__("")
            self.made = {}

        def has(self, spec):
            return spec.key in self.made

        def get(self, spec):
            return self.made[spec.key]

        def scratch(self, key):
            return None

    study, demand = demand_of(config)
    enable_compilation_cache()

    def call():
        store = Memory()
        context = Context(store, study.batch_size, 0)
        for group in make_plan(demand, store).groups:
            for spec, made in make(context, group.members):
                store.made[spec.key] = made["arrays"]

    return call


def engine(config: str):
    """The engine on an empty store."""
    from transferjax.study.resolve import Context
    from transferjax.study.run import Local, enable_compilation_cache, run
    from transferjax.study.store import Store

    study, demand = demand_of(config)
    enable_compilation_cache()

    def call():
        store = Store(directory())
        outcome = run(demand, store, Local(Context(store, study.batch_size, study.checkpoint_epochs)))
        assert not outcome.failed

    return call


def again(config: str):
    """The command that finds everything made."""
    store = directory()
    command = [sys.executable, "-m", "experiments.study", f"--config={config}", f"--store={store}", "--json"]

    def call() -> dict:
        done = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    call()

    def nothing_to_make():
        assert not call()["made"]

    return nothing_to_make


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--config", default="configs/digits.py")
    flags = parser.parse_args()
    how = {"config": flags.config}
    contenders = {"bare functions": bare, "engine": engine, "the command again": again}
    cases = {flags.config: [Contender(name, make, how) for name, make in contenders.items()]}
    harness.run("study", "What does the study engine cost over the bare functions?", cases, flags)


if __name__ == "__main__":
    main()
