"""One command.

python -m experiments.study --config=configs/digits.py[:variant] --store=DIR [--views=a,b] [--dry_run]
    [--json] [--list] [--workers=N | --scheduler=tcp://…]
python -m experiments.study --store=DIR ls | why KEY|LABEL | gc [--dry_run]
"""

import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import pandas as pd
from absl import app, flags, logging
from ml_collections import config_flags

from transferjax.files import replacing
from transferjax.report import below_noise, write_sections
from transferjax.report.page import Section
from transferjax.study import config as configs
from transferjax.study import estimate, specs, views
from transferjax.study.config import Study
from transferjax.study.plan import Plan, make_plan
from transferjax.study.progress import Bar
from transferjax.study.resolve import Context
from transferjax.study.run import Executor, Local, Outcome, enable_compilation_cache, run
from transferjax.study.specs import Mistakes, Spec
from transferjax.study.store import Corrupt, Store, collect_garbage, nearest

COMMANDS = ("ls", "why", "gc")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/<file>.py[:variant]; override scalars with --config.x=y", lock_config=False
)
_STORE = flags.DEFINE_string("store", "", "where results are kept, of any number of studies")
_VIEWS = flags.DEFINE_list("views", [], "draw and make only what these views need; all by default")
_DRY = flags.DEFINE_bool("dry_run", False, "say what is there and what is missing; compute nothing")
_JSON = flags.DEFINE_bool("json", False, "end with one line of JSON: made, found, missing, failed")
_LIST = flags.DEFINE_bool("list", False, "list the config's networks, attacks, blocks and views")
_WORKERS = flags.DEFINE_integer("workers", 0, "make results with so many worker processes here (Dask)")
_SCHEDULER = flags.DEFINE_string("scheduler", "", "make results on the workers of this Dask scheduler")
_AGE = flags.DEFINE_float("min_age_hours", 24.0, "gc: spare what is younger")
_DROP = flags.DEFINE_string("drop", "", "gc: forget this study first; what it alone needed is garbage then")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for several processes")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes there are")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the other processes of a cluster that says who they are (Slurm, TPU pods, …)"
)


def main() -> None:
    """The command; a user's mistake ends in a line for each, and no traceback."""

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax tells its life story at INFO
        try:
            sys.exit(_main(argv[1:]))
        except Mistakes as error:
            sys.exit("\n".join(error.lines))
        except (ValueError, FileNotFoundError, OSError) as error:
            if os.environ.get("TRANSFERJAX_TRACEBACK"):
                raise
            sys.exit(f"{type(error).__name__}: {error}\n(TRANSFERJAX_TRACEBACK=1 shows where)")
        except KeyboardInterrupt:
            sys.exit("interrupted: what is finished is kept; the same command goes on from there")

    app.run(guarded)


def _main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in COMMANDS:
        raise ValueError(f"unknown command {arguments[0]!r}; {specs.nearest(arguments[0], COMMANDS)}")
    if not _STORE.value and not _LIST.value:
        raise ValueError("--store is missing: where should results be kept? For example --store=runs/store")
    store = Store(_STORE.value)
    if arguments:
        return {"ls": _ls, "why": _why, "gc": _gc}[arguments[0]](store, arguments[1:])
    if _CONFIG.value is None:
        raise ValueError("--config is missing: --config=configs/digits.py, or a command: ls, why, gc")
    name = Path(flags.FLAGS["config"].config_filename.split(":")[0]).stem  # type: ignore[attr-defined]
    variant = flags.FLAGS["config"].config_filename.partition(":")[2]  # type: ignore[attr-defined]
    _begin()
    study = configs.read(_CONFIG.value, views.VIEWS, f"{name}-{variant}" if variant else name, store.has)
    if _LIST.value:
        return _list(study)
    return _study(study, store)


def chosen(study: Study) -> list[configs.View]:
    """The views that were asked for.

    Raises:
        Mistakes: unknown ones, with the nearest.
    """
    known = {view.name: view for view in study.views}
    if wrong := [name for name in _VIEWS.value if name not in known]:
        raise Mistakes([f"unknown view {name!r}; {specs.nearest(name, known)}" for name in wrong])
    return [known[name] for name in _VIEWS.value] if _VIEWS.value else list(study.views)


def _study(study: Study, store: Store) -> int:
    asked = {view.name: views.rows_of(study, view) for view in chosen(study)}
    demand = list(
        dict.fromkeys(spec for rows in asked.values() for row in rows for spec in row.needs.values())
    )
    if _DRY.value:
        plan = make_plan(demand, store)
        _print_plan(plan, store)
        return _end(Outcome(plan.found), plan.missing)
    _note(study, store, demand)
    outcome = Outcome()
    with Bar() as bar:
        context = Context(store, study.batch_size, study.checkpoint_epochs, progress=bar.progress)
        while True:
            result = run(demand, store, _executor(context, bar), bar.say, lambda plan: bar.begin(plan, store))
            _merge(outcome, result)
            try:
                frames = {n: views.frame_of(rows, context.arrays, store.has) for n, rows in asked.items()}
                break
            except Corrupt as error:  # a result that only a view reads
                bar.say(f"{error}: it is made again")
                store.discard(error.kind, error.key)
                context.forget()
    _report(study, store, frames)
    return _end(outcome, {})


def _merge(outcome: Outcome, more: Outcome) -> None:
    outcome.made |= more.made
    outcome.found |= {key: spec for key, spec in more.found.items() if key not in outcome.made}
    outcome.failed |= more.failed
    outcome.blocked |= more.blocked


def _begin() -> None:
    """Where this process computes, before it does: JAX asks once."""
    together = _COORDINATOR.value or _DISTRIBUTED.value
    if _WORKERS.value and _SCHEDULER.value:
        raise ValueError("--workers starts workers here, --scheduler uses a cluster's: give one of them")
    if together and (_WORKERS.value or _SCHEDULER.value):
        raise ValueError("--coordinator and --distributed share one training; they exclude --workers")
    if _DRY.value or _LIST.value or _WORKERS.value or _SCHEDULER.value:
        jax.config.update("jax_platforms", "cpu")  # who plans leaves the accelerators to who works
    elif _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif _DISTRIBUTED.value:
        jax.distributed.initialize()


def _executor(context: Context, bar: Bar) -> Executor:
    if not _WORKERS.value and not _SCHEDULER.value:
        enable_compilation_cache()
        return bar.over(Local(context))
    from transferjax.study.cluster import Cluster

    return bar.over(Cluster(context, workers=_WORKERS.value, scheduler=_SCHEDULER.value, say=bar.say))


def _note(study: Study, store: Store, demand: Sequence[Spec]) -> None:
    """What the study needs, inputs of inputs too: the roots that `gc` marks from."""
    everything: dict[str, str] = {}
    todo = list(demand)
    while todo:
        spec = todo.pop()
        if spec.key not in everything:
            everything[spec.key] = type(spec).__name__
            todo += specs.needs(spec)
    labels = {
        str(member) if len(member.specs) == 1 else f"{member}[{i}]": spec.key
        for member in study.networks
        for i, spec in enumerate(member.specs)
    }
    store.write_study(study.name, everything, labels)


def _report(study: Study, store: Store, frames: Mapping[str, pd.DataFrame]) -> None:
    directory = store.root / "studies" / study.name
    sections: list[Section] = []
    for view in study.views:
        frame = frames.get(view.name)
        if frame is None:
            continue
        if frame.empty:
            print(f"view {view.name}: nothing to draw, its results are missing")
            continue
        sections += views.draw(study, view, frame)
        if view.kind == "table" and (warning := below_noise(frame)):
            print(warning)
        with replacing(directory / f"{view.name}.csv") as partial:
            views.scalars(frame).to_csv(partial, index=False, float_format="%.6f")
    from transferjax.study.run import provenance

    settings = json.loads(json.dumps(_CONFIG.value.to_dict(), default=str)) if _CONFIG.value else {}
    paths = write_sections(directory, sections, study.title, settings, dict(provenance()))
    print(f"report: {paths.html}")


def _end(outcome: Outcome, missing: Mapping[str, Spec]) -> int:
    """What is said at the end; 1 where something failed."""
    for lines in _messages(outcome).values():
        for line in lines:
            print(f"failed: {line}", file=sys.stderr)
    if outcome.blocked:
        print(f"not made, because they need what failed: {_counted(outcome.blocked)}", file=sys.stderr)
    if _JSON.value:
        said = {
            "made": _counts(outcome.made),
            "found": _counts(outcome.found),
            "missing": _counts({**missing, **outcome.blocked}),
            "failed": _messages(outcome),
        }
        print(json.dumps(said))
    return 1 if outcome.failed else 0


def _messages(outcome: Outcome) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {}
    for spec, why in outcome.failed.values():
        lines.setdefault(type(spec).__name__, []).append(f"{_called(spec)}: {why}")
    return lines


def _called(spec: Spec) -> str:
    """What a line calls a result: its kind, name and key."""
    said = specs.plain(spec)
    name = said.get("model", said.get("call", said.get("attack", {}))).get("name", "")
    parts = "+".join(part["name"] for part in said.get("parts", ()))
    seed = f" seed {said['seed']}" if "seed" in said else ""
    return " ".join(filter(None, (type(spec).__name__, name, parts))) + f"{seed} ({spec.key[:12]})"


def _counts(found: Mapping[str, Spec]) -> dict[str, int]:
    return dict(sorted(Counter(type(spec).__name__ for spec in found.values()).items()))


def _counted(found: Mapping[str, Spec]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in _counts(found).items()) or "nothing"


def _print_plan(plan: Plan, store: Store) -> None:
    print(f"there:   {_counted(plan.found)}")
    print(f"missing: {_counted(plan.missing)}")
    if not plan.missing:
        return
    costs = estimate.costs(plan, store)
    by_kind: dict[str, float] = defaultdict(float)
    for group in plan.groups:
        by_kind[group.kind] += costs[group.key]
    for kind, seconds in by_kind.items():
        print(f"  {kind}: about {estimate.readable(seconds)}")
    print(f"  in all: about {estimate.readable(sum(by_kind.values()))}, {len(plan.groups)} tasks")


def _list(study: Study) -> int:
    for member in study.networks:
        print(f"network {member}: {', '.join(_called(spec) for spec in member.specs)}")
    for name, block in study.blocks.items():
        attacks = ", ".join(label for label, _ in block.attacks)
        print(f"block {name}: {len(block.surrogates)} surrogates, {attacks}, {len(block.targets)} targets")
    for view in study.views:
        print(f"view {view.name}: {view.kind} {dict(view.options)}")
    return 0


def _ls(store: Store, arguments: Sequence[str]) -> int:
    names = {key: label for study in store.studies().values() for label, key in study["labels"].items()}
    entries = list(store.entries())
    for e in entries:
        when, size = e.provenance["when"], e.bytes / 1e6
        print(f"{e.kind:12} {e.key[:12]}  {size:9.2f} MB  {when}  {names.get(e.key, '')}")
    total = sum(e.bytes for e in entries) / 1e6
    print(f"{len(entries)} results, {total:.1f} MB, studies: {', '.join(store.studies()) or 'none'}")
    return 0


def _why(store: Store, arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        raise ValueError("why takes one KEY (or its beginning) or LABEL")
    found = store.find(arguments[0])
    if not found:
        known = [label for study in store.studies().values() for label in study["labels"]]
        raise ValueError(f"nothing is called {arguments[0]!r}; {specs.nearest(arguments[0], known)}")
    for label, key in found:
        users = [name for name, study in store.studies().items() if key in study["keys"]]
        entry = next((e for e in store.entries() if e.key == key), None)
        print(f"{label or key}: {key}, needed by {', '.join(users) or 'no study'}")
        if entry is None:
            print("  not in the store")
            continue
        print("  " + json.dumps(specs.plain(entry.spec)))
        print("  " + json.dumps(entry.provenance))
        near = nearest(store, entry.spec)
        if near is not None:
            print(f"  differs from {near[0].key[:12]} in")
            for line in near[1]:
                print(f"    {line}")
    return 0


def _gc(store: Store, arguments: Sequence[str]) -> int:
    age, drop = 3600 * _AGE.value, _DROP.value
    if drop and drop not in store.studies():
        raise ValueError(f"no study {drop!r}; {specs.nearest(drop, store.studies())}")
    entries, leftovers = store.garbage(age, drop), store.leftovers(age)
    for entry in entries:
        print(f"{entry.kind} {entry.key}  {entry.bytes / 1e6:.2f} MB")
    size = sum(entry.bytes for entry in entries) / 1e6
    what = f"{len(entries)} results, {size:.1f} MB, and checkpoints of {len(leftovers)} trainings"
    print(f"{'would remove' if _DRY.value else 'removes'} {what}")
    if not _DRY.value:
        if drop:
            store.forget_study(drop)
        if entries:
            collect_garbage(store, entries)
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
    return 0
