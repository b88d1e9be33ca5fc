"""Weights in files: `.safetensors`, PyTorch's of all ages, `.npz`, and Orbax directories.

All hold a PyTorch state dict (name -> array), but for Orbax, which holds variables as they are. What a file
is its first bytes tell, not its name: `.pth.tar`, `.ckpt`, `.bin` and `.t7` are all the same. Nothing that
it contains is ever run.
"""

import hashlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import jax
import numpy as np
import safetensors.numpy

from transferjax.data.storage import cache_dir
from transferjax.files import replacing, write_bytes
from transferjax.models.layers import Net
from transferjax.models.weights.archives import read_npz, read_safetensors
from transferjax.models.weights.bounds import UnsafeFile
from transferjax.models.weights.names import AVERAGE, is_stray
from transferjax.models.weights.pickles import read_pickled_tensors
from transferjax.models.weights.torch import to_torch
from transferjax.models.zoo import from_torch
from transferjax.trees import load_tree, save_tree
from transferjax.typing import PyTree

Tensors = dict[str, np.ndarray]

_WRAPPERS = (
    *(
        "model_state_dict",
        "state_dict",
        "model_state",
        "model",
        "net",
        "network",
        "module",
        "weights",
        "params",
    ),
    *(
        "ema_state_dict",
        "state_dict_ema",
        "model_ema",
        "ema_model",
        "model_ema_state_dict",
        "ema",
        "params_ema",
    ),
    *("swa_state_dict", "swa_model", "averaged_model"),
)
"""Entries of training checkpoints that hold the net: as it was trained, then averages of it."""
LONGEST_NAME = 1000
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def load(model: str | Net, path: str | Path, *, entry: str | None = None, **options: Any) -> PyTree:
    """Variables for `model` from a file of weights.

    Args:
        model, options: as in `from_torch`.
        path: `.safetensors`, what PyTorch saved, `.npz`, or an Orbax directory.
        entry: as in `read_tensors`.

    Raises:
        ValueError: an unreadable file, or tensors that do not fit (they are listed).
    """
    return from_torch(model, read_tensors(path, entry), **options)


def save(variables: PyTree, path: str | Path) -> Path:
    """Writes variables as `.safetensors` or `.npz` with PyTorch's names, or as Orbax (no suffix).

    A file appears only when it is complete.

    Raises:
        ValueError: another suffix, a directory that is no checkpoint, or numbers that `.npz` does not know.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".safetensors":
            write_bytes(path, safetensors.numpy.save(to_torch(variables)))
        case ".npz":
            tensors = to_torch(variables)
            if unknown := {str(t.dtype) for t in tensors.values() if t.dtype.kind not in "biuf"}:
                raise ValueError(f"{path}: .npz knows no {', '.join(sorted(unknown))}; use .safetensors")
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **tensors)
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
    from transferjax.data.download import download  # with all of HTTP, which only downloads need

    return download(url, cache_dir() / "weights" / f"{address}-{name}", sha256=sha256)


def read_tensors(path: str | Path, entry: str | None = None) -> Tensors:
    """The state dict in a file: unwrapped from a training checkpoint and without `module.` prefixes.

    Args:
        path: a file of any name, or an Orbax directory.
        entry: of a training checkpoint, such as "model_ema"; None takes the net as it was trained, else its
            average.

    Raises:
        ValueError: a format that is not read, or a file that is truncated, corrupt or hostile.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if path.is_dir():
        if entry:
            raise ValueError(f"{path} is an Orbax directory, which has no entry {entry!r}: leave it out")
        return to_torch(load_tree(path))
    try:
        return unwrap(_reader(path)(path), entry)
    except UnsafeFile:
        raise
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _reader(path: Path) -> Callable[[Path], Any]:
    """What reads a file, by its content."""
    with path.open("rb") as file:
        head, size = file.read(512), path.stat().st_size
    if head.startswith(b"PK"):
        return read_npz if _holds_npy(path) else read_pickled_tensors
    if head.startswith(b"\x80") or path.suffix.lower() in (".pth", ".pkl"):
        return read_pickled_tensors
    header = int.from_bytes(head[:8], "little")
    if (head[8:9] == b"{" and header <= size) or path.suffix.lower() == ".safetensors":
        return read_safetensors
    known = (
        found for start, found in _OTHERS.items() if head[257:].startswith(start) or head.startswith(start)
    )
    raise ValueError(
        f"cannot read weights from {path.name!r}: {next(known, 'truncated, corrupt, or of another format')}; "
        "expected .safetensors, .npz, what PyTorch saves (.pth, .pt, .ckpt, .bin, …), or an Orbax directory"
    )


_OTHERS = {
    b"version https://git-lfs": "a pointer to a file in Git LFS, not the file (run `git lfs pull`)",
    b"<": "a web page, not the file that it links to",
    b"\x89HDF": "an HDF5 file; Keras, or h5py as docs/faq.md has it, makes an .npz of one of its own: "
    "np.savez('net.npz', **{w.path: w.numpy() for w in model.weights})",
    b"ustar": "a tar archive; unpack it, or save it again with a later PyTorch",
    b"\x1f\x8b": "a gzip file; unpack it",
}


def _holds_npy(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # of whatever `zipfile` does not know
        return path.suffix.lower() == ".npz"  # whose reader says what is wrong


def unwrap(content: Any, entry: str | None = None) -> Tensors:
    """The state dict inside what was saved: in an entry of a training checkpoint, and under a common prefix.

    Args:
        content: nested mappings with arrays.
        entry: which, if it is not to be found by its name.

    Raises:
        ValueError: no state dict is found, or several among which the names do not tell.
    """
    if entry is not None:
        if not isinstance(content, Mapping) or entry not in content:
            raise ValueError(f"no entry {entry!r}; got {_names(content)}")
        content = content[entry]
    state_dict = _find(content)
    if state_dict is None:
        raise ValueError(
            "no state dict found: expected name -> array, or that under "
            f"{', '.join(_WRAPPERS)}; got {_names(content)}"
        )
    return _without_prefix(state_dict)


def _names(content: Any) -> str:
    """What there is instead, in words."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    names = sorted(str(name)[:80] for name in content)
    return f"{names[:20]}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _find(content: Any) -> Mapping[str, np.ndarray] | None:
    """The state dict that content is or holds."""
    if _is_state_dict(content) or not isinstance(content, Mapping):
        return content if _is_state_dict(content) else None
    inside = {name: content[name] for name in content if _is_state_dict(content[name])}
    inside |= {name: found for name in _WRAPPERS if (found := _find(content.get(name))) is not None}
    known = [name for name in _WRAPPERS if name in inside]
    if not known and len(inside) > 1:
        raise ValueError(f"several state dicts are in it, {list(inside)}: choose one with entry=…")
    if not inside:
        return None
    chosen, *others = known or inside
    if averages := [name for name in others if AVERAGE.search(name)]:
        warnings.warn(
            f"took the weights of {chosen!r}, not their average: entry={averages[0]!r} takes that",
            stacklevel=4,
        )
    return inside[chosen]


def _without_prefix(content: Mapping[str, Any]) -> Tensors:
    """Without what wrappers put before every name, and without what these keep beside the net."""
    if long := [key for key in content if len(key) > LONGEST_NAME]:
        raise ValueError(f"a tensor with a name of {len(long[0])} characters: {long[0][:80]}…")
    own = [key for key in content if not is_stray(key)]
    while prefix := next((p for p in _PREFIXES if own and all(key.startswith(p) for key in own)), None):
        if left_out := [key for key in content if not key.startswith(prefix)]:
            warnings.warn(f"left out, as not of the net: {', '.join(left_out)}", stacklevel=5)
        content = {key.removeprefix(prefix): content[key] for key in content if key.startswith(prefix)}
        own = [key for key in content if not is_stray(key)]
    return dict(content)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, np.ndarray | jax.Array) for k, v in content.items())
    )
