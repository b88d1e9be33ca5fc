"""The one host loop of training: steps, checkpoints, progress; whatever is trained.

    for stop in fit(update, fresh, batches, stops=(300, 800), steps_per_epoch=100, directory=…):
        stop.step, stop.state, stop.history

`update(state, examples) -> (state, metrics)` is compiled by whoever calls. A loop that stops anywhere
continues from its newest checkpoint that is whole, with the same batches, and ends with the same bits.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp

from transferjax.data import Examples
from transferjax.stopping import Stopped, never
from transferjax.training import checkpoint
from transferjax.typing import Array, PyTree

LOG_EVERY = 20  # steps between looks at the metrics: each look waits for the device

History = list[dict[str, float]]


class Stop(NamedTuple):
    """Where a training was to be looked at: after `step` steps, `trained` of them by this call.

    `steps` are those since the stop before, and `before` the seconds that earlier calls, which were
    interrupted, spent on them.
    """

    step: int
    state: PyTree
    history: History
    trained: int
    steps: int
    before: float


class Diverged(FloatingPointError):
    """A loss is no longer finite."""


Update = Callable[[PyTree, Examples], tuple[PyTree, Mapping[str, Array]]]
Watch = Callable[[int, dict[str, float]], None]
"""(step, mean metrics of the epoch so far) -> None; for progress bars."""


def fit(
    update: Update,
    fresh: PyTree,
    batches: Callable[[int], Iterator[Examples]],
    *,
    stops: Sequence[int],
    steps_per_epoch: int,
    directory: str | Path | None = None,
    save_epochs: int = 0,
    watch: Watch = lambda step, metrics: None,
    stopped: Callable[[], bool] = never,
    to_host: Callable[[PyTree], PyTree] = lambda state: state,
    to_device: Callable[[PyTree], PyTree] = lambda state: state,
) -> Iterator[Stop]:
    """Trains up to the last of `stops`, and yields at each.

    Args:
        update: one compiled step; its metrics are averaged over epochs.
        fresh: the state before the first step.
        batches: first step -> the batches from there on.
        stops: steps at which to yield.
        steps_per_epoch: after how many steps a row of metrics is complete.
        directory: of checkpoints; none are kept if None.
        save_epochs: epochs between checkpoints; 0 for none. One is written after the caller took the stops
            before it, and not at the end.
        watch: is told of progress.
        stopped: whether somebody asked to stop: at once, then, with a checkpoint.
        to_host, to_device: a state from and to the devices (`parallel.Placement`).

    Raises:
        ValueError: no stops, or numbers out of range.
        Diverged: a loss is not finite; the last checkpoint stays.
        files.Taken: another run trains in that directory.
        Stopped: as was asked.
        Unwritable: checkpoints cannot be kept.
    """
    if not stops or min(stops) < 1 or steps_per_epoch < 1 or save_epochs < 0:
        raise ValueError(
            f"expected stops of at least 1, steps_per_epoch of at least 1, save_epochs of at least 0; got "
            f"stops={tuple(stops)}, {steps_per_epoch=}, {save_epochs=}"
        )
    due, last = sorted(set(stops)), max(stops)
    keeps = checkpoint.open_checkpoints(directory) if directory and save_epochs else nullcontext()
    with keeps as manager:
        # Not from after the first stop: rather from the start, through the same states.
        found = None if manager is None else checkpoint.restore(manager, fresh, due[0])
        state, note = found or (fresh, {"step": 0, "history": []})
        if isinstance(
            note, list
        ):  # of an older version, which kept the history alone, at the end of an epoch
            note = {"step": int(note[-1]["step"]), "history": note}
        begin, history, total = note["step"], note["history"], _Means(**note.get("means", {}))
        since, before = note.get("since", begin), note.get("seconds", 0.0)
        if begin in due:
            rows = [*history, _row(begin, steps_per_epoch, total.means())] if total.count else history
            yield Stop(begin, state, rows, 0, begin - since, before)
            since, before = begin, 0.0
        clock = time.perf_counter()
        state, examples = to_device(state), batches(begin)
        for step in range(begin + 1, last + 1):
            state, metrics = update(state, next(examples))
            total.add(metrics, to_host)
            ends = step % steps_per_epoch == 0
            if ends or step in due or step % LOG_EVERY == 0:
                watch(step, total.means())
            rows = history
            if ends or step in due:  # a stop inside of an epoch has a row of its own, which no later one has
                rows = [*history, _row(step, steps_per_epoch, total.means())]
            if ends:
                history, total = rows, _Means()
            if step in due:
                now = {name: float(value) for name, value in to_host(dict(metrics)).items()}
                _check_finite(now, step, steps_per_epoch)
                yield Stop(step, to_host(state), rows, step - begin, step - since, before)
                since, before, clock = step, 0.0, time.perf_counter()
            leaves = step < last and stopped()
            if manager is not None and step < last and (leaves or not step % (save_epochs * steps_per_epoch)):
                took = {"since": since, "seconds": before + time.perf_counter() - clock}
                note = {"step": step, "history": history, "means": total.plain(), **took}
                checkpoint.save(manager, step, to_host(state), note)
            if leaves:
                raise Stopped


class _Means:
    """Metrics summed on the device: a look at each step would wait for it."""

    def __init__(self, count: int = 0, sums: Mapping[str, float] = MappingProxyType({})) -> None:
        self.sums: dict[str, Any] = {name: jnp.asarray(value) for name, value in sums.items()}
        self.count = count

    def plain(self) -> dict[str, Any]:
        """What another one goes on with, as JSON has it."""
        return {"count": self.count, "sums": {name: float(value) for name, value in self.sums.items()}}

    def add(self, metrics: Mapping[str, Array], to_host: Callable[[PyTree], PyTree]) -> None:
        for name, value in to_host(dict(metrics)).items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: float(value) / self.count for name, value in self.sums.items()}


def _row(step: int, steps_per_epoch: int, means: dict[str, float]) -> dict[str, float]:
    _check_finite(means, step, steps_per_epoch)
    return {"epoch": step / steps_per_epoch, "step": step, **means}


def _check_finite(metrics: Mapping[str, float], step: int, steps_per_epoch: int) -> None:
    if all(map(math.isfinite, metrics.values())):
        return
    said = ", ".join(f"{name} {value}" for name, value in metrics.items())
    raise Diverged(
        f"diverged in epoch {math.ceil(step / steps_per_epoch)} ({said}): try a smaller learning rate, a "
        "longer warm-up or a smaller magnitude of the mechanism"
    )
