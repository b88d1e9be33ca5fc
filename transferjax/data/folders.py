"""People's own images: a folder per class, and the layout of the NIPS 2017 attack competition."""

import csv
import json
import mimetypes
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from transferjax.data.crops import Crop, center_crop, colours_of, decode, whole
from transferjax.data.dataset import Dataset, names_of
from transferjax.data.stream import ImageStream
from transferjax.files import hidden

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})


class Files:
    """The contents of files, by index; remembers which of those that were read are not RGB."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.colours: dict[int, str] = {}

    def __getitem__(self, index: int) -> bytes:
        content = self.paths[index].read_bytes()
        self.colours[index] = colours_of(content)
        return content

    def where(self, index: int) -> str:
        """What an error calls it."""
        return str(self.paths[index])


def image_folder(
    path: str | os.PathLike[str], split: str = "", *, size: int = 224, crop: Crop | None = None
) -> ImageStream:
    """Images in `<path>/<split>/<class>/…`, the classes in alphabetical order.

    At every level, names with a leading dot and what operating systems leave behind are not there
    (`files.hidden`); links are followed, but not back to where they came from. Warns of classes without an
    image and of images in formats that are not read.

    Args:
        path: the folder.
        split: a folder inside of it; "" for `path` itself.
        size: height and width of the crops, in pixels.
        crop: what is taken of an image; all of it by default.

    Raises:
        FileNotFoundError: no folder, or no images in it.
    """
    root, files, labels, classes = _found(path, split)
    return ImageStream(Files(files), labels, classes, size, crop or whole, root.name or str(root))


def load_folder(
    path: str | os.PathLike[str], split: str = "", *, size: int | None = None, crop: float | None = None
) -> Dataset:
    """The images of a folder (see `image_folder`) in memory, and a line that says what was done to them.

    What `transferjax attack` wrote comes back with its labels, the names of all classes, and its channels.

    Args:
        path, split: as in `image_folder`.
        size: height and width to resize to; None leaves images as they are.
        crop: the share of the shorter side that the square in the middle has; None for the whole image, which
            loses its aspect ratio where it was no square.

    Raises:
        ValueError: images of several sizes and no `size`, or a crop of images that nobody resizes.
        FileNotFoundError: as `image_folder`.
    """
    if crop is not None and size is None:
        raise ValueError(f"crop={crop} cuts squares of different sizes out of images: give size, in pixels")
    sizes: Counter[tuple[int, int]] = Counter()
    cut = whole if crop is None else center_crop(crop)

    def noted(image: np.ndarray, draws: np.ndarray, out: np.ndarray) -> None:
        sizes[image.shape[0], image.shape[1]] += 1
        cut(image, draws, out)

    stream = image_folder(path, split, size=size or 1, crop=noted)
    files: Files = stream.encoded  # type: ignore[assignment]
    channels = _channels(Path(path) / split)
    if size is None:
        dataset = _as_they_are(stream, files, sizes, channels)
    else:
        found = stream.to_dataset()
        images = found.images[..., :channels]
        dataset = replace(found, images=images)
    kinds = sorted(Counter(files.colours.values()).items()) if channels != 1 else ()
    changed = ", ".join(f"{count} {kind}" for kind, count in kinds if kind)
    done = _what_was_done(dataset, sizes, size, crop) + (f"; made RGB: {changed}" if changed else "")
    print(f"{Path(path) / split}: {done}")
    return dataset


def _as_they_are(
    stream: ImageStream, files: Files, sizes: Counter[tuple[int, int]], channels: int
) -> Dataset:
    images: list[np.ndarray] = []
    bar = tqdm(files.paths, f"decode {stream.name}", unit="image", disable=None, leave=False)
    for index, file in enumerate(bar):
        try:
            images.append(decode(files[index])[..., :channels])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        sizes[images[-1].shape[0], images[-1].shape[1]] += 1
        if len(sizes) > 1:
            one, other = (f"{height} x {width}" for height, width in list(sizes)[:2])
            raise ValueError(
                f"{file} is {other}, images before it {one} (height x width): give size=…, to resize all"
            )
    return Dataset(np.stack(images), stream.labels, stream.class_names, stream.name)


def _what_was_done(
    dataset: Dataset, sizes: Counter[tuple[int, int]], size: int | None, crop: float | None
) -> str:
    """In words, for who did not look."""
    [(shape, _)] = sizes.most_common(1)
    there = f"{len(dataset)} images of {dataset.num_classes} classes"
    named = f"{shape[0]} x {shape[1]}" + ("" if len(sizes) == 1 else f" and {len(sizes) - 1} other sizes")
    if size is None or (set(sizes) == {(size, size)} and crop in (None, 1)):
        return f"{there}, {named}, as they are"
    squashed = sum(n for (height, width), n in sizes.items() if height != width)
    if crop is not None:
        return f"{there}, {named}: the middle, {crop:g} of the shorter side, resized to {size} x {size}"
    lost = f", {squashed} of them lose their aspect ratio (crop=… cuts instead)" if squashed else ""
    return f"{there}, {named}: whole, resized to {size} x {size}{lost}"


def folder_splits(path: str | os.PathLike[str]) -> list[str]:
    """The splits of `<path>/<split>/<class>/<image>`; none where the folders inside are the classes."""
    inside = _folders(Path(path))
    named = all(name.lower() in _SPLITS for name in inside)
    return inside if named and not any(_is_class(Path(path) / name) for name in inside) else []


def _folders(path: Path) -> list[str]:
    entries = path.iterdir() if path.is_dir() else ()
    return sorted(entry.name for entry in entries if entry.is_dir() and not hidden(entry.name))


def _is_class(folder: Path) -> bool:
    return any(_is_read(entry) and entry.is_file() for entry in folder.iterdir())


def _found(path: str | os.PathLike[str], split: str) -> tuple[Path, list[Path], np.ndarray, tuple[str, ...]]:
    """The folder, its images, their labels and the classes' names."""
    root = Path(path) / split
    if not root.is_dir():
        there = f"; it has {_some(inside)}" if (inside := _folders(Path(path))) and split else ""
        raise FileNotFoundError(f"{root} is not a folder; expected {root}/<class>/<image>{there}")
    if (written := _written(root)) is not None:
        place, said = written
        rows, names = _rows(place / "labels.csv", "file", "label"), tuple(said["class_names"])
        of_each = [_number(row, "label", row["file"], 0, len(names) - 1) for row in rows]
        return root, [place / row["file"] for row in rows], np.array(of_each, np.int32), names
    outside = {root.resolve(), *root.resolve().parents}
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name)]
    found = {f.name: sorted(_walk(f, outside)) for f in folders if f.resolve() not in outside}
    classes = sorted(found)
    paths = [(f, label) for label, name in enumerate(classes) for f in found[name] if _is_read(f)]
    if not paths:
        raise FileNotFoundError(f"no images in {root}; expected {root}/<class>/<image>, {sorted(SUFFIXES)}")
    _say_what_is_left_out(root, found)
    labels = np.array([label for _, label in paths], np.int32)
    return root, [file for file, _ in paths], labels, tuple(classes)


def _written(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The directory of images that `transferjax attack` wrote, and what it says of them; None for another."""
    for place in (root, root.parent):
        if (place / "labels.csv").is_file() and (place / "manifest.json").is_file():
            try:
                said = dict(json.loads((place / "manifest.json").read_text()))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{place / 'manifest.json'} is damaged: {error}") from error
            return (place, said) if {"class_names", "channels"} <= said.keys() else None
    return None


def _channels(root: Path) -> int:
    """Of the images in a folder; those of a PNG with one are read as three that are the same."""
    written = _written(root)
    return 3 if written is None else int(written[1]["channels"])


def _walk(folder: Path, outside: set[Path]) -> Iterator[Path]:
    """The files in a folder and in those inside of it, without what is hidden, each folder once.

    A link that leads back, or to a folder that is `outside`, is not followed.
    """
    seen = outside | {*folder.resolve().parents}
    for place, inside, files in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        if here in seen:
            inside.clear()
            continue
        seen.add(here)
        inside[:] = [name for name in inside if not hidden(name)]
        yield from (Path(place, name) for name in files if not hidden(name))


def _is_read(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _say_what_is_left_out(root: Path, found: dict[str, list[Path]]) -> None:
    empty = [name for name, files in found.items() if not any(map(_is_read, files))]
    if empty:
        warnings.warn(f"{root}: no images in {_some(empty)}; each still counts as a class", stacklevel=3)
    kinds = ((file, mimetypes.guess_type(file.name)[0] or "") for files in found.values() for file in files)
    others = [str(f.relative_to(root)) for f, kind in kinds if kind.startswith("image/") and not _is_read(f)]
    if others:
        warnings.warn(f"{root}: not read, as not {sorted(SUFFIXES)}: {_some(others)}", stacklevel=3)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def nips2017(
    table: str | os.PathLike[str], images: str | os.PathLike[str], *, size: int = 299, num_classes: int = 1000
) -> tuple[Dataset, np.ndarray]:
    """The NIPS 2017 attack competition's images and target classes (`ImageId, TrueLabel, TargetClass`).

    The table counts classes from 1; here they count from 0, as ImageNet models do.

    Args:
        table: the CSV file; other columns are ignored.
        images: the folder of `<ImageId>.png` (or .jpg, .jpeg).
        size: height and width to resize to, in pixels; 299 is their own.
        num_classes: how many classes the models have.

    Returns:
        The images with their true labels, and the target classes int32 `[N]`.

    Raises:
        ValueError: a missing column, no rows, an image twice, or a label that is not in 1 … num_classes.
        FileNotFoundError: a missing table or image.

    Reference: Kurakin et al., "Adversarial Attacks and Defences Competition", 2018.
    """
    columns = ("TrueLabel", "TargetClass")
    rows = _rows(Path(table), "ImageId", *columns)
    classes = np.array(
        [[_number(row, column, row["ImageId"], 1, num_classes) - 1 for column in columns] for row in rows],
        np.int32,
    )
    files = Files([_image(Path(images), row["ImageId"]) for row in rows])
    stream = ImageStream(files, classes[:, 0], names_of(num_classes), size, whole, "nips2017")
    return stream.to_dataset(), classes[:, 1]


def _rows(table: Path, image: str, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file, one for each `image`, with these columns at least."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = {image, *columns} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table} lacks the columns {sorted(missing)}; it has {reader.fieldnames}")
        rows = list(reader)
    if not rows:
        raise ValueError(f"{table} has no rows: expected one for each image")
    counts = Counter(row[image] for row in rows)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{table} has several rows of {_some(twice)}: expected one for each image")
    return rows


def _number(row: dict[str, str], column: str, name: str, low: int, high: int) -> int:
    value = row[column] or ""
    if not value.strip().isdecimal() or not low <= int(value) <= high:
        raise ValueError(f"{column} of {name} is {value!r}, expected {low} … {high}")
    return int(value)


def _image(folder: Path, name: str) -> Path:
    for suffix in (".png", ".jpg", ".jpeg"):
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise FileNotFoundError(f"no {name}.png, .jpg or .jpeg in {folder}")
