"""A data set that stays encoded: images are decoded, cropped and batched on the way, in parallel threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from tqdm import tqdm

from transferjax.data.crops import DRAWS, Crop, decode
from transferjax.data.dataset import Dataset, digest, names_of, rows_of
from transferjax.files import checksum
from transferjax.naming import described


class Encoded(Protocol):
    """Encoded images by index; read from several threads at once."""

    def __getitem__(self, index: int, /) -> bytes: ...


@dataclass(frozen=True, eq=False)
class ImageStream:
    """Encoded images with labels and a crop; what `train_batches` and `eval_batches` take.

    Args:
        encoded: PNG or JPEG bytes by index.
        labels: classes `[N]`.
        class_names: one name per class, or how many classes there are.
        size: height and width of the crops, in pixels.
        crop: how to make a square of an image, e.g. `random_resized_crop()`.
        name: as in `Dataset`.
        mark: of the encoded images, where the content is known; else it is hashed when somebody asks for it.
        rows: which of `encoded` are in it, in order; all of them by default.
        threads: how many decode; default one per processor, at most 16.

    Raises:
        ValueError: labels outside of the classes, or a size below 1.
    """

    encoded: Encoded
    labels: np.ndarray
    class_names: tuple[str, ...]
    size: int
    crop: Crop
    name: str
    mark: str = ""
    rows: np.ndarray | None = None
    threads: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels, np.int32)
        object.__setattr__(self, "class_names", names_of(self.class_names))
        if self.size < 1 or self.threads < 1:
            raise ValueError(f"size and threads must be at least 1, got {self.size} and {self.threads}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise ValueError(f"labels {labels.min()} … {labels.max()}, but {len(self.class_names)} classes")
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) after the crop."""
        return (self.size, self.size, 3)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the content: every byte of every image, and what becomes of it."""
        rows = range(len(self)) if self.rows is None else self.rows.tolist()
        contents = (checksum(self.encoded[row]) for row in rows)
        encoded = self.mark or digest(self.size, self.labels, self.class_names, *contents)
        return digest(encoded, described(self.crop))

    def subset(
        self, which: int | slice | Sequence[int] | np.ndarray, seed: int | None = None
    ) -> "ImageStream":
        """The examples `which`, as in `Dataset.subset`."""
        chosen = rows_of(self, which, seed)
        rows = chosen if self.rows is None else self.rows[chosen]
        mark = digest(self.mark, chosen) if self.mark else ""
        return replace(self, labels=self.labels[chosen], rows=rows, mark=mark)

    def read(self, plan: Callable[[int], np.ndarray], steps: range, seed: int) -> Iterator[np.ndarray]:
        """The crops `[B, S, S, 3]` of `plan(step)` for each of `steps` (see `batches.Source`).

        Raises:
            ModuleNotFoundError: Grain is not installed.
        """
        try:
            import cv2
            import grain
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("streams need Grain: pip install 'transferjax[imagenette]'") from error
        cv2.setNumThreads(1)  # the threads work on whole batches: no images to share

        def batch(step: int) -> np.ndarray:
            indices = plan(step)
            out = np.empty((len(indices), *self.image_shape), np.uint8)
            for index, place in zip(indices.tolist(), out, strict=True):
                self._fill(index, _draws(seed, step, index), place)
            return out

        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.threads + 2)
        return iter(grain.MapDataset.range(steps.start, steps.stop).map(batch).to_iter_dataset(options))

    def to_dataset(self) -> Dataset:
        """All crops in memory, decoded once: for evaluation and attacks; random crops are those of step 0."""
        images = np.empty((len(self), *self.image_shape), np.uint8)
        bar = tqdm(images, f"decode {self.name}", unit="image", disable=None, leave=False)
        for index, place in enumerate(bar):
            self._fill(index, _draws(0, 0, index), place)
        return Dataset(images, self.labels, self.class_names, self.name, self.fingerprint)

    def _fill(self, index: int, draws: np.ndarray, out: np.ndarray) -> None:
        row = index if self.rows is None else int(self.rows[index])
        try:
            self.crop(decode(self.encoded[row]), draws, out)
        except ValueError as error:
            where = getattr(self.encoded, "where", lambda row: f"{self.name}, image {row}")(row)
            raise ValueError(f"{where}: {error}") from error


def _draws(seed: int, step: int, index: int) -> np.ndarray:
    """Uniform on [0, 1) `[DRAWS]`: of this example in this step, whatever the batch around it.

    Philox is a function of a key and a counter, and its stream is guaranteed never to change.
    """
    key, counter = np.array([seed, step], np.uint64), np.array([0, 0, 0, index], np.uint64)
    return (np.random.Philox(key=key, counter=counter).random_raw(DRAWS) >> np.uint64(11)) * 2.0**-53
