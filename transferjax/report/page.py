"""A run's report, twice: `report.md` for the repository, `report.html` for the reader, a single file."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from transferjax.files import write_bytes, write_text
from transferjax.report.figures import (
    asr_by_mechanism,
    metric_by_mechanism,
    of_plane,
    smoothness_similarity_plane,
)
from transferjax.report.maps import image_grid, said_of
from transferjax.report.markup import document, escape, png_source, slug
from transferjax.report.plane import interactive_plane
from transferjax.report.printed import to_html, to_markdown
from transferjax.report.style import PAGE, style
from transferjax.report.tables import (
    CELL,
    ERRORS,
    NOISE,
    Table,
    apart,
    asr_table,
    below_noise,
    check,
    model_table,
    of_surrogates,
    ordered,
    several,
)
from transferjax.report.viewer import viewer

_PIXELS_PER_INCH = 128  # a figure of a page's width fills the page, and all figures have letters of one size


class Section(NamedTuple):
    """A heading, what to make of it, its tables and its figures (by file name).

    `live` is HTML for the page alone: it takes the place of the figure of its name, or of the table of its
    title, which the Markdown keeps.
    """

    title: str
    text: str
    tables: list[Table]
    figures: dict[str, tuple[Figure, str]]
    live: Mapping[str, str] = MappingProxyType({})


Examples = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Images of one attack, or of each of several."""


def named(part: Section, name: str) -> Section:
    """A section with what its rows are of in its figures' names, and in its title where that lacks it."""
    if not name:
        return part
    part = _renamed(part, {figure: f"{figure}_{slug(name)}" for figure in part.figures})
    return part if part.title.endswith(f": {name}") else part._replace(title=f"{part.title}: {name}")


def told_apart(parts: Sequence[Section], view: str, taken: set[str]) -> list[Section]:
    """A view's sections, its name before those of their figures that are `taken`; takes the rest."""
    found = []
    for part in parts:
        part = _renamed(part, {figure: f"{view}_{figure}" for figure in part.figures.keys() & taken})
        taken.update(part.figures)
        found.append(part)
    return found


def _renamed(part: Section, new: Mapping[str, str]) -> Section:
    """A section with other names of figures."""
    return part._replace(
        figures={new.get(key, key): figure for key, figure in part.figures.items()},
        live={new.get(key, key): html for key, html in part.live.items()},
    )


def split(
    results: pd.DataFrame, draw: Callable[[pd.DataFrame], list[Section]], by: Sequence[str] = CELL
) -> list[Section]:
    """What is drawn of each attack, goal and budget, under its name where there are several."""
    return [named(part, name) for name, rows in apart(results, several(results, by)) for part in draw(rows)]


class ReportPaths(NamedTuple):
    """Where a report was written."""

    markdown: Path
    html: Path
    figures: list[Path]


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def errors_in_words(results: pd.DataFrame, error: str) -> str:
    """What ± means, and over how many seeds."""
    seeds = results.groupby("mechanism")["seed"].nunique().max()
    if seeds == 1:
        return "One seed: no errors can be given."
    how = ERRORS[error]
    return f"± is {how} over {seeds} seeds."


def success_section(results: pd.DataFrame, goal: str, error: str) -> Section:
    rows = results[results["goal"] == goal]
    more = [name for name in ("asr_correct", "transferred") if name in rows and rows[name].notna().any()]
    tables = [asr_table(results, goal, error, value) for value in ("asr", *more)]
    figure = asr_by_mechanism(results, goal, error)
    caption = f"{goal.capitalize()} transfer success by mechanism; a panel per budget, a marker per target."
    text = "Adversarial examples crafted on each surrogate, tried on each target. "
    text += errors_in_words(results, error)
    if (rows["mechanism"] == NOISE).any():
        text += f" The row {NOISE!r} is what random signs of the same size reach."
    return Section(f"{goal.capitalize()} transfer", text, tables, {f"asr_{goal}": (figure, caption)})


def success_sections(results: pd.DataFrame, error: str) -> list[Section]:
    """Transfer success, a section for each attack and goal; the first warns of what is below noise."""
    first, *others = split(
        results,
        lambda rows: [success_section(rows, str(goal), error) for goal in ordered(rows["goal"])],
        ("attack",),
    )
    return [warned(first, results), *others]


def warned(part: Section, results: pd.DataFrame) -> Section:
    """A section that says which attacks of these rows do less than noise, if any."""
    return part._replace(text=" ".join(filter(None, (part.text, below_noise(results)))))


def surrogates_section(results: pd.DataFrame, error: str) -> Section:
    goal = str(ordered(results["goal"])[0])
    figures, live = {}, {}
    if of_surrogates(results)[["smoothness", "similarity"]].notna().all(axis=None):
        for attack, rows in apart(results, several(results, ("attack",))):
            plane = f"plane_{slug(attack)}" if attack else "plane"
            name, _ = of_plane(rows, goal, None)
            figures[plane] = (
                smoothness_similarity_plane(rows, goal),
                f"Smoothness, similarity and transfer success ({name}): one point per surrogate.",
            )
            live[plane] = interactive_plane(rows, goal)
        figures["smoothness"] = (
            metric_by_mechanism(results, "smoothness", "top input-Hessian eigenvalue", error),
            "Model smoothness by mechanism: the mean top eigenvalue of the input Hessian, lower is smoother.",
        )
    text = (
        "Smoothness is the mean top eigenvalue of the input Hessian (lower is smoother), similarity the mean "
        "cosine between the surrogate's and the target's input gradients. " + errors_in_words(results, error)
    )
    return Section("Why: smoothness and similarity", text, [model_table(results, error)], figures, live)


def images_section(examples: Examples) -> Section:
    """Images of one attack or of several, see `maps.image_grid`, each with a `caption` and perhaps `aims`."""
    series = [examples] if isinstance(examples, Mapping) else list(examples)
    text = str(series[0].get("caption", "What the target model says before and after the attack."))
    grid = image_grid(series[0])  # which says what is missing
    model = next(iter(said_of(series[0]["clean_predictions"])))
    caption = f"Clean image, perturbation, adversarial image, and what {model} says."
    return Section("Images", text, [], {"images": (grid, caption)}, {"images": viewer(series)})


def sections(
    results: pd.DataFrame, examples: Examples | None = None, error: str = "half_range"
) -> list[Section]:
    """What the report holds, before it is written."""
    parts = [*success_sections(results, error), surrogates_section(results, error)]
    if examples is not None:
        parts.append(images_section(examples))
    return parts


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)


def _markdown(title: str, parts: list[Section], config: Mapping, environment: Mapping) -> str:
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [f"## {part.title}", "", part.text, ""]
        for table in part.tables:
            lines += [f"**{table.title}**", "", to_markdown(table), ""]
        for name, (_, caption) in part.figures.items():
            lines += [f"![{caption}](figures/{name}.png)", "", f"*{caption}*", ""]
    for name, value in (("Configuration", config), ("Environment", environment)):
        if not value:
            continue
        lines += [f"## {name}", "", "```json", _as_json(value), "```", ""]
    return "\n".join(lines)


def _picture(figure: Figure, caption: str, data: bytes) -> str:
    width, text = round(_PIXELS_PER_INCH * figure.get_figwidth()), escape(caption)
    wide = ' class="wide"' * bool(figure.get_figwidth() > PAGE)
    return (
        f'<figure class="picture"><div class="scroll" tabindex="0" role="region" aria-label="{text}">'
        f'<img{wide} width="{width}" alt="{text}" src="{png_source(data)}"></div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _html(
    title: str, parts: list[Section], pictures: Mapping[str, bytes], config: Mapping, environment: Mapping
) -> str:
    sections = []
    for part in parts:
        inner = [f"<p>{escape(part.text)}</p>"]
        inner += [part.live.get(table.title) or to_html(table) for table in part.tables]
        for name, (figure, caption) in part.figures.items():
            inner.append(part.live.get(name) or _picture(figure, caption, pictures[name]))
        sections.append((part.title, "".join(inner)))
    end = "".join(
        f"<details><summary>{name}</summary><pre>{escape(_as_json(value))}</pre></details>"
        for name, value in (("Configuration", config), ("Environment", environment))
        if value
    )
    return document(title, sections, end)


def write_page(directory: str | os.PathLike, name: str, parts: list[Section], title: str) -> Path:
    """Writes `<name>.md` and its figures alone, for a repository; see `write_sections`."""
    directory = Path(directory)
    for part in parts:
        for figure, (drawn, _) in part.figures.items():
            write_bytes(directory / "figures" / f"{figure}.png", png(drawn))
    return write_text(directory / f"{name}.md", _markdown(title, parts, {}, {}))


def write_sections(
    directory: str | os.PathLike,
    parts: list[Section],
    title: str,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    name: str = "report",
) -> ReportPaths:
    """Writes `<name>.md`, `<name>.html` (self-contained) and `figures/*.png` into a directory, atomically.

    Args:
        directory: where to; made if it does not exist.
        parts: what the pages hold, in order.
        title: the heading.
        config, environment: shown at the end.
        name: of the two files.
    """
    directory = Path(directory)
    pictures = {name: png(figure) for part in parts for name, (figure, _) in part.figures.items()}
    paths = []
    for picture, data in pictures.items():
        paths.append(write_bytes(directory / "figures" / f"{picture}.png", data))
    config, environment = config or {}, environment or {}
    return ReportPaths(
        write_text(directory / f"{name}.md", _markdown(title, parts, config, environment)),
        write_text(directory / f"{name}.html", _html(title, parts, pictures, config, environment)),
        paths,
    )


def write_report(
    directory: str | os.PathLike,
    results: pd.DataFrame,
    examples: Examples | None = None,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    title: str = "Transferability report",
    error: str = "half_range",
) -> ReportPaths:
    """Writes a run's `report.md`, `report.html` (self-contained) and `figures/*.png`, atomically.

    Args:
        directory: where to; made if it does not exist.
        results: tidy, see `tables.COLUMNS`; any number of mechanisms, seeds, targets, goals and budgets.
        examples: images to look at, of one attack or of a sequence of several, see `images_section`.
        config, environment: shown at the end.
        title: the report's heading.
        error: over seeds, see `tables.spread`.

    Raises:
        ValueError: results that are not tidy.
    """
    parts = sections(check(results), examples, error)
    return write_sections(directory, parts, title, config, environment)
