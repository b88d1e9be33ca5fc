"""A study beside the paper: ours | paper ± error | difference, and whether both order things alike."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from transferjax.report.page import Section
from transferjax.report.published import SHAPES, called, names_of, published
from transferjax.report.tables import Table, ordered, said, significant

RESAMPLES = 1000
MEAN = "mean over targets"
EVERY = "all"  # stands for the groups of what a row has once


def cells(table: str, ours: pd.DataFrame, dataset: str = "cifar10") -> pd.DataFrame:
    """Every cell that both have: keys, `quantity`, `row`, `ours`, `paper`, their errors, `difference`.

    Args:
        table: "table2", …
        ours: in the paper's columns, see `published.in_its_columns`.
        dataset: whose numbers to lay beside it.
    """
    shape, theirs = SHAPES[table], published(table, dataset)
    both = ours.merge(theirs, on=shape.keys, how="inner", suffixes=("_ours", "_paper"))
    parts = []
    for center, err in shape.values:
        part = both[shape.keys].assign(quantity=center, row=names_of(both, shape.rows))
        for who in ("ours", "paper"):
            part[who] = both[f"{center}_{who}"].astype(float)
            part[f"{who}_err"] = both[f"{err}_{who}"].astype(float) if err else np.nan
        if center in shape.once:
            part = part.drop_duplicates("row").assign(**dict.fromkeys(shape.groups, EVERY))
        parts.append(part)
    found = pd.concat(parts, ignore_index=True)
    return found.assign(difference=found["ours"] - found["paper"])


PERCENT = ("asr", "acc")
"""What quantities in percent begin or end with."""


def two_digits(number: float) -> str:
    """Two digits behind the point."""
    return f"{number:.2f}"


def spearman(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Rank correlation along the last axis; NaN where either is constant, and of fewer than three pairs."""
    import scipy.stats  # slow, and no other page needs it

    ranked = [scipy.stats.rankdata(np.asarray(values, float), axis=-1) for values in (x, y)]
    a, b = (values - values.mean(-1, keepdims=True) for values in ranked)
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    told = (norms > 0) & (a.shape[-1] > 2)
    return np.where(told, (a * b).sum(-1) / np.where(norms > 0, norms, 1), np.nan)


def spearman_interval(
    x: Sequence[float], y: Sequence[float], level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Rank correlation with a percentile bootstrap interval over the pairs, which are drawn with replacement.

    Args:
        x, y: one number for each row of a table; pairs that are not finite are left out.
        level: coverage.
        resamples: how many draws; those in which either is constant are left out.

    Reference: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    if len(a) < 3:
        return (float("nan"),) * 3
    chosen = np.random.default_rng(0).integers(0, len(a), (resamples, len(a)))
    rho, draws = float(spearman(a, b)), spearman(a[chosen], b[chosen])
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return rho, float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return rho, float(low), float(high)


def orders(means: pd.DataFrame, names: Sequence[str], of: str) -> list[str]:
    """How each of these columns orders the rows beside the column `of`: "flatness 0.50 [-0.12, 0.91]"."""
    return [
        f"{name.replace('_', ' ')} {rho:.2f} [{low:.2f}, {high:.2f}]"
        for name in names
        for rho, low, high in [spearman_interval(means[name], means[of])]
    ]


def ranks(table: str, found: pd.DataFrame) -> pd.DataFrame:
    """For each group of cells, and the mean over its targets: ρ, its interval, which side of the baseline.

    The mean is over rows that have all targets.

    Returns:
        `quantity`, the groups, `rows`, `spearman`, `low`, `high`, `same_side`: of the rows that are above or
        below the baseline, not level with it, the share that is so in both. Empty of a table whose rows are
        no rivals (`Shape.ranked`).
    """
    if not SHAPES[table].ranked:
        found = found.iloc[:0]
    groups = ["quantity", *SHAPES[table].groups]
    rows = [
        _rank(dict(zip(groups, cell, strict=True)), part, SHAPES[table].baseline)
        for cell, part in found.groupby(groups, sort=False)
    ]
    if "target" in groups:
        over = [name for name in groups if name != "target"]
        black = found[found["surrogate"] != found["target"]] if "surrogate" in found else found
        for cell, part in black.dropna(subset=["ours", "paper"]).groupby(over, sort=False):
            where = {**dict(zip(over, cell, strict=True)), "target": MEAN}
            targets = part.groupby("row", sort=False)["target"].nunique()
            whole = part[part["row"].map(targets) == part["target"].nunique()]  # of an unfinished run not all
            means = whole.groupby("row", sort=False)[["ours", "paper"]].mean().reset_index()
            rows.append(_rank(where, means, SHAPES[table].baseline))
    return pd.DataFrame(rows, columns=[*groups, "rows", "spearman", "low", "high", "same_side"])


def _rank(where: dict[str, Hashable], part: pd.DataFrame, baseline: str) -> dict[str, object]:
    part = part[np.isfinite(part[["ours", "paper"]]).all(axis=1)]
    rho, low, high = spearman_interval(part["ours"], part["paper"])
    found = {"rows": len(part), "spearman": rho, "low": low, "high": high, "same_side": np.nan}
    base, others = part[part["row"] == baseline], part[part["row"] != baseline]
    if len(base) == 1 and len(others):
        sides = [np.sign(others[who] - base[who].iloc[0]) for who in ("ours", "paper")]
        apart = (sides[0] != 0) & (sides[1] != 0)
        found["same_side"] = float((sides[0] == sides[1])[apart].mean()) if apart.any() else np.nan
    return {**where, **found}


def agreement_section(table: str, found: pd.DataFrame, ranked: pd.DataFrame) -> Section:
    """The cells side by side, a table for each goal and budget, and one of the orders."""
    title = f"Agreement with {called(table)}"
    if found.empty:
        return Section(title, f"No cell of {called(table)} is among these results.", [], {})
    if ranked.empty:
        return Section(title, f"Ours beside {called(table)}.", _cell_tables(table, found), {})
    text = (
        f"Ours beside {called(table)}. ρ is Spearman's over the rows, its interval a bootstrap over rows "
        f"(95 %); same side: the share of rows that lie above or below {SHAPES[table].baseline} in both."
    )
    return Section(title, text, [_ranks_table(ranked), *_cell_tables(table, found)], {})


def _cell_tables(table: str, found: pd.DataFrame) -> list[Table]:
    shape = SHAPES[table]
    across = next((name for name in ("target", "target_training") if name in shape.groups), None)
    apart = ["quantity", *(name for name in shape.groups if name != across)]
    tables = []
    for where, part in found.groupby(apart, sort=False):
        heads = ordered(part[across]) if across else [""]
        rows = ordered(part["row"])
        center, err = {}, {}
        for head in heads:
            cell = (part[part[across] == head] if across else part).set_index("row").reindex(rows)
            for who in ("ours", "paper", "difference"):
                center[head, who] = cell[who]
                err[head, who] = cell.get(f"{who}_err", pd.Series(np.nan, cell.index))
        title = ", ".join(map(said, apart, where))
        number = two_digits if where[0].startswith(PERCENT) or where[0].endswith(PERCENT) else significant
        tables.append(_table(title, pd.DataFrame(center), pd.DataFrame(err), number, "row"))
    return tables


def _ranks_table(ranked: pd.DataFrame) -> Table:
    groups = [name for name in ranked if name not in ("rows", "spearman", "low", "high", "same_side")]
    labels = [
        ", ".join(said(n, value) for n, value in zip(groups, row, strict=True) if n != "quantity")
        for row in ranked[groups].itertuples(index=False)
    ]
    if ranked["quantity"].nunique() > 1:
        labels = [
            f"{said('', q)} {label}".strip() for q, label in zip(ranked["quantity"], labels, strict=True)
        ]
    heads = {"rows": "rows", "spearman": "ρ", "low": "low", "high": "high", "same_side": "same side"}
    center = ranked[list(heads)].astype(float).set_axis(labels, axis=0)
    center.columns = pd.MultiIndex.from_tuples([("order", head) for head in heads.values()])
    nothing = pd.DataFrame(np.nan, center.index, center.columns)
    return _table("Do both order the rows alike?", center, nothing, two_digits, "where")


def _table(
    title: str, center: pd.DataFrame, err: pd.DataFrame, number: Callable[[float], str], corner: str
) -> Table:
    best = pd.DataFrame(False, index=center.index, columns=center.columns)
    return Table(title, center, err, best, number, corner)
