"""Adversarial images in a directory that fills from the first to the last; what is read is what was written.

<directory>/
  manifest.json    how they are made
  labels.npz       labels, and targets where there are any
  images.npy       or images/000000.png, …
  progress.json    how many images are there, and the checksum of these and the labels
  checksum.json    the same, when all are there
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transferjax import data, extras
from transferjax.attacks.manifest import refuse_other
from transferjax.files import replacing, reserve, write_bytes, write_text, writing

ROWS = 1024  # images of an array that are looked at together


@dataclass(frozen=True)
class Crafted:
    """Adversarial images uint8 `[N, H, W, C]`, the labels and targets `[N]`, and how they were made."""

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None
    manifest: dict[str, Any]

    def __repr__(self) -> str:
        towards = "" if self.targets is None else ", with targets"
        size = " x ".join(map(str, self.images.shape[1:]))
        return f"Crafted({len(self.images)} images, {size}{towards}, by {self.manifest.get('attack')})"

    @classmethod
    def load(cls, directory: str | Path) -> "Crafted":
        """What `craft` wrote.

        Raises:
            FileNotFoundError: nothing there, or a run that was interrupted; run `craft` again to finish it.
            ValueError: it is not what was written; `craft` makes it again.
        """
        directory = Path(directory)
        if not (directory / "manifest.json").exists() or _progress(directory) is not None:
            raise FileNotFoundError(f"{directory} holds no finished adversarial images; run craft again")
        try:
            manifest = json.loads((directory / "manifest.json").read_text())
            with (directory / "labels.npz").open("rb") as file, np.load(file) as arrays:
                labels, targets = arrays["labels"], arrays.get("targets")
            if manifest["format"] == "png":
                files = (_png(directory, i) for i in range(len(labels)))
                images = np.stack([_read_png(file) for file in files])
            else:
                images = np.load(directory / "images.npy", mmap_mode="r")
            written = json.loads((directory / "checksum.json").read_text())["checksum"]
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images, {len(labels)} labels")
            if _checksum(labels, targets, _parts(images)).hexdigest() != written:
                raise ValueError("its checksum differs")
        except Exception as error:  # of NumPy and of zip files too
            said = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{directory} is damaged ({said}); run craft again, it makes them anew"
            ) from error
        return cls(images, labels, targets, manifest)


def _parts(images: np.ndarray) -> Iterable[np.ndarray]:
    return (images[start : start + ROWS] for start in range(0, len(images), ROWS))


def _checksum(labels: np.ndarray, targets: np.ndarray | None, parts: Iterable[np.ndarray]) -> Any:
    """A running hash of labels, targets, and images so far."""
    running = hashlib.blake2b(digest_size=16)
    for array in (np.asarray(labels, np.int32), np.asarray(() if targets is None else targets, np.int32)):
        running.update(np.ascontiguousarray(array).data)
    for part in parts:
        running.update(np.ascontiguousarray(part).data)
    return running


class Place:
    """A directory that fills from the first image to the last.

    `progress.json` counts the images that are on disk, and is replaced after they are; it goes when all are.
    """

    def __init__(
        self,
        directory: Path,
        manifest: dict[str, Any],
        dataset: data.Source,
        classes: np.ndarray,
        targets: np.ndarray | None,
    ):
        self.directory, self.format, self.count = directory, manifest["format"], len(dataset)
        self.shape = (self.count, *dataset.image_shape)
        self.labels = np.asarray(dataset.labels)
        self.targets = None if targets is None else classes
        self.images: Any = None
        self.done, self.checksum = 0, _checksum(self.labels, self.targets, ())
        if (directory / "manifest.json").exists():
            refuse_other(directory / "manifest.json", manifest)
            self._go_on()
        if not self.done:
            self._begin(manifest)

    def _begin(self, manifest: dict[str, Any]) -> None:
        """All but the images."""
        self._say(0)
        (self.directory / "checksum.json").unlink(missing_ok=True)
        arrays = {"labels": self.labels} | ({} if self.targets is None else {"targets": self.targets})
        with replacing(self.directory / "labels.npz") as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        write_text(self.directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        if self.format == "npy":
            with writing(self._partial):
                self.images = np.lib.format.open_memmap(self._partial, "w+", np.uint8, self.shape)
            reserve(self._partial)

    def _go_on(self) -> None:
        """Finds what is there; nothing, where it is not what was written."""
        try:
            progress = _progress(self.directory)
            if progress is None:
                Crafted.load(self.directory)
                self.done = self.count
            elif progress["done"]:
                self._found(progress["done"], progress["checksum"])
        except Exception as error:
            warnings.warn(f"what {self.directory} holds is made again: {error}", stacklevel=4)
            self.done, self.images, self.checksum = 0, None, _checksum(self.labels, self.targets, ())

    def _found(self, done: int, written: str) -> None:
        """The first images of a run that was interrupted."""
        if self.format == "npy":
            file = self._partial if self._partial.exists() else self.directory / "images.npy"
            self.images = np.lib.format.open_memmap(file, "r+")
            if (self.images.shape, self.images.dtype) != (self.shape, np.uint8):
                raise ValueError(f"{file} is {self.images.dtype} {self.images.shape}")
            parts = _parts(self.images[:done])
        else:
            parts = (_read_png(_png(self.directory, row)) for row in range(done))
        self.checksum = _checksum(self.labels, self.targets, parts)
        if self.checksum.hexdigest() != written:
            raise ValueError(f"the checksum of the first {done} images differs")
        self.done = done

    @property
    def _partial(self) -> Path:
        return self.directory / "images.npy.partial"

    def _say(self, done: int) -> None:
        said = {"done": done, "checksum": self.checksum.hexdigest()}
        write_text(self.directory / "progress.json", json.dumps(said))

    def write(self, rows: np.ndarray, x: np.ndarray) -> None:
        """Keeps the next images."""
        if self.format == "npy":
            self.images[rows] = x
            self.images.flush()
        else:
            for row, image in zip(rows, x, strict=True):
                write_png(_png(self.directory, row), image)
        self.checksum.update(np.ascontiguousarray(x).data)
        self._say(int(rows[-1]) + 1)

    def finish(self) -> Crafted:
        """All images are there."""
        if _progress(self.directory) is not None:
            said = {"checksum": self.checksum.hexdigest()}
            write_text(self.directory / "checksum.json", json.dumps(said) + "\n")
            if self._partial.exists():
                os.replace(self._partial, self.directory / "images.npy")
            (self.directory / "progress.json").unlink()
        return Crafted.load(self.directory)


def _progress(directory: Path) -> dict[str, Any] | None:
    """How many images are there; None if all are."""
    path = directory / "progress.json"
    return json.loads(path.read_text()) if path.exists() else None


def _png(directory: Path, row: int) -> Path:
    return directory / "images" / f"{row:06d}.png"


def write_png(path: Path, image: np.ndarray) -> None:
    cv2 = extras.load("cv2", "PNG files")  # slow to import

    ok, encoded = cv2.imencode(".png", image[..., ::-1])  # OpenCV's channels are blue, green, red
    if not ok:
        raise ValueError(f"no PNG has {image.shape[-1]} channels; use format='npy'")
    write_bytes(path, encoded.tobytes())


def _read_png(path: Path) -> np.ndarray:
    cv2 = extras.load("cv2", "PNG files")

    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    if image is None:
        raise ValueError(f"{path} is damaged ({encoded.size} bytes)")
    return image[..., None] if image.ndim == 2 else image[..., ::-1]
