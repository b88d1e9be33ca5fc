"""Views along something: the epochs of a training, the values of an attack's option.

A training's epochs are networks of their own, told apart by the tag `epoch`; the values of an option are
attacks labelled "zeta=3".
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from transferjax.report import training_curves, value_table
from transferjax.report.claims.verdicts import value_of
from transferjax.report.page import Section
from transferjax.report.tables import NOISE, of_surrogates, ordered
from transferjax.study.config import Study
from transferjax.study.paper_views import known, scalars
from transferjax.study.rows import Row, transfer_rows

STOPPED = "{}, stopped"
"""What a mechanism is called where its epoch was chosen on validation images."""
LABELS = {
    "asr": "transfer success",
    "weight_eigenvalue": "λ₁ of the loss",
    "weight_trace": "trace of the loss",
    "surrogate_accuracy": "test accuracy",
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
    rows = of_surrogates(frame)
    measured = [column for column, _, _ in known(study, block).measures if column in rows]
    columns = {
        name: LABELS.get(name, name.replace("_", " ")) for name in ("asr", "surrogate_accuracy", *measured)
    }
    history = rows.groupby(["mechanism", "epoch", "seed"], sort=False)[list(columns)].mean().reset_index()
    curvatures = [name for name in measured if name.startswith("weight_")]
    figure = training_curves(history, columns, decays=decays, log=curvatures, error=study.error)
    table = value_table(
        history.assign(asr=100 * history["asr"]),
        "asr",
        "transfer success (%)",
        columns=("epoch",),
        error=study.error,
    )
    text = "Means over targets; bands are the errors over seeds. Decays of the learning rate are dashed."
    return [
        Section(f"Along training: {block}", text, [table], {f"epochs_{block}": (figure, "Along training.")})
    ]


def stopped_rows(study: Study, block: str, validation: str) -> Iterator[Row]:
    """The rows of a block, and those of the same networks on validation images, each with its `split`."""
    for split, name in (("test", block), ("validation", validation)):
        for row in epoch_rows(study, name):
            yield row._replace(tags={**row.tags, "split": split})


def stopped(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows on test images, of each training's last epoch and of the one that is best on validation images."""
    found = []
    for (mechanism, _), own in of_surrogates(frame).groupby(["mechanism", "seed"], sort=False):
        parts = dict(list(own.groupby("split")))
        if len(parts) < 2:
            continue
        test, chosen = parts["test"], parts["validation"].groupby("epoch")["asr"].mean().idxmax()
        found.append(test[test["epoch"] == test["epoch"].max()])
        best = test[test["epoch"] == chosen]
        found.append(best.assign(mechanism=STOPPED.format(mechanism)))
    if not found:
        return frame.iloc[:0].drop(columns="split", errors="ignore")
    return pd.concat(found, ignore_index=True).drop(columns="split")


def stopping(frame: pd.DataFrame, study: Study, block: str, validation: str) -> list[Section]:
    """Every minimizer at the end of training and early stopped."""
    rows = stopped(frame)
    if rows.empty:
        return [
            Section("Early stopping", "No network is there on test and on validation images yet.", [], {})
        ]
    percent = rows.assign(asr=100 * rows["asr"])
    tables = [
        value_table(percent, "asr", "transfer success (%)", columns=("target",), error=study.error),
        value_table(percent, "epoch", "epoch of the weights", error=study.error),
    ]
    text = (
        "Each mechanism at its last epoch, and (stopped) at the one whose transfer is best on images apart, "
        "mean over targets; both on the test images."
    )
    return [Section("Early stopping", text, tables, {})]


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
    name = str(rows["attack"].iloc[0]).partition("=")[0]
    rows = rows.assign(**{name: rows["attack"].map(value_of), "percent": 100 * rows["asr"]})
    figures, tables = {}, []
    for goal in ordered(rows["goal"]):
        own = rows[rows["goal"] == goal]
        seeds = own.groupby(["target", name, "seed"], sort=False)["percent"].mean().reset_index()
        label = f"{goal} success (%)"
        figure = training_curves(seeds, {"percent": label}, by="target", x=name, error=study.error)
        figures[f"sweep_{block}_{goal}"] = (figure, f"{str(goal).capitalize()} success against {name}.")
        tables.append(value_table(own, "percent", label, rows=name, columns=("target",), error=study.error))
    return [Section(f"Ablation: {name}", "Means over surrogates and budgets.", tables, figures)]
