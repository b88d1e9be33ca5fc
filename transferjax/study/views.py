"""Views: what a study asks, and how the answer is drawn.

A view is two functions: `rows(study, **options)`, which is the only demand there is, and
`draw(frame, study, **options)` -> sections of the page. Views are drawn anew each time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from transferjax import report
from transferjax.report.analysis import (
    magnitude_section,
    regression_section,
    similarity_section,
    smoothness_table,
)
from transferjax.report.page import Section, images_section, success_section, surrogates_section
from transferjax.report.tables import NOISE, of_surrogates
from transferjax.study.config import Block, Member, Study, View
from transferjax.study.specs import Adversarial, Call, Measure, Network, Spec, Verdicts

Arrays = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """One row of a frame: its tags, the results that it reads by name, and what it makes of them."""

    tags: Mapping[str, Any]
    needs: Mapping[str, Spec]
    reduce: Callable[[Mapping[str, Arrays]], Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of view: its demand, its drawing, and the options that a config may set."""

    rows: Callable[..., Iterator[Row]]
    draw: Callable[..., list[Section]]
    options: tuple[str, ...] = ("block",)


def adversarial(
    block: Block, surrogate: Member, call: Call, goal: Any, eps: float, seed: int = 0
) -> Adversarial:
    """One cell of a block: what an attack makes on a surrogate."""
    return Adversarial(
        surrogates=surrogate.specs,
        attack=call,
        goal=goal,
        eps=eps,
        norm=block.norm,
        data=block.data,
        seed=block.seed + seed,
    )


def transfer_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per surrogate, attack, goal, budget and target; then of noise, which needs no surrogate.

    `asr` counts every image, `asr_correct` those that surrogate and target both get right beforehand;
    `fooling_rate` is the success on the surrogate itself, `noise_fooling_rate` that of noise.
    """
    b = study.blocks[block]
    seeds = dict.fromkeys(member.tags["seed"] for member in b.surrogates)
    noise = [Member(NOISE, {"mechanism": NOISE, "seed": seed}, ()) for seed in seeds] if b.noise else []
    for surrogate in (*b.surrogates, *noise):
        attacks = b.attacks if surrogate.specs else ((NOISE, Call(name="noise")),)
        for (attack, call), (goal_name, goal), (_, eps_255, eps) in product(attacks, b.goals, b.budgets):
            seed = 0 if surrogate.specs else surrogate.tags["seed"]
            images = adversarial(b, surrogate, call, goal, eps, seed)
            tags = {**surrogate.tags, "attack": attack, "goal": goal_name, "eps_255": eps_255}
            for target in b.targets:
                yield _transfer_row(b, surrogate, target, images, tags)


def _transfer_row(
    block: Block, surrogate: Member, target: Member, images: Adversarial, tags: Mapping[str, Any]
) -> Row:
    needs = _verdicts("target", target.specs[0], images, block) | _measured(block, surrogate, target.specs[0])
    for i, own in enumerate(surrogate.specs):
        needs |= _verdicts(f"own {i}", own, images, block)
        if block.noise:
            nothing = Member(NOISE, {}, ())
            seed = surrogate.tags["seed"]
            noise = adversarial(block, nothing, Call(name="noise"), images.goal, images.eps, seed)
            needs[f"own {i} noise"] = Verdicts(target=own, images=noise)
    members = range(len(surrogate.specs))

    def reduce(found: Mapping[str, Arrays]) -> dict[str, Any]:
        hit, both = _hits(found["target"], images), _right(found["target clean"])
        for i in members:
            both = both & _right(found[f"own {i} clean"])
        said: dict[str, Any] = {
            "asr": hit.mean(),
            "asr_correct": hit[both].mean() if both.any() else np.nan,
            "fooling_rate": _mean(_hits(found[f"own {i}"], images).mean() for i in members),
            "surrogate_accuracy": _mean(_right(found[f"own {i} accuracy"]).mean() for i in members),
            "target_accuracy": _right(found["target accuracy"]).mean(),
            "smoothness": np.nan,
            "similarity": np.nan,
        }
        if block.noise:
            said["noise_fooling_rate"] = _mean(_hits(found[f"own {i} noise"], images).mean() for i in members)
        for column, _, _ in block.measures:
            values = (found[f"{column} {i}"]["values"] for i in members)
            said[column] = _mean(np.mean(value, dtype=np.float64) for value in values)
        return said

    return Row({**tags, "target": target.label}, needs, reduce)


def _verdicts(name: str, network: Any, images: Adversarial, block: Block) -> dict[str, Spec]:
    """What a network says of attacked images, of the same clean ones, and of those that tell its accuracy."""
    seen = {name: images, f"{name} clean": block.data, f"{name} accuracy": block.accuracy}
    return {key: Verdicts(target=network, images=image) for key, image in seen.items()}


def _measured(block: Block, surrogate: Member, target: Any) -> dict[str, Spec]:
    """What a block measures of a surrogate, or of it and a target; of an ensemble member by member."""
    found: dict[str, Spec] = {}
    for column, call, images in block.measures:
        for i, own in enumerate(surrogate.specs):
            of = (own, target) if call.name in PAIRS else (own,)
            found[f"{column} {i}"] = Measure(call=call, of=of, data=images)
    return found


PAIRS = ("similarity",)
"""Measures of two networks."""


def _hits(verdicts: Arrays, images: Adversarial) -> np.ndarray:
    """Which images do what their goal says, `[N]`."""
    if images.goal.targeted:
        return verdicts["classes"] == verdicts["aims"]
    return verdicts["classes"] != verdicts["labels"]


def _right(verdicts: Arrays) -> np.ndarray:
    return verdicts["classes"] == verdicts["labels"]


def _mean(values: Iterator[Any]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else np.nan


def table(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Transfer success: a section per goal, with its figure."""
    parts = []
    attacks = list(dict.fromkeys(of_surrogates(frame)["attack"]))
    for attack in attacks:
        rows = frame[frame["attack"].isin((attack, NOISE))]
        for goal in dict.fromkeys(rows["goal"]):
            part = success_section(rows, str(goal), study.error)
            parts.append(part if len(attacks) == 1 else _of_attack(part, attack))
    return parts


def _of_attack(part: Section, attack: str) -> Section:
    figures = {f"{name}_{attack}": figure for name, figure in part.figures.items()}
    return part._replace(title=f"{part.title}: {attack}", figures=figures)


def plane(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Why: accuracy, smoothness and similarity of each surrogate."""
    return [surrogates_section(frame, study.error)]


def curve(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Everything against the mechanisms' magnitudes ("IR_3")."""
    return [magnitude_section(of_surrogates(frame), study.error)]


def regression(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """What explains transfer: correlations and least squares, for each goal."""
    rows = of_surrogates(frame)
    return [regression_section(rows, str(goal)) for goal in dict.fromkeys(rows["goal"])]


def matrix_rows(study: Study, block: str, column: str = "similarity") -> Iterator[Row]:
    """A row per surrogate and other network, values image by image."""
    b = study.blocks[block]
    call, images = _measure(b, column)
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
    call, images = _measure(b, column)
    for name, member in _named(b.surrogates):
        spec = Measure(call=call, of=member.specs[0], data=images)
        tags = {**member.tags, "row": name}
        yield Row(tags, {"it": spec}, lambda found: {"values": found["it"]["values"].reshape(-1)})


def spectrum(frame: pd.DataFrame, study: Study, block: str, column: str = "smoothness") -> list[Section]:
    """Mean and supremum of a measure over images, with bootstrap intervals."""
    text = (
        "Top eigenvalue of the input Hessian of the cross-entropy, image by image. ± is half the bootstrap "
        "interval (95 %) over images; that of a supremum only says how much one image decides."
    )
    values = dict(zip(frame["row"], frame["values"], strict=True))
    return [Section("Smoothness", text, [smoothness_table(values)], {})]


def _named(members: tuple[Member, ...]) -> list[tuple[str, Member]]:
    labels = [member.label for member in members]
    return [(m.label if labels.count(m.label) == 1 else str(m), m) for m in members]


def _measure(block: Block, column: str) -> tuple[Call, Any]:
    for name, call, images in block.measures:
        if name == column:
            return call, images
    raise ValueError(f"block {block.name!r} measures no {column!r}; it has {[m[0] for m in block.measures]}")


EXAMPLES = 6  # images in the report's grid


def image_rows(study: Study, block: str) -> Iterator[Row]:
    """The largest budget of the first attack, on the first surrogate and target."""
    b = study.blocks[block]
    surrogate, target = b.surrogates[0], b.targets[0]
    (_, call), (goal_name, goal) = b.attacks[0], b.goals[0]
    _, eps_255, eps = max(b.budgets, key=lambda budget: budget[2])
    images = adversarial(b, surrogate, call, goal, eps)
    needs: dict[str, Spec] = {
        "images": images,
        "clean": Verdicts(target=target.specs[0], images=b.data),
        "fooled": Verdicts(target=target.specs[0], images=images),
    }

    def reduce(found: Mapping[str, Arrays]) -> dict[str, Any]:
        said = {name: found[name]["classes"][:EXAMPLES] for name in ("clean", "fooled")}
        return {
            "adversarial": found["images"]["images"][:EXAMPLES],
            "labels": found["clean"]["labels"][:EXAMPLES],
            **said,
        }

    caption = f"{surrogate} -> {target.label}, {goal_name}, eps {eps_255:g}/255"
    yield Row({"caption": caption}, needs, reduce)


def image_grid(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Clean image, perturbation, adversarial image."""
    from transferjax.study.resolve import load

    row, dataset = frame.iloc[0], study.blocks[block].data
    clean = load(dataset)
    names = np.array(clean.class_names)
    count = len(row["labels"])
    return [
        images_section(
            {
                "clean": clean.images[:count],  # type: ignore[attr-defined]
                "adversarial": row["adversarial"],
                "labels": names[row["labels"]].tolist(),
                "clean_predictions": names[row["clean"]].tolist(),
                "adversarial_predictions": names[row["fooled"]].tolist(),
                "caption": row["caption"],
            }
        )
    ]


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


def training(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Training loss and accuracy by epoch."""
    histories = [
        pd.DataFrame({"mechanism": row["row"], **{n: row[n] for n in ("epoch", "loss", "accuracy")}})
        for _, row in frame.iterrows()
    ]
    labels = {"loss": "training loss", "accuracy": "training accuracy"}
    figure = report.training_curves(pd.concat(histories), labels)
    text = "Means over the training batches of each epoch."
    return [Section("Training", text, [], {"training": (figure, "Loss and accuracy along training.")})]


def accuracy_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per network: how often it is right."""
    b = study.blocks[block]
    for name, member in _named((*b.surrogates, *b.targets)):
        for spec in member.specs:
            needs = {"it": Verdicts(target=spec, images=b.accuracy)}
            yield Row(
                {**member.tags, "row": name}, needs, lambda found: {"accuracy": _right(found["it"]).mean()}
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


VIEWS: dict[str, Kind] = {
    "accuracy": Kind(accuracy_rows, accuracy),
    "table": Kind(transfer_rows, table),
    "plane": Kind(transfer_rows, plane),
    "curve": Kind(transfer_rows, curve),
    "regression": Kind(transfer_rows, regression),
    "matrix": Kind(matrix_rows, matrix, ("block", "column")),
    "spectrum": Kind(spectrum_rows, spectrum, ("block", "column")),
    "images": Kind(image_rows, image_grid),
    "training": Kind(training_rows, training),
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


def scalars(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold one value a row."""
    return frame[[name for name in frame if np.ndim(frame[name].iloc[0]) == 0]]


def draw(study: Study, view: View, frame: pd.DataFrame) -> list[Section]:
    """The sections of one view."""
    return VIEWS[view.kind].draw(frame, study, **view.options)
