"""Publishes a run of a paper's config: tables, rows, pages and one page with the state of all.

python -m experiments.publish --config=configs/sp2024.py:cpu --report=runs/store/studies/sp2024-cpu \
    --out=docs/results/sp2024/cpu

What is not done yet is missing there, and said to be, also what the scale has and a variant leaves out; run
it again when more is. The page begins with what `notes.md` there says, if it is there. The directory above
gets the page of all scales.
"""

import argparse
import re
import runpy
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from transferjax.files import write_text
from transferjax.report.agreement import MEAN

FEW = 5
"""Rows below which ρ takes so few values that it says nothing."""


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


class State(NamedTuple):
    """How far a view is: rows, ρ with the paper, the share on the paper's side, its page; or nothing."""

    rows: int
    rho: str
    side: str
    page: str


def _of(out: Path, view: str) -> State | None:
    rows, page, order = (out / f"{view}{end}" for end in (".csv", ".md", "_order.csv"))
    if not rows.exists():
        return None
    rho = side = ""
    if order.exists() and len(ranked := pd.read_csv(order)):
        if "target" in ranked and (ranked["target"] == MEAN).any():
            ranked = ranked[ranked["target"] == MEAN]
        told = ranked.loc[ranked["rows"] >= FEW, "spearman"].dropna()
        ends = dict.fromkeys(f"{end:.2f}" for end in (told.min(), told.max()))
        rho = " to ".join(ends) if len(told) else "of too few rows"
        share = ranked["same_side"].dropna()
        side = f"{100 * share.mean():.0f} %" if len(share) else ""
    return State(len(pd.read_csv(rows)), rho, side, page.name if page.exists() else "")


def _line(out: Path, view: str) -> str:
    found = _of(out, view)
    if found is None:
        return f"| {view} | – | not done | | |"
    link = f"[page]({found.page})" if found.page else ""
    return f"| {view} | {found.rows} | {found.rho} | {found.side} | {link} |"


def overview(
    folder: Path, views: Mapping[str, Sequence[str]], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The page of a config: every view and claim at every scale.

    Args:
        folder: which has a directory for each scale that is published.
        views: scale -> its views.
        elsewhere: what the paper has besides -> the config that draws it.
    """
    names, scales = list(dict.fromkeys(view for each in views.values() for view in each)), list(views)
    heads = [f"[{scale}]({scale}/README.md)" if (folder / scale).exists() else scale for scale in scales]
    table = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(scales)]

    def cell(scale: str, view: str) -> str:
        found = _of(folder / scale, view)
        if found is None:
            return "not run" if view in views[scale] else "–"
        ranked = f", ρ {found.rho}" if found.rho else ""
        return (f"[{found.rows} rows]({scale}/{found.page})" if found.page else f"{found.rows} rows") + ranked

    table += [f"| {view} | " + " | ".join(cell(scale, view) for scale in scales) + " |" for view in names]
    lines = [f"# {folder.name}: what is done", "", *table, ""]
    lines += [f"{view} is not run: `{config}`.  " for view, config in elsewhere.items()]
    lines += [""] if elsewhere else []
    told = {s: _claims(folder / s) for s in scales if (folder / s / "claims.csv").exists()}
    if told:
        claims = list(dict.fromkeys(claim for found in told.values() for claim in found))
        lines += [f"| claim | {' | '.join(told)} |", "|---|" + "---|" * len(told)]
        lines += [
            f"| {claim} | " + " | ".join(found.get(claim, "–") for found in told.values()) + " |"
            for claim in claims
        ]
    return "\n".join(lines).rstrip() + "\n"


def _claims(out: Path) -> dict[str, str]:
    rows = pd.read_csv(out / "claims.csv", keep_default_na=False)
    return dict(zip(rows["claim"], rows["verdict"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="configs/<paper>.py:<variant>")
    parser.add_argument("--report", required=True, type=Path, help="the directory of the study's report")
    parser.add_argument("--out", required=True, type=Path, help="where to publish it")
    flags = parser.parse_args()
    file, _, variant = flags.config.partition(":")
    config = runpy.run_path(file)
    get_config = config["get_config"]
    c, whole = (get_config(*filter(None, [text])) for text in (variant, variant.partition(",")[0]))
    views = dict.fromkeys(name for config in (whole, c) for name, _, _ in config.views)
    try:
        print(publish(c.title, list(views), flags.report, flags.out))
        scales = {scale: [name for name, *_ in get_config(scale).views] for scale in config["SCALES"]}
        scales.pop("smoke", None)
        print(
            write_text(
                flags.out.parent / "README.md",
                overview(flags.out.parent, scales, config.get("ELSEWHERE", {})),
            )
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
