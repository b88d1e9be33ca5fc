"""PyTorch's storages, and tensors as views of them: shape, strides and offset, all within bounds."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from transferjax.models.weights.bounds import Allowance, UnsafeFile, shown


@dataclass(frozen=True, eq=False, repr=False)
class Storage:
    """The untyped content of one entry of the archive, as numbers of one type; copies cost an allowance."""

    values: np.ndarray
    allowance: Allowance
    views: dict[tuple, np.ndarray] = field(default_factory=dict)
    """Copies that were made, by offset, shape and strides: weights that are tied stay one array."""


DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A copy of the view that a tensor is of its storage; out of bounds is an error."""
    if not isinstance(storage, Storage):
        raise UnsafeFile("a tensor without a storage")
    place = (offset, shape, strides)
    if not (
        are_counts(shape) and are_counts(strides) and are_counts((offset,)) and len(shape) == len(strides)
    ):
        raise UnsafeFile(f"a tensor of shape {shown(shape)} with strides {shown(strides)} at {shown(offset)}")
    values = storage.values
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= len(values):
            raise UnsafeFile(f"a tensor that ends at {last} in a storage of {len(values)} values")
    if place not in storage.views:
        storage.allowance.spend(prod(shape) * values.itemsize)  # strides of 0 repeat a value for nothing
        steps = [stride * values.itemsize for stride in strides]
        start = values[offset:] if 0 not in shape else values[:0]
        storage.views[place] = np.array(np.lib.stride_tricks.as_strided(start, shape, steps))
    return storage.views[place]


def are_counts(numbers: Any) -> bool:
    """Whether these are sizes, as many as NumPy has axes."""
    return (
        isinstance(numbers, tuple) and len(numbers) <= 64 and all(type(n) is int and n >= 0 for n in numbers)
    )
