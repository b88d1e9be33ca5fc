"""Pytrees of arrays in directories, with Orbax: arrays of the host go in and come out, whatever the devices.

Orbax notes on which devices an array lay and wants them back. Weights from one device of two, or from both,
must be readable where there is one: so nothing but NumPy arrays is written, and NumPy arrays are asked for.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from transferjax.typing import PyTree


def save_tree(path: str | Path, tree: PyTree, *, replace: bool = False) -> None:
    """Saves any pytree of arrays to a directory, atomically.

    Raises:
        ValueError: something is there, and it is not to be replaced.
    """
    import orbax.checkpoint as ocp  # slow, and most who import this save nothing

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(path).absolute(), jax.device_get(tree), force=replace)


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
