"""Why do some surrogates transfer? Regression, magnitudes, similarity and smoothness, as sections of a page.

Not imported with the rest of the report: the regression needs statsmodels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transferjax.metrics.bootstrap import bootstrap_interval
from transferjax.metrics.regression import FACTORS, explain
from transferjax.report.curves import correlation_intervals, metric_by_strength, metric_curves
from transferjax.report.maps import similarity_heatmap
from transferjax.report.markup import slug
from transferjax.report.page import Section, split, surrogates_section
from transferjax.report.tables import (
    Table,
    apart,
    best_of,
    check,
    explained_table,
    of_surrogates,
    ordered,
    pivot,
    several,
    significant,
)


def similarity_section(similarities: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Section:
    """Figures 4-6 and 11: expected similarity and infimum of every pair of models.

    Args:
        similarities: `[A, T, n]` over a data set, of `metrics.similarity_matrix`.
        rows, columns: the models' names.
    """
    found = np.asarray(similarities)
    return similarity_maps(found.mean(-1), found.min(-1), found.shape[-1], rows, columns)


def similarity_maps(
    expected: np.ndarray, infimum: np.ndarray, images: int, rows: Sequence[str], columns: Sequence[str]
) -> Section:
    """The same of means and infima `[A, T]` over so many images; NaN leaves a cell empty."""
    return Section(
        "Gradient similarity",
        f"Cosine between two models' input gradients of the loss, over {images} images: its mean, and "
        "its infimum, which is what Theorem 1 asks for.",
        [],
        {
            "similarity": (similarity_heatmap(expected, rows, columns), "Expected gradient similarity."),
            "similarity_infimum": (
                similarity_heatmap(infimum, rows, columns, "smallest similarity"),
                "Infimum of the gradient similarity over the images.",
            ),
        },
    )


def smoothness_section(eigenvalues: Mapping[str, np.ndarray]) -> Section:
    """Mean and supremum of each model's top eigenvalues; see `smoothness_table`."""
    text = (
        "Top eigenvalue of the input Hessian of the cross-entropy, image by image. ± is half the bootstrap "
        "interval (95 %) over images; that of a supremum only says how much one image decides."
    )
    return Section("Smoothness", text, [smoothness_table(eigenvalues)], {})


def smoothness_table(eigenvalues: Mapping[str, np.ndarray], level: float = 0.95) -> Table:
    """Mean and supremum of each model's top eigenvalues over images, ± half the bootstrap interval.

    Args:
        eigenvalues: model -> top input-Hessian eigenvalues `[n]`.
        level: of the intervals.
    """
    center, half = {}, {}
    for name, values in eigenvalues.items():
        found = {
            head: bootstrap_interval(jax.random.key(0), jax.numpy.asarray(values), statistic, level=level)
            for head, statistic in (("mean", jax.numpy.mean), ("supremum", jax.numpy.max))
        }
        center[name] = {("top eigenvalue λ₁", head): float(i.estimate) for head, i in found.items()}
        half[name] = {("top eigenvalue λ₁", head): float(i.high - i.low) / 2 for head, i in found.items()}
    means, errors = (pd.DataFrame.from_dict(cells, orient="index") for cells in (center, half))
    title = "Model smoothness over images (lower is smoother)"
    return Table(title, means, errors, best_of(means, False, significant), significant, "model")


def regression_section(results: pd.DataFrame, goal: str) -> Section:
    """Table 6 and its intervals for one goal and one attack, a point for each surrogate.

    Smoothness is −λ₁ here, as in the paper: high is smooth, and a positive r says that smooth transfers.

    Args:
        results: tidy rows of the report; with `fooling_rate` among them, that is a factor too.
        goal: `"untargeted"` or `"targeted"`.

    Raises:
        ValueError: rows of several attacks, whose points would not be independent.
    """
    results = of_surrogates(results)
    attacks = ordered(results["attack"]) if "attack" in results else []
    if len(attacks) > 1:
        raise ValueError(f"results of the attacks {attacks}: expected one; pass the rows of each by itself")
    chosen = results[results["goal"] == goal]
    explained = explain(chosen.assign(smoothness=-chosen["smoothness"]))
    surrogates = chosen[["mechanism", "seed"]].drop_duplicates()
    figures = {
        f"{statistic}_{goal}": (correlation_intervals(explained, goal, statistic), caption)
        for statistic, caption in (
            ("pearson", "Pearson correlation of transfer success with each factor, 95 % intervals."),
            (
                "r_squared",
                "R² of least squares on transfer success, 95 % intervals.",
            ),
        )
        if (explained["statistic"] == statistic).any()
    }
    names = ", ".join(name.replace("_", " ") for name in FACTORS if name in results)
    text = (
        f"Correlation of transfer success{f' of {attacks[0]}' if attacks else ''} with {names} over "
        f"{len(surrogates)} surrogates, and R² of least squares on two and on all of them. Smoothness is −λ₁ "
        "as in the paper: high is smooth. Intervals (95 %) are over mechanisms, where they have "
        "seeds: two seeds of one are no two surrogates."
    )
    title = f"What explains {goal} transfer" + "".join(f": {attack}" for attack in attacks)
    return Section(title, text, [explained_table(explained, goal)], figures)


def by_magnitude(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of mechanisms that have a magnitude, "IR_3" as mechanism "IR" and `tau` 3, and those of ST."""
    name, _, tau = (results["mechanism"].str.rpartition("_")[i] for i in range(3))
    found = results.assign(mechanism=name.where(name != "", tau), tau=pd.to_numeric(tau, errors="coerce"))
    return found[found["tau"].notna() | (found["mechanism"] == "ST")]


SHOWN = ("smoothness", "accuracy", "similarity", "transfer")
"""What `magnitude_section` shows."""
CURVATURES = {"smoothness": "input-Hessian λ₁", "weight_eigenvalue": "weight-Hessian λ₁"}


def magnitude_section(
    results: pd.DataFrame,
    error: str = "half_range",
    show: Sequence[str] = SHOWN,
    mechanisms: Sequence[str] = (),
    x: str = "tau",
    xlabel: str | Mapping[str, str] = "",
) -> Section:
    """Every quantity against the magnitude of the mechanism: the S&P paper's Figures 2, 3 and 7-10.

    Args:
        results: tidy rows of mechanisms such as "IR_3"; a column `weight_eigenvalue` is shown too.
        error: over seeds, see `tables.spread`.
        show: of `SHOWN`.
        mechanisms: whose curves; all by default.
        x: `"tau"`, or a column that holds the magnitude itself, such as ε of adversarial training.
        xlabel: what x is, with its unit; the column's name if empty. By mechanism, where each has its own:
            these are shown then, each in a panel by itself.

    Raises:
        ValueError: something unknown to show, or a column that is not there.
    """
    if unknown := set(show) - set(SHOWN):
        raise ValueError(
            f"show={tuple(show)}: unknown {sorted(unknown)}; expected some of {', '.join(SHOWN)}"
        )
    tidy = by_magnitude(check(results))
    if x not in tidy:
        raise ValueError(f"x={x!r} is no column of the results, which have {', '.join(tidy)}")
    if mechanisms:
        tidy = tidy[tidy["mechanism"].isin((*mechanisms, "ST"))]

    def curves(rows: pd.DataFrame, value: str, label: str, panel: str | None = None, **look: Any) -> Figure:
        if isinstance(xlabel, str):
            look |= {"magnitude": x, "xlabel": xlabel, "panel": panel}
            return metric_curves(rows, value, label, error=error, **look)
        return metric_by_strength(rows, value, label, xlabel, x=x, lines=panel, error=error, **look)

    figures, tables = _of_surrogates(tidy, error, show, x, curves)
    if "similarity" in show:
        pairs = tidy.drop_duplicates(["mechanism", "tau", "seed", "target"])
        figure = curves(pairs, "similarity", "gradient similarity", panel="target")
        figures["similarity"] = (figure, "Gradient similarity to each target.")
    if "transfer" in show:
        figures |= _transfer_curves(tidy, curves)
    prefix = "magnitude_" + "".join(f"{part}_" for part in (*mechanisms, *(() if x == "tau" else (x,))))
    text = "What each mechanism's magnitude τ does to the surrogate and to its transfer; the level is ST."
    named = {f"{prefix}{name}": figure for name, figure in figures.items()}
    return Section("Mechanisms and magnitudes", text, tables, named)


def _of_surrogates(
    tidy: pd.DataFrame, error: str, show: Sequence[str], x: str, curves: Callable[..., Figure]
) -> tuple[dict[str, tuple[Figure, str]], list[Table]]:
    """Curves of what a surrogate has, and tables of its curvatures."""
    curvatures = {n: t for n, t in CURVATURES.items() if n in tidy and "smoothness" in show}
    chosen = curvatures | ({"surrogate_accuracy": "test accuracy (%)"} if "accuracy" in show else {})
    keys = list(dict.fromkeys(["mechanism", "tau", "seed", x]))
    seeds = tidy.groupby(keys, sort=False, dropna=False)[list(chosen)].mean().reset_index()
    figures = {
        name: (
            curves(seeds, name, title, log=name in curvatures),
            f"{title[0].upper() + title[1:]} against the mechanism's magnitude.",
        )
        for name, title in chosen.items()
    }
    tables = []
    for name, title in curvatures.items():
        center, err = pivot(seeds.fillna({"tau": 0}).astype({"tau": int}), name, "mechanism", ("tau",), error)
        center, err = (frame.sort_index(axis=1) for frame in (center, err))
        center.columns = err.columns = pd.MultiIndex.from_tuples([("τ", str(tau)) for tau in center])
        title = f"{title[0].upper() + title[1:]} by magnitude (ST is τ = 0)"
        tables.append(Table(title, center, err, center.eq(center.min().min()), significant))
    return figures, tables


def _transfer_curves(tidy: pd.DataFrame, curves: Callable[..., Figure]) -> dict[str, tuple[Figure, str]]:
    """Transfer success by target, a figure for each attack, goal and budget."""
    figures = {}
    for attack, own in apart(tidy, several(tidy, ("attack",))):
        suffix, of = (f"_{slug(attack)}", f" of {attack}") if attack else ("", "")
        for (goal, eps), rows in own.groupby(["goal", "eps_255"], sort=False):
            figures[f"{goal}_{eps:g}{suffix}"] = (
                curves(rows, "asr", "transfer success (%)", panel="target"),
                f"{str(goal).capitalize()} transfer success{of} at {eps:g}/255.",
            )
    return figures


def analysis_sections(
    results: pd.DataFrame,
    similarities: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    eigenvalues: Mapping[str, np.ndarray],
    error: str = "half_range",
) -> list[Section]:
    """All of it; write the sections with `report.write_sections`.

    Args:
        results: tidy, see `tables.COLUMNS`, optionally with `fooling_rate`.
        similarities, rows, columns: see `similarity_section`.
        eigenvalues: see `smoothness_table`.
        error: of the curves by mechanism, see `tables.spread`.
    """
    goals = [str(goal) for goal in ordered(check(results)["goal"])]
    smoothness = smoothness_section(eigenvalues)._replace(figures=surrogates_section(results, error).figures)
    regressions = split(
        of_surrogates(results), lambda rows: [regression_section(rows, goal) for goal in goals], ("attack",)
    )
    swept = (by_magnitude(results).groupby("mechanism")["tau"].nunique() > 1).any()
    magnitudes = [magnitude_section(results, error)] if swept else []
    return [*regressions, *magnitudes, similarity_section(similarities, rows, columns), smoothness]
