"""Claims of "Why Does Little Robustness Help?" (Zhang et al., S&P 2024).

Roles: "all", rows of transfer; "lgv", those of Table 5; "pairs", those of Table 7.
"""

import numpy as np
import pandas as pd

from transferjax.metrics.regression import FACTORS, least_squares
from transferjax.report.claims.verdicts import POINTS, Claim, means, success
from transferjax.report.published import BASELINE, increments


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
    curvature = np.log(_one_magnitude(means(rows, "smoothness")))
    return curvature[BASELINE] - named(curvature, *AUGMENTATIONS).mean()


def _augmentations_transfer_less(rows: pd.DataFrame) -> float:
    asr = _one_magnitude(success(rows))
    return asr[BASELINE] - named(asr, *AUGMENTATIONS).mean()


def _augmentations_less_similar(rows: pd.DataFrame) -> float:
    similarity = _one_magnitude(means(rows, "similarity"))
    return similarity[BASELINE] - named(similarity, *AUGMENTATIONS).mean()


def _input_regularizers_smoothest(rows: pd.DataFrame) -> float:
    curvature = np.log(_one_magnitude(means(rows, "smoothness")))
    others = [name for name in SINGLE if name not in ("IR", "JR")]
    return named(curvature, *others).min() - named(curvature, "IR", "JR").min()


def _sam_most_similar(rows: pd.DataFrame) -> float:
    similarity = _one_magnitude(means(rows, "similarity"))
    return similarity["SAM"] - named(similarity, *(name for name in SINGLE if name != "SAM")).max()


def sam_against_ir(rows: pd.DataFrame) -> float:
    """Share of the cells (goal, target, budget) in which SAM transfers no worse than IR, less a half."""
    cells = rows.pivot_table(index=["goal", "target", "eps_255"], columns="mechanism", values="asr")
    return float((cells["SAM"] >= cells["IR"]).mean()) - 0.5


def _joint_first(rows: pd.DataFrame) -> float:
    asr = _one_magnitude(success(rows))
    return named(asr, *JOINT).max() - named(asr, *SINGLE).max()


def _two_explain(rows: pd.DataFrame) -> float:
    """0.05 less what accuracy and fooling rate add to R²: the mean over attacks, targets and budgets."""
    gains, cells = [], [name for name in ("attack", "target", "eps_255") if name in rows]
    for _, cell in rows[rows["goal"] == "untargeted"].groupby(cells):
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
        raise KeyError(", ".join(name for name in pairs[0] if name not in asr))
    return float(np.mean(gains))


def _sgd_undoes(rows: pd.DataFrame) -> float:
    asr = success(rows)
    return asr["SAM"] - asr["SAM+LGV_SGD"]


def _scores(rows: pd.DataFrame) -> float:
    """Minus the mean increment score of the augmentations; half a point is what rounds to none above zero."""
    similarities = rows.pivot_table(index="mechanism", columns="target", values="similarity")
    return 0.5 - float(named(increments(similarities), *AUGMENTATIONS).mean())


FOLD = "log of λ₁"
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
