"""Figures made of maps: similarity matrices, loss surfaces, image and attention grids."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transferjax.report.style import COLUMN, DIVERGING, PAGE, SEQUENTIAL, style, subplots


def _picture(image: np.ndarray) -> np.ndarray:
    image = np.clip(image, 0, 1)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _floats(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)


_EXAMPLES = ("clean", "adversarial", "labels", "clean_predictions", "adversarial_predictions")


def said_of(predictions: Any) -> Mapping[str, Sequence[Any]]:
    """Predictions by model; those of one that has no name are "the model"'s."""
    return predictions if isinstance(predictions, Mapping) else {"the model": predictions}


def compared(examples: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Clean images, perturbations to look at, adversarial images, and what stretches a perturbation.

    The largest change is black or white, grey is no change.

    Raises:
        ValueError: examples that lack something, see `image_grid`.
    """
    if missing := [name for name in _EXAMPLES if name not in examples]:
        raise ValueError(f"examples lack {missing}; expected {list(_EXAMPLES)}")
    clean, adversarial = _floats(examples["clean"]), _floats(examples["adversarial"])
    difference = adversarial - clean
    factor = 0.5 / (float(np.abs(difference).max()) or 1.0)
    return clean, 0.5 + factor * difference, adversarial, factor


def image_grid(examples: Mapping[str, Any], columns: int = 8) -> Figure:
    """Clean images, perturbations and adversarial images under each other, with what the model says.

    Args:
        examples: `clean` and `adversarial` `[n, H, W, C]`, in [0, 1] or uint8; `labels`, `clean_predictions`
            and `adversarial_predictions` `[n]`: class names or numbers. Predictions of several models are a
            mapping from names to them; the grid shows those of the first.
        columns: show at most so many.
    """
    *pictures, factor = compared(examples)
    clean, difference, adversarial = (images[:columns] for images in pictures)
    before, after = (
        next(iter(said_of(examples[f"{name}_predictions"]).values())) for name in ("clean", "adversarial")
    )
    lines = (
        ("clean", clean, before),
        (f"perturbation\n×{factor:.0f}", difference, None),
        ("adversarial", adversarial, after),
    )
    with style(), mpl.rc_context({"axes.grid": False}):
        cell = PAGE / columns
        width = max(cell * len(clean) + 0.4, 2.0)
        figure, axes = subplots(3, len(clean), width, 3 * cell + 0.4)
        for line, (name, images, predictions) in zip(axes, lines, strict=True):
            line[0].set_ylabel(name)
            for i, axis in enumerate(line):
                axis.imshow(_picture(images[i]), vmin=0, vmax=1, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if predictions is not None:
                    wrong = predictions[i] != examples["labels"][i]
                    axis.set_title(
                        f"{'✗' if wrong else '✓'} {predictions[i]}",
                        color="#B03A00" if wrong else "#222222",
                        fontsize=7,
                        pad=3,
                    )
    return figure


def attention_grid(
    images: np.ndarray, maps: Mapping[str, np.ndarray], titles: Sequence[str] | None = None
) -> Figure:
    """Attention maps over their images: one row per model (or per clean/adversarial), images across.

    Args:
        images: `[n, H, W, C]`, in [0, 1] or uint8.
        maps: row name -> maps `[n, H, W]` in [0, 1], of `metrics.grad_cam`.
        titles: one per image.
    """
    pictures = _floats(images)
    rows = {"image": None, **maps}
    cell = min(PAGE / max(len(pictures), 1), 0.95)
    with style(), mpl.rc_context({"axes.grid": False}):
        size = (cell * len(pictures) + 0.5, (cell + 0.05) * len(rows) + 0.25)
        figure, axes = subplots(len(rows), len(pictures), max(size[0], 2.0), size[1])
        for line, (name, row) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(fill(name, 14))
            for i, axis in enumerate(line):
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if row is None:
                    axis.imshow(_picture(pictures[i]), vmin=0, vmax=1, interpolation="nearest")
                    axis.set_title(titles[i] if titles else "", fontsize=7, pad=3)
                else:
                    grey = _picture(pictures[i]).mean(-1)
                    axis.imshow(grey, vmin=-0.5, vmax=1.2, cmap="gray", interpolation="nearest")
                    axis.imshow(row[i], vmin=0, vmax=1, cmap="inferno", alpha=0.6)
    return figure


def _write_numbers(axis: Axes, matrix: np.ndarray, scale: mpl.colors.Normalize, digits: int) -> None:
    """The entries in their cells, dark on light and light on dark."""
    colors = mpl.colormaps[SEQUENTIAL]
    for (i, j), entry in np.ndenumerate(matrix):
        if np.isfinite(entry):
            red, green, blue, _ = colors(scale(entry))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axis.text(
                j,
                i,
                f"{entry:.{digits}f}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="k" if light else "w",
            )


def similarity_heatmap(
    matrix: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str = "gradient similarity",
    digits: int = 2,
) -> Figure:
    """A matrix of models against models, with the numbers in it; the diagonal of ones sets no colour.

    Args:
        matrix: `[R, C]`, say `metrics.similarity_matrix(…).mean(-1)`; NaN leaves a cell empty.
        rows, columns: the models' names.
        label: of the colour bar.
        digits: after the point.
    """
    matrix = np.asarray(matrix, float)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"matrix must have shape {(len(rows), len(columns))}; got {matrix.shape}")
    off = matrix[~np.isclose(matrix, 1)]
    off = off[np.isfinite(off)] if np.isfinite(off).any() else np.array([0.0, 1.0])
    scale = mpl.colors.Normalize(off.min(), max(off.max(), off.min() + 1e-9), clip=True)
    with style(), mpl.rc_context({"axes.grid": False}):
        longest = max(map(len, rows))
        width = max(COLUMN, 0.36 * len(columns) + 0.065 * longest + 1.0)
        height = 0.27 * len(rows) + 0.8 + 0.045 * max(map(len, columns))
        figure, [[axis]] = subplots(1, 1, width, height)
        shown = axis.imshow(matrix, norm=scale, cmap=SEQUENTIAL, aspect="auto")
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_xticks(range(len(columns)), list(columns), rotation=40, ha="right", rotation_mode="anchor")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        _write_numbers(axis, matrix, scale, digits)
        figure.colorbar(shown, ax=axis, label=label)
    return figure


def loss_surfaces(
    surfaces: Mapping[str, np.ndarray], grid: np.ndarray, unit: str = "l2 distance", columns: int = 4
) -> Figure:
    """Loss surfaces around adversarial examples as change from the centre: red higher, blue lower.

    Args:
        surfaces: name -> `[G, G]` (or `[B, G, G]`, averaged), of `metrics.loss_surface`.
        grid: their coordinates `[G]`, G odd, so that the middle one is the example itself.
        unit: what a coordinate means.
        columns: panels per row.
    """
    changes = {}
    for name, surface in surfaces.items():
        surface = np.asarray(surface, float)
        surface = surface.mean(0) if surface.ndim == 3 else surface
        middle = len(grid) // 2
        changes[name] = surface - surface[middle, middle]
    largest = max(np.abs(change).max() for change in changes.values()) or 1.0
    levels = np.linspace(-largest, largest, 22)
    across = min(columns, len(changes))
    down = -(-len(changes) // across)
    with style(), mpl.rc_context({"axes.grid": False}):
        width = PAGE if across > 1 else 0.8 * COLUMN
        figure, axes = subplots(
            down, across, width, down * (width - 1) / across + 0.5, sharex=True, sharey=True
        )
        flat = [axis for line in axes for axis in line]
        for axis, (name, change) in zip(flat, changes.items(), strict=False):
            filled = axis.contourf(grid, grid, change, levels, cmap=DIVERGING)
            axis.contour(grid, grid, change, levels[::3], colors="#444444", linewidths=0.4)
            axis.plot(0, 0, marker="+", color="black", markersize=6)
            axis.set(title=fill(name, 18), aspect="equal")
        for axis in flat[len(changes) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel(unit)
        for line in axes:
            line[0].set_ylabel(unit)
        ticks = [float(tick) for tick in np.linspace(-largest, largest, 5)]
        bar = figure.colorbar(filled, ax=flat[: len(changes)], label="change of loss")
        bar.set_ticks(ticks, labels=[f"{tick:.3g}".replace("-", "−") for tick in ticks])
    return figure
