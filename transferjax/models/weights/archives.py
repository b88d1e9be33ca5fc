"""Arrays in files that hold nothing else: `.npz` and `.safetensors`."""

import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from numpy.lib import format as npy
from safetensors import deserialize

from transferjax.models.weights.bounds import Allowance, brief

Tensors = dict[str, np.ndarray]

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": np.bool_,
}


def read_npz(path: Path) -> Tensors:
    """The arrays of `numpy.savez` and `savez_compressed`.

    Raises:
        ValueError: truncated, corrupt, holds objects, or unpacks to much more than the file has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries, allowance = archive.infolist(), Allowance(path.stat().st_size)
            _refuse_twice(info.filename for info in entries)
            tensors = {}
            for info in entries:
                allowance.spend(info.file_size)
                with archive.open(info) as file:
                    tensors[info.filename.removesuffix(".npy")] = _read_npy(file, info)
            return tensors
    except Exception as error:
        raise ValueError(f"{path} is truncated, corrupt, or holds objects: {brief(error)}") from error


def _read_npy(file: IO[bytes], info: zipfile.ZipInfo) -> np.ndarray:
    """An array whose header announces as many bytes as there are: NumPy makes room before it reads."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    there = info.file_size - file.tell()
    if dtype.kind not in "biufc":
        raise ValueError(f"{info.filename} is {dtype}, expected numbers (bfloat16 needs .safetensors)")
    if prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{info.filename} announces {dtype} {shape}, and has {there} bytes")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def read_safetensors(path: Path) -> Tensors:
    """The arrays of a `.safetensors` file.

    Raises:
        ValueError: truncated, corrupt, a name twice, or a type of numbers that NumPy does not have.
    """
    content = path.read_bytes()
    try:
        for name, entry in _header(content).items():
            if name != "__metadata__" and entry["dtype"] not in _DTYPES:
                raise ValueError(f"{name!r} has the type {entry['dtype']!r}; expected {', '.join(_DTYPES)}")
        return {
            name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in deserialize(content)
        }
    except Exception as error:
        raise ValueError(f"{path} is truncated or corrupt: {type(error).__name__}: {brief(error)}") from error


def _header(content: bytes) -> dict[str, Any]:
    """The JSON at the beginning, in which no name stands twice: the library takes the last of them."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(name for name, _ in pairs)
        return dict(pairs)

    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=once)


def _refuse_twice(names: Iterable[str]) -> None:
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise ValueError(f"{name!r} is in it {count} times")
