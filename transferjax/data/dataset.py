"""An in-memory labelled image set: uint8 pixels, because they are four times smaller than floats."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from transferjax.typing import Array


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of one split; immutable.

    Args:
        images: uint8 `[N, H, W, C]`; may be memory-mapped.
        labels: classes `[N]`, integers in [0, num_classes).
        class_names: one name per class, or how many classes there are: they are called "0", "1", … then.
        name: what to call it in reports.
        fingerprint: identifies the content (not the place it was read from); hashed from it when empty.
        num_classes: K; not needed with `class_names`.

    Raises:
        ValueError: shapes, types or labels that do not fit together.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    name: str = "dataset"
    fingerprint: str = ""
    num_classes: int = 0

    def __post_init__(self) -> None:
        images, labels = self.images, np.asarray(self.labels)
        names = names_of(self.class_names, self.num_classes)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"expected uint8 images [N, H, W, C], got {images.dtype} {images.shape}")
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(f"expected {len(images)} integer labels, got {labels.dtype} {labels.shape}")
        outside = labels[(labels < 0) | (labels >= len(names))]
        if outside.size:
            raise ValueError(f"label {outside[0]} is outside of the {len(names)} classes")
        object.__setattr__(self, "images", _read_only(images))
        object.__setattr__(self, "labels", _read_only(labels.astype(np.int32)))
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "num_classes", len(names))
        object.__setattr__(self, "fingerprint", self.fingerprint or digest(images, labels, names))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.images.shape[1:]

    def read(self, plan: Callable[[int], np.ndarray], steps: range, seed: int) -> Iterator[np.ndarray]:
        """The images `[B, H, W, C]` of `plan(step)` for each of `steps` (see `batches.Source`)."""
        return (self.images[plan(step)] for step in steps)

    def subset(self, which: int | slice | Sequence[int] | np.ndarray, seed: int | None = None) -> "Dataset":
        """The examples `which`: a count, a slice, or indices.

        Args:
            which: a count n takes the first n examples; slices and indices mean what they mean in NumPy.
            seed: take them from this seeded permutation instead of from the stored order.

        Raises:
            ValueError: a count larger than the data set.
        """
        rows = rows_of(self, which, seed)
        return Dataset(
            self.images[rows], self.labels[rows], self.class_names, self.name, digest(self.fingerprint, rows)
        )


def names_of(class_names: Sequence[str] | int | None, num_classes: int = 0) -> tuple[str, ...]:
    """One name per class: those given, else the numbers of the classes.

    Raises:
        ValueError: neither names nor a count, or names and another count.
    """
    if isinstance(class_names, (int, np.integer)):
        return names_of(None, num_classes or int(class_names))
    names = tuple(class_names or map(str, range(num_classes)))
    if not names or num_classes not in (0, len(names)):
        raise ValueError(
            f"expected class_names, or num_classes for classes without a name; got {len(names)} names and "
            f"num_classes={num_classes}"
        )
    return names


def rows_of(source: Any, which: int | slice | Sequence[int] | np.ndarray, seed: int | None) -> np.ndarray:
    """The indices that `subset(which, seed)` takes of a source."""
    order = np.arange(len(source)) if seed is None else permutation(seed, 0, len(source))
    if isinstance(which, (int, np.integer)):
        if not 0 < which <= len(source):
            raise ValueError(f"cannot take {which} examples of {source.name}, which has {len(source)}")
        which = slice(int(which))
    return order[which]


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of 0 … size-1 in one epoch, a pure function of its arguments.

    Sorts the raw output of Philox, a counter-based generator whose stream NumPy guarantees never to change
    (it gives no such guarantee for `Generator.permutation`).
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    return np.argsort(bits, kind="stable").astype(np.int32)


def to_float(images: Array) -> Array:
    """uint8 images -> float32 in [0, 1]; call it inside jit, so that bytes and not floats are transferred."""
    if images.dtype != jnp.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}; are they floats in [0, 1] already?")
    return jnp.asarray(images).astype(jnp.float32) / 255


def digest(*parts: Any) -> str:
    """A short hash of strings and arrays."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype.str}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(repr(part).encode())
    return sha.hexdigest()[:16]


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
