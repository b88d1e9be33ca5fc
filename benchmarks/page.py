"""Writes `benchmarks/README.md` from `benchmarks/results`: for each benchmark a table and a picture.

python benchmarks/page.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from harness import HERE, RESULTS
from matplotlib.figure import Figure

HEAD = """# Benchmarks

Made by `python benchmarks/page.py` from `benchmarks/results/*.json`; `make bench` measures anew. Contenders
run in processes of their own and take turns; milliseconds are medians, with quartiles; the first call
compiles; `×` is the time over that of the first contender that ran. `-dirty` behind a commit: with changes
that were not committed.
"""


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page."""
    return "\n".join([HEAD, *(_section(name, report) for name, report in sorted(results.items()))])


def _section(name: str, report: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{package} {said}" for package, said in report["packages"].items())
    lines = [
        f"## {report['question']}",
        "",
        f"`benchmarks/{name}.py` on {report['device']}, {report['cores']} cores, load {report['load']:.1f}; "
        f"{packages}; commit {report['commit']}, {report['time']}; "
        + ", ".join(f"{key} {_short(value)}" for key, value in report["settings"].items()),
        "",
    ]
    lines += [*(_rows(report["rows"]) if "rows" in report else _cases(report["cases"])), ""]
    if pictured(report):
        lines += [f"![{report['question']}](results/{name}.png)", ""]
    return "\n".join(lines)


def pictured(report: Mapping[str, Any]) -> bool:
    """Whether there is something to draw: times of contenders, or two columns of rows."""
    return "cases" in report or "axes" in report


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rows(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    return lines + [
        f"| {name} | " + " | ".join(str(row.get(column, "")) for column in columns) + " |"
        for name, row in rows.items()
    ]


def _cases(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    figured = any("figures" in found for of in cases.values() for found in of.values())
    lines = [
        "| | | ms | quartiles | × | first call, s | memory, MiB |" + (" |" if figured else ""),
        "|---|---|---:|---:|---:|---:|---:|" + ("---|" if figured else ""),
    ]
    for case, contenders in cases.items():
        first = _first(contenders)
        for place, (who, found) in enumerate(contenders.items()):
            if "failed" in found:
                lines.append(
                    f"| {'' if place else case} | {who} | failed | | | | |" + (" |" if figured else "")
                )
                continue
            low, high = (1e3 * seconds for seconds in found["quartiles_s"])
            lines.append(
                f"| {'' if place else case} | {who} | {1e3 * found['median_s']:.1f} | {low:.1f}–{high:.1f} "
                f"| {found['median_s'] / first:.2f} | {found['first_s']:.1f} | {found.get('peak_mib', '')} |"
                + (_figures(found) if figured else "")
            )
    return lines


def _first(contenders: Mapping[str, Mapping[str, Any]]) -> float:
    """The time in which all are told."""
    return next((found["median_s"] for found in contenders.values() if "median_s" in found), 1.0)


def _figures(found: Mapping[str, Any]) -> str:
    return " " + ", ".join(f"{name} {value:.3g}" for name, value in found.get("figures", {}).items()) + " |"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A bar for each contender; of rows, a point for each."""
    figure = (_bars if "cases" in report else _points)(report)
    figure.axes[0].spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_title(report["question"], loc="left", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _points(report: Mapping[str, Any]) -> Figure:
    """One column of rows against another, with their names."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    across, up = report["axes"]
    for name, row in report["rows"].items():
        axes.scatter(row[across], row[up], color="C0")
        axes.annotate(name, (row[across], row[up]), fontsize=7, xytext=(4, 2), textcoords="offset points")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.margins(x=0.15)
    return figure


def _bars(report: Mapping[str, Any]) -> Figure:
    """In times of the case's first, with quartiles."""
    every = [(case, who, found) for case, of in report["cases"].items() for who, found in of.items()]
    bars = [bar for bar in every if "failed" not in bar[2]]
    names = list(dict.fromkeys(who for _, who, _ in bars))
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.28 * len(bars)), layout="constrained")
    for row, (case, who, found) in enumerate(bars):
        first = _first(report["cases"][case])
        median, low, high = (seconds / first for seconds in (found["median_s"], *found["quartiles_s"]))
        spread = [[max(median - low, 0)], [max(high - median, 0)]]
        axes.barh(row, median, xerr=spread, color=f"C{names.index(who) % 10}")
    axes.set_yticks(range(len(bars)), [f"{case} · {who}" for case, who, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set_xlabel("times the first contender's time")
    return figure


def read() -> dict[str, dict[str, Any]]:
    """All results."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def main() -> None:
    results = read()
    for name, report in results.items():
        if pictured(report):
            draw(report, RESULTS / f"{name}.png")
    (HERE / "README.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
