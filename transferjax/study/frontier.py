"""The view of attacks at their cost: transfer success against gradients per image."""

from collections.abc import Iterator

import pandas as pd

from transferjax.report.frontier import costs, success_by_cost
from transferjax.report.page import Section
from transferjax.report.tables import of_surrogates, percent, several, value_table
from transferjax.study.config import Study
from transferjax.study.content import facts
from transferjax.study.estimate import cost_of
from transferjax.study.rows import Row, transfer_rows


def frontier_rows(study: Study, block: str) -> Iterator[Row]:
    """The rows of transfer, each with its attack's `gradients` for an image; noise takes none."""
    for row in transfer_rows(study, block):
        images = row.needs["target"].images  # type: ignore[attr-defined]
        shape = facts(images.data).image_shape
        spent = cost_of(images.attack, images.goal, images.norm, len(images.surrogates), shape)
        yield row._replace(tags={**row.tags, "gradients": spent.gradients})


def frontier(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """A section per goal and budget: the figure, and the table of what no attack beats at its price."""
    sections = []
    for (goal, eps_255), rows in frame.groupby(["goal", "eps_255"], sort=False):
        both = bool(of_surrogates(rows)["asr_correct"].notna().any())
        value, of = ("asr_correct", "that both get right") if both else ("asr", "of any kind")
        found = percent(costs(rows, value).assign(seed=0))
        name = f"{goal}, ε = {eps_255:g}/255"
        text = (
            f"Success on images {of}, the mean over targets and defences, against the gradients that an "
            "attack takes for each image. In the table: what none equals at the same price or below."
        )
        across = ("mechanism",)
        front = found[found["front"]]
        table = value_table(front, value, "success (%)", rows="attack", columns=across)
        figure = success_by_cost(rows, value), f"Success against gradients per image: {name}."
        figures = {f"frontier_{goal}{f'_{eps_255:g}' * bool(several(frame, ('eps_255',)))}": figure}
        sections.append(Section(f"At equal cost: {name}", text, [table], figures))
    return sections
