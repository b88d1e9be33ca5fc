"""Data: uint8 arrays in, seeded batches out.

`load` gives a `Dataset` in memory, `source` what to train on: the same, or an `ImageStream` of random crops.
`train_batches` and `eval_batches` turn either into `Examples`, always full batches; `to_float` scales
them to [0, 1] inside jit.
"""

import difflib
import os
from pathlib import Path
from typing import Any

from transferjax.data.batches import (
    Examples,
    Source,
    batch_indices,
    eval_batches,
    even_batch_size,
    steps_per_epoch,
    train_batches,
)
from transferjax.data.crops import center_crop, random_resized_crop
from transferjax.data.dataset import Dataset, to_float
from transferjax.data.digits import digits
from transferjax.data.folders import folder_splits, image_folder, load_folder, nips2017
from transferjax.data.imagenet import imagenet_indices
from transferjax.data.storage import cache_dir, open_saved, save, saved_splits
from transferjax.data.stream import ImageStream
from transferjax.data.tfds import IMAGENETTE_IN_IMAGENET, in_memory, stream

__all__ = [
    "IMAGENETTE_IN_IMAGENET",
    "Dataset",
    "Examples",
    "ImageStream",
    "Source",
    "batch_indices",
    "cache_dir",
    "center_crop",
    "eval_batches",
    "even_batch_size",
    "image_folder",
    "imagenet_indices",
    "load",
    "load_folder",
    "nips2017",
    "random_resized_crop",
    "save",
    "source",
    "steps_per_epoch",
    "to_float",
    "train_batches",
]

IMAGENETTE = ("imagenette/160px-v2", "imagenette/320px-v2", "imagenette/full-size-v2")
NAMES = ("digits", "cifar10", *IMAGENETTE)

PathLike = str | os.PathLike[str]


def load(name: PathLike, split: str = "", *, data_dir: PathLike | None = None, **options: Any) -> Dataset:
    """One split of a data set in memory, by name or by path.

    Args:
        name: "digits" (in the wheel); "cifar10", "imagenette/160px-v2" … (TFDS ArrayRecord); a directory that
            `save` wrote; or a folder of images, `<name>/<class>/<image>` or
            `<name>/<split>/<class>/<image>`, whose classes are in alphabetical order.
        split: "train" or "test"; of a directory whatever there is; "" where there is but one, or none.
        data_dir: where TFDS keeps prepared data; default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        options: `size` in pixels (digits: 8; ImageNette: 224, of the square in the middle); digits:
            `interpolation`; folders: `size` and `crop` of `load_folder`, without which no image is changed.

    Raises:
        ValueError: unknown name (the message has the nearest ones) or split; none said of several splits.
        TypeError: unknown option.
        FileNotFoundError: no such folder; data that are not prepared; the message says what to do.
    """
    name, split = _which(name, split)
    if name == "digits":
        return digits(split, **_options(name, options, size=8, interpolation="bilinear"))
    if name == "cifar10":
        return in_memory(name, split, size=32, data_dir=data_dir, **_options(name, options))
    if name in IMAGENETTE:
        chosen = _options(name, options, size=224)
        return in_memory(name, _imagenette_split(split), data_dir=data_dir, **chosen)
    if saved_splits(name):
        return open_saved(name, split, **_options(name, options))
    return load_folder(name, split, **_options(name, options, size=None, crop=None))


def source(name: PathLike, split: str = "", *, data_dir: PathLike | None = None, **options: Any) -> Source:
    """What to train on: as `load`, but large images arrive as random resized crops, flipped half of the time.

    Args:
        name, split, data_dir: as in `load`.
        options: as in `load`; ImageNette and folders: `scale`, the crop's smallest and largest share of the
            area, (0.08, 1) by default.

    Raises:
        as `load`.
    """
    name, split = _which(name, split)
    if name not in IMAGENETTE and (name in NAMES or saved_splits(name)):
        return load(name, split, data_dir=data_dir, **options)
    chosen = _options(name, options, size=224, scale=(0.08, 1.0))
    crop = random_resized_crop(chosen["scale"])
    if name in IMAGENETTE:
        return stream(name, _imagenette_split(split), size=chosen["size"], crop=crop, data_dir=data_dir)
    return image_folder(name, split, size=chosen["size"], crop=crop)


def _which(given: PathLike, split: str) -> tuple[str, str]:
    """A name, or a directory that is there; and the split, the only one if none is said."""
    name = os.fspath(given)
    if name not in NAMES:
        name = _directory(name)
    if split:
        return name, split
    found = ["train", "test"] if name in NAMES else saved_splits(name) or folder_splits(name)
    if len(found) > 1:
        raise ValueError(f"{name} has the splits {found}: say which, such as split={found[-1]!r}")
    return name, found[0] if found else ""


def _directory(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    near = difflib.get_close_matches(name, NAMES, cutoff=0.3)
    if len(path.parts) > 1 and path.parts[0] != "imagenette":
        there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        close = [str(path.parent / other) for other in difflib.get_close_matches(path.name, there)]
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        gap = next((p for p in reversed(path.parents) if not p.exists()), None)
        where = f" (nor {gap})" if gap else ""
        raise FileNotFoundError(f"there is no folder {path}{where}{hint}")
    raise ValueError(f"unknown data set {name!r}: did you mean {' or '.join(near or NAMES)}, or a directory?")


def _options(name: str, given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    if unknown := sorted(given.keys() - defaults.keys()):
        raise TypeError(f"{name} has no options {unknown}; it has {sorted(defaults)}")
    size = (chosen := {**defaults, **given}).get("size", 1)
    if size is None and defaults.get("size", 1) is None:
        return chosen  # images stay as they are
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
        raise ValueError(f"{name}: size must be a whole number of pixels, at least 1; got {size!r}")
    return chosen


def _imagenette_split(split: str) -> str:
    return "validation" if split == "test" else split
