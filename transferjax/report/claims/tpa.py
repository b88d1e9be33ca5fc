"""Claims of "Transferability Bound Theory" (Fan et al., NeurIPS 2024).

Roles: "attacks", "targeted", "secured", "defences" and "steps", rows of transfer by attack; "weight", "beta",
"radius" and "neighbors", those of its ablations of λ, b, k and N; "flatness", those of the view of that name.
"""

import numpy as np
import pandas as pd

from transferjax.report.agreement import spearman
from transferjax.report.claims.verdicts import POINTS, Claim, Margin, by_value, success

COMPONENTS = ("model_difference", "first_order", "second_order")


def _over(other: str) -> Margin:
    def margin(rows: pd.DataFrame) -> float:
        asr = success(rows, "attack")
        return asr["TPA"] - asr[other]

    return margin


def _first(rows: pd.DataFrame) -> float:
    """Of the paper's attacks: PGN is no baseline of its tables."""
    asr = success(rows, "attack")
    return asr["TPA"] - asr.drop(["TPA", "PGN", "noise"], errors="ignore").max()


def _steps(rows: pd.DataFrame) -> float:
    asr = success(rows, "attack")
    return asr["TPA, 20 steps"] - asr["TPA, 10 steps"]


def _grows(rows: pd.DataFrame) -> float:
    asr = by_value(rows)
    return asr[max(asr.index)] - asr[min(asr.index)]


def _falls(rows: pd.DataFrame) -> float:
    return -_grows(rows)


def _peaks(rows: pd.DataFrame) -> float:
    """How steep the parabola through all values rises at the least and falls at the largest, the lesser."""
    asr = by_value(rows).sort_index()
    if len(asr) < 3:
        raise KeyError("three values of the weight")
    slope = np.polyder(np.polyfit(asr.index, asr, 2))
    return float(min(np.polyval(slope, asr.index[0]), -np.polyval(slope, asr.index[-1])))


def _orders(rows: pd.DataFrame) -> tuple[float, float]:
    """Spearman's ρ of success with flatness, and with the bound; -1 where small is always better."""
    by_attack = rows.groupby("attack", sort=False)[["asr", "flatness", *COMPONENTS]].mean()
    if len(by_attack) < 4:
        raise KeyError("four attacks to order")
    bound, asr = by_attack[list(COMPONENTS)].sum(axis=1), by_attack["asr"]
    return float(spearman(by_attack["flatness"], asr)), float(spearman(bound, asr))


def _flatness_is_not_all(rows: pd.DataFrame) -> float:
    return _orders(rows)[0] + 0.5


def _components_tell_more(rows: pd.DataFrame) -> float:
    flatness, bound = _orders(rows)
    return flatness - bound


def _theorem(rows: pd.DataFrame) -> float:
    bound = rows[list(COMPONENTS)].sum(axis=1)
    return float(np.log(bound / rows["transfer_loss"]).min())


ORDER = "Spearman's ρ"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "TPA beats PGN (not in the paper, whose baselines it is none of)",
        "–",
        "attacks",
        _over("PGN"),
        POINTS,
    ),
    Claim("TPA beats VT", "Table 1", "attacks", _over("VT"), POINTS),
    Claim("TPA is first of all attacks", "Table 1", "attacks", _first, POINTS),
    Claim("and against secured models", "Table 2", "secured", _first, POINTS),
    Claim("and targeted", "Table 3", "targeted", _first, POINTS),
    Claim("and against defences", "Table 5", "defences", _first, POINTS),
    Claim("twenty steps beat ten", "Table 6", "steps", _steps, POINTS),
    Claim(
        "success rises and then falls with λ (α in the code)", "ablation", "weight", _peaks, f"{POINTS} for 1"
    ),
    Claim("success grows with b", "ablation", "beta", _grows, POINTS),
    Claim("success grows with N", "ablation", "neighbors", _grows, POINTS),
    Claim("success falls with k", "ablation", "radius", _falls, POINTS),
    Claim(
        "the flatter is not always the better", "section 3", "flatness", _flatness_is_not_all, "ρ above -0.5"
    ),
    Claim(
        "the bound orders attacks better than flatness", "section 3", "flatness", _components_tell_more, ORDER
    ),
    Claim("Theorem 3.1 holds in every cell", "eq. 3", "flatness", _theorem, "log of bound / loss"),
)
CLAIMS = tuple(claim._replace(runs=("mechanism", "seed")) for claim in CLAIMS)  # of attacks
