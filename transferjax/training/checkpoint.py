"""Checkpoints of a training with Orbax: atomic, asynchronous, the newest kept.

A checkpoint holds a whole state, any pytree of arrays, and a JSON `meta` (the training history). A killed
save leaves a temporary directory behind, which Orbax ignores; what `restore` returns is always whole: of one
that was damaged later the checksum differs, and the one before is taken.
"""

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from transferjax.files import Unwritable, alone
from transferjax.stopping import Stopped
from transferjax.trees import load_tree, save_tree
from transferjax.typing import PyTree

__all__ = ["load_tree", "load_variables", "open_checkpoints", "restore", "save", "save_tree"]


class Another(ValueError):
    """A checkpoint of another training."""


_WAY_OUT = "make room there, or choose another place; then the same command continues"


class _Newest(policies.PreservationPolicy):
    """The last n by step, and by time: who looks at an early moment of a training leaves its end alone."""

    def __init__(self, n: int) -> None:
        self.n = n

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        furthest = sorted(checkpoints, key=lambda c: c.step)[-self.n :]
        latest = sorted(checkpoints, key=lambda c: (c.time, c.step))[-self.n :]
        kept = {c.step for c in (*furthest, *latest)}
        return [c.step in kept for c in checkpoints]


@contextmanager
def open_checkpoints(
    directory: str | Path, *, newest: int = 2, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """A checkpoint manager for one training run; leaving the block waits for pending saves.

    Args:
        directory: made if absent.
        newest: how many to keep of the furthest, and of the latest written; the one before the newest is for
            when that is damaged.
        read_only: looks at a directory, in which another run may write.

    Raises:
        ValueError: nothing to keep.
        Taken: another run writes there; it keeps the directory until its block, or its process, ends.
        Unwritable: checkpoints cannot be kept there.
    """
    if newest < 1:
        raise ValueError(f"newest={newest}: expected at least 1 checkpoint to keep")
    policy = None if read_only else _Newest(newest)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, read_only=read_only)
    with ExitStack() as stack:
        if not read_only and jax.process_index() == 0:  # of several that train together the first one writes
            stack.enter_context(alone(Path(directory), "checkpoints"))
        with _keeping(directory):
            manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)
        try:
            yield manager
        except BaseException as error:  # what went wrong first counts, but who stops says: it is kept
            with _keeping(directory) if isinstance(error, Stopped) else suppress(Exception):
                manager.close()
            raise
        with _keeping(directory):
            manager.close()


@contextmanager
def _keeping(directory: str | Path) -> Iterator[None]:
    """Orbax and its threads raise all sorts of errors when a disk is full."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise Unwritable(f"cannot keep checkpoints in {directory} ({said}): {_WAY_OUT}") from error


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, meta: PyTree) -> None:
    """Saves `state` under its step, in the background, if there is none; `meta` is anything JSON holds.

    Raises:
        Unwritable: this one, or the one before, cannot be kept.
    """
    if step in manager.all_steps():  # of a run that came further: the same training has the same states
        return
    # Arrays of the host: of several processes, which hold the same state, the first one writes.
    host = jax.device_get(state)
    note = {"meta": meta, "checksum": _checksum(host), "structure": _structure(host)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(note))
    _check_room(Path(manager.directory), sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(host)))
    with _keeping(manager.directory):
        manager.save(step, args=items, force=True)


def _check_room(directory: Path, size: int) -> None:
    """Orbax writes in many threads, each of which complains at length of a full disk."""
    free = shutil.disk_usage(directory).free
    if free < size:
        said = f"it takes {size / 1e6:.1f} MB, and {free / 1e6:.1f} are free"
        raise Unwritable(f"cannot keep a checkpoint in {directory} ({said}): {_WAY_OUT}")


def _checksum(state: PyTree) -> str:
    running = hashlib.blake2b(digest_size=16)
    for leaf in map(np.asarray, jax.tree.leaves(state)):
        running.update(f"{leaf.dtype} {leaf.shape}".encode())
        running.update(np.ascontiguousarray(leaf).tobytes())
    return running.hexdigest()


def _structure(state: PyTree) -> str:
    """Names, shapes and types of the leaves, in few letters."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    said = [f"{jax.tree_util.keystr(path)} {np.shape(leaf)} {np.result_type(leaf)}" for path, leaf in leaves]
    return hashlib.blake2b("\n".join(said).encode(), digest_size=16).hexdigest()


def restore(
    manager: ocp.CheckpointManager, template: PyTree, last: int | None = None
) -> tuple[Any, PyTree] | None:
    """The newest state that is whole, and its meta, or None where there is none.

    Warns of those that are damaged, and forgets them; what is there of later steps stays.

    Args:
        template: a state of the same structure; gives Orbax the types and shapes.
        last: the newest step to look at.

    Raises:
        ValueError: checkpoints of states of another structure, which stay as they are.
    """
    steps = sorted(step for step in manager.all_steps() if step and (last is None or step <= last))
    template, whole = jax.device_get(template), None
    while steps and whole is None:
        step = steps.pop()
        try:
            whole = step, *_restored(manager, template, step)
        except (Another, MemoryError, PermissionError):  # the checkpoint may be whole
            raise
        except Exception as error:  # of Orbax, TensorStore, JSON: whatever it is, it cannot be read
            said = " ".join(str(error).split())[:200]
            warnings.warn(
                f"the checkpoint {manager.directory / str(step)} is damaged ({said}): training goes on from "
                f"{'the one before' if steps else 'the start'}",
                stacklevel=2,
            )
            manager.delete(step)
    return (jax.tree.map(jnp.asarray, whole[1]), whole[2]) if whole else None


def _restored(manager: ocp.CheckpointManager, template: PyTree, step: int) -> tuple[Any, PyTree]:
    note = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    noted = note if isinstance(note, dict) and {"meta", "checksum"} <= note.keys() else {"meta": note}
    if noted.get("structure", _structure(template)) != _structure(template):  # older versions noted less
        raise Another(
            f"the checkpoint {manager.directory / str(step)} is of another training (its state has other "
            "names, shapes or types): choose another directory, or delete this one"
        )
    items = ocp.args.Composite(state=ocp.args.StandardRestore(template))
    state = manager.restore(step, args=items).state
    if "checksum" in noted and _checksum(state) != noted["checksum"]:
        raise ValueError("its checksum differs")
    return state, noted["meta"]


def load_variables(directory: str | Path, step: int | None = None) -> dict[str, Any]:
    """A trained network's variables `{"params", "batch_stats"}`, without the optimizer that made them.

    Args:
        directory: of a finished or unfinished training run.
        step: which checkpoint; the newest by default.

    Raises:
        FileNotFoundError: no checkpoint there, or none of that step.
    """
    hint = "train the network first"
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"no checkpoints in {directory}: {hint}")
    with open_checkpoints(directory, read_only=True) as manager:
        steps = sorted(manager.all_steps())
        step = manager.latest_step() if step is None else step
        if step not in steps:
            raise FileNotFoundError(
                f"no checkpoint of step {step} in {directory} (found steps {steps}): {hint}"
            )
    state = load_tree(Path(directory) / str(step) / "state")
    variables = {"params": state["params"], "batch_stats": state["memory"]["batch_stats"]}
    return jax.tree.map(jnp.asarray, variables)
