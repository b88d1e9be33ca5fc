"""Adversarial images as PNG files, in folders by class, as other tools read them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transferjax.attacks.craft import Crafted, craft
from transferjax.attacks.crafted import write_png
from transferjax.attacks.recipe import Recipe
from transferjax.data import Dataset
from transferjax.files import write_text
from transferjax.typing import Predict


def check_new(out: str | Path) -> None:
    """Raises a FileExistsError where images are already."""
    if (Path(out) / "images").exists():
        raise FileExistsError(f"{out}/images is there already: choose another directory, or delete it")


def attack_to_folder(
    attack: Recipe,
    predict: Predict,
    dataset: Dataset,
    out: str | Path,
    *,
    seed: int = 0,
    batch_size: int = 32,
    sources: Sequence[str],
    surrogate: Mapping[str, Any],
) -> Crafted:
    """Writes `<out>/images/<class>/<index>.png`, `labels.csv` and `manifest.json`.

    PNG holds every pixel as it is: 8 bits, rounded inside the ball around the image that was read.

    Args:
        attack, predict, dataset, seed, batch_size: as in `craft`.
        out: a new directory.
        sources: where each image is from.
        surrogate: what the model is, for the manifest.

    Raises:
        FileExistsError: images are there already.
    """
    out = Path(out)
    check_new(out)
    crafted = craft(attack, predict, dataset, seed=seed, batch_size=batch_size)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "label", "class", "largest_change_255", "source"])
    width = len(str(len(dataset) - 1))
    for index, (image, label) in enumerate(zip(crafted.images, crafted.labels, strict=True)):
        name = dataset.class_names[label]
        file = f"images/{name}/{index:0{width}d}.png"
        write_png(out / file, image)
        change = np.abs(image.astype(int) - dataset.images[index].astype(int)).max()
        rows.writerow([file, int(label), name, int(change), sources[index]])
    write_text(out / "labels.csv", table.getvalue())
    manifest: dict[str, Any] = {
        **crafted.manifest, "format": "png", "surrogate": dict(surrogate), "sources": list(sources),
        "class_names": dataset.class_names, "channels": crafted.images.shape[-1],
    }  # fmt: skip
    write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return crafted
