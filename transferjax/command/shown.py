"""What is shown of a transfer table: tables, what their marks mean, images to look at, and the page."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from transferjax.command.questions import Question
from transferjax.data import Dataset
from transferjax.files import replacing
from transferjax.metrics import proportion_interval
from transferjax.naming import described
from transferjax.report import NOISE, Section, Table, images_section, write_sections
from transferjax.report.tables import DIGITS, tenths
from transferjax.study.run import provenance

LEVEL = 0.025
"""An attack that beats noise no more clearly than this (one-sided) gets a mark."""
IMAGES = 24
"""So many images are in a page, over all attacks, or one of each."""
EACH = 8
"""At most so many of one attack."""


class Seen(NamedTuple):
    """Some images of an attack, and what each target says of them."""

    question: Question
    surrogate: str
    images: np.ndarray
    said: Sequence[np.ndarray]


def some(count: int) -> np.ndarray:
    """Places of images to look at, all over the data, so that classes differ."""
    return np.unique(np.linspace(0, count - 1, EACH).astype(int))


def legend(best: str) -> str:
    """What the tables' marks mean; `best` is how they mark the best entry."""
    return (
        "In brackets is Wilson's 95 % interval. Images are rounded to 8 bits inside the ball; the rows "
        f"{NOISE!r} are random signs of that budget on the same images. † is no more than noise (sign test, "
        f"{100 * LEVEL:g} %); ‡ a white box: the target is the surrogate itself; {best} the best of a "
        "column, white boxes apart."
    )


def tables(results: pd.DataFrame) -> list[Table]:
    """Success in percent, surrogates and attacks down, budgets and targets across; then the clean errors."""
    count = results["images"].iloc[0]
    return [
        _table(results, "asr", "noise", f"Success on all {count} images (%)"),
        _table(
            results, "asr_both", "noise_both", "Success on images that surrogate and target get right (%)"
        ),
        _clean(results, int(count)),
    ]


def _table(results: pd.DataFrame, value: str, noise: str, title: str) -> Table:
    both = value == "asr_both"
    named = results[results["surrogate"] != NOISE].assign(
        name=lambda rows: rows.surrogate + ": " + rows.attack
    )
    others = results[results["surrogate"] == NOISE].assign(name=NOISE)
    if both:  # noise on the images of each surrogate: a rate of other images says nothing beside theirs
        others = named.drop_duplicates(["surrogate", "eps_255", "target"]).assign(
            name=lambda rows: rows.surrogate + ": " + NOISE, asr_both=lambda rows: rows.noise_both
        )
    found = pd.concat([named, others])[["surrogate", "name"]].drop_duplicates()
    rows = [name for _, of_one in found.groupby("surrogate", sort=False) for name in of_one["name"]]
    columns = pd.MultiIndex.from_tuples(
        [(f"ε = {eps:g}/255", target) for eps, target in
         results[["eps_255", "target"]].drop_duplicates().itertuples(index=False)]
    )  # fmt: skip
    center = pd.DataFrame(np.nan, rows, columns)
    candidates, after = center.copy(), pd.DataFrame("", rows, columns)
    for is_noise, part in ((False, named), (True, others)):
        for row in part.to_dict("records"):
            place = row["name"], (f"ε = {row['eps_255']:g}/255", row["target"])
            count = int(row["both_right"] if both else row["images"])
            center.loc[place] = 100 * row[value]
            after.loc[place] = _interval(row[value], count) + (f" of {count}" if both else "")
            if is_noise:
                continue
            weak = row[f"{noise}_p"] > LEVEL
            after.loc[place] += " †" * weak + " ‡" * row["white_box"]
            candidates.loc[place] = np.nan if weak or row["white_box"] else 100 * row[value]
    best = candidates.eq(candidates.max()) & candidates.notna()
    return Table(title, center, center * np.nan, best, tenths, "surrogate: attack", after)


def _interval(rate: float, count: int) -> str:
    if not count:
        return ""
    low, high = proportion_interval(round(rate * count), count)
    return f"[{100 * low:.1f}–{100 * high:.1f}]"


def _clean(results: pd.DataFrame, count: int) -> Table:
    """The error of each model on clean images, targets first."""
    errors = dict(zip(results["target"], results["target_error"], strict=True))
    sources = results[results["surrogate"] != NOISE]
    for name, error in zip(sources["surrogate"], sources["surrogate_error"], strict=True):
        errors.setdefault(name, error)
    columns = pd.MultiIndex.from_tuples([("error on", "clean images")])
    center = pd.DataFrame([[100 * error] for error in errors.values()], list(errors), columns)
    after = pd.DataFrame([[_interval(error, count)] for error in errors.values()], list(errors), columns)
    none = center * np.nan
    title = f"Error of each model on the {count} clean images (%)"
    return Table(title, center, none, none.notna(), tenths, "model", after)


def write(
    out: Path,
    results: pd.DataFrame,
    settings: Mapping[str, Any],
    looked: Dataset,
    clean: Mapping[str, np.ndarray],
    shown: Sequence[Seen],
) -> None:
    """The rows as `results.csv`, the page as `report.html` and `report.md`.

    Args:
        out: the directory.
        results: see `evaluate`.
        settings: what was asked.
        looked: clean images to look at.
        clean: target -> what it says of them, in order of the targets.
        shown: of each attack and budget the same images.
    """
    with replacing(out / "results.csv") as partial:
        results.to_csv(partial, index=False, float_format=DIGITS)
    text = (
        f"Images that an attack made on a surrogate, shown to targets: {results['images'].iloc[0]} images of "
        f"{looked.num_classes} classes. {legend('bold')}"
    )
    plain = json.loads(json.dumps(settings, default=described))
    parts = [Section("Transfer", text, tables(results), {}), images_section(_examples(looked, clean, shown))]
    write_sections(out, parts, "Transfer table", plain, _environment())


def _environment() -> dict[str, Any]:
    """When, by which command, with which versions and on what."""
    torch = sys.modules.get("torch")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    asked = {"date": when, "command": shlex.join(sys.argv)}
    return {**asked, **provenance(), **({"torch": str(torch.__version__)} if torch is not None else {})}


def _examples(
    images: Dataset, clean: Mapping[str, np.ndarray], shown: Sequence[Seen]
) -> list[dict[str, Any]]:
    """Some images of each attack at its largest budget, and what all targets say of them."""
    largest = max(one.question.eps_255 for one in shown)
    series = [one for one in shown if one.question.eps_255 == largest and one.surrogate != NOISE]
    few = slice(max(1, IMAGES // len(series)))
    names = lambda classes: [images.class_names[k] if k < images.num_classes else k for k in classes]  # noqa: E731
    return [
        {
            "caption": f"{one.surrogate}: {one.question.label}, ε = {largest:g}/255",
            "clean": images.images[few],
            "adversarial": one.images[few],
            "labels": names(images.labels[few]),
            "clean_predictions": {judge: names(said[few]) for judge, said in clean.items()},
            "adversarial_predictions": {
                judge: names(said[few]) for judge, said in zip(clean, one.said, strict=True)
            },
        }
        for one in series
    ]
