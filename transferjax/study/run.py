"""Who makes the groups of a plan: this process, or the workers of a Dask cluster.

A failed task takes its dependents out, the rest goes on. Two runs on one store share the work: a group that
another one makes is left to it. What turns out to be damaged is named, forgotten and made again.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils

from transferjax.data import cache_dir
from transferjax.files import Unwritable, writing
from transferjax.stopping import Stopped
from transferjax.study.content import size
from transferjax.study.make import make
from transferjax.study.mistakes import one_line
from transferjax.study.plan import Group, Plan, make_plan, work
from transferjax.study.resolve import Context
from transferjax.study.specs import Adversarial, Spec, Verdicts
from transferjax.study.store import Corrupt, Entry, Store
from transferjax.study.walk import needs

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "transferjax")
CACHE_SWITCH = "TRANSFERJAX_COMPILATION_CACHE"
WAIT = 0.2  # seconds between looks at what another run makes
LOOKS = 50  # before a user is told
APART = (Adversarial, Verdicts)  # made in order, each for itself: where one fails, the next may not


@dataclass
class Outcome:
    """What became of a demand, by key; `failed` with a message each, `blocked` is what waited for them."""

    found: dict[str, Spec] = field(default_factory=dict)
    made: dict[str, Spec] = field(default_factory=dict)
    failed: dict[str, tuple[Spec, str]] = field(default_factory=dict)
    blocked: dict[str, Spec] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


Damage = tuple[str, str, str]
"""Kind, key, and what is wrong."""


@dataclass
class Done:
    """What one group came to: keys made and found, messages of failures, what was damaged, and what a place
    said that takes no more results."""

    made: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    damaged: Damage | None = None
    unwritable: str = ""


class Executor(Protocol):
    """Makes the groups of a plan, each after those that it needs; yields as they end."""

    def __call__(self, groups: Sequence[Group], /) -> Iterator[tuple[Group, Done]]: ...


def run(
    demand: Iterable[Spec],
    store: Store,
    execute: Executor,
    say: Callable[[str], None] = print,
    begin: Callable[[Plan], None] = lambda plan: None,
    read: Callable[[], None] = lambda: None,
) -> Outcome:
    """Makes what a demand lacks.

    Args:
        demand: stored kinds.
        store: where results are and go.
        execute: `Local(context)` or `Cluster(…)`.
        say: is told of what was damaged.
        begin: is told the plan, for a progress bar.
        read: looks at what was made, as views do; once more where it finds something damaged.
    """
    demand, outcome = list(demand), Outcome()
    while True:
        plan = make_plan(demand, store)
        outcome.found |= {key: spec for key, spec in plan.found.items() if key not in outcome.made}
        begin(plan)
        damaged = _made(_possible(plan, outcome), execute, outcome) or _damage(read)
        if damaged is None:
            return outcome
        _again(store, outcome, damaged, say)


def _possible(plan: Plan, outcome: Outcome) -> list[Group]:
    """Groups without what failed before, and without what needs it."""
    outcome.blocked.clear()
    groups = []
    for group in plan.groups:  # inputs first
        lost = outcome.failed.keys() | outcome.blocked.keys()
        blocked = [s for s in group.members if any(child.key in lost for child in needs(s))]
        outcome.blocked |= {spec.key: spec for spec in blocked}
        lost |= outcome.blocked.keys()
        if members := [spec for spec in group.members if spec.key not in lost]:
            groups.append(replace(group, members=members))
    return groups


def _made(groups: Sequence[Group], execute: Executor, outcome: Outcome) -> Damage | None:
    """Notes what became of groups, up to the first thing that is damaged."""
    for group, done in execute(groups):
        members = {spec.key: spec for spec in group.members}
        outcome.made |= {key: members[key] for key in done.made}
        outcome.found |= {key: members[key] for key in done.found}
        outcome.failed |= {key: (members[key], why) for key, why in done.failed.items()}
        outcome.blocked |= {key: members[key] for key in done.blocked}
        if done.damaged is not None:
            return done.damaged
    return None


def _damage(read: Callable[[], None]) -> Damage | None:
    try:
        read()
    except Corrupt as error:
        return error.kind, error.key, str(error)
    return None


def _again(store: Store, outcome: Outcome, damaged: Damage, say: Callable[[str], None]) -> None:
    kind, key, why = damaged
    if key in outcome.damaged:
        raise OSError(f"{why}, again after it was made anew: does the disk keep what is written?")
    say(f"{why}: it is made again")
    outcome.damaged.append(key)
    if not _sound(store, kind, key):  # else another run made it again meanwhile
        store.discard(kind, key)
    outcome.found.pop(key, None)


def _sound(store: Store, kind: str, key: str) -> bool:
    spec = Entry(kind, key, store.root / "objects" / kind / key).readable
    try:
        return spec is not None and store.get(spec) is not None
    except Corrupt:
        return False


def make_group(context: Context, group: Group) -> Done:
    """Makes what is missing of one group; the caller holds its lock."""
    done, store = Done(), context.store
    there = _agreed(store.has(spec) for spec in group.members)
    done.found = [spec.key for spec, has in zip(group.members, there, strict=True) if has]
    rest = [spec for spec, has in zip(group.members, there, strict=True) if not has]
    ready: Sequence[Spec] = [spec for spec in rest if all(map(store.has, needs(spec)))]
    done.blocked = [spec.key for spec in rest if spec not in ready]
    try:
        while ready:
            ready = _some(context, ready, done)
    except Corrupt as error:
        context.forget()
        done.damaged = error.kind, error.key, str(error)
    return done


def _some(context: Context, ready: Sequence[Spec], done: Done) -> Sequence[Spec]:
    """Makes results up to the first that fails, and says which are still to be tried."""
    store = context.store
    try:
        for spec, result in make(context, ready):
            mine = {"run": context.run} if context.run else {}
            took = {need.key: store.entry(need).seconds for need in needs(spec)}
            of = {key: seconds for key, seconds in took.items() if seconds is not None}
            said = {name: value for name, value in result.items() if name != "arrays"}
            cost = {"of": of, "work": result.get("share", 1.0) * work(spec, size)}
            store.put(spec, result["arrays"], {**said, **mine, **cost, **provenance()})
            done.made.append(spec.key)
    except (Unwritable, Corrupt):
        raise
    except Exception as error:
        if os.environ.get("TRANSFERJAX_TRACEBACK"):
            traceback.print_exc()
        rest = [spec for spec in ready if spec.key not in done.made]
        lost = rest[:1] if isinstance(ready[0], APART) and not isinstance(error, MemoryError) else rest
        done.failed |= dict.fromkeys(
            (spec.key for spec in lost), f"{type(error).__name__}: {one_line(error)}"
        )
        return rest[len(lost) :]
    return ()


def _agreed(found: Iterable[int]) -> list[int]:
    """What the first of several processes that train together found: the others do as it does."""
    numbers = np.array(list(found), np.int32)
    if jax.process_count() == 1 or not len(numbers):
        return numbers.tolist()
    return multihost_utils.broadcast_one_to_all(numbers).tolist()


class Local:
    """This process, one group after another.

    Args:
        context: where results are, and how they are made.
        say: is told, once, that all there is to do is made by another run.
    """

    def __init__(self, context: Context, say: Callable[[str], None] = lambda line: None):
        self.context, self.say = context, say

    def __call__(self, groups: Sequence[Group]) -> Iterator[tuple[Group, Done]]:
        """Groups in order; one that another run holds is left to it, and looked at again later."""
        waiting, ended, idle = list(groups), set[str](), 0
        names = {group.key for group in groups}
        while waiting:
            if self.context.stopped():
                raise Stopped
            ready = [group for group in waiting if not (group.after & names) - ended]
            with self._first(ready) as group:
                done = None if group is None else make_group(self.context, group)
            if group is None or done is None:
                if idle == LOOKS:
                    self.say(
                        f"waits for another run on this store, which makes {ready[0].kind} {ready[0].key}"
                    )
                idle += 1
                time.sleep(WAIT)
                continue
            waiting.remove(group)
            ended.add(group.key)
            idle = 0
            yield group, done

    @contextmanager
    def _first(self, ready: Sequence[Group]) -> Iterator[Group | None]:
        """The first group that no other run holds, held; of several processes the first one holds it."""
        locks = map(self._held, ready) if not jax.process_index() else ()
        free, lock = next(((i, lock) for i, lock in enumerate(locks) if lock is not None), (-1, None))
        try:
            (chosen,) = _agreed([free])
            yield None if chosen < 0 else ready[chosen]
        finally:
            if lock is not None:
                lock.release()

    def _held(self, group: Group) -> FileLock | None:
        lock = self.context.store.lock(group.key)
        try:
            with writing(self.context.store.root):
                lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock


@cache
def provenance() -> Mapping[str, Any]:
    """What a reader needs to have the same bits: versions, device, cores, commit."""
    device = jax.devices()[0]
    return {
        "commit": _commit(),
        "device": _processor() if device.platform == "cpu" else f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _commit() -> str:
    """The commit, `-dirty` where Python files are not as they are there; "unknown" outside of a checkout."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if shutil.which("git") is None or git(["git", "ls-files", "--error-unmatch", __file__]).returncode:
        return "unknown"  # installed somewhere inside of another repository, say
    said = git(["git", "describe", "--always"]).stdout.strip()
    changed = git(["git", "diff", "--quiet", "HEAD", "--", ":/*.py"]).returncode == 1
    return f"{said}{'-dirty' if changed else ''}"


def _processor() -> str:
    """Its own name, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {names[0] if names else platform.machine()}"


def enable_compilation_cache() -> None:
    """Compiled programs are kept in the user's cache directory; `TRANSFERJAX_COMPILATION_CACHE=off` does not.

    `JAX_COMPILATION_CACHE_DIR` is obeyed where it is set.
    """
    if os.environ.get(CACHE_SWITCH, "on") == "off" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
