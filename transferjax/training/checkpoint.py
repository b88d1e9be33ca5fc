"""Checkpoints of a training with Orbax: atomic, asynchronous, the newest kept.

A checkpoint holds a whole state, any pytree of arrays, and a JSON `meta` (the training history). A killed
save leaves a temporary directory behind, which Orbax ignores; what `restore` returns is always whole.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from transferjax.files import alone
from transferjax.trees import load_tree, save_tree
from transferjax.typing import PyTree

__all__ = ["load_tree", "load_variables", "open_checkpoints", "restore", "save", "save_tree"]


@contextmanager
def open_checkpoints(
    directory: str | Path, *, newest: int = 1, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """A checkpoint manager for one training run; leaving the block waits for pending saves.

    Args:
        directory: made if absent.
        newest: how many of the newest to keep.
        read_only: looks at a directory, in which another run may write.

    Raises:
        ValueError: nothing to keep.
        Taken: another run writes there; it keeps the directory until its block, or its process, ends.
    """
    if newest < 1:
        raise ValueError(f"newest={newest}: expected at least 1 checkpoint to keep")
    policy = None if read_only else policies.LatestN(newest)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, read_only=read_only)
    with ExitStack() as stack:
        if not read_only and jax.process_index() == 0:  # of several that train together the first one writes
            stack.enter_context(alone(Path(directory), "checkpoints"))
        yield stack.enter_context(ocp.CheckpointManager(Path(directory).absolute(), options=options))


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, meta: PyTree) -> None:
    """Saves `state` under its step, in the background; `meta` is anything JSON holds."""
    # Arrays of the host: of several processes, which hold the same state, the first one writes.
    host = jax.device_get(state)
    items = ocp.args.Composite(state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta))
    manager.save(step, args=items, force=True)


def restore(
    manager: ocp.CheckpointManager, template: PyTree, step: int | None = None
) -> tuple[Any, PyTree] | None:
    """A state and its meta, or None where there is none; checkpoints after it are forgotten.

    Args:
        template: a state of the same structure; gives Orbax the types and shapes.
        step: which; the newest by default. Training goes on from here, so what came later must go.
    """
    step = manager.latest_step() if step is None else step
    for later in [s for s in manager.all_steps() if step is not None and s > step]:
        manager.delete(later)
    if not step:
        return None
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(jax.device_get(template)), meta=ocp.args.JsonRestore()
    )
    restored = manager.restore(step, args=items)
    return jax.tree.map(jnp.asarray, restored.state), restored.meta


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
