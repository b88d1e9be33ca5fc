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
HERE, ON_GPU = "cpu", "gpu"
SCALES = {
    "sp2024": {"cpu": HERE, "cifar10": ON_GPU, "imagenette_cpu": HERE},
    **{paper: {"cpu": HERE} for paper in ("pgn", "tpa")},
    "gubri": {"cpu": HERE, "full": ON_GPU},
    **{name: {"cpu": HERE, "cifar10": ON_GPU} for name in ("frontier", "trainings")},
    **{name: {"": HERE} for name in ("cifar10_cpu", "cifar10_magnitudes", "digits")},
}
"""Scales whose costs are known without files of weights, and where they are meant to run."""


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
        "[`attacks.tpa`](catalogue/attacks/tpa.md), `metrics.transfer_loss_bound`",
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


SHOWS = {
    "sp2024": {
        "table2": "Table 2: transfer success of every training mechanism, CIFAR-10",
        "table3": "Table 3: the same on ImageNette",
        "table4": "Table 4: MI and DIM instead of PGD",
        "table5": "Table 5: LGV ensembles collected by SGD, SAM, SAM&JR",
        "table6": "Table 6: what smoothness and similarity explain, Pearson and R²",
        "table7": "Table 7: targets that were trained otherwise, difference to ST",
        "table8": "Table 8: targets that were trained otherwise, success",
        "table10": "Table 10: recognition services, from records of what they answered",
        "table11": "Table 11: the hyper-parameters",
        "table12": "Table 12: clean accuracy and its gap",
        "table13": "Table 13: AutoAttack",
        "smoothness": "the official notebook's smoothness of ImageNette's surrogates",
        "figure2": "Figure 2: smoothness and similarity against AT's magnitude",
        "figure3": "Figure 3: smoothness at every magnitude",
        "figures4to6": "Figures 4 to 6: similarity to targets at every magnitude",
        "figures7to10": "Figures 7 to 10: transfer success at every magnitude, by target, goal and budget",
        "figure11": "Figure 11: similarity of mechanisms, means over pairs of different seeds",
        "hypothesis1": "Hypothesis 1: distribution shift of augmentations and their loss of similarity",
        "theorem1": "Theorem 1: every term of the bound",
    },
    "sp2024_vit": {"table9": "Table 9: vision transformers as surrogates"},
    "pgn": {
        "attacks": "the table of attacks on single surrogates",
        "combined": "combined with DIM, TIM, SIM, Admix and SSA",
        "ensemble": "an ensemble of surrogates",
        "defences": "against defences",
        "exact": "the exact Hessian against the finite difference",
        "zeta": "ablation of ζ",
        "neighbors": "ablation of N",
        "delta": "ablation of δ",
        "flatness": "flatness of what each attack finds",
        "surfaces": "loss surfaces around adversarial images",
    },
    "tpa": {
        "table1": "Table 1: attacks at 16/255",
        "table2": "Table 2: secured targets",
        "table3": "Table 3: targeted",
        "table5": "Table 5: with stronger attacks and defences",
        "table6": "Table 6: more steps",
        "eps": "other budgets",
        "weight": "ablation of λ (α in the code)",
        "beta": "ablation of b, the neighbourhood",
        "radius": "ablation of k, the forward step",
        "neighbors": "ablation of N",
        "flatness": "flatness and the bound's components against success",
        "attention": "attention maps",
    },
    "gubri": {
        "training": "success along training, with λ₁ and trace",
        "decays": "where the rate decays",
        "minimizers": "seven minimizers with small and large neighbourhoods, at their best epoch",
        "flatness": "λ₁ and trace of each minimizer along training",
        "rho": "SAM's ρ",
        "techniques": "with techniques for transfer",
        "lgv": "with LGV",
        "D_R": "trained on robust features",
        "D_NR": "trained on non-robust features",
        "D_rand": "trained on D_rand",
        "D_det": "trained on D_det",
    },
}
"""What a view is in its paper."""


def views_of(name: str, module: ModuleType) -> list[tuple[str, str]]:
    """(name, kind) of each view, at any of the scales that a config has."""
    given = inspect.signature(module.get_config).parameters
    scales = [
        scale for scale in ("smoke", *SCALES.get(name, ())) if given and scale in (module.__doc__ or "")
    ]
    found: dict[str, str] = {}
    for scale in scales or [""]:
        found |= {view: kind for view, kind, _ in module.get_config(*filter(None, [scale])).views}
    order = list(SHOWS.get(name, {}))
    return sorted(found.items(), key=lambda view: order.index(view[0]) if view[0] in order else len(order))


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
            SHOWS.get(name, {}).get(view) or summary(VIEWS[kind].draw),
            "; ".join(known.get((name, view), [])),
            result_of(name, view),
        )
        for view, kind in views_of(name, module)
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
transferjax study --config=configs/<config>.py:<scale> --store=runs/store --views=<view> [--dry_run]
```

in a checkout, where `transferjax` is `.venv/bin/transferjax` after `make quickstart`.

`--dry_run` says what is missing and what it costs on this machine. Costs below are the planner's estimates
for two CPU cores and an empty store, of one view alone; GPU hours assume the speed that `--dry_run` names.
This page is made from the configs.

{chr(10).join(parts)}
## Studies of this library

{rest}"""


def pages() -> dict[str, str | bytes]:
    """By place in the site."""
    return {"papers.md": page()}
