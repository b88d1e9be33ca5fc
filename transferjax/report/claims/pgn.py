"""Claims of "Boosting Adversarial Transferability by Achieving Flat Local Maxima" (Ge et al., NeurIPS 2023).

Roles: "attacks" and "combined", rows of transfer by attack; "zeta", "neighbors" and "delta", those of its
ablations; "exact", those of its penalty by finite differences and by the Hessian; "flatness", those of the
view of that name.
"""

import pandas as pd

from transferjax.report.claims.verdicts import POINTS, Claim, by_value, means, success

TRANSFORMS = ("DIM", "TIM", "SIM", "Admix", "SSM")


def _pgn_over_vmi(rows: pd.DataFrame) -> float:
    asr = success(rows, "attack")
    return asr["PGN"] - asr["VMI-FGSM"]


def _vmi_over_mi(rows: pd.DataFrame) -> float:
    asr = success(rows, "attack")
    return asr["VMI-FGSM"] - asr["MI-FGSM"]


def _first(rows: pd.DataFrame) -> float:
    asr = success(rows, "attack")
    return asr["PGN"] - asr.drop(["PGN", "noise"], errors="ignore").max()


def _least_gain(rows: pd.DataFrame, others: str) -> float:
    """What PGN adds to the input transformation to which it adds least, against the best of the others."""
    asr = success(rows, "attack")
    present = [name for name in TRANSFORMS if f"PGN-{name}" in asr]
    if not present:
        raise KeyError("PGN around an input transformation")
    return min(
        asr[f"PGN-{name}"] - max(asr[other.format(name)] for other in others.split()) for name in present
    )


def _adds(rows: pd.DataFrame) -> float:
    return _least_gain(rows, "{}")


def _adds_most(rows: pd.DataFrame) -> float:
    return _least_gain(rows, "VMI-{} EMI-{}")


def _difference_serves(rows: pd.DataFrame) -> float:
    asr = success(rows, "attack")
    return 1 - abs(asr["PGN, Hessian"] - asr["PGN"])


def _both_gradients(rows: pd.DataFrame) -> float:
    asr = by_value(rows)
    return asr[0.5] - max(asr[0.0], asr[1.0])


def _wide(rows: pd.DataFrame) -> float:
    asr = by_value(rows)
    return asr[3.0] - asr[min(asr.index)]


def _many(rows: pd.DataFrame) -> float:
    asr = by_value(rows)
    return asr[max(asr.index)] - asr[min(asr.index)]


def _flatter(rows: pd.DataFrame) -> float:
    slopes = means(rows, "flatness", "attack")
    return slopes["MI-FGSM"] - slopes["PGN"]


CLAIMS: tuple[Claim, ...] = (
    Claim("PGN beats VMI", "Table 1", "attacks", _pgn_over_vmi, POINTS),
    Claim("VMI beats MI", "Table 1", "attacks", _vmi_over_mi, POINTS),
    Claim("PGN is first of all attacks", "Table 1", "attacks", _first, POINTS),
    Claim("PGN adds to every input transformation", "Table 3", "combined", _adds, POINTS),
    Claim("and more than VMI and EMI do", "Table 3", "combined", _adds_most, POINTS),
    Claim(
        "the finite difference does what the Hessian does",
        "Figure 1",
        "exact",
        _difference_serves,
        "points below 1",
    ),
    Claim("δ = 0.5 beats either gradient alone", "ablation", "delta", _both_gradients, POINTS),
    Claim("ζ = 3 beats the smallest neighbourhood", "ablation", "zeta", _wide, POINTS),
    Claim("more neighbours are better", "ablation", "neighbors", _many, POINTS),
    Claim("PGN's images lie flatter than MI's", "Figure 3", "flatness", _flatter, "E‖∇ₓ ℓ‖₂"),
)
CLAIMS = tuple(claim._replace(runs=("mechanism", "seed")) for claim in CLAIMS)  # of attacks
