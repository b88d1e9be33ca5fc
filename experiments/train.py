"""Trains every surrogate and target of a config.

    python -m experiments.train --config=configs/digits.py --workdir=runs/quickstart

A run that stops continues from its newest checkpoint with the same command, and ends with the same weights.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd
from ml_collections import ConfigDict
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

    `init(seed) -> state`, `update(state, key, examples) -> state`, `evaluate(variables) -> metrics`,
    `batches(seed, start)`, `batch_stats(variables, uint8 images) -> what training mode makes of them`.
    """

    init: Callable[[int], TrainState]
    update: Callable[[TrainState, Key, data.Examples], TrainState]
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
    config: ConfigDict, network: build.Network, train: data.Dataset, test: data.Dataset
) -> Trainer:
    """The compiled pieces for one (model, mechanism), on one device or on all there are."""
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

    @place.compile
    def update(state: TrainState, key: Key, examples: data.Examples) -> TrainState:
        return step.update(state, key, as_batch(examples))

    def evaluated(variables: PyTree) -> dict[str, float]:
        predict = build.predictor(config, net, variables)
        return mean_of(_sums(predict, examples) for examples in data.eval_batches(test, batch_size))

    @jax.jit
    def batch_stats(variables: PyTree, images: Array) -> PyTree:
        mean, std = config.network.mean, config.network.std
        images = data.to_float(images.reshape(-1, *train.image_shape))  # sharded ones have a device axis
        return models.train_apply(net, variables, images, mean, std, jax.random.key(0))[1]

    return Trainer(init, update, evaluated, batches, batch_stats, steps, place)


def _epoch(
    trainer: Trainer, state: TrainState, key: Key, batches: Iterator[data.Examples], bar: tqdm
) -> tuple[TrainState, dict[str, float]]:
    """One epoch, and the mean of its metrics."""
    total: dict[str, Any] = {}
    for i in range(1, trainer.steps_per_epoch + 1):
        state = trainer.update(state, key, next(batches))
        metrics = trainer.place.get_state(state.memory["metrics"])
        total = {name: total.get(name, 0) + value for name, value in metrics.items()}
        bar.update()
        if i % LOG_EVERY == 0 or i == trainer.steps_per_epoch:
            means = {name: value.item() / i for name, value in total.items()}
            bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
    return state, means


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


def train(config: ConfigDict, network: build.Network, trainer: Trainer, directory: Path) -> None:
    """Trains one network to the end, from wherever it stands; writes its checkpoints and `metrics.csv`.

    Raises:
        FloatingPointError: the loss is no longer finite; the last good checkpoint stays.
    """
    t, place, per_epoch = config.training, trainer.place, trainer.steps_per_epoch
    key = jax.random.fold_in(jax.random.key(network.seed), 1)
    keep = [epoch * per_epoch for epoch in t.keep_epochs]
    with checkpoint.open_checkpoints(directory / "checkpoints", keep=keep) as manager:
        fresh = trainer.init(network.seed)
        state, history = checkpoint.restore(manager, fresh) or (fresh, [])
        start = int(state.step)
        state, batches = place.put_state(state), trainer.batches(network.seed, start)
        images = {"unit": " images", "unit_scale": t.batch_size}
        bar = tqdm(desc=str(network), total=t.epochs * per_epoch, initial=start, disable=None, **images)
        for epoch in range(start // per_epoch + 1, t.epochs + 1):
            state, metrics = _epoch(trainer, state, key, batches, bar)
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(
                    f"{network}: the loss is {metrics['loss']} in epoch {epoch}. The last good checkpoint "
                    "stays. Try a smaller --config.training.learning_rate, a longer warm-up or a smaller "
                    "magnitude of the mechanism."
                )
            if epoch % t.checkpoint_every == 0 or epoch in (*t.keep_epochs, t.epochs):
                host = place.get_state(state)
                host = _averaged(trainer, host) if epoch == t.epochs else host
                tested = trainer.evaluate(host.variables)
                row: dict[str, float] = {"epoch": epoch, "step": epoch * per_epoch}
                row |= {f"train_{name}": value for name, value in metrics.items()}
                row |= {f"test_{name}": value for name, value in tested.items()}
                history = [*history, row]
                checkpoint.save(manager, host, history, tested)
                if t.tensorboard:
                    _tensorboard(directory, row)
        bar.close()
    write_csv(directory / "metrics.csv", pd.DataFrame(history))


def train_all(config: ConfigDict, root: Path) -> None:
    """Trains whatever of the config's networks is not trained yet."""
    networks = [*build.targets(config), *(n for n in build.surrogates(config) if n.epoch is None)]
    todo = [n for n in networks if not (network_directory(root, n) / "metrics.csv").exists()]
    if not todo:
        return
    train_set, test_set = build.dataset(config, "train"), build.dataset(config, "test")
    kind = lambda n: (n.model, n.options, n.mechanism)  # noqa: E731
    for _, group in itertools.groupby(todo, kind):  # seeds of one kind are neighbours
        members = list(group)
        trainer = make_trainer(config, members[0], train_set, test_set)
        for network in members:
            train(config, network, trainer, network_directory(root, network))


def load_predictor(config: ConfigDict, network: build.Network, root: Path, num_classes: int) -> Predict:
    """A trained network as it was at the end, or after the epoch at which it was stopped."""
    directory, step = network_directory(root, network), None
    if network.epoch is not None:
        history = pd.read_csv(directory / "metrics.csv").set_index("epoch")
        step = int(history["step"][network.epoch])
    variables = checkpoint.load_variables(directory / "checkpoints", step)
    return build.predictor(config, build.module(network, num_classes), variables)


if __name__ == "__main__":
    cli.main(train_all)
