"""From a paper to the command: every view of the configs, its cost and its results, if there are any."""

import csv
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from docs.generate.catalogues import summary, table
from transferjax.study.views import VIEWS

ROOT = Path(__file__).parents[2]
COSTS = ROOT / "docs" / "costs.csv"
"""Made by `python -m docs.generate.costs`, which needs CIFAR-10."""


class Paper(NamedTuple):
    """Title, where it appeared, and whose configs, attacks and measures answer it."""

    title: str
    place: str
    configs: tuple[str, ...]
    pieces: str


PAPERS = (
    Paper(
        "Why Does Little Robustness Help? (Zhang et al.)",
        "IEEE S&P 2024",
        ("sp2024", "sp2024_vit"),
        "[training mechanisms](catalogue/mechanisms.md), `metrics.input_hessian_eigenvalues`, "
        "`metrics.gradient_similarity`, `metrics.transferability_bound`",
    ),
    Paper(
        "Boosting Adversarial Transferability by Achieving Flat Local Maxima (Ge et al.)",
        "NeurIPS 2023",
        ("pgn",),
        "[`attacks.pgn`](catalogue/attacks/pgn.md), `metrics.loss_surface`, `metrics.expected_gradient_norm`",
    ),
    Paper(
        "Transferability Bound Theory (Fan et al.)",
        "NeurIPS 2024",
        ("tpa",),
        "[`attacks.tpa`](catalogue/attacks/tpa.md), `metrics.gradient_norm`",
    ),
    Paper(
        "Going Further: Flatness at the Rescue of Early Stopping (Gubri et al.)",
        "2023",
        ("gubri",),
        "[SAM and its kin](catalogue/mechanisms.md), SWA and EMA, `metrics.worst_case_sharpness`, "
        "`metrics.weight_trace`, networks at any epoch of their training",
    ),
)


def configs() -> Iterator[tuple[str, ModuleType]]:
    """Configs that can be run, by name."""
    for file in sorted((ROOT / "configs").glob("*.py")):
        module = importlib.import_module(f"configs.{file.stem}")
        if hasattr(module, "get_config"):
            yield file.stem, module


def views_of(module: ModuleType) -> list[tuple[str, str]]:
    """(name, kind) of each view, at the smallest scale that a config has."""
    scales = bool(inspect.signature(module.get_config).parameters)
    smoke = "smoke" in (module.__doc__ or "")
    found = module.get_config("smoke" if smoke else "") if scales else module.get_config()
    return [(name, kind) for name, kind, _ in found.views]


def costs() -> dict[tuple[str, str], list[str]]:
    """(config, view) -> how long each scale takes, as the planner estimates."""
    found: dict[tuple[str, str], list[str]] = {}
    if COSTS.is_file():
        for row in csv.DictReader(COSTS.read_text().splitlines()):
            text = f"`:{row['scale']}` {row['cost']}" if row["scale"] else row["cost"]
            found.setdefault((row["config"], row["view"]), []).append(text)
    return found


def result_of(config: str, view: str) -> str:
    """A link to what was measured."""
    for place in (
        f"results/{config}/README.md",
        *(f"results/{config}/{s}/{view}.md" for s in ("cpu", "cifar10")),
    ):
        if (ROOT / "docs" / place).is_file():
            return f"[{'result' if place.endswith('README.md') else place.split('/')[2]}]({place})"
    return ""


def section(name: str, module: ModuleType) -> str:
    """A config: what it says of itself, and a row for each of its views."""
    known = costs()
    rows = [
        (
            f"`--views={view}`",
            summary(VIEWS[kind].draw),
            "; ".join(known.get((name, view), [])),
            result_of(name, view),
        )
        for view, kind in views_of(module)
    ]
    said = (module.__doc__ or "").strip()
    title, _, text = said.partition("\n\n")
    return f"### configs/{name}.py\n\n{' '.join(title.split())}\n\n{text}\n\n" + table(
        ("view", "shows", "cost", "result"), rows
    )


def page() -> str:
    """The map."""
    here = dict(configs())
    parts = []
    mapped = {name for paper in PAPERS for name in paper.configs}
    for paper in PAPERS:
        own = [section(name, here[name]) for name in paper.configs if name in here]
        none = "No config asks this paper's questions as a whole yet; its parts are there.\n"
        parts.append(
            f"## {paper.title}\n\n{paper.place}. In the library: {paper.pieces}.\n\n"
            + ("\n".join(own) or none)
        )
    rest = "\n".join(section(name, module) for name, module in here.items() if name not in mapped)
    return f"""# From a paper to the command

Every table and figure is a *view* of a config; `--views=` makes one, and what it shares with others is made
once:

```
python -m experiments.study --config=configs/<config>.py:<scale> --store=runs/store --views=<view> [--dry_run]
```

`--dry_run` says what is missing and what it costs on this machine. Costs below are the planner's estimates
for two CPU cores and an empty store, of one view alone; GPU hours assume the speed that `--dry_run` names.
This page is made from the configs.

{chr(10).join(parts)}
## Studies of this library

{rest}"""


def pages() -> dict[str, str | bytes]:
    """By place in the site."""
    return {"papers.md": page()}
