"""Tries every property for its share of the time, and says what came of it: `make fuzz`, `FUZZ_SECONDS=600`.

    python -m tests.fuzz --seconds=3600 --out=runs/fuzz

Each property runs in processes of its own: one that crashes, hangs or fills the memory is found, and another
one goes on with other cases. What fails is in `<out>/<property>.txt`, the numbers in `<out>/numbers.json`.
"""

import argparse
import faulthandler
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from tqdm import tqdm

HANG = 30.0  # seconds of one case
BATCH = 200  # cases of one seed
MOST_FAILURES = 5  # of one property, different ones
MEMORY = 1 << 10  # MiB above what the imports take


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="of all properties together")
    parser.add_argument("--only", action="append", default=[], metavar="PROPERTY")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # of the one property that a child tries
    flags = parser.parse_args(arguments)
    if flags.seed is not None:
        return child(flags.only[0], flags.seconds, flags.seed)
    from tests.fuzz.readers import PROPERTIES

    if unknown := set(flags.only) - PROPERTIES.keys():
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(PROPERTIES)}")
    flags.out.mkdir(parents=True, exist_ok=True)
    names = flags.only or list(PROPERTIES)
    numbers = {name: one(name, flags.seconds / len(names), flags.out) for name in tqdm(names, disable=None)}
    (flags.out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print("| property | cases | seconds | failures | crashes | hangs | slowest case, s | peak memory, MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, row in numbers.items():
        print(f"| {name} | {' | '.join(str(value) for value in row.values())} |")
    return int(any(row[kind] for row in numbers.values() for kind in ("failures", "crashes", "hangs")))


def one(name: str, seconds: float, out: Path) -> dict[str, Any]:
    """The numbers of one property."""
    row = {"cases": 0, "seconds": 0, "failures": 0, "crashes": 0, "hangs": 0, "slowest": 0.0, "memory": 0}
    begin, said = time.monotonic(), list[str]()
    for start in itertools.count(0, 1 << 20):
        left = seconds - (time.monotonic() - begin)
        if left < 1 or row["crashes"] + row["hangs"] + row["failures"] >= MOST_FAILURES:
            break
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            f"--only={name}",
            f"--seconds={left}",
            f"--seed={start}",
        ]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            for line in process.stdout or ():
                found = json.loads(line)
                said += found.pop("said")
                for key, value in found.items():
                    row[key] = max(row[key], value) if key in ("slowest", "memory") else row[key] + value
            if process.wait():
                errors.seek(0)
                text = errors.read()
                row["hangs" if "Timeout (" in text else "crashes"] += 1
                said.append(text[-20_000:])
    row["seconds"] = round(time.monotonic() - begin)
    (out / f"{name.replace(' ', '_')}.txt").write_text("\n\n".join(said))
    return row


def child(name: str, seconds: float, start: int) -> int:
    """Runs batches until the time is over; prints what came of each."""
    from tests.fuzz.readers import PROPERTIES, check

    values = PROPERTIES[name].values
    end, different, base = time.monotonic() + seconds, set[str](), None
    with tempfile.TemporaryDirectory() as directory:
        for number in itertools.count(start):
            cases, slowest = 0, 0.0

            @seed(number)
            @settings(max_examples=BATCH, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
                      suppress_health_check=list(HealthCheck))  # fmt: skip
            @given(values)
            def holds(value: Any) -> None:
                nonlocal cases, slowest
                faulthandler.dump_traceback_later(HANG, exit=True)
                began = time.monotonic()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    check(name, value, Path(directory))
                faulthandler.cancel_dump_traceback_later()
                cases, slowest = cases + 1, max(slowest, time.monotonic() - began)

            said = []
            try:
                holds()
            except Exception as error:
                what = f"{type(error).__name__}: {str(error)[:80]}"
                if what not in different:
                    said.append("".join(traceback.format_exception(error)))
                different.add(what)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            base = base or memory
            if memory > base + MEMORY:
                said.append(f"{memory} MiB after seed {number}, {base} after the first")
                different.add("memory")
            done = {"cases": cases, "failures": len(said), "slowest": round(slowest, 2), "memory": memory}
            print(json.dumps({**done, "said": said}), flush=True)
            if time.monotonic() > end or len(different) >= MOST_FAILURES:
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
