"""Publishes a run of `configs/sp2024.py`: tables, rows, pages and one page with the state of all.

python -m experiments.sp2024 --report=runs/store/studies/sp2024-cpu --out=docs/results/sp2024/cpu

What is not done yet is missing there, and said to be; run it again when more is.
"""

import re
import shutil
from pathlib import Path

import pandas as pd
from absl import app, flags

from transferjax.files import write_text
from transferjax.report.agreement import MEAN

_REPORT = flags.DEFINE_string("report", None, "the directory of the study's report", required=True)
_OUT = flags.DEFINE_string("out", None, "where to publish it", required=True)
VIEWS = (
    *(f"table{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)),
    *("figure2", "figure3", "figures4to6", "figures7to10", "figure11", "hypothesis1", "theorem1", "claims"),
)


def publish(report: Path, out: Path) -> Path:
    """Copies CSVs, pages and the pages' figures, and writes `README.md`.

    Raises:
        FileNotFoundError: there is no report.
    """
    if not (report / "report.md").is_file():
        raise FileNotFoundError(f"{report} has no report.md: run the study there first")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for file in sorted(report.glob("*.csv")):
        shutil.copy(file, out)
    for page in sorted(report.glob("*.md")):
        if page.stem in VIEWS:
            shutil.copy(page, out)
            for figure in re.findall(r"\(figures/([^)]+\.png)\)", page.read_text()):
                shutil.copy(report / "figures" / figure, out / "figures")
    return write_text(out / "README.md", state(out))


def state(out: Path) -> str:
    """The page that says at a glance what is done, and how it compares."""
    title = (out / "table2.md" if (out / "table2.md").exists() else out / "table3.md").name
    lines = [f"# The S&P 2024 paper at the scale `{out.name}`", ""]
    lines += ["| | rows | ρ with the paper, least to largest | same side of ST | |", "|---|---:|---|---|---|"]
    lines += [_line(out, view) for view in VIEWS]
    lines += [
        "",
        f"ρ is Spearman's over rows, of means over targets where there are targets (see {title}).",
        "",
    ]
    if (out / "claims.csv").exists():
        lines += ["| | claim | verdict | margin [95 %] | |", "|---:|---|---|---|---|"]
        for row in pd.read_csv(out / "claims.csv", keep_default_na=False).itertuples():
            margin = row.why or f"{_short(row.margin)} [{_short(row.low)}, {_short(row.high)}] {row.unit}"
            lines.append(f"| {row.number} | {row.claim} | {row.verdict} | {margin} | {row.place} |")
    return "\n".join(lines) + "\n"


def _short(number: object) -> str:
    """Three digits; a dash where there is no number."""
    return "–" if number == "" else f"{float(str(number)):.3g}"


def _line(out: Path, view: str) -> str:
    rows, page = out / f"{view}.csv", out / f"{view}.md"
    if not rows.exists():
        return f"| {view} | – | not done | | |"
    count, order, rho, side = len(pd.read_csv(rows)), out / f"{view}_order.csv", "", ""
    if order.exists():
        ranked = pd.read_csv(order)
        if "target" in ranked and (ranked["target"] == MEAN).any():
            ranked = ranked[ranked["target"] == MEAN]
        told = ranked["spearman"].dropna()
        rho = f"{told.min():.2f} to {told.max():.2f}" if len(told) else "too few rows"
        share = ranked["same_side"].dropna()
        side = f"{100 * share.mean():.0f} %" if len(share) else ""
    link = f"[page]({page.name})" if page.exists() else ""
    return f"| {view} | {count} | {rho} | {side} | {link} |"


def main(argv: list[str]) -> None:
    print(publish(Path(_REPORT.value), Path(_OUT.value)))


if __name__ == "__main__":
    app.run(main)
