"""Intervals over seeds: whether another run of a study, by other code, is still the same study.

A number of a mechanism is what its seeds spread around. Of n seeds, with mean m and deviation s, the mean of
k others is within

    m ± t s sqrt(1/n + 1/k),    t the quantile of Student's distribution with n − 1 degrees of freedom,

as often as the level says, if nothing but the seeds changed. Curvature spreads by factors: of its logarithm.
"""

import numpy as np
import pandas as pd

from transferjax.report.tables import of_surrogates

LEVEL = 0.999
FACTORS = ("smoothness",)
KEYS = ["mechanism", "quantity"]


def per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """What each surrogate has, as means over targets: `mechanism, seed, quantity, value`.

    Args:
        frame: rows of a `table` view: one for each surrogate, goal, budget and target.
    """
    frame = of_surrogates(frame)
    own = ["surrogate_accuracy", *FACTORS, "similarity"]
    found = (
        frame.groupby(["mechanism", "seed"], sort=False)[own]
        .mean()
        .rename(columns={"surrogate_accuracy": "accuracy"})
    )
    named = frame.assign(quantity=[f"{goal} success, {eps:g}/255" for goal, eps in
                                   zip(frame["goal"], frame["eps_255"], strict=True)])  # fmt: skip
    success = named.pivot_table("asr", ["mechanism", "seed"], "quantity", sort=False)
    return found.join(success).melt(ignore_index=False, var_name="quantity").reset_index()


def intervals(values: pd.DataFrame, seeds: int, level: float = LEVEL) -> pd.DataFrame:
    """`mechanism, quantity, mean, low, high, seeds`: where the mean of so many other seeds is to be expected.

    Args:
        values: see `per_seed`.
        seeds: k, of the run that is to be compared.
        level: how often each interval holds.

    Raises:
        ValueError: fewer than three seeds, or none to compare.
    """
    import scipy.stats  # slow, and no other page needs it

    rows = []
    for (mechanism, quantity), group in values.groupby(KEYS, sort=False):
        count, own = len(group), _scaled(str(quantity), group["value"].to_numpy(float))
        if count < 3 or seeds < 1:
            raise ValueError(f"{mechanism}: {count} seeds for {seeds} others; expected at least 3, and 1")
        reach = scipy.stats.t.ppf((1 + level) / 2, count - 1) * own.std(ddof=1)
        reach *= np.sqrt(1 / count + 1 / seeds)
        bounds = [_unscaled(str(quantity), own.mean() + sign * reach) for sign in (0, -1, 1)]
        rows.append((mechanism, quantity, *bounds, count))
    return pd.DataFrame(rows, columns=[*KEYS, "mean", "low", "high", "seeds"])


def outside(values: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """The expected rows that a run's `value` (its seeds' mean) is not within, or that it does not have.

    Args:
        values: of the run, see `per_seed`.
        expected: see `intervals`, for as many seeds as the run has.
    """
    mean = {
        keys: _unscaled(keys[1], _scaled(keys[1], group["value"].to_numpy(float)).mean())
        for keys, group in values.groupby(KEYS)
    }
    found = [mean.get((row.mechanism, row.quantity), np.nan) for row in expected.itertuples()]
    both = expected.assign(value=found)
    return both[~both["value"].between(both["low"], both["high"])]


def _scaled(quantity: str, values: np.ndarray) -> np.ndarray:
    return np.log(values) if quantity in FACTORS else values


def _unscaled(quantity: str, value: float) -> float:
    return float(np.exp(value) if quantity in FACTORS else value)
