"""Weights in files: `.safetensors`, PyTorch's zip files, `.npz`, and Orbax directories.

All hold a PyTorch state dict (name -> array), but for Orbax, which holds variables as they are. Nothing that
a file contains is ever run.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import jax
import ml_dtypes
import numpy as np

from transferjax.data.download import download
from transferjax.data.storage import cache_dir
from transferjax.files import replacing
from transferjax.models.layers import Net
from transferjax.models.pickles import read_pickled_tensors
from transferjax.models.torch import to_torch
from transferjax.models.zoo import from_torch
from transferjax.trees import load_tree, save_tree
from transferjax.typing import PyTree

Tensors = dict[str, np.ndarray]

_SAFETENSORS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_WRAPPERS = ("model_state_dict", "state_dict", "model", "net", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def load(model: str | Net, path: str | Path, **options: Any) -> PyTree:
    """Variables for `model` from a file of weights.

    Args:
        model, options: as in `from_torch`.
        path: `.safetensors`, `.pth`, `.pt`, `.pkl`, `.npz`, or an Orbax directory.

    Raises:
        ValueError: an unreadable file, or tensors that do not fit (they are listed).
    """
    return from_torch(model, read_tensors(path), **options)


def save(variables: PyTree, path: str | Path) -> Path:
    """Writes variables as `.safetensors` or `.npz` with PyTorch's names, or as Orbax (no suffix).

    A file appears only when it is complete.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    match path.suffix:
        case ".safetensors":
            with replacing(path) as partial, partial.open("wb") as file:
                _write_safetensors(file, to_torch(variables))
        case ".npz":
            with replacing(path) as partial:
                np.savez(partial, allow_pickle=False, **to_torch(variables))
        case "":
            save_tree(path, variables, replace=True)
        case suffix:
            raise ValueError(
                f"cannot write weights as {suffix!r}; use .safetensors, .npz, or no suffix for Orbax"
            )
    return path


def fetch(url: str, sha256: str | None = None) -> Path:
    """Downloads weights into the cache directory, once; a broken download continues where it stopped.

    Raises:
        DownloadError: no connection, or a wrong checksum.
    """
    name = Path(urlparse(url).path).name
    address = hashlib.sha256(url.encode()).hexdigest()[:8]  # other sites have files of that name too
    return download(url, cache_dir() / "weights" / f"{address}-{name}", sha256=sha256)


def read_tensors(path: str | Path) -> Tensors:
    """The state dict in a file: unwrapped from a training checkpoint and without `module.` prefixes.

    Raises:
        ValueError: a format that is not read, or a file that is truncated, corrupt or hostile.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if path.is_dir():
        return to_torch(load_tree(path))
    readers = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        **dict.fromkeys((".pth", ".pt", ".pkl"), read_pickled_tensors),
    }
    if path.suffix not in readers:
        raise ValueError(
            f"cannot read weights from {path.name!r}; expected one of {', '.join(readers)}, or Orbax"
        )
    return unwrap(readers[path.suffix](path))


def unwrap(content: Any) -> Tensors:
    """The state dict inside what was saved: in an entry of a training checkpoint, and under a common prefix.

    Raises:
        ValueError: no state dict is found.
    """
    while isinstance(content, Mapping) and not _is_state_dict(content):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"no state dict found: expected name -> array, or that under {_WRAPPERS}; got {found}"
        )
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in content)), None):
        content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(k, str) and isinstance(v, np.ndarray | jax.Array) for k, v in content.items()
    )


def _read_npz(path: Path) -> Tensors:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise ValueError(f"{path} is truncated, corrupt, or holds objects: {error}") from error


def _read_safetensors(path: Path) -> Tensors:
    """The format: a length, a JSON header of that length, and the arrays' bytes, without gaps or overlaps."""
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        data = memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
        tensors, end = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = entry["data_offsets"]
            if start != end or not start <= stop <= len(data):
                raise ValueError(
                    f"{name} lies at {start} to {stop}, expected from {end} to at most {len(data)}"
                )
            values = np.frombuffer(data[start:stop], _SAFETENSORS[entry["dtype"]])
            tensors[name], end = values.reshape(entry["shape"]), stop
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes belong to no tensor")
    except Exception as error:
        raise ValueError(f"{path} is truncated or corrupt: {type(error).__name__}: {error}") from error
    return tensors


def _write_safetensors(file: BinaryIO, tensors: Tensors) -> None:
    kinds = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
    header, offset = {}, 0
    for name, value in tensors.items():
        span = [offset, offset + value.nbytes]
        header[name] = {"dtype": kinds[value.dtype], "shape": list(value.shape), "data_offsets": span}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for value in tensors.values():
        file.write(np.ascontiguousarray(value).tobytes())
