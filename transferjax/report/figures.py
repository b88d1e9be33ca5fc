"""The report's figures, as functions from tidy results to matplotlib figures."""

from collections.abc import Hashable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transferjax.report.style import (
    COLUMN,
    MARKERS,
    PAGE,
    SEQUENTIAL,
    legend_below,
    log_ticks,
    look,
    style,
    subplots,
)
from transferjax.report.tables import apart, check, of_surrogates, ordered, pivot, several, spread


def asr_by_mechanism(
    results: pd.DataFrame, goal: str = "untargeted", error: str = "half_range", rows: str = "mechanism"
) -> Figure:
    """Transfer success of each mechanism: one panel per budget, one marker per target, errors over seeds.

    `rows="attack"` shows attacks instead, of one surrogate.
    """
    chosen = check(results)[results["goal"] == goal]
    names, targets, budgets = (ordered(chosen[name]) for name in (rows, "target", "eps_255"))
    center, err = pivot(chosen, "asr", rows, ("eps_255", "target"), error)
    offsets = np.linspace(-0.28, 0.28, len(targets)) if len(targets) > 1 else [0.0]
    height = 0.9 + 0.34 * max(len(names), 3) + 0.2 * -(-len(targets) // 4)
    with style():
        width = PAGE if len(budgets) > 1 else COLUMN
        figure, [axes] = subplots(1, len(budgets), width, height, sharey=True)
        for axis, budget in zip(axes, budgets, strict=True):
            for index, (target, offset) in enumerate(zip(targets, offsets, strict=True)):
                if (budget, target) not in center:
                    continue
                values, errors = 100 * center[budget, target], 100 * err[budget, target].fillna(0)
                heights = np.arange(len(names)) + offset
                axis.errorbar(
                    values, heights, xerr=errors, linestyle="none", label=str(target), **look(index)
                )
            axis.set(title=f"ε = {budget:g}/255", xlabel=f"{goal} success (%)", xlim=(-2, 102))
            axis.set_yticks(range(len(names)), [str(name) for name in names])
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.grid(visible=False, axis="y")
            for border in np.arange(0.5, len(names) - 1):
                axis.axhline(border, color="#eeeeee", linewidth=0.6, zorder=0)
        legend_below(figure, axes[0])
    return figure


def log_scale(values: pd.Series) -> bool:
    """Whether positive values span enough to need a logarithmic axis."""
    values = values.dropna()
    return bool(len(values) and values.min() > 0 and values.max() > 5 * values.min())


def of_plane(results: pd.DataFrame, goal: str, eps_255: float | None) -> tuple[str, pd.DataFrame]:
    """The rows that give a plane its colour, by name: "MI, untargeted, ε = 8/255"; the median budget if None.

    Raises:
        ValueError: rows of several attacks, whose points would lie on each other.
    """
    chosen = of_surrogates(check(results)[results["goal"] == goal])
    if several(chosen, ("attack",)):
        attacks = ordered(chosen["attack"])
        raise ValueError(f"results of the attacks {attacks}: expected one; pass the rows of each by itself")
    if eps_255 is None:
        budgets = np.unique(chosen["eps_255"])
        eps_255 = float(budgets[len(budgets) // 2])
    return next(apart(chosen[chosen["eps_255"] == eps_255]))


def smoothness_similarity_plane(
    results: pd.DataFrame, goal: str = "untargeted", eps_255: float | None = None
) -> Figure:
    """Where each surrogate lies between smoothness and similarity, coloured by its transfer success.

    Smoothness is the mean top input-Hessian eigenvalue λ₁: smooth is to the left, similar is up. One panel
    per target, one marker per mechanism, one point per seed.

    Args:
        results: tidy, see `tables.COLUMNS`.
        goal, eps_255: which rows give the colour; the median budget if None.
    """
    name, chosen = of_plane(results, goal, eps_255)
    mechanisms, targets = ordered(chosen["mechanism"]), ordered(chosen["target"])
    percent = 100 * chosen["asr"]
    scale = mpl.colors.Normalize(percent.min(), max(percent.max(), percent.min() + 1e-9))
    columns = min(len(targets), 4)
    rows = -(-len(targets) // columns)
    with style():
        height = 2.1 * rows + 0.4 + 0.2 * -(-len(mechanisms) // 6)
        figure, axes = subplots(rows, columns, PAGE, height, sharex=True, sharey=True)
        flat = [axis for line in axes for axis in line]
        for axis in flat[len(targets) :]:
            axis.set_visible(False)
        for i, (axis, target) in enumerate(zip(flat, targets, strict=False)):
            _scatter(axis, chosen[chosen["target"] == target], mechanisms, scale)
            axis.set(title=str(target), xscale="log" if log_scale(chosen["smoothness"]) else "linear")
            if i + columns >= len(targets):  # the lowest panel of its column
                axis.set_xlabel("λ₁ (← smoother)")
                axis.tick_params(labelbottom=True)
        if log_scale(chosen["smoothness"]):
            log_ticks(flat[0].xaxis)  # all share it
        for line in axes:
            line[0].set_ylabel("gradient similarity")
        colors = mpl.cm.ScalarMappable(scale, SEQUENTIAL)
        figure.colorbar(colors, ax=flat[: len(targets)], label=f"success (%)\n{name}")
        marks = [
            mpl.lines.Line2D([], [], linestyle="none", color="#bbbbbb", label=str(mechanism), **mark)
            for mechanism, mark in zip(mechanisms, _marks(mechanisms), strict=True)
        ]
        legend_below(figure, marks, columns=6)
    return figure


def _marks(mechanisms: Sequence[Hashable]) -> list[dict[str, Any]]:
    """A marker each; where there are more mechanisms than markers, they come again with a heavy edge."""
    return [
        {
            "marker": MARKERS[index % len(MARKERS)],
            "markeredgecolor": "#444444" if index < len(MARKERS) else "#d55e00",
            "markeredgewidth": 0.5 if index < len(MARKERS) else 1.5,
        }
        for index in range(len(mechanisms))
    ]


def _scatter(
    axis: Axes, rows: pd.DataFrame, mechanisms: Sequence[Hashable], scale: mpl.colors.Normalize
) -> None:
    """One target's surrogates, a marker per mechanism."""
    for mechanism, mark in zip(mechanisms, _marks(mechanisms), strict=True):
        points = rows[rows["mechanism"] == mechanism]
        axis.scatter(
            points["smoothness"],
            points["similarity"],
            c=100 * points["asr"],
            norm=scale,
            cmap=SEQUENTIAL,
            marker=mark["marker"],
            s=30,
            edgecolor=mark["markeredgecolor"],
            linewidth=mark["markeredgewidth"],
        )
    axis.margins(0.12)


def against(rows: pd.DataFrame, x: str, y: str, name: str, xlabel: str, ylabel: str) -> Figure:
    """One column against another, a point for each row, which the legend names.

    Args:
        rows: with the columns x, y and `name`.
        x, y, name: columns; x is logarithmic where it spans enough.
        xlabel, ylabel: of the axes.
    """
    check(rows, (x, y, name))
    with style():
        figure, [[axis]] = subplots(1, 1, COLUMN, 2.3 + 0.16 * -(-len(rows) // 3))
        for index, row in enumerate(rows.to_dict("records")):
            axis.plot(row[x], row[y], linestyle="none", label=str(row[name]), **look(index))
        axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_scale(rows[x]) else "linear")
        axis.margins(0.15)
        if log_scale(rows[x]):
            log_ticks(axis.xaxis)
        legend_below(figure, axis, columns=3)
    return figure


def metric_by_mechanism(
    results: pd.DataFrame, value: str, label: str, error: str = "half_range", log: bool | None = None
) -> Figure:
    """One quantity of the surrogates (say `"smoothness"`) by mechanism, with its error over seeds."""
    results = of_surrogates(check(results, ("mechanism", "seed", value)))
    mechanisms = ordered(results["mechanism"])
    seeds = results.groupby(["mechanism", "seed"], sort=False)[value].mean()
    pairs = np.array([spread(seeds[mechanism], error) for mechanism in mechanisms])
    with style():
        figure, [[axis]] = subplots(1, 1, COLUMN, 0.7 + 0.24 * len(mechanisms))
        rows = range(len(mechanisms))
        axis.errorbar(pairs[:, 0], rows, xerr=np.nan_to_num(pairs[:, 1]), linestyle="none", **look(0))
        axis.set_yticks(rows, [str(name) for name in mechanisms])
        axis.set(xlabel=label, ylim=(len(mechanisms) - 0.5, -0.5))
        if log_scale(results[value]) if log is None else log:
            axis.set_xscale("log")
            log_ticks(axis.xaxis)
    return figure
