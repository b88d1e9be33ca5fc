"""What a Dask worker does with a group that it is handed: the other side of `cluster`."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from transferjax.files import Unwritable
from transferjax.stopping import Stopped
from transferjax.study import registry, walk
from transferjax.study.binding import TABLES
from transferjax.study.content import forget_facts
from transferjax.study.plan import Group
from transferjax.study.resolve import Context
from transferjax.study.run import Done, enable_compilation_cache, make_group
from transferjax.study.specs import Call, Network, Spec
from transferjax.study.store import Store
from transferjax.study.walk import needs

ANSWER = 5.0  # seconds in which a scheduler answers, and a new file is to be seen on a shared disk
PATIENCE = 90.0  # seconds that a shared disk may hide a result: NFS remembers for 60 that it was not there
SHARED = "do all workers, and this process, see the store through one shared disk?"
_ONE = threading.Lock()  # a process makes one group at a time, however many threads its worker has


def dask_setup(worker: Any) -> None:
    """Dask calls it in a new worker: Ctrl-C is for the process that a user sees, which closes its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def work(text: str) -> dict[str, Any] | None:
    """Makes one group under its lock; every error is an answer, and None that this worker ends before it."""
    task = json.loads(text)
    with _ONE:
        try:
            return asdict(_work(task))
        except Stopped:
            return None
        except Exception as error:
            said = f"worker on {socket.gethostname()}: {line_of(error)}"
            if isinstance(error, Unwritable):
                return asdict(Done(unwritable=said))
            return asdict(Done(failed=dict.fromkeys(task["members"], said)))


def closing() -> bool:
    """Whether this thread's worker was told to end: by SIGTERM, by who retires it, or with its cluster."""
    from distributed import Status, get_worker

    try:
        return get_worker().status in (Status.closing, Status.closing_gracefully, Status.closed)
    except ValueError:  # no thread of a worker
        return False


def _work(task: Mapping[str, Any]) -> Done:
    members = [_same(key, walk.from_json(said)) for key, said in task["members"].items()]
    context = _context(task["root"], task["marker"], *task["settings"])
    if still_hidden([Path(task["root"], "locks", task["marker"])], ANSWER):
        raise OSError(f"does not see the store {task['root']}: {SHARED}")
    inputs = [spec for member in members for spec in needs(member) if spec.key not in task["absent"]]
    if hidden := still_hidden(map(context.store.path, inputs), PATIENCE):
        raise OSError(f"does not see {hidden}, which was made: {SHARED}")
    with context.store.lock(task["group"]):
        return make_group(context, Group(task["group"], members))


@lru_cache(maxsize=2)
def _context(root: str, run: str, batch_size: int, checkpoint_epochs: int, keep_bytes: int) -> Context:
    """What this process keeps between the groups of one run: data, weights and compiled programs."""
    enable_compilation_cache()
    forget_facts()
    return Context(Store(root), batch_size, checkpoint_epochs, keep_bytes, run=run, stopped=closing)


def _same(key: str, spec: Spec) -> Spec:
    """The spec, where it means here what it means to who asked.

    Raises:
        ValueError: this is other code.
    """
    for table, call in _calls(spec):
        here = table.row(call.name).version
        if here != call.version:
            where = f"is version {here} there, and {call.version} here"
            raise ValueError(f"runs other code: {table.what} {call.name!r} {where}")
    if spec.key != key:
        raise ValueError(f"runs other code: {type(spec).__name__} {key[:12]} is {spec.key[:12]} there")
    return spec


def _calls(spec: Spec) -> Iterator[tuple[registry.Table, Call]]:
    for name, table in TABLES.get(type(spec), {}).items():
        if getattr(spec, name) is not None:
            yield table, getattr(spec, name)
    if isinstance(spec, Network):
        yield from ((registry.PARTS, part) for part in spec.parts)
    for child in walk.children(spec):
        if isinstance(spec, Call):
            yield registry.PIECES, child  # type: ignore[misc]
        yield from _calls(child)


def still_hidden(paths: Iterable[Path], seconds: float) -> Path | None:
    """The first path that is not there after so long: other machines' files may take a while to be seen."""
    end = time.monotonic() + seconds
    for path in paths:
        while not path.exists():
            if time.monotonic() > end:
                return path
            time.sleep(0.1)
    return None


def line_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
