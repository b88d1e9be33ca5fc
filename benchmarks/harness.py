"""What every benchmark here shares: contenders in processes of their own, which take turns.

A contender is a function of its benchmark's file that prepares everything and returns what is to be timed, a
function without arguments that blocks until its work is done. No library's threads spin in another's time,
and a drift of the machine hits all alike. The first call (compilation) counts apart.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transferjax.files import write_text  # the import chooses XLA's fusions, before JAX starts

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PEERS = ("torch", "torchattacks", "foolbox", "matfree", "curvlinops-for-pytorch")
TELLING = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "XLA_FLAGS")
TELLING += tuple(f"TRANSFERJAX_{name}" for name in ("FUSIONS", "MALLOC", "WINOGRAD"))
"""Variables of the environment that change what is measured."""
CACHE = "JAX_COMPILATION_CACHE_DIR"  # of compiled programs: contenders have none
TURN = 0.3  # seconds at least, in which a contender repeats its call
LOAD = os.getloadavg()[0]  # of others: nothing here has run yet


@dataclass(frozen=True)
class Contender:
    """`make(**arguments)` of a benchmark's file gives what is timed, under `environ`.

    `work` is how much a call does, such as images: times are of one of these.
    """

    name: str
    make: Callable[..., Callable[[], Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    work: float = 1.0


class Failed(RuntimeError):
    """A contender's process ended early."""


@dataclass(frozen=True)
class Figured:
    """What a contender's `make` may return: a call, and figures that are asked for at the end."""

    call: Callable[[], Any]
    figures: Callable[[], Mapping[str, float]]

    def __call__(self) -> Any:
        return self.call()


class _Process:
    """A contender's process: asked for a number of calls, it answers with their seconds."""

    def __init__(self, contender: Contender):
        file = sys.modules[contender.make.__module__].__file__
        task = {"file": file, "make": contender.make.__name__, "arguments": dict(contender.arguments)}
        kept = {name: value for name, value in os.environ.items() if name != CACHE}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(task)],
            env=kept | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"} | dict(contender.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name, self.work, self.calls = contender.name, contender.work, 1

    def take_turn(self) -> float:
        """Seconds of a call, the mean of a turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{self.calls}\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Failed(f"the process of {self.name!r} ended with {self._process.wait()}: see above")
        seconds = float(answer)
        self.calls = max(1, round(TURN / max(seconds, 1e-6)))
        return seconds / self.work

    def end(self) -> dict[str, Any]:
        """Its largest memory in MiB, and its figures if it has any."""
        with suppress(BrokenPipeError):
            out, _ = self._process.communicate("end\n")
            if out:
                return json.loads(out)
        raise Failed(f"the process of {self.name!r} ended with {self._process.wait()}: see above")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


def compare(contenders: Sequence[Contender], rounds: int) -> dict[str, dict[str, Any]]:
    """For each contender `first_s`, `median_s`, `quartiles_s`, `peak_mib`, of `rounds` turns; its `figures`.

    Of one whose process ended early it is `failed` alone, and why is said; the others go on.

    Raises:
        ValueError: fewer than one round, or two contenders of one name.
    """
    names = [contender.name for contender in contenders]
    if rounds < 1 or len(set(names)) < len(names):
        raise ValueError(f"expected at least one round and names that differ; got {rounds=}, {names}")
    first, seconds, last, failed = {}, {name: [] for name in names}, {}, {}
    processes: list[_Process] = []

    def asked(process: _Process, turn: Callable[[_Process], Any]) -> Any:
        try:
            return turn(process) if process.name not in failed else None
        except Failed as error:
            print(error, file=sys.stderr, flush=True)
            failed[process.name] = {"failed": str(error)}

    try:
        for contender in contenders:
            processes.append(_Process(contender))
            first[contender.name] = asked(processes[-1], _Process.take_turn)
        for turn in range(rounds + 1):  # of which the first settles how many calls a turn has
            for process in processes if turn % 2 else processes[::-1]:
                seconds[process.name].append(asked(process, _Process.take_turn))
        last = {process.name: asked(process, _Process.end) for process in processes}
    finally:
        for process in processes:
            process.close()
    return {
        name: failed.get(name) or {"first_s": first[name], **_summary(seconds[name][1:]), **last[name]}
        for name in names
    }


def _summary(seconds: Sequence[float]) -> dict[str, Any]:
    quartiles = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    )
    return {"median_s": statistics.median(seconds), "quartiles_s": [quartiles[0], quartiles[2]]}


def where() -> dict[str, Any]:
    """The machine and what ran on it: device, cores, load at the start, versions, commit, time."""
    from transferjax.study.run import provenance

    found = dict(provenance())
    packages = found["packages"] | {name: said for name in PEERS if (said := _version(name))}
    return found | {
        "packages": packages,
        "environ": {name: value for name, value in sorted(os.environ.items()) if name in TELLING},
        "load": round(LOAD, 2),
        "time": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def parser(doc: str | None, rounds: int = 7) -> argparse.ArgumentParser:
    """The flags all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--out", type=Path, help="default: benchmarks/results/<name>.json")
    made.add_argument("--resume", action="store_true", help="keep what was measured of this commit, as now")
    return made


def run(
    name: str, question: str, cases: Mapping[str, Sequence[Contender]], flags: argparse.Namespace
) -> None:
    """Compares each case's contenders, prints a line for each, and writes the results file as it grows."""
    found = kept(name, flags, "cases")
    for case, contenders in cases.items():
        if case in found:
            continue
        found[case] = compare(contenders, flags.rounds)
        row = ", ".join(f"{who} {1e3 * of.get('median_s', math.nan):.1f}" for who, of in found[case].items())
        print(f"{case}: {row} ms", flush=True)
        save(name, question, flags, cases=found)


def kept(name: str, flags: argparse.Namespace, what: str) -> dict[str, Any]:
    """With `--resume` the `cases` or `rows` there, of this commit, settings, machine, packages."""
    path = _path(name, flags)
    if not flags.resume or not path.exists():
        return {}
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} holds no results ({error}): remove it, or leave --resume out") from None
    now = {**where(), "settings": _settings(flags)}
    same = all(report.get(key) == value for key, value in now.items() if key not in ("load", "time"))
    return report.get(what, {}) if same and not now["commit"].endswith("-dirty") else {}


def save(name: str, question: str, flags: argparse.Namespace, **found: Any) -> None:
    """Writes the results file: `cases` of timed contenders, or `rows` of anything else, name -> columns.

    Of `rows` there is a picture where `axes` name two of the columns.
    """
    report = {"question": question, **where(), "settings": _settings(flags), **found}
    write_text(_path(name, flags), json.dumps(report, indent=1) + "\n")


def _path(name: str, flags: argparse.Namespace) -> Path:
    return flags.out or RESULTS / f"{name}.json"


def _settings(flags: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(flags).items() if key not in ("out", "resume")}


def _peak_mib() -> int:
    """The largest memory of this process; `ru_maxrss` would be its parent's where that had more."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) // 1024  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _serve(task: Mapping[str, Any]) -> None:
    """A contender's side; what libraries print goes to where errors go."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    spec = importlib.util.spec_from_file_location("benchmark", task["file"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module
    spec.loader.exec_module(module)
    call = getattr(module, task["make"])(**task["arguments"])
    for line in sys.stdin:
        if line == "end\n":
            last = {"peak_mib": _peak_mib()}
            figures = getattr(call, "figures", None)
            print(
                json.dumps({**last, **({"figures": figures()} if figures else {})}), file=answers, flush=True
            )
            return
        start = time.perf_counter()
        for _ in range(int(line)):
            call()
        print((time.perf_counter() - start) / int(line), file=answers, flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
