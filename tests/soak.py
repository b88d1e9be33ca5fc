"""A soak: faults every few seconds, for half an hour, and at the end every array of an undisturbed run.

    python -m tests.soak --minutes=30 --seed=0 --out=soak.json        (make soak)

A scheduler, two workers and a client (the command) of one study on one store. Every few seconds one of them
is ended by SIGKILL or SIGTERM, writes of one of them fail for a while as on a full disk, or a byte of what is
stored is flipped. Whoever is gone is started again, the client until it says that all is made; then the store
is compared with an undisturbed run's, and emptied for the next round. A flipped byte that nobody has read by
then must be refused by name, and is made again before the comparison.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from transferjax.study.store import ARRAYS, Corrupt, Missing, Store
from transferjax.study.walk import needs

ROOT = Path(__file__).parents[1]
STALLED = 240.0  # seconds without a new result: a hang, for whoever is gone is back within some ten
FULL = 4096  # bytes that a file may have on a "full" disk: EFBIG has the road of ENOSPC
ROLES = ("scheduler", "worker-0", "worker-1", "client")


@dataclass
class Counts:
    """What happened; printed as JSON."""

    faults: Counter = field(default_factory=Counter)
    restarts: Counter = field(default_factory=Counter)
    exits: Counter = field(default_factory=Counter)
    rounds: int = 0
    compared: int = 0
    refused: int = 0
    different: list[str] = field(default_factory=list)
    hangs: int = 0
    longest_error: int = 0
    tracebacks: int = 0
    minutes: float = 0.0


class Cast:
    """The processes by role, each in a session of its own; whoever is gone can be started again."""

    def __init__(self, work: Path, config: str):
        self.work, self.config, self.store = work, config, Store(work / "store")
        self.processes: dict[str, subprocess.Popen] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def command(self, role: str) -> list[str]:
        dask = [sys.executable, "-m", "distributed.cli"]
        if role == "scheduler":
            port = self.address.rpartition(":")[2]
            where = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
            return [*dask[:2], f"{dask[2]}.dask_scheduler", *where]
        if role.startswith("worker"):
            alone = ["--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--no-dashboard"]
            here = [
                "--local-directory",
                str(self.work / role),
                "--death-timeout",
                "60",
                "--host",
                "127.0.0.1",
            ]
            return [*dask[:2], f"{dask[2]}.dask_worker", self.address, *alone, *here]
        flags = [f"--config={self.config}", f"--store={self.store.root}", f"--scheduler={self.address}"]
        return [sys.executable, "-m", "experiments.study", *flags]

    def start(self, role: str) -> None:
        with open(self.work / f"{role}.log", "wb") as log:
            self.processes[role] = subprocess.Popen(
                self.command(role),
                cwd=ROOT,
                env=os.environ | environment(self.work),
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def said(self, role: str) -> list[str]:
        return (self.work / f"{role}.log").read_text(errors="replace").splitlines()

    def end(self) -> None:
        """Ends whom it started, and nobody else."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def environment(work: Path) -> dict[str, str]:
    """One device, cheap code and one compilation cache; the flags of the tests."""
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "JAX_COMPILATION_CACHE_DIR": str(work / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


def flip(path: Path, draw: random.Random) -> None:
    """One bit of a file."""
    with open(path, "r+b") as file:
        place = draw.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)[0] ^ (1 << draw.randrange(8))
        file.seek(place)
        file.write(bytes([byte]))


def send(cast: Cast, role: str, number: signal.Signals) -> None:
    cast.processes[role].send_signal(number)


def fill_disk(cast: Cast, role: str, draw: random.Random) -> None:
    """For a few seconds nothing that one process writes fits."""
    pid, kept = cast.processes[role].pid, resource.prlimit(cast.processes[role].pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL, kept[1]))
    time.sleep(draw.uniform(1, 4))
    if cast.processes[role].poll() is None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, kept)


def faults(cast: Cast, draw: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can happen now, by name: each kind as often as the others."""
    for role, process in cast.processes.items():
        if process.poll() is None:
            name = role.partition("-")[0]
            yield f"SIGKILL {name}", lambda r=role: send(cast, r, signal.SIGKILL)
            yield f"SIGTERM {name}", lambda r=role: send(cast, r, signal.SIGTERM)
            if name != "scheduler":
                yield f"full disk {name}", lambda r=role: fill_disk(cast, r, draw)
    stored = sorted(cast.store.root.glob(f"objects/*/[!.]*/{ARRAYS}"))
    kept = sorted(path for path in cast.store.root.glob("scratch/*/[0-9]*/state/**/*") if path.is_file())
    for name, files in (("flipped byte of a result", stored), ("flipped byte of a checkpoint", kept)):
        if files:
            yield name, lambda files=files: flip(draw.choice(files), draw)


def disturb(cast: Cast, draw: random.Random, counts: Counts) -> None:
    """One fault."""
    possible: dict[str, list[Callable[[], None]]] = {}
    for name, act in faults(cast, draw):
        possible.setdefault(name, []).append(act)
    if possible:
        name = draw.choice(sorted(possible))
        try:
            draw.choice(possible[name])()
        except (OSError, ValueError):  # gone by itself in the meantime, or an empty file
            return
        counts.faults[name] += 1


def differences(store: Store, reference: Store) -> tuple[list[str], list[str]]:
    """Results that say they are damaged, and those that differ in silence or are missing."""
    refused, different = [], []
    for entry in reference.entries():
        spec, name = entry.spec, f"{entry.kind} {entry.key}"
        try:
            found, wanted = store.get(spec), reference.get(spec)
        except Missing:
            different.append(f"{name}: missing")
            continue
        except Corrupt:
            refused.append(name)
            continue
        same = found.keys() == wanted.keys() and all(
            found[n].dtype == a.dtype and np.array_equal(found[n], a, equal_nan=a.dtype.kind == "f")
            for n, a in wanted.items()
        )
        different += [] if same else [name]
    return refused, different


def one_round(cast: Cast, draw: random.Random, counts: Counts, until: float, between: tuple[float, float]):
    """Disturbs until the client says that all is made; after `until` it is left in peace."""
    progress, now = (0, time.monotonic()), time.monotonic()
    due = now + draw.uniform(*between)
    while True:
        for role in ROLES:
            process = cast.processes.get(role)
            if process is not None and process.poll() is None:
                continue
            if process is not None:
                note(cast, role, process.returncode, counts)
                if role == "client" and process.returncode == 0:
                    return
            cast.start(role)
        time.sleep(0.2)
        now = time.monotonic()
        if now > due and now < until:
            disturb(cast, draw, counts)
            due = time.monotonic() + draw.uniform(*between)
        count = sum(1 for _ in cast.store.entries())
        if count != progress[0]:
            progress = count, now
        elif now - progress[1] > STALLED:
            counts.hangs += 1
            cast.end()
            progress = count, now


def note(cast: Cast, role: str, code: int, counts: Counts) -> None:
    """How somebody ended, and whether in few words."""
    name = role.partition("-")[0]
    counts.restarts[name] += 1
    counts.exits[f"{name} {code}"] += 1
    if role == "client" and code > 0:
        said = cast.said(role)
        counts.longest_error = max(counts.longest_error, len(said))
        counts.tracebacks += any(line.startswith("Traceback") for line in said)
        print(f"  client ended with {code}: {said[0] if said else '(no word)'}"[:200], flush=True)


def settle(cast: Cast, reference: Store, counts: Counts, draw: random.Random) -> None:
    """What was flipped after anybody read it is refused by name, and made again; then all is equal."""
    while True:
        refused, different = differences(cast.store, reference)
        if not refused:
            break
        counts.refused += len(refused)
        forget(cast.store, {name.split()[1] for name in refused})
        cast.processes.pop("client", None)
        one_round(cast, draw, counts, 0.0, (1e9, 1e9))
    counts.compared += sum(1 for _ in reference.entries())
    counts.different += different
    counts.rounds += 1


def forget(store: Store, keys: set[str]) -> None:
    """Discards results with all that was made of them: what nobody needs any more, nobody makes again."""
    entries = list(store.entries())
    while more := {e.key for e in entries if any(n.key in keys for n in needs(e.spec))} - keys:
        keys |= more
    for entry in entries:
        if entry.key in keys:
            store.discard(entry.kind, entry.key)


def undisturbed(work: Path, config: str) -> Store:
    """The store of one process that nothing happens to."""
    root = work / "reference"
    command = [sys.executable, "-m", "experiments.study", f"--config={config}", f"--store={root}"]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | environment(work), check=True, stdout=subprocess.DEVNULL
    )
    return Store(root)


def soak(config: str, minutes: float, seed: int, between: tuple[float, float], work: Path) -> Counts:
    """Rounds of the study, disturbed for so many minutes."""
    draw, counts = random.Random(seed), Counts()
    reference = undisturbed(work, config)
    print(f"undisturbed: {sum(1 for _ in reference.entries())} results", flush=True)
    begin = time.monotonic()
    cast = Cast(work, config)
    try:
        while time.monotonic() < begin + 60 * minutes:
            one_round(cast, draw, counts, begin + 60 * minutes, between)
            settle(cast, reference, counts, draw)
            counts.minutes = round((time.monotonic() - begin) / 60, 1)
            print(f"round {counts.rounds}, {counts.minutes} minutes: {sum(counts.faults.values())} faults, "
                  f"{counts.refused} refused, {len(counts.different)} different", flush=True)  # fmt: skip
            shutil.rmtree(cast.store.root)
            cast.processes.pop("client", None)
    finally:
        cast.end()
    return counts


def main() -> int:
    """Prints what happened; 1 where an array differs or something hung."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--between", type=float, nargs=2, default=(3.0, 9.0), help="seconds between faults")
    parser.add_argument("--config", default="tests/study/soaked.py")
    parser.add_argument("--out", type=Path, help="a file for the counts, JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # who ends it ends them all
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        counts = soak(given.config, given.minutes, given.seed, tuple(given.between), Path(work))
    text = json.dumps({**vars(counts), "seed": given.seed}, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    return 1 if counts.different or counts.hangs else 0


if __name__ == "__main__":
    sys.exit(main())
