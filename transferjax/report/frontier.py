"""Success against what it costs: which attacks no other beats at their price."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transferjax.report.style import COLUMN, PAGE, legend_below, look, style, subplots
from transferjax.report.tables import NOISE, check, of_surrogates, ordered

COLUMNS = ("mechanism", "attack", "gradients", "target")
DISTORTIONS = {"ssim": "SSIM to the clean image", "l2": "L2 distance", "lpips": "LPIPS"}
"""How far attacked images are from clean ones, where results say it."""


def costs(results: pd.DataFrame, value: str = "asr_correct") -> pd.DataFrame:
    """A row per mechanism and attack: `gradients`, means of `value`, `error` and `DISTORTIONS`, and `front`.

    On the front is what no attack on that surrogate equals at the same price or below. `name` is the attack's
    without the cost behind it, if that still tells all apart.

    Args:
        results: tidy rows of one goal and budget with `COLUMNS` and `value`; noise is left out.
        value: the success.
    """
    rows = of_surrogates(check(results, [*COLUMNS, value]))
    shown = [value, *(name for name in ("error", *DISTORTIONS) if name in rows)]
    found = rows.groupby(["mechanism", "attack", "gradients"], sort=False)[shown].mean().reset_index()
    names = [name.removesuffix(f" {cost:g}") for name, cost in found[["attack", "gradients"]].to_numpy()]
    found = found.assign(name=names)
    if found.duplicated(["mechanism", "name", "gradients"]).any():
        found["name"] = found["attack"]
    front = pd.Series(False, index=found.index)
    for _, group in found.groupby("mechanism", sort=False):
        ranked = group.sort_values(["gradients", value], ascending=[True, False])
        best = ranked[value].cummax().shift(fill_value=-np.inf)
        front[ranked.index] = ranked[value] > best
    return found.assign(front=front)


def success_by_cost(results: pd.DataFrame, value: str = "asr_correct") -> Figure:
    """Success against gradients per image, a panel per surrogate: every attack, the front, and noise.

    Args:
        results, value: as in `costs`; noise has its own rows.
    """
    found, noise = costs(results, value), results.loc[results["mechanism"] == NOISE, value].mean()
    mechanisms = ordered(found["mechanism"])
    with style():
        width = PAGE if len(mechanisms) > 1 else COLUMN
        figure, [axes] = subplots(1, len(mechanisms), width, 4.4, sharey=True)
        for axis, mechanism in zip(axes, mechanisms, strict=True):
            rows = found[found["mechanism"] == mechanism].sort_values("gradients")
            for _, path in rows.groupby("name", sort=False):
                axis.plot(path["gradients"], 100 * path[value], color="#bbbbbb", linewidth=0.6)
            axis.plot(rows["gradients"], 100 * rows[value], linestyle="none", label="attacks", **look(0))
            front = rows[rows["front"]]
            axis.plot(front["gradients"], 100 * front[value], label="the best so far", **look(1))
            if not np.isnan(noise):
                axis.axhline(100 * noise, color="#777777", linestyle=":", label=NOISE)
            axis.set(title=str(mechanism), xscale="log", xlabel="gradients per image", ylabel="success (%)")
            costed = sorted(set(rows["gradients"]))
            if len(costed) < 6:
                axis.set_xticks(costed, [f"{cost:g}" for cost in costed])
                axis.set_xticks([], minor=True)
            axis.label_outer()
        for axis, mechanism in zip(axes, mechanisms, strict=True):  # now that both have their limits
            rows = found[(found["mechanism"] == mechanism) & found[value].notna()].sort_values("gradients")
            _named(axis, rows.drop_duplicates("name", keep="last"), value)
        legend_below(figure, axes[0])
    return figure


def _named(axis: Axes, rows: pd.DataFrame, value: str) -> None:
    """Names to the right of an axis, each as near to the height of its point as the others let it."""
    from scipy.optimize import isotonic_regression  # slow, and no other page needs it

    rows = rows.sort_values(value)
    low, high = axis.get_ylim()
    line = 0.024 * (high - low) * np.arange(len(rows))
    wanted = 100 * rows[value].to_numpy() - line
    heights = np.minimum(isotonic_regression(wanted).x, high - line[-1]) + line if len(rows) else line
    for row, height in zip(rows.to_dict("records"), heights, strict=True):
        axis.annotate(
            row["name"],
            (row["gradients"], 100 * row[value]),
            (1.04, height),
            textcoords=axis.get_yaxis_transform(),
            fontsize=5.5,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#dddddd", "linewidth": 0.4, "shrinkA": 0},
        )
