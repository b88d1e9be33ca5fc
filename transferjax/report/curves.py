"""Figures made of lines: a quantity against a mechanism's magnitude, training curves, spectra, the fit."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from transferjax.report.style import COLORS, COLUMN, LINES, PAGE, legend_below, look, style, subplots
from transferjax.report.tables import check, ordered, percent, spread


def _panels(
    names: Sequence[object], height: float, share: str, sharex: bool = True
) -> tuple[Figure, list[Axes]]:
    """One axis per name, in rows of two or three on a page's width; a single one has a column's."""
    across = {1: 1, 2: 2, 4: 2}.get(len(names), 3)
    down = -(-len(names) // across)
    width = COLUMN if across == 1 else PAGE
    figure, axes = subplots(down, across, width, height * down + 0.45, sharex=sharex, sharey=share)
    flat = [axis for line in axes for axis in line]
    for axis in flat[len(names) :]:
        axis.set_visible(False)
    for i in range(len(names)):  # the lowest panel of each column has the ticks' labels
        flat[i].tick_params(labelbottom=not sharex or i + across >= len(names))
    return figure, flat[: len(names)]


def metric_curves(
    data: pd.DataFrame,
    value: str,
    label: str,
    *,
    magnitude: str = "tau",
    xlabel: str = "",
    panel: str | None = None,
    error: str = "half_range",
    baseline: str | None = "ST",
    log: bool = False,
) -> Figure:
    """A quantity against each mechanism's magnitude, with errors over seeds; the baseline is a band.

    Covers the S&P paper's Figures 2 (the budget of adversarial training), 3 and 7-10 (transfer, smoothness
    against the magnitude of augmentation and regularization) and 4-6 (gradient similarity), given their
    columns.

    Args:
        data: one row per mechanism, magnitude, seed (and panel): `mechanism`, `seed`, the magnitude's column,
            `value`.
        value: the column to show, a rate in percent.
        label: of the y axis.
        magnitude: the column on the x axis; the baseline's may be empty.
        xlabel: what it is, with its unit; its name if empty.
        panel: a column with one panel per value, say `"target"`.
        error: see `tables.spread`.
        baseline: a mechanism without magnitude, drawn as a level across.
        log: logarithmic y axis.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Figures 2-10.
    """
    data = percent(check(data, ["mechanism", "seed", magnitude, value, *([panel] if panel else [])]))
    mechanisms = [name for name in ordered(data["mechanism"]) if name != baseline]
    names = ordered(data[panel]) if panel else [""]
    xlabel = xlabel or ("magnitude τ" if magnitude == "tau" else magnitude)
    with style():
        figure, axes = _panels(names, 1.75, share="all")
        for axis, name in zip(axes, names, strict=True):
            rows = data[data[panel] == name] if panel else data
            for index, mechanism in enumerate(mechanisms):
                own = rows[rows["mechanism"] == mechanism]
                _curve(axis, own, magnitude, value, error, index, str(mechanism))
            _level(axis, rows.loc[rows["mechanism"] == baseline, value], error, str(baseline))
            ticks = sorted(data[magnitude].dropna().unique())
            if magnitude != "tau":  # a hyper-parameter spans powers of ten
                axis.set_xscale("log")
                axis.xaxis.set_minor_locator(NullLocator())
            axis.set(title=str(name), ylabel=label, xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])
            axis.set(xlabel=xlabel, yscale="log" if log else "linear")
            axis.label_outer(remove_inner_ticks=False)
        legend_below(figure, axes[0], columns=6 if len(names) > 1 else 4)
    return figure


def metric_by_strength(
    data: pd.DataFrame,
    value: str,
    label: str,
    xlabels: Mapping[str, str],
    *,
    x: str = "strength",
    lines: str | None = None,
    error: str = "half_range",
    baseline: str = "ST",
    log: bool = False,
) -> Figure:
    """A quantity against the hyper-parameter itself, a panel for each mechanism with an axis of its own.

    Args:
        data: one row per mechanism, magnitude, seed (and line): `mechanism`, `seed`, `x`, `value`.
        value, label, error, baseline, log: as in `metric_curves`.
        xlabels: what the hyper-parameter of each mechanism is, with its unit; these are the panels.
        x: the hyper-parameter's column; logarithmic where it spans more than a factor of 20.
        lines: a column with one curve per value, say `"target"`; the baseline's level is drawn for each.
    """
    data = percent(check(data, ["mechanism", "seed", x, value, *([lines] if lines else [])]))
    with style():
        figure, axes = _panels(list(xlabels), 1.9, share="all", sharex=False)
        for axis, (mechanism, xlabel) in zip(axes, xlabels.items(), strict=True):
            rows = data[data["mechanism"] == mechanism]
            shown = data[data["mechanism"].isin((mechanism, baseline))]
            for index, name in enumerate(ordered(rows[lines]) if lines else [""]):
                own = shown[shown[lines] == name] if lines else shown
                curve = own[own["mechanism"] == mechanism]
                _curve(axis, curve, x, value, error, index, str(name) or "the mechanism")
                level = own.loc[own["mechanism"] == baseline, value]
                colour = COLORS[index % len(COLORS)] if lines else "#777777"
                _level(axis, level, error, "" if lines else baseline, colour)
            _strengths(axis, rows[x])
            axis.set(title=mechanism, xlabel=xlabel, yscale="log" if log else "linear")
        figure.supylabel(label, fontsize="medium")
        legend_below(figure, axes[0], columns=6)
    return figure


def _strengths(axis: Axes, values: pd.Series) -> None:
    """Ticks at a hyper-parameter's values; labels where there is room for them."""
    ticks = np.array(sorted(values.dropna().unique()), float)
    scale = "log" if ticks.size and ticks[0] > 0 and ticks[-1] > 20 * ticks[0] else "linear"
    places = np.log(ticks) if scale == "log" else ticks
    labels, last = [], -np.inf
    for tick, place in zip(ticks, places, strict=True):
        room = place - last >= 0.16 * np.ptp(places)
        labels.append(f"{tick:g}" if room else "")
        last = place if room else last
    axis.set_xscale(scale)
    axis.set_xticks(ticks, labels)
    axis.xaxis.set_minor_locator(NullLocator())


def _curve(
    axis: Axes, rows: pd.DataFrame, magnitude: str, value: str, error: str, index: int, name: str
) -> None:
    """One mechanism's quantity against its magnitude, with errors over seeds."""
    groups = rows.groupby(magnitude)[value]
    points = np.array([(at, *spread(group, error)) for at, group in groups]).reshape(-1, 3)
    axis.errorbar(
        points[:, 0],
        points[:, 1],
        yerr=np.nan_to_num(points[:, 2]),
        label=name if len(rows) else None,
        linestyle=LINES[index % len(LINES)],
        **look(index),
    )


def _level(axis: Axes, values: pd.Series, error: str, name: str, color: str = "#777777") -> None:
    """A quantity without magnitude, as a line across with its band."""
    if values.empty:
        return
    center, half = spread(values, error)
    half = float(np.nan_to_num(half))
    axis.axhline(center, color=color, linewidth=1, linestyle=":", label=name)
    axis.axhspan(center - half, center + half, color=color, alpha=0.15)


def training_curves(
    history: pd.DataFrame,
    values: Mapping[str, str],
    *,
    by: str = "mechanism",
    x: str = "epoch",
    decays: Sequence[float] = (),
    log: Sequence[str] = (),
    error: str = "half_range",
) -> Figure:
    """Quantities along training, one panel each, with the learning rate's decays marked.

    Args:
        history: one row per `by`, `x` (and `seed`): a line through the centres, a band of the errors.
        values: column -> y label, a rate in percent, say `{"asr": "transfer success (%)",
            "weight_top1": "λ₁ of the loss"}`.
        by: the column that tells lines apart.
        x: the column along which they run.
        decays: epochs where the learning rate drops.
        log: columns with a logarithmic axis.
        error: over seeds, see `tables.spread`.

    Reference: Gubri et al., "Going Further: Flatness at the Rescue of Early Stopping", 2023, Figures 1 and 5.
    """
    history = percent(check(history, [by, x, *values]))
    with style():
        figure, axes = _panels(list(values), 1.75, share="none")
        for axis, (column, label) in zip(axes, values.items(), strict=True):
            for index, name in enumerate(ordered(history[by])):
                seeds, color = history[history[by] == name].groupby(x)[column], COLORS[index % len(COLORS)]
                points = np.array([(at, *spread(group, error)) for at, group in seeds]).reshape(-1, 3)
                at, center, half = points[:, 0], points[:, 1], np.nan_to_num(points[:, 2])
                axis.plot(at, center, color=color, linestyle=LINES[index % len(LINES)], label=str(name))
                axis.fill_between(at, center - half, center + half, color=color, alpha=0.15, linewidth=0)
            for epoch in decays:
                axis.axvline(epoch, color="#444444", linewidth=0.8, linestyle=(0, (4, 3)))
            if column in log:
                axis.set_yscale("log")
            axis.set_ylabel(label)
            axis.set_xlabel(x + (" (dashed: learning rate decays)" if len(decays) else ""))
        legend_below(figure, axes[0], columns=6)
    return figure


def spectral_densities(
    grid: np.ndarray, densities: Mapping[str, np.ndarray], label: str = "eigenvalue"
) -> Figure:
    """Spectral densities on a logarithmic axis: the bulk and the outliers both show.

    Args:
        grid: eigenvalues `[G]`.
        densities: name -> `[G]`, of `metrics.spectral_density`.
        label: of the x axis.
    """
    floor = 1e-6 * max(np.max(density) for density in densities.values())
    with style():
        figure, [[axis]] = subplots(1, 1, COLUMN, 2.3)
        for index, (name, density) in enumerate(densities.items()):
            color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
            axis.semilogy(grid, np.maximum(density, floor), color=color, linestyle=line, label=name)
        axis.set(xlabel=label, ylabel="density", ylim=(floor, None))
        legend_below(figure, axis, columns=3)
    return figure


def correlation_intervals(explained: pd.DataFrame, goal: str, statistic: str = "pearson") -> Figure:
    """Correlations of transfer success with each factor and their confidence intervals; a panel per budget.

    Args:
        explained: of `metrics.regression.explain`, with `target` and `eps_255` among its groups.
        goal: `"untargeted"` or `"targeted"`.
        statistic: `"pearson"` or `"spearman"`; `"r_squared"` shows the fits.
    """
    rows = explained[(explained["goal"] == goal) & (explained["statistic"] == statistic)]
    if rows.empty:
        raise ValueError(f"no rows with goal {goal!r} and statistic {statistic!r}")
    factors, targets, budgets = (ordered(rows[name]) for name in ("factor", "target", "eps_255"))
    offsets = np.linspace(-0.28, 0.28, len(targets)) if len(targets) > 1 else [0.0]
    with style():
        figure, [axes] = subplots(1, len(budgets), PAGE, 1.0 + 0.38 * len(factors), sharey=True)
        for axis, budget in zip(axes, budgets, strict=True):
            for index, (target, offset) in enumerate(zip(targets, offsets, strict=True)):
                cell = rows[(rows["target"] == target) & (rows["eps_255"] == budget)].set_index("factor")
                cell = cell.reindex(factors)
                errors = np.nan_to_num([cell["value"] - cell["low"], cell["high"] - cell["value"]])
                where = np.arange(len(factors)) + offset
                axis.errorbar(
                    cell["value"],
                    where,
                    xerr=np.maximum(errors, 0),
                    linestyle="none",
                    label=str(target),
                    **look(index),
                )
            axis.set(
                title=f"ε = {budget:g}/255",
                xlabel="R²" if statistic == "r_squared" else f"{statistic.capitalize()} r",
            )
            axis.set_xlim((-0.05, 1.05) if statistic == "r_squared" else (-1.1, 1.1))
            axis.set_yticks(
                range(len(factors)), [str(name).replace("_", " ").replace(" + ", " +\n") for name in factors]
            )
            axis.set_ylim(len(factors) - 0.5, -0.5)
            axis.axvline(0, color="#444444", linewidth=0.8)
            axis.grid(visible=False, axis="y")
        legend_below(figure, axes[0], columns=6)
    return figure
