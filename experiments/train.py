"""Trains every surrogate and target of a config.

    python -m experiments.train --config=configs/digits.py --workdir=runs/quickstart

A run that stops continues from its newest checkpoint with the same command, and ends with the same weights.
On one accelerator all seeds of a mechanism train at once (`training.seeds_at_once`).
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd
from ml_collections import ConfigDict
from orbax.checkpoint import CheckpointManager
from tqdm import tqdm

from experiments import build, cli
from experiments.run import write_csv
from transferjax import checkpoint, data, models, parallel
from transferjax.averaging import averaged_params, recompute_batch_stats
from transferjax.losses import one_hot
from transferjax.training import TrainState, evaluate, mean_of
from transferjax.typing import Array, Batch, Key, Predict, PyTree

LOG_EVERY = 20  # steps between looks at the metrics: each look waits for the device


class Trainer(NamedTuple):
    """What trains one (model, mechanism) from any seed, compiled once; of `transferjax.training` on examples.

    `init(seed) -> state`, `update(states, keys, examples) -> states` of one seed or several,
    `evaluate(variables) -> metrics`, `batches(seed, start)`, `batch_stats(variables, uint8 images) -> what
    training mode makes of them`.
    """

    init: Callable[[int], TrainState]
    update: Callable[[list[TrainState], list[Key], list[data.Examples]], list[TrainState]]
    evaluate: Callable[[PyTree], dict[str, float]]
    batches: Callable[[int, int], Iterator[data.Examples]]
    batch_stats: Callable[[PyTree, Array], PyTree]
    steps_per_epoch: int
    place: parallel.Placement


def network_directory(root: Path, network: build.Network) -> Path:
    """Where a network's checkpoints and metrics are; one that was stopped early is in those of the whole."""
    return root / "networks" / replace(network, epoch=None).directory


@jax.jit
def _sums(predict: Predict, examples: data.Examples) -> dict[str, Array]:
    return evaluate(predict, data.to_float(examples.images), examples.labels, examples.weights > 0)


def make_trainer(
    config: ConfigDict, network: build.Network, train: data.Source, test: data.Dataset, together: bool = False
) -> Trainer:
    """The compiled pieces for one (model, mechanism), on one device or on all there are.

    `together` steps all states of an update at once on the one device, instead of one by one.
    """
    batch_size, num_classes, place = config.training.batch_size, train.num_classes, parallel.placement()
    steps = data.steps_per_epoch(len(train), batch_size)
    step = build.train_step(config, network, num_classes, steps, place.axis_name)
    net = build.module(network, num_classes)
    initial_variables = build.initializer(net, train.image_shape)

    def as_batch(examples: data.Examples) -> Batch:
        return Batch(data.to_float(examples.images), one_hot(examples.labels, num_classes))

    def batches(seed: int, start: int) -> Iterator[data.Examples]:
        return data.train_batches(train, batch_size, seed=seed, start_step=start, put=place.put_batch)

    def init(seed: int) -> TrainState:
        first = next(batches(seed, 0))
        return step.init(initial_variables(seed), as_batch(place.get_state(first)))

    def update(state: TrainState, key: Key, examples: data.Examples) -> TrainState:
        return step.update(state, key, as_batch(examples))

    alone = place.compile(update)

    def one_by_one(*lists: list) -> list[TrainState]:
        return [alone(*entries) for entries in zip(*lists, strict=True)]

    def evaluated(variables: PyTree) -> dict[str, float]:
        predict = build.predictor(config, net, variables)
        return mean_of(_sums(predict, examples) for examples in data.eval_batches(test, batch_size))

    @jax.jit
    def batch_stats(variables: PyTree, images: Array) -> PyTree:
        mean, std = config.network.mean, config.network.std
        images = data.to_float(images.reshape(-1, *train.image_shape))  # sharded ones have a device axis
        return models.train_apply(net, variables, images, mean, std, jax.random.key(0))[1]

    updates = parallel.together(update) if together else one_by_one
    return Trainer(init, updates, evaluated, batches, batch_stats, steps, place)


def _epoch(
    trainer: Trainer,
    states: list[TrainState],
    keys: list[Key],
    batches: Iterator[tuple[data.Examples, ...]],
    bar: tqdm,
) -> tuple[list[TrainState], list[dict[str, float]]]:
    """One epoch, and the means of its metrics."""
    totals: list[dict[str, Any]] = [{} for _ in states]
    for i in range(1, trainer.steps_per_epoch + 1):
        states = trainer.update(states, keys, list(next(batches)))
        for total, state in zip(totals, states, strict=True):
            for name, value in trainer.place.get_state(state.memory["metrics"]).items():
                total[name] = total.get(name, 0) + value
        bar.update(len(states))
        if i % LOG_EVERY == 0 or i == trainer.steps_per_epoch:
            means = [{name: value.item() / i for name, value in total.items()} for total in totals]
            shown = {name: sum(mean[name] for mean in means) / len(means) for name in means[0]}
            bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()})
    return states, means


def _averaged(trainer: Trainer, state: TrainState) -> TrainState:
    """The state with the averaged weights, where the method averages, and batch statistics of their own."""
    average = averaged_params(state.opt_state)
    if average is None:
        return state
    epoch = itertools.islice(trainer.batches(0, 0), trainer.steps_per_epoch)
    stats = recompute_batch_stats(
        lambda old, images: trainer.batch_stats({"params": average, "batch_stats": old}, images),
        state.memory["batch_stats"],
        (examples.images for examples in epoch),
    )
    return state._replace(params=average, memory=state.memory | {"batch_stats": stats})


def _tensorboard(directory: Path, row: dict[str, float]) -> None:
    from tensorboardX import SummaryWriter  # slow to import, and wanted by few

    with SummaryWriter(str(directory / "tensorboard")) as writer:
        for name, value in row.items():
            writer.add_scalar(name.replace("_", "/", 1), value, row["step"])


@dataclass
class _Record:
    """What one network's training leaves behind: checkpoints, and the history that goes with each."""

    network: build.Network
    directory: Path
    manager: CheckpointManager
    history: list[dict[str, float]]

    def restore(self, fresh: TrainState, step: int) -> TrainState:
        """The state after `step` steps; later ones are forgotten."""
        state, self.history = checkpoint.restore(self.manager, fresh, step) or (fresh, [])
        return state

    def add(self, trainer: Trainer, state: TrainState, row: dict[str, float], tensorboard: bool) -> None:
        """Evaluates and saves one more state."""
        tested = trainer.evaluate(state.variables)
        row = row | {f"test_{name}": value for name, value in tested.items()}
        self.history = [*self.history, row]
        checkpoint.save(self.manager, int(state.step), state, self.history)
        if tensorboard:
            _tensorboard(self.directory, row)


@contextlib.contextmanager
def _open(
    config: ConfigDict, networks: Sequence[build.Network], root: Path, per_epoch: int
) -> Iterator[list[_Record]]:
    """A record for each network."""
    keep = [epoch * per_epoch for epoch in config.training.keep_epochs]
    # Several are not saved at one instant: the newest that all of them have may be their last but one.
    newest = min(2, len(networks))
    with contextlib.ExitStack() as stack:
        records = []
        for network in networks:
            directory = network_directory(root, network)
            opened = checkpoint.open_checkpoints(directory / "checkpoints", newest=newest, keep=keep)
            records.append(_Record(network, directory, stack.enter_context(opened), []))
        yield records


def train(config: ConfigDict, networks: Sequence[build.Network], trainer: Trainer, root: Path) -> None:
    """Trains seeds of one kind side by side to the end, from wherever they stand.

    Writes each network's checkpoints and `metrics.csv`.

    Raises:
        FloatingPointError: a loss is no longer finite; the last good checkpoints stay.
    """
    t, place, per_epoch, seeds = config.training, trainer.place, trainer.steps_per_epoch, len(networks)
    keys = [jax.random.fold_in(jax.random.key(network.seed), 1) for network in networks]
    with _open(config, networks, root, per_epoch) as records:
        start = min(record.manager.latest_step() or 0 for record in records)
        states = [place.put_state(r.restore(trainer.init(r.network.seed), start)) for r in records]
        batches = zip(*(trainer.batches(network.seed, start) for network in networks), strict=True)
        bar = tqdm(
            desc=str(networks[0]) if seeds == 1 else f"{networks[0].label} ({seeds} seeds)",
            total=t.epochs * per_epoch * seeds,
            initial=start * seeds,
            unit=" images",
            unit_scale=t.batch_size,
            disable=None,
        )
        for epoch in range(start // per_epoch + 1, t.epochs + 1):
            states, metrics = _epoch(trainer, states, keys, batches, bar)
            _check_finite(networks, metrics, epoch)
            if epoch % t.checkpoint_every and epoch not in (*t.keep_epochs, t.epochs):
                continue
            for record in records:
                record.manager.wait_until_finished()
            for record, state, means in zip(records, states, metrics, strict=True):
                host = place.get_state(state)
                host = _averaged(trainer, host) if epoch == t.epochs else host
                row = {f"train_{name}": value for name, value in means.items()}
                record.add(trainer, host, {"epoch": epoch, "step": epoch * per_epoch} | row, t.tensorboard)
        bar.close()
    for record in records:
        write_csv(record.directory / "metrics.csv", pd.DataFrame(record.history))


def _check_finite(networks: Sequence[build.Network], metrics: list[dict[str, float]], epoch: int) -> None:
    for network, means in zip(networks, metrics, strict=True):
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"{network}: the loss is {means['loss']} in epoch {epoch}. The last good checkpoint "
                "stays. Try a smaller --config.training.learning_rate, a longer warm-up or a smaller "
                "magnitude of the mechanism."
            )


def _at_once(asked: int, seeds: int) -> int:
    """How many seeds train side by side: as asked, or what pays."""
    if asked > 1 and jax.device_count() > 1:
        raise ValueError(
            f"training.seeds_at_once={asked}: {jax.device_count()} devices share each batch already; use 1"
        )
    pays = jax.device_count() == 1 and jax.default_backend() != "cpu"
    return asked or (seeds if pays else 1)


def train_all(config: ConfigDict, root: Path) -> None:
    """Trains whatever of the config's networks is not trained yet, once the whole config is known to fit."""
    networks = [*build.targets(config), *(n for n in build.surrogates(config) if n.epoch is None)]
    todo = [n for n in networks if not (network_directory(root, n) / "metrics.csv").exists()]
    if not todo:
        return
    build.validate(config)
    train_set, test_set = build.source(config), build.dataset(config, "test")
    kind = lambda n: (n.model, n.options, n.mechanism)  # noqa: E731
    for _, group in itertools.groupby(todo, kind):  # seeds of one kind are neighbours
        members = list(group)
        count = _at_once(config.training.seeds_at_once, len(members))
        trainer = make_trainer(config, members[0], train_set, test_set, together=count > 1)
        for i in range(0, len(members), count):
            train(config, members[i : i + count], trainer, root)


def load_variables(network: build.Network, root: Path) -> PyTree:
    """A trained network's variables, as they were at the end or after the epoch at which it was stopped."""
    directory, step = network_directory(root, network), None
    if network.epoch is not None:
        history = pd.read_csv(directory / "metrics.csv").set_index("epoch")
        step = int(history["step"][network.epoch])
    return checkpoint.load_variables(directory / "checkpoints", step)


def load_predictor(config: ConfigDict, network: build.Network, root: Path, num_classes: int) -> Predict:
    """A trained network, as `load_variables` finds it."""
    return build.predictor(config, build.module(network, num_classes), load_variables(network, root))


if __name__ == "__main__":
    cli.main(train_all)
