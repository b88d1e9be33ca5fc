"""Publishes the intervals that a study's accuracy, smoothness and transfer stay within, of many seeds.

transferjax study --config=configs/digits.py:seeds=40,first=10 --store=runs/store
python -m experiments.intervals --report=runs/store/studies/digits-seeds=40,first=10 --seeds=10 \
    --out=docs/results/digits

`pytest -m slow tests/study/test_drift.py` trains ten other seeds with the code as it is and compares.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from transferjax.files import write_text
from transferjax.report.intervals import LEVEL, intervals, per_seed

PAGE = """# What the digits study comes to, and by how much seeds differ

Reference points: accuracy, smoothness, similarity and transfer of the quickstart's surrogates, {count} seeds
of each mechanism. The interval is where the mean of {seeds} other seeds is with a probability of {level:.1%}
if nothing but the seeds changed (`transferjax.report.intervals`). Smoothness is the largest eigenvalue of the
input Hessian (its intervals are of the logarithm), success the mean over the three targets. A change of the
code that leaves an interval changed what is studied: `pytest -m slow tests/study/test_drift.py` compares.

What they tell apart: networks without IR where IR is meant, or with it where it is not (a test takes it
away). What they do not: half of IR's weight from all of it (smoothness 4.8 against 4.6), and SAM from ST,
which differ by half of a seed's deviation here; what these do is held by closed forms (`tests/training`).

{table}
"""


def publish(report: Path, seeds: int, out: Path) -> Path:
    """Writes `intervals.csv` and `README.md`.

    Raises:
        FileNotFoundError: there is no report.
        ValueError: too few seeds.
    """
    if not (report / "transfer.csv").is_file():
        raise FileNotFoundError(f"{report} has no transfer.csv: run the study there first")
    frame = intervals(per_seed(pd.read_csv(report / "transfer.csv")), seeds)
    write_text(out / "intervals.csv", frame.to_csv(index=False, float_format="%.6g"))
    lines = ["| mechanism | | mean | from | to |", "|---|---|---:|---:|---:|"]
    for row in frame.itertuples():
        numbers = (row.mean, row.low, row.high)
        lines.append(f"| {row.mechanism} | {row.quantity} | {' | '.join(f'{n:.3g}' for n in numbers)} |")
    text = PAGE.format(count=frame["seeds"].min(), seeds=seeds, level=LEVEL, table="\n".join(lines))
    return write_text(out / "README.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", required=True, type=Path, help="the directory of the study's report")
    parser.add_argument("--seeds", type=int, default=10, help="of the runs that will be compared")
    parser.add_argument("--out", required=True, type=Path, help="where to publish")
    try:
        print(publish(**vars(parser.parse_args())))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
