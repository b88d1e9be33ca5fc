"""Data that TensorFlow Datasets has prepared as ArrayRecord, read without TensorFlow."""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from transferjax import extras
from transferjax.data.crops import Crop, center_crop, whole
from transferjax.data.dataset import Dataset, digest
from transferjax.data.storage import FORMAT, cache_dir, open_saved, save
from transferjax.data.stream import ImageStream

CIFAR10 = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
IMAGENETTE = (
    "tench, English springer, cassette player, chain saw, church, French horn, garbage truck, "
    "gas pump, golf ball, parachute"
)
MOST_SHARDS = 1 << 16
KEEP_IN_MEMORY = 1 << 30
"""Splits of at most this many bytes, encoded, are read once and stay in memory."""

CLASS_NAMES = {"cifar10": tuple(CIFAR10.split(", ")), "imagenette": tuple(IMAGENETTE.split(", "))}

WNIDS = tuple(
    f"n{number:08d}"
    for number in (1440764, 2102040, 2979186, 3000684, 3028079, 3394916, 3417042, 3425413, 3445777, 3888257)
)
"""ImageNette's folders, in the order of its classes."""
IMAGENETTE_IN_IMAGENET = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""ImageNette's classes among ImageNet's 1,000, in the order of the prepared data set: for
`models.select_classes`. A folder's classes are in another order, the alphabet's: `imagenet_indices`."""


def tfds_dir(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """`data_dir`, else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The directory of the newest prepared version of `name`, if there is one that can be read.

    Raises:
        FileNotFoundError: incomplete, or prepared in another format.
    """
    found = (tfds_dir(data_dir) / name).glob("*/dataset_info.json")
    # Not what a killed preparation left: TFDS calls it 1.0.0.incomplete….
    versions = sorted((i for i in found if re.fullmatch(r"[0-9]+([.][0-9]+)*", i.parent.name)), key=_version)
    if not versions:
        return None
    directory = versions[-1].parent
    info = _info(directory)
    if info.get("fileFormat") != "array_record":
        raise FileNotFoundError(
            f"{directory} is in format {info.get('fileFormat')!r}, expected array_record (anything else "
            f"needs TensorFlow). Move it away, then run `python -m transferjax.data.prepare {name}`."
        )
    missing = [shard.name for shard in _shards(directory) if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{directory} lacks {', '.join(missing)}. Remove it, then run "
            f"`python -m transferjax.data.prepare {name}`."
        )
    return directory


def prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The directory of the newest prepared version of `name`, checked before TFDS is asked.

    TFDS itself would look for the network for minutes, or complain about something else.

    Args:
        name: "cifar10" or "dataset/config".
        data_dir: default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
        FileNotFoundError: not prepared, incomplete, or prepared in another format; says what to do.
    """
    if directory := find_prepared(name, data_dir):
        return directory
    raise FileNotFoundError(
        f"{name} is not prepared. Run `python -m transferjax.data.prepare {name}`, or set TFDS_DATA_DIR "
        f"(or data_dir=) to a directory that has it; looked in {tfds_dir(data_dir)}."
    )


def fingerprint(directory: Path, split: str) -> str:
    """Identifies a prepared split by its content, whatever the place: the hash of all its bytes."""
    info = _info(directory)
    sha = hashlib.blake2b(digest_size=16)
    for shard in _shards(directory, split):
        with shard.open("rb") as file:
            while part := file.read(1 << 22):
                sha.update(part)
    return digest(info["name"], info["version"], split, sha.hexdigest())


def check_split(directory: Path, split: str) -> None:
    """Raises ValueError, naming the splits that there are, unless `split` is one of them."""
    splits = [entry["name"] for entry in _info(directory)["splits"]]
    if split not in splits:
        raise ValueError(f"{directory} has the splits {splits}, not {split!r}")


def data_source(directory: Path, split: str) -> Any:
    """Random access to the records of a prepared split, images still encoded (bytes).

    Raises:
        ValueError: no such split.
    """
    check_split(directory, split)
    tfds = extras.load("tensorflow_datasets", "prepared data sets")

    builder = tfds.builder_from_directory(str(directory))
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


class _OnDisk:
    """The encoded images of a prepared split, by index."""

    def __init__(self, records: Sequence[dict[str, Any]], directory: Path, split: str) -> None:
        self.records, self.place = records, (directory, split)

    def __getitem__(self, index: int) -> bytes:
        with _reading(*self.place):
            return bytes(self.records[index]["image"])  # None, where a record lost it


@contextmanager
def _reading(directory: Path, split: str) -> Iterator[None]:
    """Names the split, and what to do, where ArrayRecord (a RuntimeError) or TFDS cannot read it."""
    try:
        yield
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{directory} ({split}) is damaged ({said}); {_again(directory)}") from error


def stream(
    name: str,
    split: str,
    *,
    size: int,
    crop: Crop,
    data_dir: str | os.PathLike[str] | None = None,
) -> ImageStream:
    """A prepared data set as a stream of crops.

    Args:
        name: "dataset" or "dataset/config".
        split: one of its splits.
        size: height and width of the crops, in pixels.
        crop: what makes a square of an image.
        data_dir: default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
        FileNotFoundError: not prepared; says what to do.
        ValueError: no such split, or it is damaged.
    """
    directory = prepared(name, data_dir)
    check_split(directory, split)
    with _reading(directory, split):
        records = data_source(directory, split)
        small = sum(shard.stat().st_size for shard in _shards(directory, split)) <= KEEP_IN_MEMORY
        found: list[int] = []
        images: list[bytes] = []
        for start in range(0, len(records), 512):  # many at once: a third of the time of one by one
            part = records.__getitems__(range(start, min(start + 512, len(records))))
            found += [record["label"] for record in part]
            if small:
                images += [bytes(record["image"]) for record in part]
        labels = np.array(found, np.int32)
    mark, names = digest(fingerprint(directory, split), size), CLASS_NAMES[name.split("/")[0]]
    encoded = images if small else _OnDisk(records, directory, split)
    return ImageStream(encoded, labels, names, size, crop, name, mark)


def in_memory(name: str, split: str, *, size: int, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """A prepared data set, decoded once and from then on memory-mapped: whole images, or their centres.

    The arrays are kept in the user's cache directory, under the fingerprint of what was decoded.

    Args, Raises: as `stream`.
    """
    directory = prepared(name, data_dir)
    check_split(directory, split)
    mark = digest(FORMAT, fingerprint(directory, split), size)
    cached = cache_dir() / "datasets" / f"{name.replace('/', '-')}-{mark}"
    try:
        return open_saved(cached, split)
    except FileNotFoundError:
        pass  # not there yet
    except ValueError as error:
        warnings.warn(f"{name} is decoded again: {error}", stacklevel=2)
    shutil.rmtree(cached / split, ignore_errors=True)  # what is damaged; beside it others may be writing
    crop = whole if name == "cifar10" else center_crop()
    dataset = stream(name, split, size=size, crop=crop, data_dir=data_dir).to_dataset()
    try:
        save(dataset, cached, split)
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        warnings.warn(f"cannot keep decoded {name} in {cached}: {error}", stacklevel=2)
    return dataset


def _info(directory: Path) -> dict[str, Any]:
    """What `dataset_info.json` says: the name, the version, and the shards of every split.

    Raises:
        ValueError: it does not say that.
    """
    path = directory / "dataset_info.json"
    try:
        info = json.loads(path.read_text())
        said = [info["name"], info["version"], *(entry["name"] for entry in info["splits"])]
        counts = [len(entry["shardLengths"]) for entry in info["splits"]]
        if not all(isinstance(text, str) for text in said) or max(counts, default=0) > MOST_SHARDS:
            raise ValueError(f"names {said}, numbers of shards {counts}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); {_again(directory)}"
        ) from error
    return info


def _again(directory: Path) -> str:
    """What to do about prepared data that cannot be read."""
    *_, dataset, name, _ = ("", *directory.parts)
    name = f"{dataset}/{name}" if dataset in CLASS_NAMES else name
    return f"remove {directory}, then run `python -m transferjax.data.prepare {name}`"


def _version(info: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in info.parent.name.split("."))


def _shards(directory: Path, split: str | None = None) -> list[Path]:
    info, shards = _info(directory), []
    for entry in info["splits"]:
        if split in (None, entry["name"]):
            count = len(entry["shardLengths"])
            stem = f"{info['name']}-{entry['name']}.array_record"
            shards += [directory / f"{stem}-{shard:05d}-of-{count:05d}" for shard in range(count)]
    return shards
