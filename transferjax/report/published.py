"""Published tables: what they say, and a study's results in the same columns and names.

Read from `report/paper`, whose README says what they are.

Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Tables 2 to 13; Fan et al.,
"Transferability Bound Theory", NeurIPS 2024, Tables 1 to 3, 5 and 6; the results page of TransferAttack.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from transferjax.metrics.regression import explain
from transferjax.report.tables import NOISE, of_surrogates, ordered, spread

BASELINE = "ST"


class Shape(NamedTuple):
    """How a table is laid out.

    `rows` name what is compared, `groups` within which it is ranked, `values` are (centre, error or None);
    `baseline` is the row that the others are above or below; `title` is what pages call it; `ranked` whether
    rows are rivals, whose order can be compared; `once` are values that a row has whatever the group.
    """

    rows: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[tuple[str, str | None], ...]
    fixed: tuple[str, ...] = ()
    baseline: str = BASELINE
    title: str = "the paper's Table {}"
    ranked: bool = True
    once: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All of them, keys first."""
        return [*self.keys, *(name for pair in self.values for name in pair if name)]

    @property
    def keys(self) -> list[str]:
        return [*self.fixed, *self.groups, *self.rows]


_RATE = (("asr_mean", "asr_err"),)
_WHERE = ("goal", "eps_255", "target")
_MECHANISM = ("mechanism", "tau")


def _attacks(baseline: str, *more: str, title: str = "TPA's Table {}", within: tuple[str, ...] = ()) -> Shape:
    """A table of attacks: rates of one run, without errors."""
    groups = ("goal", "eps_255", *within, "surrogate", "target")
    return Shape(("attack",), groups, (("asr", None),), (*more, "white_box"), baseline, title)


SHAPES = {
    "table2": Shape(_MECHANISM, _WHERE, _RATE, ("dataset", "attack")),
    "table3": Shape(_MECHANISM, _WHERE, _RATE, ("dataset", "attack")),
    "table4": Shape(("surrogate",), _WHERE, _RATE, ("dataset",)),
    "table5": Shape(("surrogate",), _WHERE, _RATE, ("dataset",)),
    "table6": Shape(("statistic",), ("target", "eps_255"), (("value", None),), ("dataset",), ranked=False),
    "table7": Shape(
        ("surrogate",),
        ("target_training",),
        (("gradient_similarity", None), ("increment_score", None)),
        once=("increment_score",),
    ),
    "table8": Shape(("surrogate",), ("target_training", "goal"), (("asr", None),)),
    "table9": Shape(("surrogate",), ("target",), (("surrogate_acc", None), ("asr", None))),
    "table10": Shape(("mechanism",), ("goal", "eps_255", "platform"), (("asr", None),)),
    "table11": Shape(
        _MECHANISM, ("parameter",), (("value", None),), ("dataset", "used_in_tables_2_3"), ranked=False
    ),
    "table12": Shape(_MECHANISM, (), (("train_acc", None), ("test_acc", None)), ("dataset",)),
    "table13": Shape(_MECHANISM, _WHERE, _RATE, ("dataset", "attack")),
    "smoothness_imagenette": Shape(
        _MECHANISM, (), (("mean_top_eigenvalue", None),), title="the official notebook's smoothness"
    ),
    "tpa_table1": _attacks("MI", "iters"),
    "tpa_table2": _attacks("MI", "iters"),
    "tpa_table3": _attacks("MI", "iters"),
    "tpa_table5": _attacks("VT", "iters"),
    "tpa_table6": _attacks("VT", within=("iters",)),
    "transferattack_resnet50": _attacks(
        "MI-FGSM", "category", "iters", title="TransferAttack's page of results"
    ),
    "transferattack_resnet50_targeted": _attacks(
        "Logit", "category", "iters", title="TransferAttack's page of targeted results"
    ),
}
OF_ATTACKS = tuple(name for name, shape in SHAPES.items() if shape.rows == ("attack",))
"""Tables whose rows are attacks; those of the S&P paper are surrogates, or mechanisms."""


def called(table: str) -> str:
    """What pages call a table: "the paper's Table 2"."""
    return SHAPES[table].title.format(table.rpartition("table")[2])


def published(table: str, dataset: str = "cifar10") -> pd.DataFrame:
    """A table as printed, with all columns; of the data set, where the table tells them apart.

    Raises:
        ValueError: no such table.
    """
    _shape(table)
    text = files("transferjax.report") / "paper" / f"{table}.csv"
    with text.open() as opened:
        found = pd.read_csv(opened, dtype={"tau": "Int64"})
    found = found.drop_duplicates(SHAPES[table].keys)  # TransferAttack lists some under two categories
    return found[found["dataset"] == dataset].reset_index(drop=True) if "dataset" in found else found


_PARAMETERS = {"prob": "p", "size": "size_px", "eps": "eps_l2", "weight": "lambda", "rho": "rho"}
"""What Table 11 calls hyper-parameters."""


def _shape(table: str) -> Shape:
    if table not in SHAPES:
        raise ValueError(f"table {table!r}: expected one of {', '.join(SHAPES)}")
    return SHAPES[table]


def in_its_columns(
    table: str,
    results: pd.DataFrame,
    dataset: str = "cifar10",
    error: str = "half_range",
    stands_for: Mapping[Any, Any] = MappingProxyType({}),
) -> pd.DataFrame:
    """A study's rows in the columns and names of a table of the paper; rates in percent.

    Args:
        table: "table2", …
        results: one row per seed: those of transfer, with `mechanism`, `seed`, `target` and so on; for
            Table 7 `similarity` of pairs, for Table 8 also `same_as_target`, for Table 11 a row per
            hyper-parameter, for Table 12 `train` and `test` accuracies.
        dataset: whose numbers these are.
        error: over seeds, see `tables.spread`.
        stands_for: our networks and budgets -> the paper's whose place they take, in tables of attacks.
    """
    shape = _shape(table)
    if table in OF_ATTACKS:
        found = _of_attacks(table, results, stands_for)
    elif table == "table6":
        found = _explained(results)
    elif table == "table7":
        found = _differences(results)
    elif table == "table11":
        found = results.drop_duplicates("mechanism").replace({"parameter": _PARAMETERS})
    elif table == "table12":
        found = _accuracies(results)
    elif table == "smoothness_imagenette":
        means = results.groupby("mechanism", sort=False)["smoothness"].mean()
        found = means.rename("mean_top_eigenvalue").round(4).reset_index()
    elif table == "table9":
        found = _transformers(results)
    else:
        found = _rates(_renamed(table, results), shape, error)
    if "tau" in shape.rows:
        found = _split(found)
    if "eps_255" in found and (found["eps_255"] % 1 == 0).all():
        found = found.astype({"eps_255": int})
    return found.assign(dataset=dataset)[list(published(table, dataset))]


STEPS = re.compile(r"(.+), (\d+) steps")
"""An attack's label where a table tells numbers of steps apart: "VT, 10 steps"."""


def _of_attacks(table: str, results: pd.DataFrame, stands_for: Mapping[Any, Any]) -> pd.DataFrame:
    """Means over seeds by attack; what the table fixes besides is its own."""
    shape, printed = SHAPES[table], published(table)
    said = results["attack"].map(lambda label: STEPS.fullmatch(label) or (label, label, np.nan))
    rows = of_surrogates(
        results.assign(
            iters=said.map(lambda m: float(m[2])),
            attack=said.map(lambda m: m[1]),
            surrogate=results["mechanism"],
            white_box=(results["mechanism"] == results["target"]).astype(int),
        )
    )
    for column in ("surrogate", "target", "eps_255"):
        rows[column] = [stands_for.get(value, value) for value in rows[column]]
    for column in set(shape.fixed) - {"white_box"}:
        rows[column] = rows["attack"].map(dict(zip(printed["attack"], printed[column], strict=True)))
    rates = 100 * rows.groupby(shape.keys, sort=False, dropna=False)["asr"].mean()
    return rates.round(4).reset_index()


def _renamed(table: str, results: pd.DataFrame) -> pd.DataFrame:
    """Rows with the names that the table calls them by."""
    if table == "table4":
        return results.assign(surrogate=_with_attack(results))
    if table == "table10":
        names = results["mechanism"].replace({"AT": "AT,eps=1", "AT_7": "AT,eps=5"})
        names = names.str.replace(r"^(MU|CM|CO|LS)_\d+$", r"\1", regex=True)
        return results.assign(mechanism=names, platform=results["target"])
    if table == "table5":
        return results.assign(surrogate=results["mechanism"])
    if table == "table8":
        same = results["same_as_target"].astype(bool)
        names = {*published(table)["surrogate"], NOISE}
        kept = results[same | results["mechanism"].isin(names)]
        return kept.assign(
            surrogate=kept["mechanism"].where(~same, "same_as_target"), target_training=_training(kept)
        )
    return results


def _with_attack(results: pd.DataFrame) -> pd.Series:
    """ "ST+DIM": the mechanism, and its attack where that is not PGD."""
    name, attack = results["mechanism"], results["attack"]
    return name.where(attack.isin(("pgd", NOISE)), name + "+" + attack)


def _transformers(results: pd.DataFrame) -> pd.DataFrame:
    named = results.assign(surrogate=_with_attack(results))
    keys = ["surrogate", "target"]
    means = 100 * named.groupby(keys, sort=False)[["surrogate_accuracy", "asr"]].mean()
    return means.rename(columns={"surrogate_accuracy": "surrogate_acc"}).round(4).reset_index()


def _training(results: pd.DataFrame) -> pd.Series:
    """How the target was trained: "target CM" is CM, all others are ST."""
    return results["target"].where(results["target"].str.startswith("target "), f"target {BASELINE}").str[7:]


def _rates(results: pd.DataFrame, shape: Shape, error: str) -> pd.DataFrame:
    keys = [name for name in shape.keys if name not in ("dataset", "tau")]
    ((center, err),) = shape.values
    rows = []
    for cell, values in results.groupby(keys, sort=False)["asr"]:
        middle, half = spread(100 * values, error)
        numbers = {center: round(middle, 4)} | ({err: round(half, 4)} if err else {})
        rows.append({**dict(zip(keys, cell, strict=True)), **numbers})
    return pd.DataFrame(rows)


def _split(found: pd.DataFrame) -> pd.DataFrame:
    """ "MU_1" as MU with `tau` 1, "MU_1[paper]" as "MU[paper]" likewise."""
    parts = found["mechanism"].str.extract(r"^(?P<name>.*?)(?:_(?P<tau>\d+))?(?P<paper>\[paper\])?$")
    return found.assign(
        mechanism=parts["name"] + parts["paper"].fillna(""), tau=pd.to_numeric(parts["tau"]).astype("Int64")
    )


STATISTICS = {
    "surrogate_accuracy": "r_accuracy",
    "fooling_rate": "r_fooling",
    "smoothness": "r_smoothness",
    "similarity": "r_similarity",
    "smoothness + similarity": "R2_smoothness_similarity",
    "surrogate_accuracy + fooling_rate + smoothness + similarity": "R2_all_four",
}


def _explained(results: pd.DataFrame) -> pd.DataFrame:
    """Table 6 over all surrogates, untargeted, of the first attack; as in the paper, high means smooth."""
    rows = of_surrogates(results)
    rows = rows[rows["goal"] == "untargeted"]
    if rows.empty:
        return pd.DataFrame(columns=["statistic", "target", "eps_255", "value"])
    if "attack" in rows:
        rows = rows[rows["attack"] == rows["attack"].iloc[0]]
    found = explain(rows.assign(smoothness=-rows["smoothness"]))
    chosen = found[found["statistic"].isin(("pearson", "r_squared")) & found["factor"].isin(STATISTICS)]
    chosen = chosen.assign(statistic=chosen["factor"].map(STATISTICS))
    return chosen[["statistic", "target", "eps_255", "value"]].round(4)


def increments(similarities: pd.DataFrame) -> pd.Series:
    """Table 7's score: columns in which a row is above the baseline, minus those in which it is below.

    NaN of a row that lacks columns.
    """
    return np.sign(similarities - similarities.loc[BASELINE]).sum(axis=1, skipna=False)


def _differences(results: pd.DataFrame) -> pd.DataFrame:
    named = results.assign(
        surrogate=results["mechanism"].str.replace(r"_\d+$", "", regex=True),
        target_training=_training(results),
    )
    keys = ["surrogate", "target_training"]
    means = named.groupby(keys, sort=False)["similarity"].mean().unstack()
    means = means.loc[ordered(named["surrogate"]), ordered(named["target_training"])]
    scores = increments(means) if BASELINE in means.index else pd.Series(np.nan, means.index)
    cells = means.stack().rename("gradient_similarity").reset_index().round(5)
    return cells.assign(increment_score=cells["surrogate"].map(scores))


def _accuracies(results: pd.DataFrame) -> pd.DataFrame:
    means = 100 * results.groupby("mechanism", sort=False)[["train", "test"]].mean()
    return means.rename(columns={"train": "train_acc", "test": "test_acc"}).round(3).reset_index()


def names_of(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """One name for each row: "MU_1" of a mechanism and its τ."""
    found = rows[columns[0]].astype(str)
    for column in columns[1:]:
        known = rows[column].notna()
        found = found.where(~known, found + "_" + rows[column].astype(str))
    return found
