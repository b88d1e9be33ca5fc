"""Data sets on disk: `<path>/<split>/{images.npy, labels.npy, manifest.json}`, written all or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from transferjax.data.dataset import Dataset
from transferjax.files import checksum, directory_at, hidden, writing

FORMAT = 2
MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """`$TRANSFERJAX_CACHE_DIR`, else `$XDG_CACHE_HOME/transferjax`, else `~/.cache/transferjax`."""
    if path := os.environ.get("TRANSFERJAX_CACHE_DIR"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "transferjax"


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory to write to, which takes its place at `path` when the block ends without an error.

    Raises:
        FileExistsError: `path` is there by then; it stays as it is.
        Unwritable: no room, no right; says the way out.
    """
    with writing(path):
        directory_at(path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            try:
                temporary.rename(path)
            except OSError as error:
                if path.exists():
                    raise FileExistsError(f"{path} exists already") from error
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def save(dataset: Dataset, path: str | os.PathLike[str], split: str) -> None:
    """Writes one split of a data set to the directory `path`, for `load(path, split)` to read.

    Raises:
        FileExistsError: the split is there already.
    """
    target = Path(path) / split
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it, or choose another path")
    manifest = {
        "format": FORMAT,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "class_names": dataset.class_names,
    }
    with atomic_directory(target) as directory:
        for name, array in (("images.npy", dataset.images), ("labels.npy", dataset.labels)):
            np.save(directory / name, array)
            manifest[name] = checksum(directory / name)
        said = {**manifest, "checksum": _of_manifest(manifest)}
        (directory / MANIFEST).write_text(json.dumps(said, indent=2) + "\n")


def _of_manifest(manifest: dict[str, Any]) -> str:
    return checksum(json.dumps(manifest, sort_keys=True).encode())


def saved_splits(path: str | os.PathLike[str]) -> list[str]:
    """The splits that `save` wrote to a directory; not what a killed run left unfinished."""
    found = (manifest.parent.name for manifest in Path(path).glob(f"*/{MANIFEST}"))
    return sorted(name for name in found if not hidden(name))


def open_saved(path: str | os.PathLike[str], split: str) -> Dataset:
    """One split that `save` wrote; the images stay on disk, memory-mapped.

    Raises:
        FileNotFoundError: no such split; names those that there are.
        ValueError: it is not what `save` wrote.
    """
    directory = Path(path) / split
    if not (directory / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{path} holds no split {split!r} of a saved data set; it has {saved_splits(path)}"
        )
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
        if manifest.pop("checksum") != _of_manifest(manifest):
            raise ValueError(f"the checksum of {MANIFEST} differs")
        for name in ("images.npy", "labels.npy"):
            if checksum(directory / name) != manifest[name]:
                raise ValueError(f"the checksum of {name} differs")
        images = np.load(directory / "images.npy", mmap_mode="r")
        labels = np.load(directory / "labels.npy")
        return Dataset(
            images, labels, tuple(manifest["class_names"]), manifest["name"], manifest["fingerprint"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"{directory} is damaged ({error}); remove it and write it again") from error
