"""Tables from tidy results: one row per surrogate, seed, target, goal and budget in, a table out."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

COLUMNS = (
    "mechanism",
    "seed",
    "target",
    "goal",
    "eps_255",
    "asr",
    "asr_correct",
    "surrogate_accuracy",
    "target_accuracy",
    "smoothness",
    "similarity",
)
"""The columns of tidy results. Rates and accuracies are fractions in [0, 1]; eps_255 is in units of 1/255."""

RATES = ("asr", "asr_correct", "surrogate_accuracy", "target_accuracy")
"""Those of them that are fractions, which tables and figures show in percent."""

NOISE = "noise"
"""The mechanism of rows that no surrogate made: random signs of the budget, which every attack must beat."""

DIGITS = "%.8g"
"""How numbers stand in files of rows: also what is tiny keeps its digits."""

ERRORS = {
    "half_range": "half the range around the mid-range",
    "std": "the standard deviation",
    "two_std": "two standard deviations",
}
"""How an error over seeds is meant, in words."""


class Table(NamedTuple):
    """Centres and errors of the same shape, and which entries are best; `corner` names the rows.

    `after` has the text behind each number where ± says too little: an interval, a count, a mark.
    """

    title: str
    center: pd.DataFrame
    error: pd.DataFrame
    best: pd.DataFrame
    number: Callable[[float], str]
    corner: str = "mechanism"
    after: pd.DataFrame | None = None


def check(results: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """The results, if they are tidy.

    Raises:
        ValueError: no rows, missing columns, or rates that look like percentages.
    """
    if missing := [name for name in columns if name not in results]:
        raise ValueError(f"results lack the columns {missing}; expected {list(columns)}")
    if results.empty:
        raise ValueError("results have no rows")
    for name in set(columns) & set(RATES):
        if results[name].max() > 1:
            raise ValueError(f"{name} must be a fraction in [0, 1]; got {results[name].max()}: divide by 100")
    return results


def percent(results: pd.DataFrame) -> pd.DataFrame:
    """The results with their rates in percent."""
    return results.assign(**{name: 100 * results[name] for name in RATES if name in results})


def of_surrogates(results: pd.DataFrame) -> pd.DataFrame:
    """The rows without noise: noise has no smoothness, similarity or accuracy."""
    return results[results["mechanism"] != NOISE]


CELL = ("attack", "goal", "eps_255")
"""What is never averaged over."""


def several(results: pd.DataFrame, by: Sequence[str] = CELL) -> list[str]:
    """Of these columns those of which the rows, but for noise, have more than one value."""
    own = of_surrogates(results)
    return [name for name in by if name in own and own[name].nunique() > 1]


def apart(results: pd.DataFrame, by: Sequence[str] = CELL) -> Iterator[tuple[str, pd.DataFrame]]:
    """What is never one number: rows of each attack, goal and budget, by name: "MI, untargeted, ε = 8/255".

    Columns that the results lack tell nothing apart; noise stands beside every attack.
    """
    by = [name for name in by if name in results]
    own = of_surrogates(results)
    cells = own[by].drop_duplicates().itertuples(index=False, name=None) if by else [()]
    for cell in cells:
        chosen = pd.Series(True, results.index)
        for name, value in zip(by, cell, strict=True):
            beside = results["mechanism"] == NOISE if name == "attack" else False
            chosen &= (results[name] == value) | beside
        yield ", ".join(map(said, by, cell)), results[chosen]


def said(name: str, value: Hashable) -> str:
    """A value as pages write it: budgets in 1/255, no underscores; "seed 0", "epoch 7.5"."""
    if name == "eps_255":
        return f"ε = {value:g}/255"
    return f"{name} {value:g}" if name in ("seed", "epoch") else str(value).replace("_", " ")


def below_noise(results: pd.DataFrame) -> str:
    """A warning that names the attacks whose white-box success lies below that of random signs; "" for none.

    Args:
        results: rows with `fooling_rate` and `noise_fooling_rate`, both on the surrogate itself.
    """
    if not {"fooling_rate", "noise_fooling_rate"} <= set(results):
        return ""
    which = ["attack", "mechanism", "seed", "goal", "eps_255", "fooling_rate", "noise_fooling_rate"]
    results = results if "attack" in results else results.assign(attack="the attack")
    weak = results.loc[results["fooling_rate"] < results["noise_fooling_rate"], which].drop_duplicates()
    if weak.empty:
        return ""
    named = [
        f"{row.attack} on {row.mechanism} (seed {row.seed:g}), {row.goal}, ε = {row.eps_255:g}/255: "
        f"{100 * row.fooling_rate:.1f} % against {100 * row.noise_fooling_rate:.1f} %"
        for row in weak.itertuples()
    ]
    return (
        "Warning: on the surrogate itself these attacks do less than random signs of the same size, so their "
        f"transfer means nothing; look at steps, step size and loss: {'; '.join(named)}."
    )


def ordered(values: pd.Series) -> list[Hashable]:
    """Distinct values in order of appearance: the config's order is the reader's order."""
    return list(dict.fromkeys(values))


def spread(values: pd.Series, error: str = "half_range") -> tuple[float, float]:
    """Centre and error of a quantity over seeds.

    `"half_range"`: `(max + min)/2 ± (max - min)/2`, the S&P paper's. `"std"`: mean ± sample standard
    deviation; `"two_std"`: two of them, Gubri et al.'s.
    The error of a single seed is NaN: unknown, not zero.
    """
    if error not in ERRORS:
        raise ValueError(f"error must be one of {', '.join(ERRORS)}; got {error!r}")
    values = values.dropna()
    if len(values) < 2 or values.abs().max() == float("inf"):  # a bound that says nothing is -inf
        return float(values.mean()), float("nan")
    if error != "half_range":
        return float(values.mean()), (2 if error == "two_std" else 1) * float(values.std(ddof=1))
    return float(values.max() + values.min()) / 2, float(values.max() - values.min()) / 2


def pivot(
    results: pd.DataFrame, value: str, rows: str, columns: Sequence[str], error: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Centre and error of a column over seeds, for each row and each combination of columns."""
    seeds = results.groupby([rows, *columns, "seed"], sort=False)[value].mean()
    pairs = seeds.groupby(level=[rows, *columns], sort=False).apply(lambda v: spread(v, error))
    frames = []
    for part in (0, 1):
        frame = pairs.map(lambda pair, part=part: pair[part]).unstack(list(columns))
        levels = [ordered(results[name]) for name in columns]
        order = pd.MultiIndex.from_product(levels, names=list(columns)) if len(levels) > 1 else levels[0]
        frames.append(frame.reindex(index=ordered(results[rows]), columns=order).dropna(axis=1, how="all"))
    center, err = frames
    return center, err.reindex(columns=center.columns)


def best_of(
    center: pd.DataFrame, largest: bool | None = True, number: Callable[[float], str] = repr
) -> pd.DataFrame:
    """True at each column's best entry, and at what looks like it as printed by `number`.

    Noise is never best, nor an entry alone in its column; with `largest` None nothing is.
    """
    best = pd.DataFrame(False, index=center.index, columns=center.columns)
    rivals = center.drop(index=NOISE, errors="ignore").round(12)
    for place, column in enumerate(rivals if largest is not None else ()):
        values = rivals[column].dropna()
        if len(values) > 1:
            first = number(float(values.max() if largest else values.min()))
            alike = [name for name, value in values.items() if number(float(value)) == first]
            best.iloc[center.index.isin(alike), place] = True
    return best


def asr_table(
    results: pd.DataFrame, goal: str = "untargeted", error: str = "half_range", value: str = "asr"
) -> Table:
    """Transfer success in percent: mechanisms down, budgets x targets across, the best in bold; noise last.

    Args:
        results: tidy, see `COLUMNS`.
        goal: `"untargeted"` or `"targeted"`, one block of the paper's table.
        error: see `spread`.
        value: `"asr"` (every image counts), `"asr_correct"` (only those both models get right), or
            `"transferred"`: T_r, of all images those that both get right and that fool both.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Definition 3, Tables 2 and 3.
    """
    chosen = check(results)[results["goal"] == goal]
    if chosen.empty:
        raise ValueError(f"no rows with goal {goal!r}; got {ordered(results['goal'])}")
    center, err = pivot(chosen, value, "mechanism", ("eps_255", "target"), error)
    center.columns = err.columns = pd.MultiIndex.from_tuples(
        [(f"ε = {eps:g}/255", target) for eps, target in center.columns]
    )
    center, err = (frame.loc[sorted(frame.index, key=NOISE.__eq__)] for frame in (center, err))
    title = f"{goal.capitalize()} transfer success (%)"
    if value == "transferred":  # noise has no surrogate to fool
        center, err = center.drop(NOISE, errors="ignore"), err.drop(NOISE, errors="ignore")
        title = f"{goal.capitalize()} transferability T_r (%): both classify correctly, and both are fooled"
    if value == "asr_correct":
        title += ", images that both models classify correctly"
        title += " (noise: that the target does)" * (NOISE in center.index)
    center, err = 100 * center, 100 * err
    return Table(title, center, err, best_of(center, number=tenths), tenths)


def tenths(number: float) -> str:
    """A percentage as tables print it."""
    return f"{number:.1f}"


def value_table(
    results: pd.DataFrame,
    value: str,
    title: str,
    *,
    rows: str = "mechanism",
    columns: Sequence[str] = (),
    error: str = "half_range",
    largest: bool | None = True,
) -> Table:
    """Any column by rows and columns, centre and error over seeds; the largest (or smallest) in bold.

    Args:
        results: one row per seed: `seed`, `value`, and the columns of `rows` and `columns`.
        value, title: what to show, and what to call it.
        rows, columns: which columns go down and across.
        error: see `spread`.
        largest: whether large is good; None where neither is.
    """
    across = tuple(columns) or ("everything",)
    center, err = pivot(results.assign(everything=""), value, rows, across, error)
    if len(across) == 1:
        heads = pd.MultiIndex.from_tuples([(title, str(name)) for name in center.columns])
        center.columns = err.columns = heads
    return Table(title, center, err, best_of(center, largest, significant), significant, rows)


def significant(number: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    return f"{number:#.3g}".rstrip(".") if number == 0 or 1e-3 <= abs(number) < 1e5 else f"{number:.2e}"


def model_table(results: pd.DataFrame, error: str = "half_range") -> Table:
    """Each mechanism's accuracy (%), smoothness (lower is smoother) and similarity to each target."""
    tidy = of_surrogates(check(results)).assign(everything="")
    tidy["accuracy"] = 100 * tidy["surrogate_accuracy"]
    parts = [pivot(tidy, name, "mechanism", ("everything",), error) for name in ("accuracy", "smoothness")]
    parts.append(pivot(tidy, "similarity", "mechanism", ("target",), error))
    titles = ("accuracy (%)", "λ₁ (lower is smoother)", "gradient similarity")
    heads = [
        (title, str(name)) for title, part in zip(titles, parts, strict=True) for name in part[0].columns
    ]
    center, err = (pd.concat([part[i] for part in parts], axis=1) for i in (0, 1))
    best = pd.concat([best_of(part[0], i != 1, significant) for i, part in enumerate(parts)], axis=1)
    center.columns = err.columns = best.columns = pd.MultiIndex.from_tuples(heads)
    return Table("Surrogates: accuracy, smoothness, gradient similarity", center, err, best, significant)


def explained_table(explained: pd.DataFrame, goal: str) -> Table:
    """Table 6: what correlates with transfer success, and R² of the fits, for each budget and target.

    Args:
        explained: of `metrics.regression.explain`, with `target` and `eps_255` among its groups.
        goal: `"untargeted"` or `"targeted"`.

    Returns:
        A table with the confidence interval behind each number.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Table 6.
    """
    rows = explained[explained["goal"] == goal]
    if rows.empty:
        raise ValueError(f"no rows with goal {goal!r}; got {ordered(explained['goal'])}")
    names = {"pearson": "r", "spearman": "ρ", "r_squared": "R²"}
    rows = rows.assign(
        row=rows["statistic"].map(names) + " " + rows["factor"].str.replace("_", " "),
        column=[f"ε = {eps:g}/255" for eps in rows["eps_255"]],
        interval=[
            f"[{low:.2f}, {high:.2f}]" if low <= high else ""
            for low, high in zip(rows["low"], rows["high"], strict=True)
        ],
    )
    pairs = rows.sort_values("eps_255", kind="stable")[["column", "target"]].drop_duplicates()
    columns = pd.MultiIndex.from_frame(pairs, names=[None, None])
    center, after = (
        rows.pivot(index="row", columns=["column", "target"], values=name).loc[ordered(rows["row"]), columns]
        for name in ("value", "interval")
    )
    nothing = pd.DataFrame(float("nan"), center.index, columns)
    title = f"What explains {goal} transfer"
    best, number = nothing.notna(), lambda x: f"{x:.2f}"
    return Table(title, center, nothing, best, number, "statistic", after.fillna(""))
