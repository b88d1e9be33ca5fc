"""Success against what it costs: which attacks no other beats at their price."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transferjax.report.style import COLUMN, PAGE, legend_below, look, style, subplots
from transferjax.report.tables import NOISE, check, of_surrogates, ordered

COLUMNS = ("mechanism", "attack", "gradients", "target")
DISTORTIONS = {"ssim": "SSIM to the clean image", "l2": "L2 distance", "lpips": "LPIPS"}
"""How far attacked images are from clean ones, where results say it."""


def costs(results: pd.DataFrame, value: str = "asr_correct") -> pd.DataFrame:
    """A row per mechanism and attack: `gradients`, means of `value` and `DISTORTIONS`, and `front`.

    On the front is what no attack on that surrogate equals at the same price or below.

    Args:
        results: tidy rows of one goal and budget with `COLUMNS` and `value`; noise is left out.
        value: the success.
    """
    rows = of_surrogates(check(results, [*COLUMNS, value]))
    shown = [value, *(name for name in DISTORTIONS if name in rows)]
    found = rows.groupby(["mechanism", "attack", "gradients"], sort=False)[shown].mean().reset_index()
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
        figure, [axes] = subplots(1, len(mechanisms), width, 3.2, sharey=True)
        for axis, mechanism in zip(axes, mechanisms, strict=True):
            rows = found[found["mechanism"] == mechanism].sort_values("gradients")
            axis.plot(rows["gradients"], 100 * rows[value], linestyle="none", label="attacks", **look(0))
            front = rows[rows["front"]]
            axis.plot(front["gradients"], 100 * front[value], label="the best so far", **look(1))
            for row in front.itertuples():
                place = (row.gradients, 100 * getattr(row, value))
                axis.annotate(
                    str(row.attack), place, xytext=(3, 3), textcoords="offset points", fontsize="x-small"
                )
            if not np.isnan(noise):
                axis.axhline(100 * noise, color="#777777", linestyle=":", label=NOISE)
            axis.set(title=str(mechanism), xscale="log", xlabel="gradients per image", ylabel="success (%)")
            axis.label_outer()
        legend_below(figure, axes[0])
    return figure
