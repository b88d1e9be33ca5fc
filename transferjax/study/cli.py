"""One command.

python -m experiments.study --config=configs/digits.py[:variant] --store=DIR [--views=a,b] [--dry_run]
    [--json] [--list] [--workers=N | --scheduler=tcp://…] [--grace=SECONDS]
python -m experiments.study --store=DIR ls | why KEY|LABEL [--config=…] | gc [--drop=STUDY] [--dry_run]
    | pack FILE --config=… [--views=a,b] | unpack FILE
"""

import hashlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import pandas as pd
from absl import app, flags, logging

from transferjax.files import replacing
from transferjax.report import below_noise, write_sections
from transferjax.report.page import Section, told_apart, write_page
from transferjax.report.tables import DIGITS, of_surrogates
from transferjax.stopping import SAID, Stopping, never
from transferjax.study import config as configs
from transferjax.study import flags as given
from transferjax.study import mistakes, packed, rows, upkeep, views, walk
from transferjax.study.config import Study
from transferjax.study.mistakes import Mistakes
from transferjax.study.plan import make_plan
from transferjax.study.printed import cost_section, counted, counts, messages_of, print_list, print_plan
from transferjax.study.progress import Bar
from transferjax.study.resolve import Context
from transferjax.study.run import Executor, Local, Outcome, enable_compilation_cache, run
from transferjax.study.specs import STORED, Spec
from transferjax.study.store import Corrupt, Store

PLIGHTS = (ValueError, OSError, EOFError, RuntimeError, MemoryError, BadZipFile)
"""What disks, files and devices raise, and users' mistakes."""
COMMANDS = {"ls": "", "why": "KEY|LABEL", "gc": "", "pack": "FILE", "unpack": "FILE"}
TRACEBACK = "TRANSFERJAX_TRACEBACK"
LONGEST = 200  # bytes of a study's name


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a user's mistake ends in a line for each, and no traceback."""

    def guarded(argv: list[str]) -> None:
        if not os.environ.get(TRACEBACK):  # Orbax tells its life story, and of one full disk 300 lines
            logging.set_verbosity(logging.FATAL)
            sys.unraisablehook = _unraisable
        try:
            code = _main(argv[1:])
            sys.stdout.flush()
            sys.exit(code)
        except Mistakes as error:
            sys.exit("\n".join(error.lines))
        except PLIGHTS as error:
            if isinstance(error, BrokenPipeError) and _unread():
                os._exit(128 + signal.SIGPIPE)  # `| head` has what it wanted: nothing is wrong
            if os.environ.get(TRACEBACK):
                raise
            sys.exit(f"{type(error).__name__}: {error}\n({TRACEBACK}=1 shows where)")

    argv = list(sys.argv if argv is None else argv)
    if given.helped(argv[1:]):
        sys.exit(0)
    _make_importable(argv)
    try:
        app.run(guarded, argv=argv, flags_parser=_parsed)
    except KeyboardInterrupt:
        print(SAID, file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)  # now: threads that still write would complain at length


def _unread() -> bool:
    """Whether nobody reads what is printed any more."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return bool(asked.poll(0))  # nothing but errors, which need no asking for


def _make_importable(argv: Sequence[str]) -> None:
    """What a config imports is found beside its outermost package, then among the configs shipped."""
    for argument, after in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, path = argument.partition("=")
        folder = Path((path if equals else after).partition(":")[0]).absolute().parent
        if name in ("--config", "-config"):
            while (folder / "__init__.py").is_file():
                folder = folder.parent
            sys.path.insert(0, str(folder))
    sys.path.append(str(shipped_configs().parent))


def shipped_configs() -> Path:
    """The folder of the project's own configs: of the checkout, or where the wheel put them."""
    checkout = Path(__file__).parents[2] / "configs"
    if (checkout / "digits.py").is_file():
        return checkout
    for file in metadata.files("transferjax") or ():
        if file.match("share/transferjax/configs/digits.py"):
            return Path(str(file.locate())).resolve().parent
    return checkout


def _unraisable(error: Any) -> None:
    """Nothing of writes that were still on their way when their checkpoint failed."""
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


def _parsed(argv: list[str]) -> list[str]:
    """What is no flag; a flag, or a config file, that cannot be read ends in a line."""
    try:
        rest = flags.FLAGS(argv)
        file = _file() if given.CONFIG.value is not None else ""
        if file and not Path(file).is_file():
            raise FileNotFoundError(f"--config: there is no file {file!r}")
        return rest
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        sys.exit(_cause(error))


def _file() -> str:
    return flags.FLAGS["config"].config_filename.partition(":")[0]  # type: ignore[attr-defined]


def _cause(error: BaseException) -> str:
    """What is wrong with a flag; where a config's own code raised something, that, and where."""
    inner = error
    while before := inner.__cause__ or inner.__context__:
        inner = before
    frames = traceback.extract_tb(inner.__traceback__)
    foreign = ("site-packages", "<frozen", "experiments/study.py", "<string>", __file__)
    own = [f for f in frames if not any(name in f.filename for name in foreign)]
    if isinstance(inner, SyntaxError):
        return f"config: SyntaxError: {mistakes.one_line(inner)}"
    if own:
        place = f"line {own[-1].lineno} of {own[-1].filename}"
        return f"config: {type(inner).__name__}: {mistakes.one_line(inner)} ({place})"
    return mistakes.one_line(error)


def _main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] not in COMMANDS:
        raise ValueError(f"unknown command {arguments[0]!r}; {mistakes.nearest(arguments[0], COMMANDS)}")
    if not given.STORE.value and not given.LIST.value:
        raise ValueError("--store is missing: where should results be kept? For example --store=runs/store")
    if given.CONFIG.value is None and not arguments:
        raise ValueError(
            f"--config is missing: --config=configs/digits.py, or a command: {', '.join(COMMANDS)}"
        )
    _begin(plans=bool(arguments) or given.DRY.value or given.LIST.value)
    store = Store(given.STORE.value)
    if given.STORE.value and store.root.exists() and not store.root.is_dir():
        raise ValueError(f"--store={store.root} is a file: expected a directory, or a name for a new one")
    if arguments:
        return _look_after(store, *arguments)
    study = _read(store)
    return print_list(study) if given.LIST.value else _study(study, store)


def _read(store: Store) -> Study:
    """The study of the config."""
    variant = flags.FLAGS["config"].config_filename.partition(":")[2]  # type: ignore[attr-defined]
    name = f"{Path(_file()).stem}-{variant}".replace("/", "_") if variant else Path(_file()).stem
    stored = store.has if given.STORE.value else lambda spec: False
    return configs.read(given.CONFIG.value, views.VIEWS, shortened(name), stored)


def shortened(name: str) -> str:
    """A name for files, which no file system takes at any length; what is cut away stays told apart."""
    long = name.encode()
    if len(long) <= LONGEST:
        return name
    return f"{long[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(long).hexdigest()[:8]}"


def _look_after(store: Store, command: str, *arguments: str) -> int:
    takes = COMMANDS[command]
    if len(arguments) != bool(takes):
        raise ValueError(f"{command}: expected {f'one {takes}' if takes else 'nothing'} behind it")
    if command == "unpack":
        new, there = packed.unpack(store, Path(*arguments))
        print(f"{new} results put into {store.root}, {there} were there")
        return 0
    if given.CONFIG.value is None and not any(
        (store.root / name).is_dir() for name in ("objects", "studies")
    ):
        raise ValueError(
            f"--store={store.root}: there is no store; expected the --store of a study that was run"
        )
    if command == "ls":
        upkeep.ls(store)
    elif command == "gc":
        upkeep.gc(store, 3600 * given.AGE.value, given.DROP.value, given.DRY.value)
    elif command == "pack":
        return _pack(store, *arguments)
    else:
        upkeep.why(store, arguments[0], _read(store).labelled() if given.CONFIG.value else {})
    return 0


def _pack(store: Store, file: str) -> int:
    if given.CONFIG.value is None:
        raise ValueError("pack: --config is missing: the study whose results are packed")
    study = _read(store)
    if given.NETWORKS.value:
        demand = _networks(study)
    else:
        demand = _demand({view.name: views.rows_of(study, view) for view in chosen(study)})
    count, missing = packed.pack(store, demand, Path(file))
    lacks = f", {missing} of {count + missing} are not there yet" if missing else ""
    print(f"{count} results in {file} ({Path(file).stat().st_size / 1e3:.0f} kB){lacks}")
    return 0


def _networks(study: Study) -> list[Spec]:
    """The trained networks with the labels that were asked for; of one behind a transformation, that one.

    Raises:
        Mistakes: no network has such a label.
    """
    labels = dict.fromkeys(member.label for member in study.networks)
    if wrong := [name for name in given.NETWORKS.value if name not in labels]:
        raise Mistakes(
            [f"--networks: unknown label {name!r}; {mistakes.nearest(name, labels)}" for name in wrong]
        )
    asked = [
        spec for member in study.networks if member.label in given.NETWORKS.value for spec in member.specs
    ]
    return [net for spec in asked for net in ([spec] if isinstance(spec, STORED) else walk.needs(spec))]


def _begin(plans: bool) -> None:
    """Where this process computes, before it does: JAX asks once."""
    together = given.COORDINATOR.value or given.DISTRIBUTED.value
    if given.WORKERS.value and given.SCHEDULER.value:
        raise ValueError("--workers starts workers here, --scheduler uses a cluster's: give one of them")
    if together and (given.WORKERS.value or given.SCHEDULER.value):
        raise ValueError("--coordinator and --distributed share one training; they exclude --workers")
    if plans or given.WORKERS.value or given.SCHEDULER.value:
        jax.config.update("jax_platforms", "cpu")  # who plans leaves the accelerators to who works
    elif given.COORDINATOR.value:
        count, mine = given.NUM_PROCESSES.value, given.PROCESS_ID.value
        if count is not None and mine is not None and mine >= count:
            raise ValueError(
                f"--process_id={mine}: expected one of 0 … {count - 1}, as --num_processes={count}"
            )
        jax.distributed.initialize(given.COORDINATOR.value, given.NUM_PROCESSES.value, given.PROCESS_ID.value)
    elif given.DISTRIBUTED.value:
        jax.distributed.initialize()


def chosen(study: Study) -> list[configs.View]:
    """The views that were asked for.

    Raises:
        Mistakes: unknown ones, with the nearest.
    """
    known = {view.name: view for view in study.views}
    if wrong := [name for name in given.VIEWS.value if name not in known]:
        raise Mistakes([f"unknown view {name!r}; {mistakes.nearest(name, known)}" for name in wrong])
    return [known[name] for name in given.VIEWS.value] if given.VIEWS.value else list(study.views)


def _study(study: Study, store: Store) -> int:
    rows = {view.name: views.rows_of(study, view) for view in study.views}
    asked = {view.name: rows[view.name] for view in chosen(study)}
    demand = _demand(asked)
    if given.DRY.value:
        plan = make_plan(demand, store)
        print_plan(plan, store, study.batch_size)
        return _end(study, Outcome(plan.found), plan.missing)
    frames: dict[str, pd.DataFrame] = {}
    # Of several processes that train together none stops by itself: the others would wait for it.
    with Stopping(given.GRACE.value) if jax.process_count() == 1 else nullcontext() as stopping, Bar() as bar:
        stopped = stopping.asked if stopping else never
        settings = (store, study.batch_size, study.checkpoint_epochs)
        context = Context(*settings, progress=bar.progress, stopped=stopped)
        execute = _executor(context, bar)
        store.write_study(study.name, _demand(rows), study.labelled())

        def read() -> None:
            try:
                frames.update(
                    {name: views.frame_of(rows, context.arrays, store.has) for name, rows in asked.items()}
                )
            except Corrupt:
                context.forget()
                raise

        outcome = run(demand, store, execute, bar.say, lambda plan: bar.begin(plan, store), read)
    _report(study, store, frames, asked)
    return _end(study, outcome, {})


def _demand(rows: Mapping[str, Sequence[rows.Row]]) -> list[Spec]:
    """What views read, each once."""
    every = (spec for several in rows.values() for row in several for spec in row.needs.values())
    return list(dict.fromkeys(every))


def _executor(context: Context, bar: Bar) -> Executor:
    if not given.WORKERS.value and not given.SCHEDULER.value:
        enable_compilation_cache()
        return bar.over(Local(context, bar.say))
    from transferjax.study.cluster import Cluster

    return bar.over(
        Cluster(context, workers=given.WORKERS.value, scheduler=given.SCHEDULER.value, say=bar.say)
    )


def _report(
    study: Study, store: Store, frames: Mapping[str, pd.DataFrame], asked: Mapping[str, Sequence[rows.Row]]
) -> None:
    """The report of all views that were asked for; of each a page and its rows."""
    directory = store.root / "studies" / study.name
    sections: list[Section] = []
    taken: set[str] = set()
    for view in study.views:
        frame = frames.get(view.name)
        if frame is None:
            continue
        if frame.empty or ("mechanism" in frame and of_surrogates(frame).empty):
            print(f"view {view.name}: nothing to draw, its results are missing")
            _forget_page(directory, view.name, {other.name for other in study.views})
            continue
        drawn = told_apart(views.draw(study, view, frame), view.name, taken)
        parts = [*drawn, cost_section(asked[view.name], store)]
        write_page(directory, view.name, parts, f"{study.title}: {view.name}")
        sections += drawn
        if view.kind in ("table", "paper") and (warning := below_noise(frame)):
            print(warning)
        for suffix, part in views.files(study, view, frame).items():
            with replacing(directory / f"{view.name}{suffix}.csv") as partial:
                part.to_csv(partial, index=False, float_format=DIGITS)
    from transferjax.study.run import provenance

    settings = json.loads(json.dumps(given.CONFIG.value.to_dict(), default=str)) if given.CONFIG.value else {}
    paths = write_sections(directory, sections, study.title, settings, dict(provenance()))
    print(f"report: {paths.html}")


def _forget_page(directory: Path, name: str, views: Collection[str]) -> None:
    """Of a view that has no rows any more nothing is left that reads as if it had."""
    rows = [p for p in directory.glob(f"{name}_*.csv") if p.stem not in views]
    for path in (directory / f"{name}.md", directory / f"{name}.csv", *rows):
        path.unlink(missing_ok=True)


def _end(study: Study, outcome: Outcome, missing: Mapping[str, Spec]) -> int:
    """What is said at the end; 1 where something failed."""
    messages = messages_of(study, outcome)
    for lines in messages.values():
        for line in lines:
            print(f"failed: {line}", file=sys.stderr)
    if outcome.blocked:
        print(f"not made, because they need what failed: {counted(outcome.blocked)}", file=sys.stderr)
    if given.JSON.value:
        said = {
            "made": counts(outcome.made),
            "found": counts(outcome.found),
            "missing": counts({**missing, **outcome.blocked}),
            "failed": messages,
        }
        print(json.dumps(said))
    return 1 if outcome.failed else 0
