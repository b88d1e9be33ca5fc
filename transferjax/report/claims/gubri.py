"""Claims of "Going Further: Flatness at the Rescue of Early Stopping" (Gubri et al., 2023).

Roles: "training", rows of transfer along training with `epoch`, `decay` and curvatures; "stopped", those of
the view of that name; "features", rows along training on robust and non-robust features.
"""

import numpy as np
import pandas as pd

from transferjax.report.agreement import spearman
from transferjax.report.claims.verdicts import POINTS, Claim, means, success

LARGE = {f"l-{name}": name for name in ("SAM", "ASAM", "GSAM", "AGSAM", "LookSAM", "WASAM")}


def along(rows: pd.DataFrame, mechanism: str, value: str = "asr") -> pd.Series:
    """A quantity by epoch, mean over targets.

    Raises:
        KeyError: the mechanism is not there, or is at one epoch only.
    """
    found = means(rows[rows["mechanism"] == mechanism], value, "epoch").sort_index()
    if len(found) < 2:
        raise KeyError(f"{mechanism} along training")
    return found


def _stopping_helps(rows: pd.DataFrame) -> float:
    asr = success(rows)
    return asr["SGD, stopped"] - asr["SGD"]


def _at_a_decay(rows: pd.DataFrame, value: str = "asr") -> tuple[float, float, float]:
    """A quantity of SGD after the last epoch at the high rate, after the next one, and at the end."""
    found, decays = along(rows, "SGD", value), rows.loc[rows["mechanism"] == "SGD", "decay"]
    before, after = found[found.index <= decays.iloc[0]], found[found.index > decays.iloc[0]]
    if before.empty or len(after) < 2:
        raise KeyError("epochs before and after a decay")
    return before.iloc[-1], after.iloc[0], after.iloc[-1]


def _rises_at_a_decay(rows: pd.DataFrame) -> float:
    before, after, _ = _at_a_decay(rows)
    return 100 * (after - before)


def _falls_behind_a_decay(rows: pd.DataFrame) -> float:
    _, after, end = _at_a_decay(rows)
    return 100 * (after - end)


def _sharpness_drops_at_a_decay(rows: pd.DataFrame) -> float:
    before, after, _ = _at_a_decay(rows, "weight_trace")
    return float(np.log(before / after))


def _large_sam_first(rows: pd.DataFrame) -> float:
    asr = success(rows)
    asr = asr[~asr.index.str.contains("stopped|noise")]
    return asr["l-SAM"] - asr.drop("l-SAM").max()


def _large_sam_over_stopping(rows: pd.DataFrame) -> float:
    asr = success(rows)
    return asr["l-SAM"] - max(asr["SGD, stopped"], asr["SGD"])


def _large_neighbourhoods(rows: pd.DataFrame) -> float:
    asr = success(rows)
    gains = [asr[large] - asr[small] for large, small in LARGE.items() if large in asr and small in asr]
    if not gains:
        raise KeyError("a minimizer with both neighbourhoods")
    return float(np.mean(gains))


def _trace_falls_where_transfer_rises(rows: pd.DataFrame) -> float:
    asr, trace = along(rows, "SAM"), along(rows, "SAM", "weight_trace")
    if len(asr) < 3:
        raise KeyError("three epochs of SAM")
    return -float(spearman(trace, asr))


def _sam_is_flatter(rows: pd.DataFrame) -> float:
    traces = [along(rows, name, "weight_trace").iloc[-1] for name in ("SGD", "l-SAM")]
    return float(np.log(traces[0] / traces[1]))


def _peak_alike(rows: pd.DataFrame) -> float:
    """0.25 less how far apart the peaks are, as a share of the training."""
    peaks = {name: along(rows, name).idxmax() for name in ("D_R", "D_NR")}
    return 0.25 - abs(peaks["D_R"] - peaks["D_NR"]) / rows["epoch"].max()


CLAIMS = (
    Claim("transfer peaks before the end of training", "Figure 1", "stopped", _stopping_helps, POINTS),
    Claim("it rises right after the learning rate decays", "abstract", "training", _rises_at_a_decay, POINTS),
    Claim(
        "and falls from there to the end of training", "Figure 2", "training", _falls_behind_a_decay, POINTS
    ),
    Claim(
        "the trace drops when the learning rate decays",
        "abstract",
        "training",
        _sharpness_drops_at_a_decay,
        "log of the traces' ratio",
    ),
    Claim(
        "l-SAM is first of all minimizers",
        "Figure 6",
        "stopped",
        _large_sam_first,
        POINTS,
        alike="mechanism",
    ),
    Claim("l-SAM beats early stopping", "abstract", "stopped", _large_sam_over_stopping, POINTS),
    Claim(
        "large neighbourhoods beat small ones",
        "Figure 6",
        "stopped",
        _large_neighbourhoods,
        POINTS,
        alike="mechanism",
    ),
    Claim(
        "SAM's trace falls when transfer rises",
        "Figure 5",
        "training",
        _trace_falls_where_transfer_rises,
        "minus Spearman's ρ",
    ),
    Claim("l-SAM ends flatter than SGD", "Figure 5", "training", _sam_is_flatter, "log of the traces' ratio"),
    Claim(
        "on D_R and D_NR transfer peaks alike",
        "Figure 3",
        "features",
        _peak_alike,
        "share of training below 1/4",
    ),
)
