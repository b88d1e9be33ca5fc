"""Networks: from a spec to one compiled train step, and through the one host loop to weights."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from transferjax import data, models, training
from transferjax.losses import one_hot
from transferjax.study import registry
from transferjax.study.nets import compute_dtype, module_of
from transferjax.study.resolve import Context, flat
from transferjax.study.specs import Network, Pretrained, Training
from transferjax.study.walk import training_of
from transferjax.training import TrainState, TrainStep, parallel
from transferjax.training.averaging import averaged_params, recompute_batch_stats
from transferjax.training.fit import History, fit
from transferjax.training.objective import objective
from transferjax.typing import Array, Batch, Key, Predict, PyTree


def warmup_cosine(peak: float, warmup_epochs: float = 0.0, *, updates_per_epoch: float, epochs: float) -> Any:
    """From 0 to `peak` in `warmup_epochs`, then down to 0 by a cosine."""
    warmup, steps = round(warmup_epochs * updates_per_epoch), round(epochs * updates_per_epoch)
    return training.warmup_cosine(peak, warmup=warmup, steps=steps)


def triangular(
    peak: float,
    start: float = 0.2,
    end: float = 0.07,
    at: float = 0.23,
    *,
    updates_per_epoch: float,
    epochs: float,
) -> Any:
    """From `start` of the `peak` up to it in `at` of all updates, then down to `end` of it, along lines."""
    steps = round(epochs * updates_per_epoch)
    return training.triangular(peak, steps=steps, start=start, end=end, at=at)


def step_decay(
    peak: float, at: tuple[float, ...] = (100.0, 150.0), factor: float = 0.1, *, updates_per_epoch: float
) -> Any:
    """`peak`, multiplied by `factor` after each epoch of `at`."""
    return training.step_decay(peak, at=[round(epoch * updates_per_epoch) for epoch in at], factor=factor)


def constant(peak: float) -> Any:
    """`peak` throughout, as LGV collects."""
    return peak


def sgd(
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    *,
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """`training.sgd`."""
    return training.sgd(learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def adam(
    b1: float = 0.9, b2: float = 0.999, *, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """`optax.adam`."""
    return optax.adam(learning_rate, b1, b2)


def optimizer(t: Training, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer on its schedule; `accumulate` batches are one update."""
    per_epoch = steps_per_epoch / t.accumulate
    rate = registry.make(registry.SCHEDULES, t.schedule, updates_per_epoch=per_epoch, epochs=t.epochs)
    made = registry.make(registry.OPTIMIZERS, t.optimizer, learning_rate=rate)
    return optax.MultiSteps(made, t.accumulate).gradient_transformation() if t.accumulate > 1 else made


def train_step(
    spec: Network,
    num_classes: int,
    steps_per_epoch: int,
    axis_name: str | None = None,
    teacher: Predict | None = None,
) -> TrainStep:
    """The one train step with the mechanism's parts in its slots; `teacher` is for a step that is taken."""
    t = spec.training
    net = module_of(spec, num_classes, axis_name=axis_name, dtype=compute_dtype(t))
    filled: dict[str, tuple] = dict.fromkeys(registry.SLOTS, ())
    for part in spec.parts:
        filled[registry.PARTS.row(part.name).slot] += (
            registry.make(
                registry.PARTS,
                part,
                axis_name=axis_name,
                teacher=teacher,
                steps_per_epoch=steps_per_epoch,
                total_steps=round(t.epochs * steps_per_epoch),
            ),
        )
    augment = (registry.make(registry.AUGMENTS, t.augment),) if t.augment else ()

    def forward(variables: PyTree, keys: Key, images: Array) -> tuple[Array, PyTree]:
        key = jnp.ravel(keys)[0]  # dropout draws for the batch as a whole
        return models.train_apply(net, variables, images, spec.mean, spec.std, key)

    return training.make_train_step(
        objective(training.rematerialized(forward) if t.remat else forward, penalties=filled["penalties"]),
        optax.chain(optimizer(t, steps_per_epoch), *filled["averages"]),
        predictor=partial(models.predictor, net, mean=spec.mean, std=spec.std),
        transforms=(*augment, *filled["transforms"]),
        rules=filled["rules"],
        axis_name=axis_name,
    )


class Trainer:
    """What trains one network from any seed and start, compiled once."""

    def __init__(self, spec: Network, source: data.Source, teacher: Predict | None = None):
        self.spec, self.source, self.teacher, self.place = spec, source, teacher, parallel.placement()
        self.net = module_of(spec, source.num_classes)
        self.step = self._step(None)
        self._compiled = self.place.compile(self._update)
        self._init = jax.jit(lambda key: self.net.init(key, jnp.zeros((1, *source.image_shape))))
        self._batch_stats = jax.jit(self._stats_of)

    def _step(self, teacher: Predict | None) -> TrainStep:
        classes, axis_name = self.source.num_classes, self.place.axis_name
        return train_step(self.spec, classes, self.steps_per_epoch, axis_name, teacher)

    def _update(
        self, state: TrainState, shared: tuple[Key, Predict | None], examples: data.Examples
    ) -> TrainState:
        key, teacher = shared
        return self._step(teacher).update(state, key, self._batch(examples, state.step))

    def update(self, state: TrainState, key: Key, examples: data.Examples) -> TrainState:
        """The state after a step, whose key is that of all steps; compiled, and the old one's memory goes."""
        return self._compiled(state, (key, self.teacher), examples)

    def initial(self, seed: int) -> PyTree:
        """Random weights."""
        # Per-parameter draws dominate a small run's compile time; the older lowering takes a third of it.
        with jax.threefry_partitionable(False):
            return self._init(jax.random.key(seed))

    @property
    def steps_per_epoch(self) -> int:
        return data.steps_per_epoch(len(self.source), self.spec.training.batch_size)

    def step_of(self, epoch: float | None) -> int:
        """The training step that ends an epoch, fractions too."""
        return max(1, round((self.spec.training.epochs if epoch is None else epoch) * self.steps_per_epoch))

    def _batch(self, examples: data.Examples, step: Array) -> Batch:
        targets = one_hot(examples.labels, self.source.num_classes)
        epoch = jnp.full_like(examples.indices, step // self.steps_per_epoch)
        return Batch(data.to_float(examples.images), targets, examples.indices, epoch)

    def batches(self, seed: int, start: int, *, whole: bool = False) -> Iterator[data.Examples]:
        """Spread over the devices, or `whole` on one."""
        put, shard = (jax.device_put, (0, 1)) if whole else (self.place.put_batch, self.place.shard)
        batch_size = self.spec.training.batch_size
        return data.train_batches(self.source, batch_size, seed=seed, start_step=start, put=put, shard=shard)

    def fresh(self, variables: PyTree) -> TrainState:
        """The state before the first step."""
        first = self.place.get_state(next(self.batches(0, 0)))
        return self.step.init(variables, self._batch(first, jnp.int32(0)))

    def _stats_of(self, variables: PyTree, images: Array) -> PyTree:
        images = data.to_float(
            images.reshape(-1, *self.source.image_shape)
        )  # sharded ones have a device axis
        return models.train_apply(
            self.net, variables, images, self.spec.mean, self.spec.std, jax.random.key(0)
        )[1]

    def variables(self, state: TrainState) -> PyTree:
        """The weights, or their average where the mechanism averages, with batch statistics of its own."""
        average = averaged_params(state.opt_state)
        if average is None:
            return state.variables
        # Of several processes each would see but its part of a batch.
        batches = self.batches(0, 0, whole=jax.process_count() > 1)
        images = (next(batches).images for _ in range(self.steps_per_epoch))
        stats = recompute_batch_stats(
            lambda old, x: self._batch_stats({"params": average, "batch_stats": old}, x),
            state.memory["batch_stats"],
            images,
        )
        return {"params": average, "batch_stats": stats}


def started(context: Context, spec: Network, net: models.Net, fresh: PyTree) -> PyTree:
    """What training begins with: random weights, or those of `start` (with a new head for other classes)."""
    if spec.start is None:
        return fresh
    variables = context.variables(spec.start)
    params, wanted = dict(variables["params"]), fresh["params"]
    if isinstance(spec.start, Pretrained) and spec.start.label_map:
        chosen = np.array(spec.start.label_map)
        params[net.head] = jax.tree.map(lambda a: a[..., chosen], params[net.head])
    if net.head in params and _shapes(params[net.head]) != _shapes(wanted[net.head]):
        params[net.head] = wanted[net.head]
    check_fit(spec, net, params, wanted)
    # Copies: a train step reuses the memory of the state that it is given.
    return jax.tree.map(jnp.array, fresh | {**variables, "params": params})


def check_fit(spec: Network, net: models.Net, params: PyTree, wanted: PyTree) -> None:
    assert spec.start is not None
    body = [{name: _shapes(tree[name]) for name in tree if name != net.head} for tree in (params, wanted)]
    if body[0] != body[1]:
        raise ValueError(f"weights of {spec.start.model.name} do not fit {spec.model.name}: another shape")


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def make_networks(context: Context, members: Sequence[Network]) -> Iterator[tuple[Network, dict[str, Any]]]:
    """Members are one training stopped at several epochs; each is yielded when its epoch is over."""
    spec = members[0]
    program = program_of(spec)
    teacher = None if spec.teacher is None else context.predict(spec.teacher)
    trainer: Trainer = context.cached(
        ("trainer", program.key), lambda: Trainer(program, context.source(spec.data), teacher)
    )
    place, key = trainer.place, jax.random.fold_in(jax.random.key(spec.seed), 1)
    initial = started(context, spec, trainer.net, trainer.initial(spec.seed))
    due: dict[int, list[Network]] = {}
    for member in members:
        due.setdefault(trainer.step_of(member.epoch), []).append(member)

    def update(state: TrainState, examples: data.Examples) -> tuple[TrainState, dict[str, Array]]:
        state = trainer.update(state, key, examples)
        return state, state.memory["metrics"]

    stops = fit(
        update,
        trainer.fresh(initial),
        lambda start: trainer.batches(spec.seed, start),
        stops=tuple(due),
        steps_per_epoch=trainer.steps_per_epoch,
        directory=context.store.scratch(training_of(spec).key),
        save_epochs=context.checkpoint_epochs,
        watch=context.watch(max(due), spec.training.batch_size, _called(spec)),
        stopped=context.stopped,
        to_host=place.get_state,
        to_device=place.put_state,
    )
    for stop in stops:
        arrays = flat(trainer.variables(stop.state)) | history_arrays(stop.history)
        said = {"steps": stop.trained, "share": stop.steps / trainer.step_of(None), "before": stop.before}
        for member in due[stop.step]:
            yield member, {"arrays": arrays, **said}


def _called(spec: Network) -> str:
    return " ".join(["train", spec.model.name, *(part.name for part in spec.parts), f"seed {spec.seed}"])


def history_arrays(history: History) -> dict[str, np.ndarray]:
    """The metrics of every epoch, as they are stored beside weights."""
    names = sorted({name for row in history for name in row})
    return {f"history/{name}": np.array([row[name] for row in history], np.float32) for name in names}


def program_of(spec: Network) -> Network:
    """What networks that differ in seed, start and end have in common."""
    return spec.replace(seed=0, start=None, epoch=None)
