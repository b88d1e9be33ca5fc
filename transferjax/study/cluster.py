"""The groups of a plan on the workers of a Dask cluster: here, one process for each accelerator, or anywhere.

What travels is JSON: specs to a worker, and what became of them back. Results go through the store, which
all workers share. An error is an answer, and is not tried again; a worker that dies costs another try,
and one that is told to end first saves how far it came.
"""

import importlib.util
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transferjax import data
from transferjax.files import Unwritable
from transferjax.stopping import Stopped
from transferjax.study import walk
from transferjax.study.mistakes import Mistakes
from transferjax.study.plan import Group
from transferjax.study.resolve import Context
from transferjax.study.run import Done
from transferjax.study.specs import Data, Goal, Pretrained, Service, Spec
from transferjax.study.store import PROVENANCE
from transferjax.study.walk import needs
from transferjax.study.worker import (
    ANSWER,
    PATIENCE,
    SHARED,
    line_of,
    still_hidden,
    work,
)

POLL = 1.0  # seconds between looks at who works
KEPT = "what is finished is kept: the same command goes on from there"
DEVICES = Path("/dev")
PATHS: dict[type[Spec], str] = {Data: "name", Pretrained: "file", Goal: "file", Service: "record"}


class Cluster:
    """Workers of a Dask cluster, each one group at a time, as many groups as there are workers.

    Only groups whose inputs are there are handed out, so that none waits at a worker that another one kills.

    Args:
        context: whose settings the workers share; this process computes nothing.
        workers: so many processes of this machine, one for each accelerator; or
        scheduler: the address of a scheduler, "tcp://host:8786".
        say: is told the dashboard's address, and of workers that died.

    Raises:
        Mistakes: Dask is not installed; no address; more workers than accelerators.
    """

    def __init__(
        self, context: Context, workers: int = 0, scheduler: str = "", say: Callable[[str], None] = print
    ):
        if importlib.util.find_spec("distributed") is None:
            raise Mistakes(["--workers and --scheduler need Dask: pip install 'transferjax[cluster]'"])
        if bool(workers) == bool(scheduler) or workers < 0:
            raise Mistakes([f"expected workers or a scheduler; got {workers=}, {scheduler=}"])
        if scheduler:
            _check_address(scheduler)
        self.devices = accelerators() if workers else []
        if self.devices and workers > len(self.devices):
            there = f"this machine has {len(self.devices)} accelerators, for one worker each"
            raise Mistakes([f"--workers={workers}: {there}"])
        self.context, self.workers, self.scheduler, self.say = context, workers, scheduler, say

    def __call__(self, groups: Sequence[Group]) -> Iterator[tuple[Group, Done]]:
        """Starts or joins the cluster, and leaves it when all groups have ended.

        Raises:
            Mistakes: no scheduler answers; what workers make is not to be seen here.
            ConnectionError: it is gone.
            Unwritable: the store takes no more results.
        """
        if not groups:
            return
        with _quiet(), self._client() as client, self._marker() as marker:
            self._greet(client)
            yield from self._made(client, groups, marker)

    def _made(self, client: Any, groups: Sequence[Group], marker: Path) -> Iterator[tuple[Group, Done]]:
        waiting, running, damaged = list(groups), dict[Any, Group](), list[tuple[Group, Done]]()
        unfinished, absent, known = {group.key for group in groups}, set[str](), self._look(client, {})
        while running or (waiting and not damaged):
            if self.context.stopped():
                raise Stopped
            ready = [group for group in waiting if not group.after & unfinished]
            for group in ready[: max(0, max(1, len(known)) - len(running))]:
                text, key = self._task(group, absent, marker), f"{group.kind}-{group.key}-{marker.name}"
                with _asking(client):
                    running[client.submit(work, text, key=key, retries=0, pure=False)] = group
                waiting.remove(group)
            ended = _ended(client, running)
            known = self._look(client, known)
            for future in ended:
                group = running.pop(future)
                answer = _answer(client, future)
                if answer is None:  # another goes on from there
                    waiting.append(group)
                    continue
                done = self._done(group, answer, marker.name)
                unfinished.discard(group.key)
                absent |= done.failed.keys() | set(done.blocked)
                if done.damaged is None:
                    yield group, done
                else:  # the others end first: nothing of theirs is lost
                    damaged.append((group, done))
                    waiting.clear()
        yield from damaged[:1]

    def _task(self, group: Group, absent: set[str], marker: Path) -> str:
        """One text: Dask takes strings, also in lists, that equal a key for that key's result."""
        context = self.context
        return json.dumps(
            {
                "root": str(context.store.root.absolute()),
                "marker": marker.name,
                "settings": [context.batch_size, context.checkpoint_epochs, context.keep_bytes],
                "group": group.key,
                "members": {s.key: walk.to_json(walk.rebuild(s, anywhere)) for s in group.members},
                "absent": sorted({s.key for member in group.members for s in needs(member)} & absent),
            }
        )

    def _done(self, group: Group, answer: Mapping[str, Any] | BaseException, run: str) -> Done:
        """What a worker said, or what became of a group whose workers died.

        A worker finds what another one made before it died: it was made all the same.
        """
        store = self.context.store
        if isinstance(answer, Mapping):
            done = Done(**answer)
            if done.unwritable:
                raise Unwritable(done.unwritable)
        else:
            there, why = [spec.key for spec in group.members if store.has(spec)], said_of(answer)
            failed = {spec.key: why for spec in group.members if spec.key not in there}
            done = Done(found=there, failed=failed)
        paths = {spec.key: store.path(spec) for spec in group.members}
        if hidden := still_hidden(map(paths.__getitem__, done.made + done.found), PATIENCE):
            raise Mistakes([f"{hidden} was made, but is not to be seen here: {SHARED}"])
        ours = [key for key in done.found if run_of(paths[key]) == run]
        done.made += ours
        done.found = [key for key in done.found if key not in ours]
        return done

    def _look(self, client: Any, known: Mapping[str, int]) -> dict[str, int]:
        """Threads of every worker; says what changed for the worse."""
        with _asking(client):
            now: dict[str, int] = client.nthreads()
        for address in known.keys() - now.keys():
            self.say(f"worker {address} is gone: what it was making is made by another")
        for address in now.keys() - known.keys():
            if now[address] > 1:
                self.say(f"worker {address} has {now[address]} threads and uses one: --nthreads 1")
        if not now and known:
            self.say(f"no worker is left at {client.scheduler.address}: waiting for one")
        return now

    @contextmanager
    def _marker(self) -> Iterator[Path]:
        """A file by which a worker knows that it sees this store, and not another one under the same path."""
        path = self.context.store.root.absolute() / "locks" / f"cluster-{uuid.uuid4().hex}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from distributed import Client

        if self.scheduler:
            try:
                client = Client(self.scheduler, timeout=ANSWER, set_as_default=False)
            except OSError as error:
                raise Mistakes(
                    [f"no Dask scheduler answers at {self.scheduler} ({line_of(error)})"]
                ) from error
            with client:
                yield client
            return
        with _processes(self.workers, self.devices) as here, Client(here, set_as_default=False) as client:
            yield client

    def _greet(self, client: Any) -> None:
        with _asking(client):
            count = len(client.nthreads())
        board = f"dashboard {client.dashboard_link}"
        if self.workers and importlib.util.find_spec("bokeh") is None:
            board = "no dashboard (it needs bokeh)"
        self.say(f"{count} workers, {board}" if count else f"waits for workers at {self.scheduler}, {board}")


def _check_address(scheduler: str) -> None:
    from distributed.comm import get_address_host_port

    try:
        get_address_host_port(scheduler)
    except ValueError as error:
        raise Mistakes([f"--scheduler={scheduler}: expected tcp://host:port ({error})"]) from None


def _ended(client: Any, running: Iterable[Any]) -> list[Any]:
    """Those that ended within a moment."""
    from distributed import wait

    with _asking(client):
        with suppress(TimeoutError), client.as_current():
            wait(list(running), timeout=POLL, return_when="FIRST_COMPLETED")
        return [future for future in running if future.done()]


def _answer(client: Any, future: Any) -> Any:
    """What a worker answered, or the error by which it did not."""
    with _asking(client):
        return future.result() if future.status == "finished" else future.exception()


@contextmanager
def _asking(client: Any) -> Iterator[None]:
    """Dask's calls, of which any may be the first that finds nobody there."""
    try:
        yield
    except (CancelledError, OSError) as error:
        raise ConnectionError(f"the scheduler at {client.scheduler.address} is gone; {KEPT}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """What concerns a user is said in a line of ours."""
    import distributed  # noqa: F401  its import sets the levels

    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _processes(count: int, devices: Sequence[Mapping[str, str]]) -> Iterator[Any]:
    """A scheduler and worker processes on this machine, each with its own accelerator where there are any."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    here = {"host": "127.0.0.1", "protocol": "tcp://"}
    board = {"dashboard": importlib.util.find_spec("bokeh") is not None, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": {**here, **board, "port": 0}}
    # No limit of memory: Dask would kill a worker for what JAX takes.
    options = {**here, "nthreads": 1, "memory_limit": 0, "dashboard": False, "preload": [work.__module__]}
    workers = {
        i: {"cls": Nanny, "options": {**options, "env": dict(devices[i]) if devices else {}}}
        for i in range(count)
    }
    settings = {
        # Dask's OMP_NUM_THREADS=1 would give other last bits than one process does.
        "distributed.nanny.pre-spawn-environ": {"DASK_LOGGING__DISTRIBUTED": "critical"},
        "distributed.worker.multiprocessing-method": "spawn",
    }
    with dask.config.set(settings), SpecCluster(workers, scheduler) as cluster:
        yield cluster


def accelerators() -> list[dict[str, str]]:
    """For each accelerator of this machine the environment in which a process sees it alone; starts none."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        count = len(list(DEVICES.glob("nvidia[0-9]*")))
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
        return [{"CUDA_VISIBLE_DEVICES": name} for name in listed.split(",") if name not in ("", "-1")]
    if importlib.util.find_spec("libtpu"):
        one = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
        chips = list(DEVICES.glob("accel[0-9]*")) or list(DEVICES.glob("vfio/[0-9]*"))
        return [{**one, "TPU_VISIBLE_CHIPS": str(i)} for i in range(len(chips))]
    return []


def anywhere(spec: Spec) -> Spec:
    """Paths as a worker sees them that was started in another directory."""
    name = PATHS.get(type(spec), "")
    path = getattr(spec, name) if name else ""
    return spec.replace(**{name: str(Path(path).absolute())}) if path and _is_path(path) else spec


def _is_path(name: str) -> bool:
    return name not in data.NAMES and Path(name).exists()


def run_of(path: Path) -> str | None:
    """For which run a stored result was made."""
    try:
        return json.loads((path / PROVENANCE).read_text()).get("run")
    except (OSError, ValueError):
        return None  # whoever reads the result says that it is damaged


def said_of(error: BaseException) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return f"KilledWorker: {error.allowed_failures + 1} workers died while they made this; out of memory?"
    return line_of(error)
