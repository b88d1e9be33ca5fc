"""A paper's claims as a list with verdicts: what holds, by how much, and how sure that is."""

import math

import pandas as pd

from transferjax.report.markup import escape
from transferjax.report.tables import significant

_MARKS = {"holds": ("✓", "holds"), "does not": ("✗", "fails")}  # what cannot be told has neither


def claims_list(checked: pd.DataFrame) -> str:
    """Claims as HTML: verdict, text, margin with its interval, drawn around zero.

    Args:
        checked: of `claims.check_claims`.
    """
    items = []
    for row in checked.itertuples():
        mark, name = _MARKS.get(str(row.verdict), ("?", "untold"))
        numbers = str(row.why)
        if math.isfinite(row.margin):
            numbers = f"{significant(row.margin)} {row.unit}, {row.runs} run{'s' * (row.runs != 1)}"
            if math.isfinite(row.low):
                numbers += f", interval {significant(row.low)} to {significant(row.high)}"
        items.append(
            f'<li class="{name}"><span class="verdict"><span aria-hidden="true">{mark} </span>'
            f"{escape(row.verdict)}</span><div>{row.number}. {escape(row.claim)} <small>{escape(row.place)}; "
            f"{escape(numbers)}</small></div>{_interval(row.margin, row.low, row.high)}</li>"
        )
    return f'<ol class="claims">{"".join(items)}</ol>'


def _interval(margin: float, low: float, high: float) -> str:
    """The margin as a dot, its interval as a line; right of the dashed zero the claim holds."""
    if not math.isfinite(margin):
        return "<span></span>"
    reach = max(abs(value) for value in (margin, low, high) if math.isfinite(value)) or 1.0
    at, start, end = (f"{100 + 92 * value / reach:.1f}" for value in (margin, low, high))
    line = ""
    if math.isfinite(low):
        line = f'<line x1="{start}" x2="{end}" y1="11" y2="11" stroke-width="2"/>'
    return (
        '<svg viewBox="0 0 200 22" aria-hidden="true"><line class="zero" x1="100" x2="100" y1="1" y2="21"/>'
        f'{line}<circle cx="{at}" cy="11" r="4"/></svg>'
    )
