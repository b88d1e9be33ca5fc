"""Tables as Markdown, as HTML, and as text for a terminal."""

from collections.abc import Callable, Hashable

import numpy as np

from transferjax.report.markup import escape
from transferjax.report.tables import Table


def _to_precision_of(text: str, number: float) -> str:
    """The number with as many decimals as the text has: an error is no more precise than its centre."""
    return f"{number:.1e}" if "e" in text else f"{number:.{len(text.partition('.')[2])}f}"


def _printer(table: Table, column: Hashable) -> Callable[[float], str]:
    """What prints a column: counts, and whatever else is whole throughout, have no decimals."""
    numbers = np.concatenate([table.center[column], table.error[column]]).astype(float)
    whole = (numbers[np.isfinite(numbers)] % 1 == 0).all()
    return (lambda number: f"{number:.0f}") if whole else table.number


def _cell(table: Table, row: Hashable, column: Hashable, bold: tuple[str, str], sign: tuple[str, str]) -> str:
    number, err = table.center.at[row, column], table.error.at[row, column]
    if np.isnan(number):
        return "–"
    printer = _printer(table, column)
    text = printer(number)
    if table.best.at[row, column]:
        text = bold[0] + text + bold[1]
    if table.after is not None:
        return text + sign[1].format(table.after.at[row, column])
    return text if np.isnan(err) else text + sign[0].format(_to_precision_of(printer(number), err))


def _head(column: tuple[Hashable, ...]) -> str:
    """A column's name in one line."""
    return " ".join(part for part in map(str, column) if part)


def _lines(table: Table, bold: tuple[str, str]) -> list[list[str]]:
    """The heads, and the cells of each row, behind their name."""
    heads = [_head(column) for column in table.center.columns]
    sign = (" ± {}", " {}")
    rows = [
        [str(row), *(_cell(table, row, column, bold, sign) for column in table.center.columns)]
        for row in table.center.index
    ]
    return [[table.corner, *heads], *rows]


def to_markdown(table: Table) -> str:
    """The table as a Markdown pipe table."""
    heads, *rows = _lines(table, ("**", "**"))
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_text(table: Table) -> str:
    """The table for a terminal: columns under each other, `*` before the best entries."""
    heads, *rows = _lines(table, ("*", ""))
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def to_html(table: Table) -> str:
    """The table as HTML, its upper column heads spanning what they share; the page's script sorts it.

    A cell carries its number, so that sorting is by value and not by what is printed.
    """
    groups: list[list] = []
    for column in table.center.columns:
        if groups and groups[-1][0] == column[0]:
            groups[-1][1] += 1
        else:
            groups.append([column[0], 1])
    upper = "".join(f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in groups)
    lower = "".join(
        f'<th scope="col" data-name="{escape(_head(column))}">{escape(column[1])}</th>'
        for column in table.center.columns
    )
    body, sign = [], (' <span class="error">± {}</span>', ' <span class="error">{}</span>')
    for row in table.center.index:
        cells = (
            f'<td data-value="{table.center.at[row, column]:.9g}">'
            + _cell(table, row, column, ("<b>", "</b>"), sign)
            + "</td>"
            for column in table.center.columns
        )
        body.append(f'<tr><th scope="row">{escape(row)}</th>{"".join(cells)}</tr>')
    title = escape(table.title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table class="sortable">'
        f"<caption><span>{title}</span></caption><thead><tr><td></td>{upper}</tr>"
        f'<tr><th scope="col">{escape(table.corner)}</th>{lower}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
