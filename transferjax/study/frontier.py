"""Views at equal cost: of attacks, success against gradients per image; of trainings, a ranking."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from transferjax.report.figures import metric_by_mechanism
from transferjax.report.frontier import DISTORTIONS, costs, success_by_cost
from transferjax.report.page import Section
from transferjax.report.tables import (
    NOISE,
    Table,
    best_of,
    of_surrogates,
    percent,
    pivot,
    several,
    significant,
    value_table,
)
from transferjax.study import registry
from transferjax.study.binding import call_of
from transferjax.study.config import Study
from transferjax.study.content import facts
from transferjax.study.estimate import cost_of
from transferjax.study.landscape import SURROGATE
from transferjax.study.rows import Arrays, Row, hit_and_right, transfer_rows
from transferjax.study.specs import Call, Measure


def frontier_rows(
    study: Study, block: str, net: str = "alex", backbone: str = "", linear: str = ""
) -> Iterator[Row]:
    """The rows of transfer, each with its attack's `gradients` for an image, and `l2` and `ssim`.

    Where `backbone` and `linear` name the files of LPIPS, with `lpips` besides (see `metrics.read_lpips`).
    `hit` and `both` say of each image whether it fools the target, and whether it counts (see `mean_error`).
    """
    calls = {"distortion": call_of(registry.MEASURES, "distortion", {})}
    if backbone or linear:
        files = {"net": net, "backbone": backbone, "linear": linear}
        calls["lpips"] = call_of(registry.MEASURES, "lpips", files)
    for row in transfer_rows(study, block):
        yield _with_cost(row, calls)


def _with_cost(row: Row, calls: Mapping[str, Call]) -> Row:
    """A row with its attack's cost, how far it goes, and its images one by one."""
    images: Any = row.needs["target"].images  # type: ignore[attr-defined]
    shape = facts(images.data).image_shape
    spent = cost_of(images.attack, images.goal, images.norm, len(images.surrogates), shape)
    far = {name: Measure(call=call, data=images) for name, call in calls.items()}

    def reduce(found: Mapping[str, Arrays]) -> dict[str, Any]:
        values = dict(found["distortion"])
        if "lpips" in found:
            values["lpips"] = found["lpips"]["values"]
        distances = {name: np.mean(values[name], dtype=np.float64) for name in DISTORTIONS if name in values}
        hit, both = hit_and_right(found, images)
        return {**row.reduce(found), **distances, "hit": hit, "both": both}

    return Row({**row.tags, "gradients": spent.gradients}, {**row.needs, **far}, reduce)


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows without their images; the first of each attack has the `error` of the mean over targets."""
    if frame.empty:
        return frame
    attack = [name for name in (*SURROGATE, "attack", "goal", "eps_255", "gradients") if name in frame]
    error = pd.Series(np.nan, frame.index)
    for _, rows in frame.groupby(attack, sort=False, dropna=False):
        error[rows.index[0]] = mean_error(list(zip(rows["hit"], rows["both"], strict=True)))
    return frame.drop(columns=["hit", "both"]).assign(error=error)


def frontier_files(frame: pd.DataFrame, study: Study, **options: Any) -> dict[str, pd.DataFrame]:
    """A row per attack and target."""
    return {"": with_errors(frame)}


def mean_error(targets: Sequence[tuple[np.ndarray, np.ndarray]], *, level: float = 0.95) -> float:
    """Half of the interval of a mean over targets that see the same images, by the delta method.

    `z √(Σ_i d_i²) / T`, `d_i = Σ_t b_ti (h_ti - p̂_t) / n_t`, where `p̂_t` is the share of the n_t images that
    count (b) which target t is fooled by (h).

    Args:
        targets: h and b of each target, `[N]` booleans; one of which no image counts is left out.
        level: how often the interval holds.
    """
    counted = [(hit, both) for hit, both in targets if both.any()]
    if not counted:
        return np.nan
    away = sum(both * (hit - hit[both].mean()) / both.sum() for hit, both in counted)
    return NormalDist().inv_cdf((1 + level) / 2) * float(np.linalg.norm(away)) / len(counted)


NEARER = ("l2", "lpips")
"""Distortions of which less is nearer to the clean image."""


def counted(rows: pd.DataFrame) -> tuple[str, str]:
    """The success that is shown, and the images it is of: those that both get right, if there are any."""
    both = bool(of_surrogates(rows)["asr_correct"].notna().any())
    return ("asr_correct", "that both get right") if both else ("asr", "of any kind")


def _place(view: str, frame: pd.DataFrame, goal: Hashable, eps_255: float) -> str:
    """What a figure is called, the budget where there are several."""
    return f"{view}_{goal}" + f"_{eps_255:g}" * bool(several(frame, ("eps_255",)))


def frontier(frame: pd.DataFrame, study: Study, block: str, **files: str) -> list[Section]:
    """A section per goal and budget: success against cost, and every attack by its price and success."""
    sections, frame = [], with_errors(frame)
    for (goal, eps_255), rows in frame.groupby(["goal", "eps_255"], sort=False):
        value, of = counted(rows)
        found = percent(costs(rows, value).assign(seed=0)).sort_values("gradients", kind="stable")
        name = f"{goal}, ε = {eps_255:g}/255"
        front = found[found["front"]].groupby("mechanism", sort=False)["attack"].agg(", ".join)
        sure = "error" in found and value == "asr_correct"
        errors = (
            "± is half of the 95 % interval over images, the same for all attacks: differences are surer. "
        )
        text = (
            f"Success on images {of}, the mean over targets and defences, against the gradients that an "
            "attack takes for each image; and how far its images are from the clean ones, which success may "
            f"have been bought with. {errors * sure}What none equals at the same price or below: "
            f"{'; '.join(f'on {surrogate} {best}' for surrogate, best in front.items())}."
        )
        shown = {value: "success (%)"} | {far: said for far, said in DISTORTIONS.items() if far in found}
        last = found[found["gradients"] == found["gradients"].max()].groupby("name")[value].mean()
        order = last.reindex(found["name"].unique()).sort_values(ascending=False, kind="stable").index
        tables = [_by_cost(found, column, said, order) for column, said in shown.items()]
        if sure:
            error = _by_cost(found, "error", "", order).center
            tables[0] = tables[0]._replace(error=100 * error.reindex_like(tables[0].center))
        figure = success_by_cost(rows, value), f"Success against gradients per image: {name}."
        figures = {_place(f"frontier_{block}", frame, goal, eps_255): figure}
        sections.append(Section(f"At equal cost: {name}", text, tables, figures))
    return sections


def _by_cost(found: pd.DataFrame, column: str, said: str, order: pd.Index) -> Table:
    """A row per attack, in this order; a column per surrogate and cost."""
    columns = ("mechanism", "gradients")
    table = value_table(found, column, said, rows="name", columns=columns, largest=column not in NEARER)
    center, error, best = (frame.loc[order] for frame in (table.center, table.error, table.best))
    return table._replace(center=center, error=error, best=best, corner="attack")


def ranking(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """A section per goal and budget: surrogates by the mean of their success over targets and attacks."""
    sections = []
    for (goal, eps_255), rows in frame.groupby(["goal", "eps_255"], sort=False):
        value, of = counted(rows)
        table, found = ranked(rows, value, study.error)
        name = f"{goal}, ε = {eps_255:g}/255"
        text = (
            f"Success on images {of}, the mean over targets, of surrogates whose training costs the same; "
            "the one whose mean over attacks is largest comes first. Epochs are what each had for that."
        )
        label = "success (%), mean over attacks"
        figure = metric_by_mechanism(found, "success", label, study.error, log=False), f"Ranked: {name}."
        figures = {_place("ranking", frame, goal, eps_255): figure}
        sections.append(Section(f"Trainings at equal cost: {name}", text, [table], figures))
    return sections


def ranked(rows: pd.DataFrame, value: str, error: str) -> tuple[Table, pd.DataFrame]:
    """The table of success by attack, the best surrogate first and noise last, and its rows in that order."""
    means = rows.groupby("mechanism", sort=False)[value].mean()
    order = sorted(means.index, key=lambda name: (name == NOISE, -means[name]))
    rows = rows.assign(success=100 * rows[value], accuracy=100 * rows["surrogate_accuracy"], head="mean")
    rows = rows.sort_values("mechanism", key=lambda names: names.map(order.index), kind="stable")
    own = of_surrogates(rows)
    trained = own.assign(head="epochs", seed=0)  # the same for all seeds
    parts = {
        "success (%)": pivot(own, "success", "mechanism", ("attack",), error),
        "over attacks (%)": pivot(rows, "success", "mechanism", ("head",), error),
        "accuracy (%)": pivot(own.assign(head="test"), "accuracy", "mechanism", ("head",), error),
        "training": pivot(trained, "epochs", "mechanism", ("head",), error),
    }
    center, err = (pd.concat({h: part[i] for h, part in parts.items()}, axis=1).loc[order] for i in (0, 1))
    best = best_of(center, True, significant)
    best["training"] = False
    return Table("Surrogates at equal training cost", center, err, best, significant), own
