"""Pytrees of arrays in directories, with Orbax: arrays of the host go in and come out, whatever the devices.

Orbax notes on which devices an array lay and wants them back. Weights from one device of two, or from both,
must be readable where there is one: so nothing but NumPy arrays is written, and NumPy arrays are asked for.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transferjax.files import directory_at, writing
from transferjax.typing import PyTree


def save_tree(path: str | Path, tree: PyTree, *, replace: bool = False) -> None:
    """Saves any pytree of arrays to a directory, atomically; what is replaced stays until the new is whole.

    Raises:
        ValueError: something is there, and it is not to be replaced, or is no checkpoint.
        Unwritable: no right to write there.
    """
    import orbax.checkpoint as ocp  # slow, and most who import this save nothing

    path, tree = Path(path).absolute(), jax.device_get(tree)
    if replace and path.exists() and not _replaceable(path):
        raise ValueError(f"{path} is there and is no Orbax checkpoint: it is not replaced; give another name")
    with writing(path), ocp.StandardCheckpointer() as checkpointer:
        if not (replace and path.exists()):
            checkpointer.save(path, tree)
            return
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=directory_at(path.parent)) as room:
            new, old = Path(room) / "new", Path(room) / "old"
            checkpointer.save(new, tree)
            checkpointer.wait_until_finished()
            path.rename(old)
            try:
                new.rename(path)
            except BaseException:
                old.rename(path)
                raise


def _replaceable(path: Path) -> bool:
    """An Orbax checkpoint, or an empty directory."""
    return path.is_dir() and ((path / "_METADATA").exists() or not any(path.iterdir()))


def load_tree(path: str | Path) -> PyTree:
    """What `save_tree` (or Orbax, on any devices) saved, as NumPy arrays in dictionaries and lists.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: what is there is no complete Orbax checkpoint.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"nothing was saved in {path}")
    handler = ocp.StandardCheckpointHandler()
    try:
        template = jax.tree.map(_empty, handler.metadata(epath.Path(path)).tree)
        return handler.restore(epath.Path(path), args=ocp.args.StandardRestore(template))
    except Exception as error:
        raise ValueError(f"{path} is not a complete Orbax checkpoint: {error}") from error
    finally:
        handler.close()


def _empty(leaf: Any) -> np.ndarray | float:
    """What Orbax must be shown to give a NumPy array (a number for a number) instead of one on a device."""
    from orbax.checkpoint.metadata import ScalarMetadata

    array = np.zeros(leaf.shape, leaf.dtype)
    return array.item() if isinstance(leaf, ScalarMetadata) else array
