"""Images to look at: clean, perturbation, adversarial, and what every model says of them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transferjax.report.maps import compared, said_of
from transferjax.report.markup import escape, png_source

Said = Mapping[str, Sequence[Any]]
"""Model -> what it says of each image."""


def viewer(series: Sequence[Mapping[str, Any]]) -> str:
    """Images as HTML: all of them to read, one at a time where the page's script runs.

    Args:
        series: of each attack its examples, see `maps.image_grid`; `caption` names it, and `aims` are what a
            targeted one wants the models to say.
    """
    bodies = "".join(
        f'<div class="series" data-name="{escape(one.get("caption", f"attack {i}"))}">{_examples(one)}</div>'
        for i, one in enumerate(series, start=1)
    )
    return (
        f'<figure class="viewer" aria-label="Images before and after the attack">{bodies}<figcaption>'
        "← and → go through the images, + and − enlarge them, as does a click. ✗ is not the image's label, "
        "★ is what a targeted attack aims at.</figcaption></figure>"
    )


def _examples(one: Mapping[str, Any]) -> str:
    clean, shown, adversarial, factor = compared(one)
    before, after = (said_of(one[f"{name}_predictions"]) for name in ("clean", "adversarial"))
    articles = []
    for i, label in enumerate(one["labels"]):
        aim = one["aims"][i] if "aims" in one else None
        panes = "".join(
            _pane(picture[i], text, f"{text}, image {i + 1}: {label}")
            for picture, text in (
                (clean, "clean"),
                (shown, f"perturbation ×{factor:.0f}"),
                (adversarial, "adversarial"),
            )
        )
        rows = "".join(
            f'<tr><th scope="row">{escape(model)}</th>{_said(before[model][i], label, None)}'
            f"{_said(after[model][i], label, aim)}</tr>"
            for model in before
        )
        wanted = "" if aim is None else f", aim: {escape(aim)}"
        articles.append(
            f"<article><h3>{escape(one.get('caption', ''))}: label {escape(label)}{wanted}</h3>"
            f'<div class="panes">{panes}</div><div class="scroll" tabindex="0" role="region" '
            f'aria-label="Predictions, image {i + 1}"><table class="said"><thead><tr>'
            f'<th scope="col">model</th><th scope="col">clean</th><th scope="col">adversarial</th>'
            f"</tr></thead><tbody>{rows}</tbody></table></div></article>"
        )
    return "".join(articles)


def _pane(picture: np.ndarray, text: str, description: str) -> str:
    return (
        f'<div><div class="window" tabindex="0" role="group" aria-label="{escape(text)}">'
        f'<img alt="{escape(description)}" src="{png_source(_png(picture))}"></div>'
        f"<p>{escape(text)}</p></div>"
    )


def _said(says: Any, label: Any, aim: Any) -> str:
    mark, name, meaning = ("✓", "right", "right") if says == label else ("✗", "wrong", "wrong")
    if aim is not None and says == aim:
        mark, name, meaning = "★", "wrong", "the aim"
    return (
        f'<td class="{name}"><span aria-hidden="true">{mark} </span><span class="unseen">{meaning}: </span>'
        f"{escape(says)}</td>"
    )


def _png(image: np.ndarray) -> bytes:
    """An image `[H, W, C]` in [0, 1] as PNG bytes, pixel for pixel."""
    from PIL import Image

    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
