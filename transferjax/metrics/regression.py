"""What explains transfer success? Correlations and least squares over surrogates, from tidy results.

Not imported with the other metrics: it needs pandas and statsmodels, they need only JAX.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

FACTORS = ("surrogate_accuracy", "fooling_rate", "smoothness", "similarity")
GROUPS = ("goal", "target", "eps_255")
UNDEFINED = 0.05
"""The share of draws without a value beyond which an interval of the others says nothing."""


class Correlation(NamedTuple):
    """A correlation coefficient, its confidence interval and p-value, from so many points."""

    value: float
    low: float
    high: float
    p_value: float
    points: int


def correlation(
    x: Sequence[float], y: Sequence[float], kind: str = "pearson", level: float = 0.95
) -> Correlation:
    """Pearson's or Spearman's correlation with Fisher's interval `tanh(atanh r ± z / √(n - 3))`.

    For Spearman the standard error is `√((1 + r²/2) / (n - 3))`. Undefined (NaN) if x or y is constant; the
    interval needs at least four points.

    Reference: Fisher, 1921; Bonett and Wright, "Sample Size Requirements", Psychometrika 2000.
    """
    import scipy.stats  # slow, and no page without a regression needs it

    if kind not in ("pearson", "spearman"):
        raise ValueError(f"kind must be 'pearson' or 'spearman'; got {kind!r}")
    pair = np.asarray([x, y], float)
    count = pair.shape[1]
    if count < 2 or (np.ptp(pair, axis=1) == 0).any():
        return Correlation(np.nan, np.nan, np.nan, np.nan, count)
    found = (scipy.stats.pearsonr if kind == "pearson" else scipy.stats.spearmanr)(*pair)
    r = float(found.statistic)
    if count < 4:
        return Correlation(r, np.nan, np.nan, float(found.pvalue), count)
    error = np.sqrt((1 + r**2 / 2 if kind == "spearman" else 1) / (count - 3))
    middle = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    half = scipy.stats.norm.ppf((1 + level) / 2) * error
    return Correlation(r, np.tanh(middle - half), np.tanh(middle + half), float(found.pvalue), count)


class Fit(NamedTuple):
    """Least squares `y = β₀ + Σ_j β_j z_j` on standardized factors z.

    `coefficients` has a row per factor: value, low, high, p_value. `low` and `high` bound R² (bootstrap over
    rows).
    """

    r_squared: float
    low: float
    high: float
    adjusted: float
    coefficients: pd.DataFrame
    points: int


def _standardized(frame: pd.DataFrame) -> pd.DataFrame:
    deviations = frame.std(ddof=0)
    return (frame - frame.mean()) / deviations.where(deviations > 0, 1)


def _bootstrap(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, level: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """Percentile interval of `statistic(rows)`; groups of rows are drawn with replacement, each whole.

    Draws in which it is undefined (NaN) are left out; NaN if these are more than a twentieth, as where one
    group alone varies, and of fewer than three groups.
    """
    members = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups)]
    if len(members) < 3:
        return np.nan, np.nan
    drawn = np.random.default_rng(0).integers(0, len(members), (resamples, len(members)))
    values = np.array([statistic(np.concatenate([members[i] for i in draw])) for draw in drawn])
    undefined = np.isnan(values)
    if undefined.mean() > UNDEFINED:
        return np.nan, np.nan
    low, high = np.quantile(values[~undefined], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _r_squared(design: np.ndarray, y: np.ndarray) -> float:
    total = ((y - y.mean()) ** 2).sum()
    if total == 0:
        return np.nan
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - ((y - fitted) ** 2).sum() / total)


def _resampled(x: np.ndarray, y: np.ndarray, kind: str, rows: np.ndarray) -> float:
    """A correlation of these rows; NaN where either is constant."""
    import scipy.stats

    x, y = x[rows], y[rows]
    if kind == "spearman":
        x, y = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / norm) if norm > 0 else np.nan


def least_squares(
    table: pd.DataFrame,
    factors: Sequence[str] = FACTORS,
    response: str = "asr",
    *,
    level: float = 0.95,
    resamples: int = 1000,
    alike: str = "",
) -> Fit:
    """How much of the response the factors explain together: ordinary least squares through statsmodels.

    Args:
        table: one row per surrogate (and target, …).
        alike: a column whose equal values are no independent rows, such as the mechanism of several seeds:
            they are drawn together. The coefficients' intervals take all rows for independent.
        factors, response: columns; rows with gaps are left out. What does not vary has no coefficient (NaN).
        level: of the intervals.
        resamples: bootstrap draws for the interval of R², which is biased up for few rows, like R² itself.

    Raises:
        ValueError: fewer rows than coefficients + 1.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Table 6.
    """
    import statsmodels.api as sm  # slow, like the above

    factors = list(factors)
    table = table.dropna(subset=[*factors, response])
    groups = table[alike].to_numpy() if alike else np.arange(len(table))
    table = table[[*factors, response]].astype(float)
    if len(table) < len(factors) + 2:
        raise ValueError(f"{len(factors)} factors need at least {len(factors) + 2} rows; got {len(table)}")
    design = _standardized(table[factors])
    varying = [name for name in factors if table[name].nunique() > 1]
    fit = sm.OLS(table[response], sm.add_constant(design[varying], has_constant="add")).fit()
    interval = fit.conf_int(1 - level)
    coefficients = pd.DataFrame(
        {"value": fit.params, "low": interval[0], "high": interval[1], "p_value": fit.pvalues}
    ).reindex(factors)
    whole, y = np.column_stack([np.ones(len(table)), design]), table[response].to_numpy()
    low, high = _bootstrap(lambda rows: _r_squared(whole[rows], y[rows]), groups, level, resamples)
    return Fit(float(fit.rsquared), low, high, float(fit.rsquared_adj), coefficients, len(table))


def explain(
    results: pd.DataFrame,
    factors: Sequence[str] = FACTORS,
    few: Sequence[str] = ("smoothness", "similarity"),
    groups: Sequence[str] = GROUPS,
) -> pd.DataFrame:
    """Table 6: correlations of ASR with each factor, and R² with two and with all factors, in every group.

    Where mechanisms have several seeds these are no independent points: intervals are a bootstrap over
    mechanisms then, and there are no p-values.

    Args:
        results: tidy rows of surrogates with `asr` and the factors; `fooling_rate` is the success on the
            surrogate itself.
        factors: columns; those that are missing or empty are left out.
        few: the factors of the small model.
        groups: columns whose combinations make one cell each.

    Returns:
        Tidy rows: the groups, `statistic` (`"pearson"`, `"spearman"`, `"r_squared"`), `factor` (a factor's
        name, or several joined by `" + "`), `value`, `low`, `high`, `p_value`, `points`.
    """
    present = [name for name in factors if name in results and results[name].notna().any()]
    rows = []
    for cell, table in results.groupby(list(groups), sort=False):
        where = dict(zip(groups, cell, strict=True))
        alike = "mechanism" if "mechanism" in table and table["mechanism"].duplicated().any() else ""
        for kind in ("pearson", "spearman"):
            for name in present:
                pair = table.dropna(subset=[name, "asr"])
                found = correlation(pair[name], pair["asr"], kind)
                if alike and len(pair):
                    x, y = pair[name].to_numpy(float), pair["asr"].to_numpy(float)
                    coefficient = partial(_resampled, x, y, kind)
                    low, high = _bootstrap(coefficient, pair[alike].to_numpy())
                    found = found._replace(low=low, high=high, p_value=np.nan)
                rows.append({**where, "statistic": kind, "factor": name, **found._asdict()})
        for chosen in dict.fromkeys((tuple(n for n in few if n in present), tuple(present))):
            if chosen and len(table[[*chosen, "asr"]].dropna()) >= len(chosen) + 2:
                fit = least_squares(table, chosen, alike=alike)
                numbers = {"value": fit.r_squared, "low": fit.low, "high": fit.high, "points": fit.points}
                rows.append({**where, "statistic": "r_squared", "factor": " + ".join(chosen), **numbers})
    return pd.DataFrame(rows)
