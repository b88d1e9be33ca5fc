"""The plane of smoothness and similarity as a drawing that answers the pointer and the keyboard."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogLocator, MaxNLocator

from transferjax.report.figures import log_scale, of_plane
from transferjax.report.markup import escape
from transferjax.report.style import MARKERS, SEQUENTIAL
from transferjax.report.tables import of_surrogates, ordered, significant

_WIDTH, _HEIGHT = 320, 250  # of a panel, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 24, 36
_RADIUS = 5.0


class _Axis(NamedTuple):
    """Values to places; `log` like the axis of the figure."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = np.log([self.low, self.high, value]) if self.log else (self.low, self.high, value)
        return float(self.start + (value - low) / (high - low) * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Round numbers within, about five."""
        several = (
            [LogLocator(subs=subs) for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0))] if self.log else []
        )
        for locator in [*several, MaxNLocator(5)]:
            found = [
                tick for tick in locator.tick_values(self.low, self.high) if self.low <= tick <= self.high
            ]
            if len(found) >= 3:
                break
        return found


def _axis(values: pd.Series, start: float, end: float, log: bool) -> _Axis:
    """With a margin of an eighth on both sides."""
    low, high = (np.log(values.min()), np.log(values.max())) if log else (values.min(), values.max())
    margin = (high - low) / 8 or abs(low) / 8 or 1.0
    ends = np.array([low - margin, high + margin])
    low, high = np.exp(ends) if log else ends
    return _Axis(float(low), float(high), start, end, log)


def interactive_plane(results: pd.DataFrame, goal: str = "untargeted", eps_255: float | None = None) -> str:
    """`figures.smoothness_similarity_plane` as HTML; a point tells its numbers, at every budget and goal.

    Args:
        results: tidy, see `tables.COLUMNS`.
        goal, eps_255: which rows give the colour; the median budget if None.
    """
    name, chosen = of_plane(results, goal, eps_255)
    mechanisms = ordered(chosen["mechanism"])
    log = log_scale(chosen["smoothness"])
    across = _axis(chosen["smoothness"], _LEFT, _WIDTH - _RIGHT, log)
    up = _axis(chosen["similarity"], _HEIGHT - _BOTTOM, _TOP, False)
    percent = 100 * chosen["asr"]
    scale = mpl.colors.Normalize(percent.min(), max(percent.max(), percent.min() + 1e-9))
    said = _successes(of_surrogates(results))
    panels = "".join(
        _panel(str(target), chosen[chosen["target"] == target], mechanisms, (across, up), scale, said)
        for target in ordered(chosen["target"])
    )
    legend = "".join(
        f'<button type="button" aria-pressed="false" data-of="{i}"><svg viewBox="-7 -7 14 14" '
        f'aria-hidden="true"><path d="{_marker(i)}"/></svg>{escape(name)}</button>'
        for i, name in enumerate(mechanisms)
    )
    colors = ", ".join(mpl.colors.to_hex(mpl.colormaps[SEQUENTIAL](x)) for x in np.linspace(0, 1, 9))
    return (
        '<figure class="plane"><div class="marks"><div class="legend" role="group" '
        f'aria-label="Pick a mechanism out">{legend}</div><div class="panels">{panels}</div></div>'
        f'<div class="bar">{percent.min():.0f} %'
        f'<span style="background: linear-gradient(90deg, {colors})"></span>{percent.max():.0f} % '
        f"success: {escape(name)}</div><figcaption>Smoothness, similarity and transfer "
        "success: one point per surrogate. Smooth is to the left, similar is up; a point tells its numbers "
        "under the pointer, and to the arrow keys.</figcaption></figure>"
    )


def _successes(results: pd.DataFrame) -> dict[tuple, str]:
    """What every attack on one surrogate reaches on one target, a line per goal."""
    lines: dict[tuple, list[str]] = {}
    for key, rows in results.groupby(["mechanism", "seed", "target", "goal"], sort=False):
        mean = rows.groupby("eps_255")["asr"].mean()
        reached = ", ".join(f"{100 * asr:.1f} % at {eps:g}/255" for eps, asr in mean.items())
        lines.setdefault(key[:3], []).append(f"{key[3]}: {reached}")
    return {key: "\n".join(several) for key, several in lines.items()}


def _panel(
    target: str,
    rows: pd.DataFrame,
    mechanisms: Sequence[Hashable],
    axes: tuple[_Axis, _Axis],
    scale: mpl.colors.Normalize,
    said: dict[tuple, str],
) -> str:
    """One target's surrogates."""
    across, up = axes
    colors, points = mpl.colormaps[SEQUENTIAL], []
    for row in rows.itertuples():
        label = (
            f"{row.mechanism}, seed {row.seed:g} → {target}\nλ₁ {significant(row.smoothness)}, similarity "
            f"{significant(row.similarity)}\n{said[row.mechanism, row.seed, row.target]}"
        )
        which = mechanisms.index(row.mechanism)
        points.append(
            f'<path class="point" role="img" data-of="{which}" aria-label="{escape(label)}" '
            f'd="{_marker(which)}" fill="{mpl.colors.to_hex(colors(scale(100 * row.asr)))}" '
            f'transform="translate({across(row.smoothness):.1f} {up(row.similarity):.1f})"/>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{escape(target)}: similarity '
        f'against smoothness, {len(points)} surrogates">{_grid(across, up)}'
        f'<text class="name" x="{_LEFT}" y="14">{escape(target)}</text>{"".join(points)}</svg>'
    )


def _grid(across: _Axis, up: _Axis) -> str:
    """Lines with their numbers, and what the axes are."""
    lines = []
    for tick in across.ticks():
        x = across(tick)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{tick:g}</text>')
    for tick in up.ticks():
        y = up(tick)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{round(tick, 10):g}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    lines.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">λ₁ (← smoother)</text>'
        f'<text transform="translate(10 {middle}) rotate(-90)" text-anchor="middle">gradient similarity'
        "</text>"
    )
    return f'<g aria-hidden="true">{"".join(lines)}</g>'


def _marker(index: int) -> str:
    """The figure's own marker as an SVG path."""
    style = MarkerStyle(MARKERS[index % len(MARKERS)])
    path = style.get_path().transformed(style.get_transform())
    size = _RADIUS / np.abs(path.vertices).max()
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for vertices, code in path.iter_segments(curves=True):
        points = " ".join(f"{size * x:.2f} {-size * y:.2f}" for x, y in np.reshape(vertices, (-1, 2)))
        parts.append(letters[int(code)] + ("" if code == 79 else points))
    return "".join(parts)
