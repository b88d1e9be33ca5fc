"""Views: what a study asks, and how the answer is drawn.

A view is two functions: `rows(study, **options)`, which is the only demand there is, and
`draw(frame, study, **options)` -> sections of the page. Views are drawn anew each time.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from transferjax import report
from transferjax.report.analysis import (
    SHOWN,
    by_magnitude,
    magnitude_section,
    similarity_section,
    smoothness_section,
)
from transferjax.report.page import Section, success_sections, surrogates_section
from transferjax.report.published import BASELINE
from transferjax.report.tables import of_surrogates, ordered
from transferjax.study import along, claim_views, image_views, landscape, paper_views
from transferjax.study.blocks import Block, Member
from transferjax.study.config import Study, View
from transferjax.study.frontier import frontier, frontier_files, frontier_rows, ranking
from transferjax.study.paper_views import scalars
from transferjax.study.rows import Arrays, Row, block_of, is_right, transfer_rows
from transferjax.study.specs import Call, Measure, Network, Spec, Verdicts


@dataclass(frozen=True)
class Kind:
    """A kind of view: its demand, its drawing, the options that a config may set, and its CSV files."""

    rows: Callable[..., Iterator[Row]]
    draw: Callable[..., list[Section]]
    options: tuple[str, ...] = ("block",)
    files: Callable[..., paper_views.Files] = lambda frame, study, **options: {"": scalars(frame)}


def table(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Transfer success: a section per attack and goal, with its figure."""
    return success_sections(frame, study.error)


def curve_rows(study: Study, block: str, **options: Any) -> Iterator[Row]:
    """The rows of transfer; what is shown of them is a matter of drawing.

    Raises:
        ValueError: something unknown to show, or along.
    """
    shown, x = options.get("show", SHOWN), options.get("x", "tau")
    if unknown := set(shown) - set(SHOWN):
        raise ValueError(f"show={shown}: unknown {sorted(unknown)}; expected some of {', '.join(SHOWN)}")
    tags = {"tau": None} | {tag: None for m in paper_views.known(study, block).surrogates for tag in m.tags}
    if x not in tags:
        raise ValueError(
            f"x={x!r} is no tag of the surrogates of block {block!r}, which have {', '.join(tags)}"
        )
    return transfer_rows(study, block)


def plane(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Why: accuracy, smoothness and similarity of each surrogate."""
    return [surrogates_section(frame, study.error)]


def curve(
    frame: pd.DataFrame,
    study: Study,
    block: str,
    show: tuple[str, ...] = SHOWN,
    mechanisms: tuple[str, ...] = (),
    x: str = "tau",
) -> list[Section]:
    """Everything, or what `show` names, against the mechanisms' magnitudes ("IR_3") or the tag `x`.

    A tag that is another thing for each mechanism has an axis for each.
    """
    rows = of_surrogates(frame)
    xlabel: str | dict[str, str] = paper_views.magnitude_of(study, block, mechanisms, x)
    if x != "tau" and not xlabel:
        names = [str(name) for name in ordered(by_magnitude(rows)["mechanism"]) if name != BASELINE]
        xlabel = {name: paper_views.magnitude_of(study, block, (name,), x) or x for name in names}
    return [magnitude_section(rows, study.error, show, mechanisms, x, xlabel)]


def regression(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """What explains transfer: correlations and least squares, for each attack and goal."""
    return paper_views.explained(frame)


def matrix_rows(study: Study, block: str, column: str = "similarity") -> Iterator[Row]:
    """A row per surrogate and other network, values image by image."""
    b = study.blocks[block]
    call, images = _measure(b, column, "similarity")
    others = [(name, m) for name, m in _named(b.surrogates)] + [(f"{m.label} (target)", m) for m in b.targets]
    for name, one in _named(b.surrogates):
        for other_name, other in others:
            spec = Measure(call=call, of=(one.specs[0], other.specs[0]), data=images)
            yield Row(
                {"row": name, "column": other_name},
                {"it": spec},
                lambda found: {"values": found["it"]["values"]},
            )


def matrix(frame: pd.DataFrame, study: Study, block: str, column: str = "similarity") -> list[Section]:
    """Similarity of all pairs, its mean and its infimum."""
    rows, columns = list(dict.fromkeys(frame["row"])), list(dict.fromkeys(frame["column"]))
    cells = frame.set_index(["row", "column"])["values"]
    values = np.stack([np.stack([cells[r, c] for c in columns]) for r in rows])
    return [similarity_section(values, rows, columns)]


def spectrum_rows(study: Study, block: str, column: str = "smoothness") -> Iterator[Row]:
    """A row per surrogate, values image by image."""
    b = study.blocks[block]
    call, images = _measure(b, column, "smoothness")
    for name, member in _named(b.surrogates):
        spec = Measure(call=call, of=member.specs[0], data=images)
        tags = {**member.tags, "row": name}
        yield Row(tags, {"it": spec}, lambda found: {"values": found["it"]["values"].reshape(-1)})


def spectrum(frame: pd.DataFrame, study: Study, block: str, column: str = "smoothness") -> list[Section]:
    """Mean and supremum over images, with bootstrap intervals."""
    return [smoothness_section(dict(zip(frame["row"], frame["values"], strict=True)))]


def _summary(**what: Callable[[np.ndarray], float]) -> Callable[..., paper_views.Files]:
    """The rows, with what their values come to."""

    def files(frame: pd.DataFrame, study: Study, **options: Any) -> paper_views.Files:
        each = {name: [of(values) for values in frame["values"]] for name, of in what.items()}
        return {"": scalars(frame).assign(**each)}

    return files


def _named(members: tuple[Member, ...]) -> list[tuple[str, Member]]:
    labels = [member.label for member in members]
    return [(m.label if labels.count(m.label) == 1 else str(m), m) for m in members]


def _measure(block: Block, column: str, kind: str) -> tuple[Call, Any]:
    """The measure of that name, which is of that kind.

    Raises:
        ValueError: there is none, or it measures something else.
    """
    for name, call, images in block.measures:
        if name == column and call.name == kind:
            return call, images
    there = ", ".join(f"{name} ({call.name})" for name, call, _ in block.measures)
    raise ValueError(
        f"block {block.name!r} has no {kind} {column!r} to view; it measures {there or 'nothing'}"
    )


def training_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per network and epoch of its training."""
    b = study.blocks[block]
    for name, member in _named((*b.surrogates, *b.targets)):
        for spec in member.specs:
            if isinstance(spec, Network):
                yield Row(
                    {**member.tags, "row": name},
                    {"it": spec},
                    lambda found: {
                        key.removeprefix("history/"): value
                        for key, value in found["it"].items()
                        if key.startswith("history/")
                    },
                )


def _histories(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each epoch."""
    wanted = ("epoch", "loss", "accuracy")
    rows = [pd.DataFrame({"row": row["row"], **{n: row[n] for n in wanted}}) for _, row in frame.iterrows()]
    return pd.concat(rows, ignore_index=True)


def training(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Training loss and accuracy by epoch."""
    labels = {"loss": "training loss", "accuracy": "training accuracy"}
    figure = report.training_curves(_histories(frame).rename(columns={"row": "mechanism"}), labels)
    text = "Means over the training batches of each epoch."
    return [Section("Training", text, [], {"training": (figure, "Loss and accuracy along training.")})]


def accuracy_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per network: how often it is right."""
    b = block_of(study, block, "accuracy")
    for name, member in _named((*b.surrogates, *b.targets)):
        for spec in member.specs:
            needs = {"it": Verdicts(target=spec, images=b.accuracy)}
            yield Row(
                {**member.tags, "row": name}, needs, lambda found: {"accuracy": is_right(found["it"]).mean()}
            )


def accuracy(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Accuracy of every network, on the data that the block names."""
    percent = frame.assign(percent=100 * frame["accuracy"])
    figure = report.metric_by_mechanism(percent, "percent", "accuracy (%)", study.error)
    table = report.value_table(percent, "percent", "accuracy (%)", error=study.error)
    return [
        Section(
            "Accuracy",
            "On images that no network was trained on.",
            [table],
            {"accuracy": (figure, "Accuracy.")},
        )
    ]


_BESIDE = ("block", "table", "dataset")

VIEWS: dict[str, Kind] = {
    "accuracy": Kind(accuracy_rows, accuracy),
    "table": Kind(transfer_rows, table),
    "plane": Kind(transfer_rows, plane),
    "frontier": Kind(frontier_rows, frontier, ("block", "net", "backbone", "linear"), frontier_files),
    "ranking": Kind(transfer_rows, ranking),
    "curve": Kind(curve_rows, curve, ("block", "show", "mechanisms", "x")),
    "regression": Kind(transfer_rows, regression),
    "matrix": Kind(matrix_rows, matrix, ("block", "column"), _summary(mean=np.mean, infimum=np.min)),
    "spectrum": Kind(spectrum_rows, spectrum, ("block", "column"), _summary(mean=np.mean, supremum=np.max)),
    "images": Kind(image_views.image_rows, image_views.image_series),
    "training": Kind(training_rows, training, files=lambda frame, study, **options: {"": _histories(frame)}),
    "paper": Kind(paper_views.paper_rows, paper_views.paper, _BESIDE, paper_views.beside),
    "pairs": Kind(paper_views.pair_rows, paper_views.pairs, _BESIDE, paper_views.beside),
    "magnitudes": Kind(
        paper_views.magnitude_rows, paper_views.magnitudes, (*_BESIDE, "shown"), paper_views.beside
    ),
    "clean": Kind(paper_views.clean_rows, paper_views.clean, (*_BESIDE, "train"), paper_views.beside),
    "attacks": Kind(
        paper_views.attack_rows, paper_views.attacks, ("block", "table", "stands_for"), paper_views.beside
    ),
    "seeds": Kind(paper_views.seed_rows, paper_views.seeds, files=paper_views.seed_files),
    "bound": Kind(paper_views.bound_rows, paper_views.bound),
    "epochs": Kind(along.epoch_rows, along.epochs, ("block", "decays")),
    "stopped": Kind(along.stopped_rows, along.stopping, ("block", "validation"), along.stopped_files),
    "sweep": Kind(along.sweep_rows, along.sweep),
    "choices": Kind(along.choice_rows, along.choosing, ("block", "validation"), along.choice_files),
    "flatness": Kind(landscape.flatness_rows, landscape.flatness, ("block", "radius_255", "samples")),
    "surfaces": Kind(
        landscape.surface_rows,
        landscape.surfaces,
        ("block", "kind", "extent", "points"),
        landscape.surface_files,
    ),
    "attention": Kind(landscape.attention_rows, landscape.attention, files=landscape.attention_files),
    "claims": Kind(
        claim_views.claim_rows, claim_views.claims, ("block", "paper", "roles"), claim_views.claim_files
    ),
}


def rows_of(study: Study, view: View) -> list[Row]:
    """The demand of one view."""
    return list(VIEWS[view.kind].rows(study, **view.options))


def frame_of(rows: list[Row], get: Callable[[Spec], Arrays], has: Callable[[Spec], bool]) -> pd.DataFrame:
    """The rows whose results are all there, as a table: tags, then what was made of the results."""
    whole = [row for row in rows if all(map(has, row.needs.values()))]
    return pd.DataFrame(
        [{**row.tags, **row.reduce({name: get(spec) for name, spec in row.needs.items()})} for row in whole]
    )


def draw(study: Study, view: View, frame: pd.DataFrame) -> list[Section]:
    """The sections of one view; those of a paper's table or figure begin with its name."""
    drawn = VIEWS[view.kind].draw(frame, study, **view.options)
    place = in_paper(view.name)
    return [part if place in part.title else part._replace(title=f"{place}: {part.title}") for part in drawn]


def in_paper(name: str) -> str:
    """ "Table 2" of "table2", "Figures 4 to 6" of "figures4to6"; nothing of other names."""
    found = re.fullmatch(r"(table|figures?|hypothesis|theorem)(\d+)(?:to(\d+))?", name)
    if found is None:
        return ""
    kind, first, last = found.groups()
    return f"{kind.capitalize()} {first}" + (f" to {last}" if last else "")


def files(study: Study, view: View, frame: pd.DataFrame) -> paper_views.Files:
    """What is written beside the page, by what follows the view's name in the file's."""
    return VIEWS[view.kind].files(frame, study, **view.options)
