"""The view of images: what attacks make of them, and what every model says."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from transferjax.report.page import Section, images_section
from transferjax.study.blocks import Member
from transferjax.study.config import Study
from transferjax.study.rows import Arrays, Row, adversarial, photographed
from transferjax.study.specs import Spec, Verdicts

_EXAMPLES, _SERIES = 6, 6  # images of an attack in the report's viewer, and of how many attacks


def image_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per mechanism and goal: the first attack at its largest budget, on the first seed."""
    b = photographed(study, block, "attacks", "targets")
    attack, call = b.attacks[0]
    _, eps_255, eps = max(b.budgets, key=lambda budget: budget[2])
    first = {member.label: member for member in reversed(b.surrogates)}
    surrogates = [first[label] for label in dict.fromkeys(member.label for member in b.surrogates)]
    for surrogate, (goal_name, goal) in list(product(surrogates, b.goals))[:_SERIES]:
        images = adversarial(b, surrogate, call, goal, eps)
        needs: dict[str, Spec] = {"images": images}
        models = {target.label: target.specs[0] for target in b.targets} | _attacked(surrogate)
        for name, model in models.items():
            needs[f"clean {name}"] = Verdicts(target=model, images=b.data)
            needs[f"fooled {name}"] = Verdicts(target=model, images=images)
        caption = f"{attack} on {surrogate}, {goal_name}, ε = {eps_255:g}/255"
        yield Row({"caption": caption, "targeted": goal.targeted}, needs, partial(_seen, names=tuple(models)))


def _attacked(surrogate: Member) -> dict[str, Spec]:
    """The members of a surrogate, by what they are called under an image."""
    several = len(surrogate.specs) > 1
    return {f"{surrogate}{f' {i}' * several} (attacked)": spec for i, spec in enumerate(surrogate.specs)}


def _seen(found: Mapping[str, Arrays], names: tuple[str, ...]) -> dict[str, Any]:
    said = {
        when: {name: found[f"{when} {name}"]["classes"][:_EXAMPLES] for name in names}
        for when in ("clean", "fooled")
    }
    fooled = found[f"fooled {names[0]}"]
    return {
        "adversarial": found["images"]["images"][:_EXAMPLES],
        "labels": fooled["labels"][:_EXAMPLES],
        "aims": fooled["aims"][:_EXAMPLES],
        **said,
    }


def image_series(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Clean image, perturbation, adversarial image, and what every model says."""
    from transferjax.study.content import load

    clean = load(study.blocks[block].data)

    def names_of(classes: np.ndarray) -> list[str]:
        return [clean.class_names[i] for i in classes]

    series = []
    for row in frame.to_dict("records"):
        one = {
            "clean": clean.images[: len(row["labels"])],  # type: ignore[attr-defined]
            "adversarial": row["adversarial"],
            "labels": names_of(row["labels"]),
            "clean_predictions": {model: names_of(said) for model, said in row["clean"].items()},
            "adversarial_predictions": {model: names_of(said) for model, said in row["fooled"].items()},
            "caption": row["caption"],
        }
        series.append(one | ({"aims": names_of(row["aims"])} if row["targeted"] else {}))
    return [images_section(series)]
