"""What the study engine costs over the bare functions: the digits study with and without store and plan.

    python benchmarks/study.py [--rounds 5] [--config configs/digits.py]

`bare` makes the same results with the same compiled functions and keeps them in memory: no files, no
checksums, no locks, no checkpoints, no provenance. `engine` is `study.run` on an empty store,
checkpoints included. Each runs in a process of its own, taking turns, with warm compilation caches;
seconds are those of making the results (imports, reading the config and drawing are in neither). `again`
is the whole command on the finished store, from the shell.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def demand_of(config):
    from transferjax.study import config as configs
    from transferjax.study import views

    module = importlib.import_module(config.removesuffix(".py").replace("/", "."))
    study = configs.read(module.get_config(), views.VIEWS)
    rows = [row for view in study.views for row in views.rows_of(study, view)]
    return study, list(dict.fromkeys(spec for row in rows for spec in row.needs.values()))


def bare(config, _):
    """Seconds of the functions alone."""
    from transferjax.study.make import make
    from transferjax.study.plan import make_plan
    from transferjax.study.resolve import Context
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
    store = Memory()
    groups, context = make_plan(demand, store).groups, Context(store, study.batch_size, 0)
    begin = time.perf_counter()
    for group in groups:
        for spec, made in make(context, group.members):
            store.made[spec.key] = made["arrays"]
    return time.perf_counter() - begin


def engine(config, root):
    """Seconds of the engine on an empty store."""
    from transferjax.study.resolve import Context
    from transferjax.study.run import Local, run
    from transferjax.study.store import Store

    study, demand = demand_of(config)
    store = Store(root)
    begin = time.perf_counter()
    outcome = run(demand, store, Local(Context(store, study.batch_size, study.checkpoint_epochs)))
    assert not outcome.failed
    return time.perf_counter() - begin


def in_a_process(what, config, root):
    command = [sys.executable, __file__, "--child", what, "--config", config, "--root", str(root)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def again(config, root):
    """Seconds of the command that finds everything made."""
    command = [sys.executable, "-m", "experiments.study", f"--config={config}", f"--store={root}", "--json"]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert not json.loads(done.stdout.splitlines()[-1])["made"]
    return time.perf_counter() - begin


def summary(seconds):
    return {"median_s": round(statistics.median(seconds), 2), "all_s": [round(s, 2) for s in seconds]}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--child", choices=["bare", "engine"])
    parser.add_argument("--root", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "study.json")
    flags = parser.parse_args()
    if flags.child:
        from transferjax.study.run import enable_compilation_cache

        enable_compilation_cache()
        print({"bare": bare, "engine": engine}[flags.child](flags.config, flags.root))
        return
    seconds = {"bare": [], "engine": [], "again": []}
    with tempfile.TemporaryDirectory() as directory:
        in_a_process("engine", flags.config, Path(directory, "warm"))  # compilation caches
        for number in range(flags.rounds):
            root = Path(directory, str(number))
            order = ("bare", "engine") if number % 2 else ("engine", "bare")
            for what in order:
                seconds[what].append(in_a_process(what, flags.config, root))
            seconds["again"].append(again(flags.config, root))
    found = {name: summary(values) for name, values in seconds.items()}
    found["overhead"] = round(found["engine"]["median_s"] / found["bare"]["median_s"] - 1, 4)
    from transferjax.study.run import provenance

    result = {"config": flags.config, **found, **provenance(), "load": os.getloadavg()}
    flags.out.write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
