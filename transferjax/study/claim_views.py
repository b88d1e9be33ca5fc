"""The view of a paper's claims: rows of several blocks by role, and a verdict on each claim."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from transferjax.report.claims import CLAIMS, check_claims, claims_section
from transferjax.report.page import Section
from transferjax.study.along import epoch_rows, stopped, stopped_rows
from transferjax.study.config import Study
from transferjax.study.landscape import flatness_rows
from transferjax.study.paper_views import Files, known, pair_rows
from transferjax.study.rows import Row, transfer_rows

Role = tuple[str, str, dict[str, Any]]
"""What claims call the rows, how they are made, and with which options: `block` and others."""


class Kind(NamedTuple):
    """How the rows of a role are made, and what is done with all of them."""

    rows: Callable[..., Iterator[Row]]
    finish: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame


KINDS = {
    "transfer": Kind(transfer_rows),
    "pairs": Kind(pair_rows),
    "flatness": Kind(flatness_rows),
    "epochs": Kind(epoch_rows),
    "stopped": Kind(stopped_rows, stopped),
}


def claim_rows(study: Study, block: str, paper: str, roles: tuple[Role, ...]) -> Iterator[Row]:
    """The rows that claims look at, each with its `role`; `block` is the first of them.

    Raises:
        ValueError: a paper, or a kind of rows, that there is not.
    """
    if paper not in CLAIMS:
        raise ValueError(f"paper {paper!r}: expected one of {', '.join(CLAIMS)}")
    for role, kind, options in roles:
        if kind not in KINDS:
            raise ValueError(
                f"role {role!r}: unknown kind of rows {kind!r}; expected one of {', '.join(KINDS)}"
            )
        known(study, options.get("block", ""))
        for row in KINDS[kind].rows(study, **options):
            yield row._replace(tags={**row.tags, "role": role})


def _checked(frame: pd.DataFrame, paper: str, roles: tuple[Role, ...]) -> pd.DataFrame:
    finish = {role: KINDS[kind].finish for role, kind, _ in roles}
    frames = {
        str(role): finish[str(role)](rows.dropna(axis=1, how="all")) for role, rows in frame.groupby("role")
    }
    return check_claims(CLAIMS[paper], frames)


def claims(
    frame: pd.DataFrame, study: Study, block: str, paper: str, roles: tuple[Role, ...]
) -> list[Section]:
    """Every claim of the paper with its verdict."""
    return [claims_section(_checked(frame, paper, roles))]


def claim_files(frame: pd.DataFrame, study: Study, block: str, paper: str, roles: tuple[Role, ...]) -> Files:
    """The verdicts; the rows behind them are those of the tables."""
    return {"": _checked(frame, paper, roles)}
