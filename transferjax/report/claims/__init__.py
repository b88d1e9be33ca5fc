"""Every paper's claims, and what decides them."""

from transferjax.report.claims import gubri, pgn, sp2024, tpa
from transferjax.report.claims.verdicts import (
    AT_CHANCE,
    FAILS,
    HOLDS,
    UNTOLD,
    Claim,
    Verdict,
    check_claims,
    claims_section,
    verdict,
)

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "sp2024": sp2024.CLAIMS,
    "pgn": pgn.CLAIMS,
    "tpa": tpa.CLAIMS,
    "gubri": gubri.CLAIMS,
}
"""By paper."""

__all__ = [
    "AT_CHANCE",
    "CLAIMS",
    "FAILS",
    "HOLDS",
    "UNTOLD",
    "Claim",
    "Verdict",
    "check_claims",
    "claims_section",
    "verdict",
]
