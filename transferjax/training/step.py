"""Training: a state of arrays, one step that every mechanism shares, exact evaluation, schedules.

A mechanism is what fills the slots of `make_train_step`: transforms, penalties and loss (in the objective),
rules, and an optax update. The step is pure; the caller jits it, or maps it over devices.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from transferjax.chain import chain, initial_memory
from transferjax.checks import check_batch, check_images, check_labels, check_mask, check_outputs, check_tuple
from transferjax.classes import check_vocabulary
from transferjax.losses import cross_entropy
from transferjax.models.conv import conv_p
from transferjax.random import fold_in, one_key, per_example
from transferjax.training.objective import Objective
from transferjax.typing import Array, Batch, GradFn, Key, Memory, Predict, PyTree, Rule, Transform


class TrainState(NamedTuple):
    """All that training carries from step to step, arrays only.

    `memory` holds `batch_stats`, the last step's `metrics` and what rules remember.
    """

    step: Array
    params: PyTree
    opt_state: optax.OptState
    memory: Memory

    @property
    def variables(self) -> dict[str, PyTree]:
        """What a Flax module calls its variables."""
        return {"params": self.params, "batch_stats": self.memory["batch_stats"]}


class TrainStep(NamedTuple):
    """`init(variables, batch) -> state` and `update(state, key, batch) -> state`, like an optax pair."""

    init: Callable[[dict[str, PyTree], Batch], TrainState]
    update: Callable[[TrainState, Key, Batch], TrainState]


def averaged(grad_fn: GradFn, axis_name: str | None) -> GradFn:
    """Value, memory and gradient averaged over the devices of `axis_name`.

    A rule around it sees the gradient of the whole batch, so that SAM's ascent step on n devices is the one
    of a single device.
    """
    if axis_name is None:
        return grad_fn
    return lambda *args: jax.lax.pmean(grad_fn(*args), axis_name)


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    predictor: Callable[[dict[str, PyTree]], Predict],
    transforms: tuple[Transform, ...] = (),
    rules: tuple[Rule, ...] = (),
    axis_name: str | None = None,
) -> TrainStep:
    """The one train step: transforms, then the rules' gradient of the objective, then the update.

    Args:
        objective: of `training.objective`.
        optimizer: any optax transformation.
        predictor: variables -> predict in evaluation mode; transforms craft adversarial examples with it.
        transforms: applied in order, once per step, transform i with the keys folded with i.
        rules: nested, the outermost first.
        axis_name: the mapped axis of data parallelism; examples then have the keys of their global position,
            so that n devices see what one device sees; but for dropout, which draws for each part.

    Returns:
        The pair; `update(state, key, batch)` folds `key` with `state.step`: pass the same key always. `init`
        reads only the shapes of its batch, which is one device's.
    """
    check_tuple("rules", rules, "rules", "rule")
    check_tuple("transforms", transforms, "transforms", "transform")
    grad_fn = chain(*rules)(averaged(jax.value_and_grad(objective, has_aux=True), axis_name))

    def example_keys(key: Key, step: Array, count: int) -> Key:
        start = jax.lax.axis_index(axis_name) * count if axis_name else 0
        return fold_in(jnp.broadcast_to(fold_in(key, step), (count,)), start + jnp.arange(count))

    def update(state: TrainState, key: Key, batch: Batch) -> TrainState:
        check_batch(batch)
        keys = example_keys(one_key(key), state.step, len(batch.images))
        predict = predictor(state.variables)
        for i, transform in enumerate(transforms):
            batch = transform(fold_in(keys, i), batch, predict)
        (_, memory), grads = grad_fn(state.params, state.memory, fold_in(keys, len(transforms)), batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, memory)

    def init(variables: dict[str, PyTree], batch: Batch) -> TrainState:
        check_batch(batch)
        params = variables["params"]
        memory = {"batch_stats": variables.get("batch_stats", {})}
        keys = per_example(jax.random.key(0), len(batch.images))
        # Outside the mapped function its axis has no name; a mapping over nothing gives it one.
        named = jax.vmap(grad_fn, None, None, axis_name=axis_name, axis_size=1) if axis_name else grad_fn
        memory = initial_memory(named, params, memory, keys, batch)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), memory)

    return TrainStep(init, update)


def rematerialized(function: Callable) -> Callable:
    """`function`, of whose forward pass a derivative keeps the outputs of products and convolutions only.

    What lies between them (normalization, rectifiers, sums) is computed again in the backward pass: a
    ResNet-18 keeps 0.27 of the bytes. The same values and derivatives of every order. For accelerators: on
    CPUs the compiler merges the repeated work again.
    """
    kept = {jax.lax.dot_general_p, jax.lax.conv_general_dilated_p, conv_p}
    return jax.checkpoint(function, policy=lambda primitive, *_, **__: primitive in kept)


def evaluate(
    predict: Predict, images: Array, labels: Array, mask: Array, num_classes: int | None = None
) -> dict[str, Array]:
    """Sums over the examples that `mask` `[B]` marks: `loss`, `correct` and `count`; add over batches.

    Args:
        predict, images, labels: the net, `[B, H, W, C]` in [0, 1], and classes `[B]`.
        mask: bool `[B]`, which examples count.
        num_classes: how many classes the labels' data set has, see `metrics.fooled`.
    """
    if images.ndim > 2:  # else what predict takes are features
        check_images(images)
    logits = predict(images)
    check_outputs(logits, len(images))
    check_labels(labels, len(images))
    check_vocabulary(labels, logits.shape[-1], num_classes)
    check_labels(labels, len(images), logits.shape[-1])
    check_mask(mask, len(images))
    return {
        "loss": jnp.where(mask, cross_entropy(logits, labels), 0).sum(),
        "correct": jnp.sum((logits.argmax(-1) == labels) & mask),
        "count": jnp.sum(mask),
    }


def mean_of(sums: Iterable[dict[str, Array]]) -> dict[str, float]:
    """Mean `loss` and `accuracy` over what `evaluate` summed, exact on ragged last batches."""
    total = {"loss": 0.0, "correct": 0, "count": 0}
    for part in sums:
        total = {name: total[name] + part[name].item() for name in total}
    if not total["count"]:
        raise ValueError("nothing to evaluate: the dataset is empty")
    return {"loss": total["loss"] / total["count"], "accuracy": total["correct"] / total["count"]}
