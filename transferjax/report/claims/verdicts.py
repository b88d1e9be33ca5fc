"""Papers' claims as numbered checks, each with a verdict and the interval that says so.

A claim is a margin that should be positive, computed once for each training seed, or, where it compares
attacks, for each surrogate; Student's interval over these runs decides: all of it above zero, the claim
holds; all below, it does not; else, and with one run, it cannot be told at this scale. Nor can it where the
verdict is another, or nothing is left to compare, without the surrogates that have learnt nothing (see
`at_chance`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from transferjax.report.claims.listed import claims_list
from transferjax.report.page import Section
from transferjax.report.tables import Table, of_surrogates, significant

HOLDS, FAILS, UNTOLD = "holds", "does not", "cannot be told at this scale"
AT_CHANCE = "cannot be told (surrogates at chance)"
Margin = Callable[[pd.DataFrame], float]
"""Rows of one run -> how much the claim is fulfilled; raises KeyError where what it compares is missing."""


class Claim(NamedTuple):
    """What the paper says, where, in which frame to look (`role`), its margin, and what tells runs apart.

    `alike` is a column of which every run has to have all values: else some would be compared with fewer.
    """

    text: str
    place: str
    role: str
    margin: Margin
    unit: str
    runs: tuple[str, ...] = ("seed",)
    alike: str = ""


def means(rows: pd.DataFrame, value: str, by: str = "mechanism") -> pd.Series:
    """Mean over the targets, goals and budgets that all have: in an unfinished run some lack some.

    Raises:
        KeyError: there is none that all have.
    """
    names = ("target", "goal", "eps_255", *(("attack",) if by == "mechanism" else ()))
    cells = [name for name in names if name in rows and rows[name].notna().all()]
    if not cells:
        return rows.groupby(by, sort=False)[value].mean()
    known = rows.dropna(subset=[value])
    table = known.pivot_table(value, by, cells, sort=False).dropna(axis=1)
    if table.empty:
        raise KeyError(f"a cell of {', '.join(cells)} that all have")
    return table.mean(axis=1)


def success(rows: pd.DataFrame, by: str = "mechanism") -> pd.Series:
    """Transfer success in percent, by mechanism or attack."""
    return 100 * means(rows, "asr", by)


def value_of(label: str) -> float | None:
    """The value in an attack's label: 3.0 of "zeta=3"; None where it has none."""
    found = re.search(r"=(-?\d[\d.e-]*)$", label)
    return float(found[1]) if found else None


def by_value(rows: pd.DataFrame) -> pd.Series:
    """Transfer success in percent by the value in the attacks' labels.

    Raises:
        KeyError: no such labels.
    """
    values = rows["attack"].map(value_of)
    if values.isna().all():
        raise KeyError("attacks labelled by a value")
    return success(rows.assign(value=values), "value")


POINTS = "points of ASR"


class Verdict(NamedTuple):
    """The margin's mean over runs, its interval and what follows."""

    verdict: str
    mean: float
    low: float
    high: float
    runs: int


def verdict(margins: pd.Series, level: float = 0.95) -> Verdict:
    """What margins of several runs say: `mean ± t(n - 1) s / √n` against zero.

    Args:
        margins: one a run.
        level: of Student's interval.
    """
    import scipy.stats

    margins, nan = margins.dropna(), float("nan")
    if len(margins) < 2:
        return Verdict(UNTOLD, float(margins.mean()), nan, nan, len(margins))
    half = scipy.stats.t.ppf((1 + level) / 2, len(margins) - 1) * margins.std(ddof=1) / len(margins) ** 0.5
    mean = float(margins.mean())
    # Two runs that agree to the last bit are few images, and no certainty.
    chance = half == 0 and len(margins) < 3
    said = UNTOLD if chance else HOLDS if mean - half > 0 else FAILS if mean + half < 0 else UNTOLD
    return Verdict(said, mean, mean - half, mean + half, len(margins))


def at_chance(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of surrogates that have learnt nothing, by `surrogate_accuracy` and `chance` (c).

    Their accuracy is below `min(2c, c + (1 - c)/10)`: 0.19 of ten classes. Rows that say neither are of none.
    """
    if not {"surrogate_accuracy", "chance"} <= set(rows):
        return pd.Series(False, rows.index)
    chance = rows["chance"]
    return rows["surrogate_accuracy"] < np.minimum(2 * chance, chance + (1 - chance) / 10)


def check_claims(claims: Sequence[Claim], frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every claim with its verdict.

    Args:
        claims: a paper's.
        frames: by role, rows as the study has them.

    Returns:
        `number`, `claim`, `place`, `verdict`, `margin`, `low`, `high`, `unit`, `runs`, `why` where nothing
        could be computed.
    """
    rows = []
    for number, claim in enumerate(claims, start=1):
        frame = frames.get(claim.role, pd.DataFrame())
        margins, why = _margins(claim, frame)
        found, learnt = verdict(margins), verdict(_margins(claim, frame[~at_chance(frame)])[0])
        same = (found.verdict, found.runs) == (learnt.verdict, learnt.runs)
        rows.append(
            {
                "number": number,
                **{"claim": claim.text, "place": claim.place},
                **{"verdict": found.verdict if same else AT_CHANCE},
                **{"margin": found.mean, "low": found.low, "high": found.high},
                **{"unit": claim.unit, "runs": found.runs, "why": why},
            }
        )
    return pd.DataFrame(rows)


def _margins(claim: Claim, frame: pd.DataFrame) -> tuple[pd.Series, str]:
    """One margin for each run that has what the claim compares; else what is missing."""
    if frame.empty:
        return pd.Series(dtype=float), f"this report has no rows of {claim.role!r}"
    found, why, frame = {}, "", of_surrogates(frame)
    if "target" in frame:
        frame = frame[frame["mechanism"] != frame["target"]]  # white-box success is no transfer
    every = set(frame[claim.alike]) if claim.alike else set()
    for run, rows in frame.groupby(list(claim.runs)):
        if every and (lacks := every - set(rows[claim.alike])):
            why = f"missing in a run: {', '.join(sorted(lacks))}"
            continue
        try:
            found[run] = claim.margin(rows)
        except KeyError as error:
            why = f"missing: {error.args[0]}"
    return pd.Series(found.values(), dtype=float), "" if found else why


def claims_section(checked: pd.DataFrame) -> Section:
    """The verdicts as a table of margins, and in the page as a list."""
    text = (
        "Each claim is a margin that should be positive, one for each training seed; where attacks are "
        "compared, for each surrogate. Student's interval (95 %) over these runs decides: above zero the "
        "claim holds, below it does not, else it cannot be told. A surrogate is at chance where its accuracy "
        "is below the smaller of twice that of guessing and a tenth of the way from guessing to 1; where the "
        "verdict is another without those, or nothing is left to compare, it cannot be told either."
    )
    labels = [
        f"{row.number}. {row.claim}: {row.verdict} [{row.why or row.unit}]" for row in checked.itertuples()
    ]
    center = checked[["margin", "low", "high", "runs"]].astype(float).set_axis(labels, axis=0)
    center.columns = pd.MultiIndex.from_tuples([("margin", name) for name in ("mean", "low", "high", "runs")])
    nothing = pd.DataFrame(np.nan, center.index, center.columns)
    best = pd.DataFrame(False, center.index, center.columns)
    table = Table("Claims", center, nothing, best, significant, "claim")
    return Section("The paper's claims", text, [table], {}, {table.title: claims_list(checked)})
