"""Publishes a run of a paper's config: tables, rows, pages and one page with the state of all.

python -m experiments.publish --config=configs/sp2024.py:cpu --report=runs/store/studies/sp2024-cpu \
    --out=docs/results/sp2024/cpu

What is not done yet is missing there, and said to be, also what the scale has and a variant leaves out; run
it again when more is. The page begins with what `notes.md` there says, if it is there.
"""

import argparse
import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from transferjax.files import write_text
from transferjax.report.agreement import MEAN


def publish(title: str, views: Sequence[str], report: Path, out: Path) -> Path:
    """Copies CSVs, pages and the pages' figures of these views, and writes `README.md`.

    Raises:
        FileNotFoundError: there is no report.
        ValueError: the report is another config's.
    """
    if not (report / "report.md").is_file():
        raise FileNotFoundError(f"{report} has no report.md: run the study there first")
    theirs = (report / "report.md").read_text().partition("\n")[0].removeprefix("# ")
    if theirs != title:
        raise ValueError(
            f"{report} reports {theirs!r}, and the config is {title!r}: give the --config it is of"
        )
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for file in sorted(report.glob("*.csv")):  # views that the config had once left theirs there too
        if any(file.stem == view or file.stem.startswith(f"{view}_") for view in views):
            shutil.copy(file, out)
    for page in sorted(report.glob("*.md")):
        if page.stem in views:
            shutil.copy(page, out)
            for figure in re.findall(r"\(figures/([^)]+\.png)\)", page.read_text()):
                shutil.copy(report / "figures" / figure, out / "figures")
    return write_text(out / "README.md", state(title, views, out))


def state(title: str, views: Sequence[str], out: Path) -> str:
    """The page that says at a glance what is done and how it compares; `notes.md` says what it means."""
    lines = [f"# {title}", ""]
    if (notes := out / "notes.md").exists():
        lines += [notes.read_text()]
    lines += ["| | rows | ρ with the paper, least to largest | same side of the baseline | |"]
    lines += ["|---|---:|---|---|---|", *(_line(out, view) for view in views), ""]
    lines += ["ρ is Spearman's over rows, of means over targets where there are targets (see the pages).", ""]
    if (claims := out / "claims.csv").exists():
        lines += ["| | claim | verdict | margin [95 %] | |", "|---:|---|---|---|---|"]
        lines += map(_claim, pd.read_csv(claims, keep_default_na=False).to_dict("records"))
    return "\n".join(lines) + "\n"


def _claim(row: dict[str, object]) -> str:
    margin = row["why"] or "{} [{}, {}] {}".format(
        *(_short(row[name]) for name in ("margin", "low", "high")), row["unit"]
    )
    return f"| {row['number']} | {row['claim']} | {row['verdict']} | {margin} | {row['place']} |"


def _short(number: object) -> str:
    """Three digits; a dash where there is no number."""
    return "–" if number == "" else f"{float(str(number)):.3g}"


def _line(out: Path, view: str) -> str:
    rows, page = out / f"{view}.csv", out / f"{view}.md"
    if not rows.exists():
        return f"| {view} | – | not done | | |"
    count, order, rho, side = len(pd.read_csv(rows)), out / f"{view}_order.csv", "", ""
    if order.exists() and len(ranked := pd.read_csv(order)):
        if "target" in ranked and (ranked["target"] == MEAN).any():
            ranked = ranked[ranked["target"] == MEAN]
        told = ranked["spearman"].dropna()
        rho = f"{told.min():.2f} to {told.max():.2f}" if len(told) else "too few rows"
        share = ranked["same_side"].dropna()
        side = f"{100 * share.mean():.0f} %" if len(share) else ""
    link = f"[page]({page.name})" if page.exists() else ""
    return f"| {view} | {count} | {rho} | {side} | {link} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="configs/<paper>.py:<variant>")
    parser.add_argument("--report", required=True, type=Path, help="the directory of the study's report")
    parser.add_argument("--out", required=True, type=Path, help="where to publish it")
    flags = parser.parse_args()
    file, _, variant = flags.config.partition(":")
    get_config = runpy.run_path(file)["get_config"]
    c, whole = (get_config(*filter(None, [text])) for text in (variant, variant.partition(",")[0]))
    views = dict.fromkeys(name for config in (whole, c) for name, _, _ in config.views)
    try:
        print(publish(c.title, list(views), flags.report, flags.out))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
