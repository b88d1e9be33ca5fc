"""The S&P 2024 paper's claims as numbered checks, each with a verdict and the interval that says so.

A claim is a margin that should be positive, computed once for each training seed; Student's interval over
the seeds decides: all of it above zero, the claim holds; all below, it does not; else, and with one seed, it
cannot be told at this scale.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from transferjax.metrics.regression import FACTORS, least_squares
from transferjax.report.page import Section
from transferjax.report.published import BASELINE, increments
from transferjax.report.tables import Table, of_surrogates, significant
from transferjax.report.verdicts import claims_list

HOLDS, FAILS, UNTOLD = "holds", "does not", "cannot be told at this scale"
Margin = Callable[[pd.DataFrame], float]
"""Rows of one seed -> how much the claim is fulfilled; raises KeyError where a mechanism is missing."""


class Claim(NamedTuple):
    """What the paper says, where, in which frame to look (`role`), and its margin."""

    text: str
    place: str
    role: str
    margin: Margin
    unit: str


class Verdict(NamedTuple):
    """The margin's mean over seeds, its interval and what follows."""

    verdict: str
    mean: float
    low: float
    high: float
    seeds: int


def _means(rows: pd.DataFrame, value: str, by: str = "mechanism") -> pd.Series:
    """Mean over targets, goals and budgets."""
    return rows.groupby(by, sort=False)[value].mean()


def success(rows: pd.DataFrame) -> pd.Series:
    """Transfer success in percent by mechanism."""
    return 100 * _means(rows, "asr")


def named(series: pd.Series, *names: str) -> pd.Series:
    """Those of exactly these names, any τ; equations' rows ("IR[paper]") are not meant.

    Raises:
        KeyError: none is there.
    """
    base = series.index.str.replace(r"_\d+$", "", regex=True)
    found = series[base.isin(names)]
    if found.empty:
        raise KeyError(", ".join(names))
    return found


AUGMENTATIONS = ("MU", "CM", "CO", "LS")
REGULARIZERS = ("IR", "JR", "ER", "SAM")
SINGLE = (BASELINE, *AUGMENTATIONS, "AT", *REGULARIZERS)
JOINT = ("SAM&IR", "SAM&JR")


def _one_magnitude(series: pd.Series) -> pd.Series:
    """Without the magnitudes that are swept: those of Table 2 alone, so that no mechanism has more tries."""
    swept = series.index.str.fullmatch(r"(AT|IR|JR|ER|SAM)_\d+|(MU|CM|CO|LS)_[234]")
    return series[~swept & ~series.index.str.contains("[", regex=False)]


def _little_robustness(rows: pd.DataFrame) -> float:
    asr = success(rows)
    return asr["AT_1"] - asr[BASELINE]


def _much_robustness(rows: pd.DataFrame) -> float:
    asr = success(rows)
    return asr[BASELINE] - asr["AT_7"]


def _augmentations_smoother(rows: pd.DataFrame) -> float:
    curvature = np.log(_one_magnitude(_means(rows, "smoothness")))
    return curvature[BASELINE] - named(curvature, *AUGMENTATIONS).mean()


def _augmentations_transfer_less(rows: pd.DataFrame) -> float:
    asr = _one_magnitude(success(rows))
    return asr[BASELINE] - named(asr, *AUGMENTATIONS).mean()


def _augmentations_less_similar(rows: pd.DataFrame) -> float:
    similarity = _one_magnitude(_means(rows, "similarity"))
    return similarity[BASELINE] - named(similarity, *AUGMENTATIONS).mean()


def _input_regularizers_smoothest(rows: pd.DataFrame) -> float:
    curvature = np.log(_one_magnitude(_means(rows, "smoothness")))
    others = [name for name in SINGLE if name not in ("IR", "JR")]
    return named(curvature, *others).min() - named(curvature, "IR", "JR").min()


def _sam_most_similar(rows: pd.DataFrame) -> float:
    similarity = _one_magnitude(_means(rows, "similarity"))
    return similarity["SAM"] - named(similarity, *(name for name in SINGLE if name != "SAM")).max()


def sam_against_ir(rows: pd.DataFrame) -> float:
    """Share of the cells (goal, target, budget) in which SAM transfers no worse than IR, less a half."""
    cells = rows.pivot_table(index=["goal", "target", "eps_255"], columns="mechanism", values="asr")
    return float((cells["SAM"] >= cells["IR"]).mean()) - 0.5


def _joint_first(rows: pd.DataFrame) -> float:
    asr = _one_magnitude(success(rows))
    return named(asr, *JOINT).max() - named(asr, *SINGLE).max()


def _two_explain(rows: pd.DataFrame) -> float:
    """0.05 less what accuracy and fooling rate add to R²: the mean over targets and budgets, untargeted."""
    gains = []
    for _, cell in rows[rows["goal"] == "untargeted"].groupby(["target", "eps_255"]):
        if len(cell) < len(FACTORS) + 2:
            raise KeyError("enough surrogates for a fit")
        four, two = (least_squares(cell, names, resamples=1).r_squared for names in (FACTORS, FACTORS[2:]))
        gains.append(four - two)
    return 0.05 - float(np.mean(gains))


def _better_start(rows: pd.DataFrame) -> float:
    asr = success(rows)
    pairs = [(f"SAM&JR+LGV_{how}", f"{BASELINE}+LGV_{how}") for how in ("SGD", "SAM", "SAM&JR")]
    gains = [asr[better] - asr[plain] for better, plain in pairs if better in asr and plain in asr]
    if not gains:
        raise KeyError(", ".join(pairs[0]))
    return float(np.mean(gains))


def _sgd_undoes(rows: pd.DataFrame) -> float:
    asr = success(rows)
    return asr["SAM"] - asr["SAM+LGV_SGD"]


def _scores(rows: pd.DataFrame) -> float:
    """Minus the mean increment score of the augmentations; half a point is what rounds to none above zero."""
    similarities = rows.pivot_table(index="mechanism", columns="target", values="similarity")
    return 0.5 - float(named(increments(similarities), *AUGMENTATIONS).mean())


POINTS, FOLD = "points of ASR", "log of λ₁"
CLAIMS = (
    Claim("AT with a small budget (τ = 1) beats ST", "Figure 2", "all", _little_robustness, POINTS),
    Claim("AT with a large budget (τ = 7) does not", "Figure 2", "all", _much_robustness, POINTS),
    Claim("augmentations are smoother than ST", "Hypothesis 1", "all", _augmentations_smoother, FOLD),
    Claim("and transfer worse", "Tables 2, 3", "all", _augmentations_transfer_less, POINTS),
    Claim("because they are less similar", "Hypothesis 1", "all", _augmentations_less_similar, "similarity"),
    Claim("IR or JR is the smoothest", "text", "all", _input_regularizers_smoothest, FOLD),
    Claim("SAM is the most similar", "text", "all", _sam_most_similar, "similarity"),
    Claim(
        "SAM is no worse than IR in most cells",
        "Tables 2, 3",
        "all",
        sam_against_ir,
        "share of cells above 1/2",
    ),
    Claim("SAM&JR or SAM&IR is first overall", "Tables 2, 3", "all", _joint_first, POINTS),
    Claim(
        "smoothness and similarity explain transfer as well as all four factors",
        "Table 6",
        "all",
        _two_explain,
        "R² below 0.05",
    ),
    Claim("LGV from a better surrogate is better", "Table 5", "lgv", _better_start, POINTS),
    Claim("LGV by SGD undoes SAM's gain", "Table 5", "lgv", _sgd_undoes, POINTS),
    Claim("augmentations' increment scores are at most 0", "Table 7", "pairs", _scores, "score below 1/2"),
)


def verdict(margins: pd.Series, level: float = 0.95) -> Verdict:
    """What margins of several seeds say: `mean ± t(n - 1) s / √n` against zero.

    Args:
        margins: one a seed.
        level: of Student's interval.
    """
    import scipy.stats

    margins, nan = margins.dropna(), float("nan")
    if len(margins) < 2:
        return Verdict(UNTOLD, float(margins.mean()), nan, nan, len(margins))
    half = scipy.stats.t.ppf((1 + level) / 2, len(margins) - 1) * margins.std(ddof=1) / len(margins) ** 0.5
    mean = float(margins.mean())
    # Two seeds that agree to the last bit are few images, and no certainty.
    chance = half == 0 and len(margins) < 3
    said = UNTOLD if chance else HOLDS if mean - half > 0 else FAILS if mean + half < 0 else UNTOLD
    return Verdict(said, mean, mean - half, mean + half, len(margins))


def check_claims(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every claim with its verdict.

    Args:
        frames: by role, rows as the study has them: "all" of transfer, "lgv" of Table 5, "pairs" of Table 7.

    Returns:
        `number`, `claim`, `place`, `verdict`, `margin`, `low`, `high`, `unit`, `seeds`, `why` where nothing
        could be computed.
    """
    rows = []
    for number, claim in enumerate(CLAIMS, start=1):
        margins, why = _margins(claim, frames)
        found = verdict(margins)
        rows.append(
            {
                "number": number,
                **{"claim": claim.text, "place": claim.place, "verdict": found.verdict},
                **{"margin": found.mean, "low": found.low, "high": found.high},
                **{"unit": claim.unit, "seeds": found.seeds, "why": why},
            }
        )
    return pd.DataFrame(rows)


def _margins(claim: Claim, frames: Mapping[str, pd.DataFrame]) -> tuple[pd.Series, str]:
    """One margin for each seed that has what the claim compares; else what is missing."""
    frame = frames.get(claim.role)
    if frame is None or frame.empty:
        return pd.Series(dtype=float), f"no rows of {claim.role!r}"
    found, why = {}, ""
    for seed, rows in of_surrogates(frame).groupby("seed"):
        try:
            found[seed] = claim.margin(rows)
        except KeyError as error:
            why = f"missing: {error.args[0]}"
    return pd.Series(found, dtype=float), "" if found else why


def claims_section(checked: pd.DataFrame) -> Section:
    """The verdicts as a table of margins, and in the page as a list."""
    text = (
        "Each claim is a margin that should be positive, one for each training seed; the interval is "
        "Student's (95 %) over seeds."
    )
    labels = [
        f"{row.number}. {row.claim}: {row.verdict} [{row.why or row.unit}]" for row in checked.itertuples()
    ]
    center = checked[["margin", "low", "high", "seeds"]].astype(float).set_axis(labels, axis=0)
    center.columns = pd.MultiIndex.from_tuples(
        [("margin", name) for name in ("mean", "low", "high", "seeds")]
    )
    nothing = pd.DataFrame(np.nan, center.index, center.columns)
    best = pd.DataFrame(False, center.index, center.columns)
    table = Table("Claims", center, nothing, best, significant, "claim")
    return Section("The paper's claims", text, [table], {}, {table.title: claims_list(checked)})
