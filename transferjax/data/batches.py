"""Batches: in a seeded order for training, each example exactly once for evaluation."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

from transferjax.data.dataset import permutation
from transferjax.typing import Array

Plan: TypeAlias = Callable[[int], np.ndarray]
"""Step -> the indices of its examples."""


class Source(Protocol):
    """Labelled images: a `Dataset` in memory, or an `ImageStream` that decodes on the way."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def subset(
        self, which: int | slice | Sequence[int] | np.ndarray, seed: int | None = None
    ) -> "Source": ...

    def read(self, plan: Plan, steps: range, seed: int) -> Iterator[np.ndarray]:
        """uint8 images `[B, H, W, C]` of `plan(step)` for each of `steps`; `seed` and step fix the crops."""
        ...


class Examples(NamedTuple):
    """What a source gives the loop; always full batches, so that one compilation serves.

    `images` uint8 `[B, H, W, C]`, `labels` int32 `[B]`, `indices` int32 `[B]` (the examples' places in the
    data set: fold them into a key), `weights` float32 `[B]` (0 marks padding).
    """

    images: Array
    labels: Array
    indices: Array
    weights: Array


Put: TypeAlias = Callable[[Examples], Examples]
"""Moves a batch to where it is used: `jax.device_put`, or what splits it over devices."""

Shard: TypeAlias = tuple[int, int]
"""(this process, processes): every process reads its own contiguous part of each global batch."""


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Full batches in an epoch; training leaves out the rest, other examples each epoch.

    Raises:
        ValueError: a batch larger than the data set.
    """
    if not 0 < batch_size <= size:
        raise ValueError(f"batch_size {batch_size} does not fit a data set of {size} examples")
    return size // batch_size


def even_batch_size(size: int, at_most: int, multiple: int = 1) -> int:
    """The least batch size that takes no more batches: nearly nothing of the last one is padding.

    Args:
        size: examples.
        at_most: the batch size that says how many batches there may be.
        multiple: what it has to be a multiple of, such as the number of devices; rounded up.

    Raises:
        ValueError: a batch size below one.
    """
    if at_most < 1:
        raise ValueError(f"batch_size {at_most}: expected at least 1")
    batches = -(-max(size, 1) // at_most)
    return -(-max(size, 1) // (batches * multiple)) * multiple


def batch_indices(seed: int, step: int, size: int, batch_size: int) -> np.ndarray:
    """Indices `[batch_size]` of training step `step`, a pure function: there is no iterator to save.

    Each epoch of `size // batch_size` steps walks through a fresh permutation of the data set.

    Raises:
        ValueError: a batch larger than the data set.
    """
    epoch, place = divmod(step, steps_per_epoch(size, batch_size))
    return _epoch_order(seed, epoch, size)[place * batch_size : (place + 1) * batch_size]


@lru_cache(maxsize=8)  # remembers a pure function: the order is not drawn again for every step
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    order = permutation(seed, epoch, size)
    order.flags.writeable = False
    return order


def train_batches(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    put: Put = jax.device_put,
    shard: Shard = (0, 1),
    prefetch: int = 2,
) -> Iterator[Examples]:
    """The batches of steps `start_step`, `start_step + 1`, … without end.

    Args:
        source: where the examples are.
        batch_size: examples per step, over all processes.
        seed: of the order and of random crops.
        start_step: 0, or the step at which to resume; the batches are those of a run without a break.
        put: moves a batch to the device.
        shard: (this process, processes).
        prefetch: batches to put on the device before they are asked for.

    Raises:
        ValueError: a batch larger than the data set, or not a multiple of the processes.
    """
    steps_per_epoch(len(source), batch_size)
    part = _part(batch_size, shard)

    def plan(step: int) -> np.ndarray:
        return batch_indices(seed, step, len(source), batch_size)[part]

    steps = range(start_step, 1 << 40)  # as good as without end
    ones = np.ones(part.stop - part.start, np.float32)
    return _ahead(_examples(source, plan, steps, seed, lambda step: ones, put), prefetch)


def eval_batches(
    source: Source,
    batch_size: int,
    *,
    put: Put = jax.device_put,
    shard: Shard = (0, 1),
    prefetch: int = 2,
) -> Iterator[Examples]:
    """Every example once, in order; the last batch is filled up with example 0 at weight 0.

    Args:
        source: where the examples are.
        batch_size: examples per batch, over all processes; may exceed the data set.
        put, shard, prefetch: as in `train_batches`.

    Raises:
        ValueError: a batch size that is not a positive multiple of the processes.
    """
    part = _part(batch_size, shard)

    def rows(step: int) -> np.ndarray:
        return np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)[part]

    def plan(step: int) -> np.ndarray:
        return np.where(rows(step) < len(source), rows(step), 0)

    def weights(step: int) -> np.ndarray:
        return (rows(step) < len(source)).astype(np.float32)

    steps = range(-(-len(source) // batch_size))
    return _ahead(_examples(source, plan, steps, 0, weights, put), prefetch)


def _examples(
    source: Source, plan: Plan, steps: range, seed: int, weights: Plan, put: Put
) -> Iterator[Examples]:
    images = source.read(plan, steps, seed)
    for step in steps:
        rows: Any = plan(step)
        rest: Any = (source.labels[rows], rows, weights(step))
        # Last, because here a stream starts to decode another batch, which competes for the interpreter.
        pixels: Any = next(images)
        yield put(Examples(pixels, *rest))


def _ahead(batches: Iterator[Examples], depth: int) -> Iterator[Examples]:
    """Asks for `depth` more batches than were handed out: their transfer overlaps with the computation."""
    queue = deque(islice(batches, depth))
    while True:
        queue.extend(islice(batches, 1))
        if not queue:
            return
        yield queue.popleft()


def _part(batch_size: int, shard: Shard) -> slice:
    process, processes = shard
    if not 0 <= process < processes:
        raise ValueError(f"shard {shard}: expected (process, processes) with 0 <= process < processes")
    if batch_size < 1 or batch_size % processes:
        raise ValueError(
            f"batch_size {batch_size} does not split over {processes} processes; "
            f"use a multiple of {processes}"
        )
    size = batch_size // processes
    return slice(process * size, (process + 1) * size)
