"""Answers of a service, bought once and kept in a file: a record.

    record_answers(target, images, "api.safetensors")     asks for what the record lacks, and nothing twice
    read_record("api.safetensors").classes(images)        what a study reads; it never asks

A record maps the pixels of an image to a class. Who buys is a person, so a study whose record lacks an image
says how many are missing and goes on without them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load, save

from transferjax.files import write_bytes

Target = Callable[[np.ndarray], Any]
"""Images `[B, H, W, C]`, floats in [0, 1] -> classes `[B]` or logits `[B, K]`: `HttpTarget`, any predict."""

BUY = 64  # images between two writes of a record: what a crash may cost


@dataclass(frozen=True)
class Record:
    """Answers by the hash of an image's pixels and shape."""

    answers: dict[bytes, int]
    path: Path

    def __len__(self) -> int:
        return len(self.answers)

    def lacks(self, images: np.ndarray) -> np.ndarray:
        """Which of the uint8 images `[N, H, W, C]` have no answer: their indices, equal images once."""
        first = dict[bytes, int]()
        for index, name in enumerate(_names(images)):
            if name not in self.answers:
                first.setdefault(name, index)
        return np.array(list(first.values()), np.int64)

    def classes(self, images: np.ndarray) -> np.ndarray:
        """The recorded classes `[N]` of uint8 images `[N, H, W, C]`.

        Raises:
            ValueError: images without an answer.
        """
        missing = len(self.lacks(images))
        if missing:
            raise ValueError(
                f"{missing} of {len(images)} images have no recorded answer in {self.path}; buy them with "
                "transferjax.study.services.record_answers"
            )
        return np.array([self.answers[name] for name in _names(images)], np.int32)


def read_record(path: str | Path) -> Record:
    """The answers in a file.

    Raises:
        FileNotFoundError: no such record.
        ValueError: a file that is no record, or not a whole one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no record of answers at {str(path)!r}; record_answers makes one")
    try:
        found = load(path.read_bytes())
        names, classes = found["images"], found["classes"]
        if classes.shape != names.shape[:1] or _checksum(names, classes) != found["checksum"].tobytes():
            raise ValueError("its checksum differs")
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no record of answers ({error})") from error
    return Record(dict(zip(map(bytes, names), classes.tolist(), strict=True)), path)


def record_answers(target: Target, images: np.ndarray, path: str | Path, batch_size: int = BUY) -> Record:
    """Asks a target for images that a record lacks, and appends the answers, each batch at once.

    Args:
        target: the service.
        images: uint8 `[N, H, W, C]`, as a study stores them.
        path: of the record; made if absent. One process at a time writes to it.
        batch_size: images that are asked for and then written at once.

    Returns:
        the record with answers for all of them.

    Raises:
        ValueError: answers that are not one class, or one row of finite logits, for each image.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        record = read_record(path) if path.exists() else Record({}, path)
        wanted = record.lacks(images)
        for start in range(0, len(wanted), batch_size):
            batch = images[wanted[start : start + batch_size]]
            classes = _classes(target(batch.astype(np.float32) / 255), len(batch))
            record = Record(record.answers | dict(zip(_names(batch), classes, strict=True)), path)
            _write(record)
    return record


def _write(record: Record) -> None:
    names = np.array([list(name) for name in record.answers], np.uint8)
    classes = np.array(list(record.answers.values()), np.int32)
    checksum = np.frombuffer(_checksum(names, classes), np.uint8)
    write_bytes(record.path, save({"images": names, "classes": classes, "checksum": checksum}))


def _classes(answers: Any, count: int) -> Sequence[int]:
    """One class for each image, from classes or logits."""
    found = np.asarray(answers)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(
            f"expected finite logits for each of {count} images; got {found[~np.isfinite(found)][0]}"
        )
    found = found.argmax(-1) if found.ndim == 2 else found
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ValueError(
            f"expected a class or a row of logits for each of {count} images; got {found.dtype} {found.shape}"
        )
    return found.tolist()


def _names(images: np.ndarray) -> list[bytes]:
    """The hash of each image's pixels and shape."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images [N, H, W, C]; got {images.dtype} {images.shape}")
    shape = f"{images.shape[1:]}".encode()
    return [hashlib.blake2b(image.tobytes() + shape, digest_size=16).digest() for image in images]


def _checksum(names: np.ndarray, classes: np.ndarray) -> bytes:
    return hashlib.blake2b(names.tobytes() + classes.tobytes(), digest_size=16).digest()
