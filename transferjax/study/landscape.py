"""Views of where adversarial images lie: flatness, TPA's components, loss surfaces, attention."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from transferjax.report.agreement import orders
from transferjax.report.figures import against
from transferjax.report.maps import attention_grid, loss_surfaces
from transferjax.report.page import Section, split
from transferjax.report.tables import CELL, apart, several, value_table
from transferjax.study import registry
from transferjax.study.binding import call_of
from transferjax.study.blocks import Block
from transferjax.study.config import Study
from transferjax.study.content import load
from transferjax.study.paper_views import scalars
from transferjax.study.rows import Arrays, Row, adversarial, block_of, photographed, transfer_rows
from transferjax.study.specs import Measure

SURROGATE = ("mechanism", "seed", "epoch")
COMPONENTS = ("model_difference", "first_order", "second_order")
SHOWN = 6  # images in a grid of attention maps
CLEAN = "clean"  # the row of images that nothing attacked


def flatness_rows(study: Study, block: str, radius_255: float = 16.0, samples: int = 16) -> Iterator[Row]:
    """The rows of transfer of one surrogate's attacks, with the flatness and TPA's components around them."""
    around = call_of(registry.MEASURES, "flatness", {"radius": radius_255 / 255, "samples": samples})
    theorem = call_of(registry.MEASURES, "transfer_loss", {})
    for row in transfer_rows(study, block):
        target, images = row.needs["target"].target, row.needs["target"].images  # type: ignore[attr-defined]
        if len(images.surrogates) != 1:  # noise has none, and an ensemble's loss is no network's
            continue
        (surrogate,) = images.surrogates
        more = {
            "flatness": Measure(call=around, of=surrogate, data=images),
            "theorem": Measure(call=theorem, of=(surrogate, target), data=images),
        }

        def reduce(found: Mapping[str, Arrays], own: Any = row.reduce) -> dict[str, Any]:
            theorem = {name: np.mean(value, dtype=np.float64) for name, value in found["theorem"].items()}
            return {
                **own(found),
                "flatness": np.mean(found["flatness"]["values"], dtype=np.float64),
                **theorem,
            }

        yield row._replace(needs={**row.needs, **more}, reduce=reduce)


def flatness(
    frame: pd.DataFrame, study: Study, block: str, radius_255: float = 16.0, samples: int = 16
) -> list[Section]:
    """Flatness and components against transfer, at each goal and budget: is the flattest attack the best?"""
    return split(
        frame,
        partial(_flatness, block=block, radius_255=radius_255, error=study.error),
        ("mechanism", *CELL[1:]),
    )


def _flatness(frame: pd.DataFrame, block: str, radius_255: float, error: str) -> list[Section]:
    columns = ("flatness", *COMPONENTS, "transfer_loss")
    parts = [
        value_table(
            frame,
            name,
            name.replace("_", " "),
            rows="attack",
            columns=("target",),
            error=error,
            largest=False,
        )
        for name in columns
    ]
    means = frame.groupby("attack", sort=False)[["asr", *columns]].mean()
    means["bound"] = means[list(COMPONENTS)].sum(axis=1)
    text = (
        f"Flatness is the mean gradient norm within {radius_255:g}/255 of the adversarial image (small is "
        "flat); the components are those of TPA's Theorem 3.1, means over images in squared nats, C = 1; a "
        "surrogate that is not piecewise linear has the Gauss-Newton part's second-order component. "
        f"Spearman's ρ with transfer over {len(means)} attacks, bootstrap over them (95 %): "
        f"{', '.join(orders(means, (*columns, 'bound'), 'asr'))}."
    )
    percent = means.assign(success=100 * means["asr"]).reset_index()
    figures = {
        f"{name}_{block}": (
            against(percent, name, "success", "attack", name.replace("_", " "), "transfer success (%)"),
            f"Transfer against {name.replace('_', ' ')}, a point for each attack.",
        )
        for name in ("flatness", "bound")
    }
    return [Section("Flatness and transfer", text, parts, figures)]


def surface_rows(
    study: Study, block: str, kind: str = "uniform", extent: float = 1.0, points: int = 41
) -> Iterator[Row]:
    """A row per attack: the surrogate's loss around what the attack made of it, at the largest budget."""
    b = block_of(study, block, "attacks")
    options = {"kind": kind, "extent": extent, "points": points}
    surface = call_of(registry.MEASURES, "loss_surface", options)
    surrogate = b.surrogates[0]
    for tags, images in _largest(b):
        spec = Measure(call=surface, of=surrogate.specs[0], data=images)
        yield Row(
            tags, {"it": spec}, lambda found: {"surface": found["it"]["values"].mean(0, dtype=np.float64)}
        )


def _largest(b: Block) -> Iterator[tuple[dict[str, Any], Any]]:
    """What each attack makes of the first surrogate at the largest budget, with its tags."""
    _, eps_255, eps = max(b.budgets, key=lambda budget: budget[2])
    surrogate = b.surrogates[0]
    for (attack, call), (goal_name, goal) in product(b.attacks, b.goals):
        tags = {**surrogate.tags, "attack": attack, "goal": goal_name, "eps_255": eps_255}
        yield tags, adversarial(b, surrogate, call, goal, eps)


def _named(frame: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Every row by its attack, and by what else tells rows apart: goal, budget, surrogate."""
    for name, rows in apart(frame, ("attack", *several(frame, (*CELL[1:], *SURROGATE)))):
        for row in rows.itertuples():
            yield name, row


def surfaces(
    frame: pd.DataFrame,
    study: Study,
    block: str,
    kind: str = "uniform",
    extent: float = 1.0,
    points: int = 41,
) -> list[Section]:
    """Loss surfaces of every attack side by side."""
    drawn = {name: row.surface for name, row in _named(frame)}
    figure = loss_surfaces(drawn, np.linspace(-extent, extent, points), unit=f"{kind} direction")
    text = (
        f"The surrogate's loss on the plane of two {kind} random directions through each adversarial image, "
        "as change from the centre, mean over images; pixels leave [0, 1], as in PGN's code."
    )
    return [Section("Loss surfaces", text, [], {f"surfaces_{block}": (figure, "Change of the loss.")})]


def surface_files(
    frame: pd.DataFrame, study: Study, block: str, extent: float = 1.0, **options: Any
) -> dict[str, pd.DataFrame]:
    """A row for each point of each surface: coordinates, down and across, and the loss."""
    tags, rows = scalars(frame).to_dict("records"), []
    for own, surface in zip(tags, frame["surface"], strict=True):
        line = np.linspace(-extent, extent, len(surface))
        down, across = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
        rows.append(pd.DataFrame({**own, "down": down, "across": across, "loss": surface.ravel()}))
    return {"": pd.concat(rows, ignore_index=True)}


def attention_rows(study: Study, block: str) -> Iterator[Row]:
    """A row for the clean images and one for each attack: where the first target looks."""
    b = photographed(study, block, "attacks", "targets")
    look, target = call_of(registry.MEASURES, "attention", {}), b.targets[0].specs[0]
    clean = {**b.surrogates[0].tags, "attack": CLEAN}
    for tags, images in ((clean, b.data), *_largest(b)):
        spec = Measure(call=look, of=target, data=images)
        tags = {**tags, "target": b.targets[0].label}
        yield Row(tags, {"it": spec}, lambda found: {"maps": found["it"]["values"]})


def _moved(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with `moved`, the mean change of their maps from the clean ones, NaN where these lack."""
    clean = frame.loc[frame["attack"] == CLEAN, "maps"]
    change = [np.abs(maps - clean.iloc[0]).mean() if len(clean) else np.nan for maps in frame["maps"]]
    return frame.assign(moved=change)


def attention_files(frame: pd.DataFrame, study: Study, block: str) -> dict[str, pd.DataFrame]:
    """How far each map moved."""
    return {"": scalars(_moved(frame))}


def attention(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Grad-CAM of the label, clean and attacked, and how far it moved."""
    images = load(study.blocks[block].data).images[:SHOWN]  # type: ignore[attr-defined]
    untouched = frame["attack"] == CLEAN
    if not untouched.any():
        return [Section("Attention", "The maps of the clean images are not there yet.", [], {})]
    rows = _moved(frame)
    named = [(CLEAN, next(rows[untouched].itertuples())), *_named(rows[~untouched])]
    maps = {name: row.maps for name, row in named}
    moved = pd.DataFrame([{"attack": name, "seed": 0, "moved": row.moved} for name, row in named])
    title = "mean change of the map"
    table = value_table(moved, "moved", title, rows="attack", error=study.error, largest=None)
    figure = attention_grid(images, {name: found[:SHOWN] for name, found in maps.items()})
    text = f"Grad-CAM maps of {frame['target'].iloc[0]} for the label, on clean images and on attacked ones."
    return [Section("Attention", text, [table], {f"attention_{block}": (figure, "Grad-CAM of the label.")})]
