"""Claims of "Why Does Little Robustness Help?" (Zhang et al., S&P 2024).

Roles: "all", rows of transfer; "explained", the paper's surrogates among them, each once; "table2", "lgv" and
"pairs", those of Tables 2, 5 and 7. What the paper says of augmentations is asked of each by itself.
"""

from functools import partial

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


def _smoother(name: str, rows: pd.DataFrame) -> float:
    curvature = np.log(_one_magnitude(means(rows, "smoothness")))
    return curvature[BASELINE] - named(curvature, name).mean()


def _transfers_less(name: str, rows: pd.DataFrame) -> float:
    asr = _one_magnitude(success(rows))
    return asr[BASELINE] - named(asr, name).mean()


def _less_similar(name: str, rows: pd.DataFrame) -> float:
    similarity = _one_magnitude(means(rows, "similarity"))
    return similarity[BASELINE] - named(similarity, name).mean()


def _input_regularizers_smoothest(rows: pd.DataFrame) -> float:
    curvature = np.log(_one_magnitude(means(rows, "smoothness")))
    others = [name for name in SINGLE if name not in ("IR", "JR")]
    return named(curvature, *others).min() - max(named(curvature, name).mean() for name in ("IR", "JR"))


def _sam_most_similar(rows: pd.DataFrame) -> float:
    similarity = _one_magnitude(means(rows, "similarity"))
    return similarity["SAM"] - named(similarity, *(name for name in SINGLE if name != "SAM")).max()


def sam_against_ir(rows: pd.DataFrame) -> float:
    """Share of Table 2's untargeted cells (target, budget) in which SAM is no worse than IR, less a half."""
    rows = rows[rows["goal"] == "untargeted"]
    cells = rows.pivot_table(index=["target", "eps_255"], columns="mechanism", values="asr")
    both = cells.reindex(columns=["SAM", "IR"]).dropna()
    if both.empty:
        raise KeyError("a cell of SAM and IR")
    return float((both["SAM"] >= both["IR"]).mean()) - 0.5


def _joint_first(rows: pd.DataFrame) -> float:
    asr = _one_magnitude(success(rows))
    return named(asr, *JOINT).max() - named(asr, *SINGLE).max()


def _two_explain(rows: pd.DataFrame) -> float:
    """0.05 less what accuracy and fooling rate add to adjusted R²: the mean over attacks, targets, budgets.

    R² itself never falls as factors are added, and over few surrogates rises by about as much as this margin
    where they say nothing; in the paper's Table 6 it rises by 0.003 to 0.035.
    """
    gains, cells = [], [name for name in ("attack", "target", "eps_255") if name in rows]
    rows = rows[rows["mechanism"].isin(_one_magnitude(rows.groupby("mechanism")["asr"].mean()).index)]
    for _, cell in rows[rows["goal"] == "untargeted"].groupby(cells):
        if len(cell) < len(FACTORS) + 2:
            raise KeyError("enough surrogates for a fit")
        four, two = (least_squares(cell, names, resamples=1).adjusted for names in (FACTORS, FACTORS[2:]))
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
    """Minus the largest increment score of an augmentation; half a point rounds to none above zero."""
    similarities = rows.pivot_table(index="mechanism", columns="target", values="similarity")
    return 0.5 - float(named(increments(similarities), *AUGMENTATIONS).max())


FOLD = "log of λ₁"
CLAIMS = (
    Claim("AT with a small budget (τ = 1) beats ST", "Figure 2", "all", _little_robustness, POINTS),
    Claim("AT with a large budget (τ = 7) does not", "Figure 2", "all", _much_robustness, POINTS),
    *(
        Claim(f"{name} {text}", place, "all", partial(margin, name), unit)
        for text, place, margin, unit in (
            ("is smoother than ST", "Figure 3, CIFAR-10", _smoother, FOLD),
            ("transfers worse than ST", "Tables 2, 3", _transfers_less, POINTS),
            ("is less similar to targets than ST", "Hypothesis 1", _less_similar, "similarity"),
        )
        for name in AUGMENTATIONS
    ),
    Claim("IR and JR are the smoothest", "text", "all", _input_regularizers_smoothest, FOLD),
    Claim("SAM is the most similar", "text", "all", _sam_most_similar, "similarity"),
    Claim(
        "SAM is no worse than IR in most untargeted cells",
        "Table 2",
        "table2",
        sam_against_ir,
        "share of cells above 1/2",
    ),
    Claim("SAM&JR or SAM&IR is first overall", "Tables 2, 3", "all", _joint_first, POINTS),
    Claim(
        "smoothness and similarity explain transfer as well as all four factors",
        "Table 6",
        "explained",
        _two_explain,
        "adjusted R² below 0.05",
    ),
    Claim("LGV from a better surrogate is better", "Table 5", "lgv", _better_start, POINTS),
    Claim("LGV by SGD undoes SAM's gain", "Table 5", "lgv", _sgd_undoes, POINTS),
    Claim("no augmentation's increment score is above 0", "Table 7", "pairs", _scores, "score below 1/2"),
)
