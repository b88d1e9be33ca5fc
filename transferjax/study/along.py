"""Views along something: the epochs of a training, the values of an attack's option.

A training's epochs are networks of their own, told apart by the tag `epoch`; the values of an option are
attacks labelled "zeta=3".
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from transferjax.metrics.regression import correlation
from transferjax.report import training_curves, value_table
from transferjax.report.claims.verdicts import value_of
from transferjax.report.markup import slug
from transferjax.report.page import Section, errors_in_words, split
from transferjax.report.tables import CELL, NOISE, of_surrogates, ordered, percent, several
from transferjax.study.config import Study
from transferjax.study.paper_views import known, scalars
from transferjax.study.rows import Row, transfer_rows

STOPPED = "{}, stopped"
"""What a mechanism is called where its epoch was chosen on validation images."""
LABELS = {
    "asr": "transfer success (%)",
    "surrogate_accuracy": "test accuracy (%)",
    "weight_eigenvalue": "λ₁ of the loss",
    "weight_trace": "trace of the loss",
}


def epoch_rows(study: Study, block: str, decays: tuple[float, ...] = ()) -> Iterator[Row]:
    """The rows of transfer of networks that know their epoch.

    Raises:
        ValueError: some do not.
    """
    if strange := [str(m) for m in known(study, block).surrogates if "epoch" not in m.tags]:
        raise ValueError(f"block {block!r}: {', '.join(strange)} say no `epoch` among their tags")
    return transfer_rows(study, block)


def epochs(frame: pd.DataFrame, study: Study, block: str, decays: tuple[float, ...] = ()) -> list[Section]:
    """Transfer, accuracy and what the block measures against the epoch, with bands over seeds."""
    measured = [column for column, _, _ in known(study, block).measures if column in frame]
    columns = {
        name: LABELS.get(name, name.replace("_", " ")) for name in ("asr", "surrogate_accuracy", *measured)
    }
    curvatures = [name for name in measured if name.startswith("weight_")]
    text = "Means over targets; bands are the errors over seeds."
    text += " Decays of the learning rate are dashed." if decays else ""

    def draw(rows: pd.DataFrame) -> list[Section]:
        history = rows.groupby(["mechanism", "epoch", "seed"], sort=False)[list(columns)].mean().reset_index()
        figure = training_curves(history, columns, decays=decays, log=curvatures, error=study.error)
        shares = percent(history)
        tables = [
            value_table(
                shares, name, label, columns=("epoch",), error=study.error, largest=name == "asr" or None
            )
            for name, label in columns.items()
        ]
        figures = {f"epochs_{block}": (figure, "Along training.")}
        return [Section(f"Along training: {block}", text, tables, figures)]

    return split(of_surrogates(frame), draw)


def stopped_rows(study: Study, block: str, validation: str) -> Iterator[Row]:
    """The rows of a block, and those of the same networks on validation images, each with its `split`.

    And with the `last` epoch of its training, which may not be there yet.
    """
    last: dict[Any, float] = {}
    for member in known(study, block).surrogates:
        last[member.tags["mechanism"]] = max(last.get(member.tags["mechanism"], 0.0), member.tags["epoch"])
    for row in _both(epoch_rows, study, block, validation):
        yield row._replace(tags={**row.tags, "last": last[row.tags["mechanism"]]})


def _both(rows: Callable[[Study, str], Iterator[Row]], study: Study, *blocks: str) -> Iterator[Row]:
    """Rows of a block and of the one by which something is chosen, each with its `split`."""
    for part, name in zip(("test", "validation"), blocks, strict=True):
        for row in rows(study, name):
            yield row._replace(tags={**row.tags, "split": part})


def stopped(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows on test images, of each training's last epoch and of the earlier one that is best on validation.

    Best for each attack, goal and budget: what is chosen for one is no choice for another. A training that
    lacks an epoch, or a target of one, on either images is left out.
    """
    found, rows = [], of_surrogates(frame)
    apart = ["mechanism", "seed", *(name for name in CELL if name in rows)]
    for (mechanism, *_), own in rows.groupby(apart, sort=False):
        success = own.pivot_table("asr", ["split", "target"], "epoch")
        if len(own["split"].unique()) < 2 or success.isna().any(axis=None) or len(success.columns) < 2:
            continue
        *earlier, end = success.columns
        if end != own["last"].max():
            continue
        best = success.loc["validation", earlier].mean().idxmax()
        test = own[own["split"] == "test"]
        found.append(test[test["epoch"] == end])
        found.append(test[test["epoch"] == best].assign(mechanism=STOPPED.format(mechanism)))
    if not found:
        return frame.iloc[:0].drop(columns=["split", "last"], errors="ignore")
    return pd.concat(found, ignore_index=True).drop(columns=["split", "last"])


def stopping(frame: pd.DataFrame, study: Study, block: str, validation: str) -> list[Section]:
    """Every minimizer at the end of training and early stopped."""
    rows = stopped(frame)
    if rows.empty:
        return [
            Section("Early stopping", "No network is there on test and on validation images yet.", [], {})
        ]
    text = (
        "Each mechanism at its last epoch, and (stopped) at the earlier one whose transfer is best on images "
        "apart, mean over targets; both on the test images."
    )

    def draw(own: pd.DataFrame) -> list[Section]:
        tables = [
            value_table(own, "asr", LABELS["asr"], columns=("target",), error=study.error),
            value_table(own, "epoch", "epoch of the weights", error=study.error, largest=None),
        ]
        return [Section("Early stopping", text, tables, {})]

    return split(percent(rows), draw)


def stopped_files(frame: pd.DataFrame, study: Study, **options: Any) -> dict[str, pd.DataFrame]:
    """What is shown, and every row behind it."""
    return {"": scalars(stopped(frame)), "_rows": scalars(frame)}


def sweep_rows(study: Study, block: str) -> Iterator[Row]:
    """The rows of transfer of attacks labelled by a value.

    Raises:
        ValueError: labels without one.
    """
    labels = [label for label, _ in known(study, block).attacks]
    if strange := [label for label in labels if value_of(label) is None]:
        raise ValueError(
            f"block {block!r}: attacks {', '.join(strange)} are labelled by no value, as in 'zeta=3'"
        )
    return transfer_rows(study, block)


def sweep(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Transfer against the value of an attack's option, a line for each target."""
    rows = frame[frame["attack"] != NOISE]
    rows = rows.assign(option=rows["attack"].str.partition("=")[0])
    parts: list[Section] = []
    for option, own in rows.groupby("option", sort=False):
        name = str(option)
        where = slug(f"{block}_{name}") if several(rows, ("option",)) else block
        own = own.assign(**{name: own["attack"].map(value_of)})
        parts += split(
            own, partial(_ablation, name=name, where=where, error=study.error), ("mechanism", "eps_255")
        )
    return parts


def _ablation(rows: pd.DataFrame, name: str, where: str, error: str) -> list[Section]:
    """One option at one budget, a figure and a table for each goal."""
    figures, tables = {}, []
    for goal in ordered(rows["goal"]):
        own = rows[rows["goal"] == goal]
        seeds = own.groupby(["target", name, "seed"], sort=False)["asr"].mean().reset_index()
        label = f"{goal} success (%)"
        figure = training_curves(seeds, {"asr": label}, by="target", x=name, error=error)
        figures[f"sweep_{where}_{goal}"] = (figure, f"{str(goal).capitalize()} success against {name}.")
        table = value_table(percent(own), "asr", label, rows=name, columns=("target",), error=error)
        tables.append(table)
    return [Section(f"Ablation: {name}", errors_in_words(rows, error), tables, figures)]


def choice_rows(study: Study, block: str, validation: str) -> Iterator[Row]:
    """The rows of a sweep, and of the same attacks on what they are chosen by, each with its `split`."""
    return _both(sweep_rows, study, block, validation)


def choices(frame: pd.DataFrame) -> pd.DataFrame:
    """For each option the value whose success is largest on validation, and what that is worth on test.

    Rows have the quantities `chosen`, `success` and `best` (in percent: of the chosen value, and of the one
    that is best on the targets), and Spearman's ρ between the two successes over the values.
    """
    rows = of_surrogates(frame).assign(option=frame["attack"].str.partition("=")[0])
    rows["value"] = rows["attack"].map(value_of)
    found, apart = [], ["option", "mechanism", "seed", "goal", "eps_255"]
    for keys, own in rows.groupby(apart, sort=False):
        success = own.groupby(["split", "value"])["asr"].mean().unstack("split").dropna()
        if {"test", "validation"} <= set(success) and len(success):
            test, chosen = 100 * success["test"], success["validation"].idxmax()
            said = {"chosen": chosen, "success": test[chosen], "best": test.max()}
            said["rho"] = correlation(success["validation"], success["test"], "spearman").value
            found.append(dict(zip(apart, keys, strict=True)) | said)
    return pd.DataFrame(found, columns=[*apart, "chosen", "success", "best", "rho"])


QUANTITIES = {
    "chosen": "value chosen without a victim",
    "success": "its success (%)",
    "best": "success of the best (%)",
    "rho": "Spearman's ρ",
}


def choosing(frame: pd.DataFrame, study: Study, block: str, validation: str) -> list[Section]:
    """Options chosen by success on the surrogate's own views, which needs no victim, and what that costs."""
    rows = choices(frame)
    title = "Chosen without a victim"
    if rows.empty:
        return [Section(title, "No attack is there on targets and on own views yet.", [], {})]
    text = (
        "Each option has the value whose success is largest on the surrogate behind transformations; beside "
        "its success on the targets stands that of the value that would have been best there. ρ is over the "
        "values: 1 where both order them alike."
    )

    def draw(own: pd.DataFrame) -> list[Section]:
        long = own.rename(columns=QUANTITIES).melt(
            ["option", "seed"], list(QUANTITIES.values()), var_name="quantity", value_name="value"
        )
        across, error = ("quantity",), study.error
        table = value_table(long, "value", "", rows="option", columns=across, error=error, largest=None)
        return [Section(title, text, [table._replace(title=title)], {})]

    return split(rows, draw, ("mechanism", "goal", "eps_255"))


def choice_files(frame: pd.DataFrame, study: Study, **options: Any) -> dict[str, pd.DataFrame]:
    """What is shown, and every row behind it."""
    return {"": choices(frame), "_rows": scalars(frame)}
