"""How every figure looks: colour-blind safe, readable at a paper's column width, one place to change it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of one column and of a page of two."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D46")
"""Okabe and Ito's palette, told apart under every common colour blindness; brown for yellow."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d", "8")
LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))
SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"

_SETTINGS: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "figure.facecolor": "white",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The settings, for the length of a block; the caller's own come back after it."""
    with mpl.rc_context(_SETTINGS):
        yield


def subplots(
    rows: int, columns: int, width: float, height: float, **options: object
) -> tuple[Figure, list[list[Axes]]]:
    """A figure outside pyplot's global state, with a list of rows of axes; call within `style()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)  # type: ignore[call-overload]
    return figure, axes.tolist()


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th series; both change, so that either is enough."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def log_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis that has its data, no more of them than there is room for."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 2.5:  # beyond, Matplotlib's powers of ten
        shares = (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
        axis.set_major_locator(LogLocator(subs=shares))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, series: Axes | Sequence[Artist], columns: int = 4) -> None:
    """One legend under all panels, of one panel's series or of marks with labels; never over the data.

    It has the most columns, up to `columns`, for which there is room.
    """
    handles = series.get_legend_handles_labels()[0] if isinstance(series, Axes) else series
    for count in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=count)
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
