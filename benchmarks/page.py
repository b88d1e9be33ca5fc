"""Writes `benchmarks/README.md` from `benchmarks/results`: for each benchmark a table and a picture.

python benchmarks/page.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from harness import HERE, RESULTS

HEAD = """# Benchmarks

Made by `python benchmarks/page.py` from `benchmarks/results/*.json`; `make bench` measures anew. Contenders
run in processes of their own and take turns; milliseconds are medians, with quartiles; the first call
compiles. A `+` behind a commit: with changes that were not committed. Results files that are not listed here
were made by benchmarks that do not use `harness.py` yet: they say their settings themselves.
"""


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page."""
    return "\n".join([HEAD, *(_section(name, report) for name, report in sorted(results.items()))])


def _section(name: str, report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{library} {said}" for library, said in report["versions"].items())
    figured = any("figures" in found for of in report["cases"].values() for found in of.values())
    lines = [
        f"## {report['question']}",
        "",
        f"`benchmarks/{name}.py` on {report['device']}, load {report['load']:.1f}; {versions}; "
        f"commit {report['commit']}, {report['time']}; "
        + ", ".join(f"{key} {value}" for key, value in report["settings"].items()),
        "",
        "| | | ms | quartiles | first call, s | memory, MiB |" + (" |" if figured else ""),
        "|---|---|---:|---:|---:|---:|" + ("---|" if figured else ""),
    ]
    for case, contenders in report["cases"].items():
        for place, (who, found) in enumerate(contenders.items()):
            low, high = (1e3 * seconds for seconds in found["quartiles_s"])
            lines.append(
                f"| {'' if place else case} | {who} | {1e3 * found['median_s']:.1f} | {low:.1f}–{high:.1f} "
                f"| {found['first_s']:.1f} | {found['peak_mib']} |" + (_figures(found) if figured else "")
            )
    return "\n".join([*lines, "", f"![{report['question']}](results/{name}.png)", ""])


def _figures(found: Mapping[str, Any]) -> str:
    return " " + ", ".join(f"{name} {value:.2g}" for name, value in found.get("figures", {}).items()) + " |"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A bar for each contender, with quartiles."""
    bars = [(case, who, found) for case, of in report["cases"].items() for who, found in of.items()]
    names = list(dict.fromkeys(who for _, who, _ in bars))
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.28 * len(bars)), layout="constrained")
    for row, (_, who, found) in enumerate(bars):
        median, (low, high) = found["median_s"], found["quartiles_s"]
        spread = [[1e3 * (median - low)], [1e3 * (high - median)]]
        axes.barh(row, 1e3 * median, xerr=spread, color=f"C{names.index(who)}", label=who)
    axes.set_yticks(range(len(bars)), [f"{case} · {who}" for case, who, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(report["question"], loc="left", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read() -> dict[str, dict[str, Any]]:
    """The results that the harness wrote."""
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return {name: report for name, report in reports.items() if "cases" in report}


def main() -> None:
    results = read()
    for name, report in results.items():
        draw(report, RESULTS / f"{name}.png")
    (HERE / "README.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
