"""Data parallelism with `pmap`: the same pure step on one device or many, on one process or many.

    step    = make_train_step(…, axis_name=AXIS)
    update  = data_parallel(step.update)
    state   = replicate(state)
    state   = update(state, key, shard(batch))
    unreplicate(state)

Of a global batch each process has its part (`data.train_batches(shard=…)` reads no more), and `shard` gives
each of its devices a part of that. The step averages gradients, batch statistics and metrics over `AXIS`, so
that all devices hold the same state.

The other way round, `together` steps several states on one device: seeds of one mechanism, each with its own
batch. Small networks leave an accelerator idle; on a CPU it is slower than one after another (a convolution
with weights per example is a grouped one).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transferjax.typing import Key, PyTree

AXIS = "devices"


class Placement(NamedTuple):
    """How a training loop meets its devices, so that the loop is the same for one and for many.

    Args:
        axis_name: for `make_train_step` and whatever else must know that the batch is sharded.
        compile: `update(state, key, batch) -> state` -> the same, compiled; the old state's memory is reused.
        put_state, get_state: a state onto the devices, and back.
        put_batch: this process's part of a batch onto its devices.
        shard: (this process, processes), as `data.train_batches` takes it.
    """

    axis_name: str | None
    compile: Callable[[Callable[..., PyTree]], Callable[..., PyTree]]
    put_state: Callable[[PyTree], PyTree]
    get_state: Callable[[PyTree], PyTree]
    put_batch: Callable[[PyTree], PyTree]
    shard: tuple[int, int] = (0, 1)


def placement() -> Placement:
    """Data parallelism over all devices of all processes; plain `jit` where there is only one."""
    if jax.device_count() > 1:
        processes = jax.process_index(), jax.process_count()
        return Placement(AXIS, data_parallel, replicate, unreplicate, shard, processes)
    same = lambda tree: tree  # noqa: E731
    return Placement(None, partial(jax.jit, donate_argnums=0), same, same, jax.device_put)


def data_parallel(update: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`update(state, key, batch) -> state` over all devices: state replicated, key shared, batch sharded.

    The memory of the old state is given to the new one.
    """
    return jax.pmap(update, AXIS, in_axes=(0, None, 0), donate_argnums=(0,))


def together(update: Callable[..., PyTree]) -> Callable[..., list[PyTree]]:
    """`update(state, key, batch) -> state` of several at once: lists of each in, the list of states out.

    Compiled on one device. The memory of the old states is given to the new ones.
    """

    def many(states: Sequence[PyTree], keys: Sequence[Key], batches: Sequence[PyTree]) -> list[PyTree]:
        stacked = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (states, keys, batches)
        )
        after = jax.vmap(update)(*stacked)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(len(states))]

    return jax.jit(many, donate_argnums=0)


def replicate(tree: PyTree) -> PyTree:
    """A copy for each device of this process, along a new first axis."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)


def unreplicate(tree: PyTree) -> PyTree:
    """The first device's copy of what `replicate` or a mapped step made."""
    return jax.tree.map(lambda x: x[0], tree)


def shard(batch: PyTree) -> PyTree:
    """This process's part of a batch over its devices, `[b, …] -> [devices, b / devices, …]`.

    Raises:
        ValueError: a batch that does not divide evenly over all devices of all processes.
    """
    local, processes = jax.local_device_count(), jax.process_count()

    def spread(x: Any) -> Any:
        if len(x) % local:
            whole, devices = len(x) * processes, local * processes
            raise ValueError(
                f"a batch of {whole} does not divide over {devices} devices; "
                f"use a multiple of {devices} as batch_size, such as {max(1, whole // devices) * devices}"
            )
        return x.reshape(local, len(x) // local, *x.shape[1:])

    return jax.tree.map(spread, batch)
