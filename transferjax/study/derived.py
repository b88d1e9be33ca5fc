"""Data that a network makes of other data: sets of robust and of non-robust features.

    robust      D_R    images that the (robust) network represents like x, found from another random image
    nonrobust   D_NR   the same, of a standardly trained network
    rand        D_rand x pushed to a random class t, and labelled t
    det         D_det  x pushed to the next class y + 1, and labelled so

Reference: Ilyas et al., "Adversarial Examples Are Not Bugs, They Are Features", NeurIPS 2019, section 3.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferjax import attacks, data
from transferjax.attacks import ascend, updates
from transferjax.data.dataset import permutation
from transferjax.devices import mapped
from transferjax.norms import norm
from transferjax.predicts.modules import tapped
from transferjax.random import fold_in, sample
from transferjax.study.resolve import Context
from transferjax.study.specs import Derived
from transferjax.typing import Array, Key, Predict

Arrays = dict[str, np.ndarray]
Change = Callable[[Predict, Key, Array, Array], tuple[Array, Array]]
"""(predict, keys, images, labels) -> images in [0, 1] and their labels."""


def representation(predict: Predict, images: Array) -> Array:
    """What the network's last layer of weights reads, `[B, D]`; of a map the spatial mean."""
    read: list[Array] = []

    def note(module: nn.Module, value: Array) -> Array:
        if isinstance(module, nn.Dense | nn.Conv):
            read.append(value)
        return value

    tapped(predict, images, before=note)
    if not read:
        raise ValueError("data of robust features need a network of Flax layers, with weights in the last")
    return read[-1].mean((1, 2)) if read[-1].ndim == 4 else read[-1]


def _distance(own: Array, goal: Array) -> Array:
    return norm(own - goal, -1)  # an image may be its own start: no gradient is there, and not NaN


def robust(context: Context, spec: Derived, *, steps: int = 1000, step_size: float = 0.1) -> Arrays:
    """Images that the network represents like x, from another image: `min ‖F(x') - F(x)‖₂` by L2 steps.

    Args:
        steps: of the descent.
        step_size: their Euclidean length.
    """
    match = ascend(
        updates.steepest("l2", step_size),
        lambda x, x0: jnp.clip(x, 0, 1),
        steps=steps,
        loss=_distance,
        targeted=True,
    )

    def change(predict: Predict, keys: Key, pairs: Array, labels: Array) -> tuple[Array, Array]:
        images, start = jnp.split(pairs, 2, -1)
        wanted = representation(predict, images)
        return match(keys, partial(representation, predict), start, wanted), labels

    dataset = context.dataset(spec.data)
    others = dataset.images[permutation(spec.seed, 0, len(dataset))]
    pairs = np.concatenate([dataset.images, others], -1)  # side by side: each example knows its start
    return _made(context, spec, data.Dataset(pairs, dataset.labels, dataset.class_names), change)


def nonrobust(context: Context, spec: Derived, *, steps: int = 1000, step_size: float = 0.1) -> Arrays:
    """`robust` of a standardly trained network: what it represents alike looks like noise."""
    return robust(context, spec, steps=steps, step_size=step_size)


def rand(
    context: Context, spec: Derived, *, steps: int = 100, step_size: float = 0.1, eps: float = 0.5
) -> Arrays:
    """Images pushed to a class t that is drawn uniformly from all, labelled t; arguments as in `det`."""
    classes = context.dataset(spec.data).num_classes

    def aims(keys: Key, labels: Array) -> Array:
        return sample(jax.random.randint, fold_in(keys, 1), (), 0, classes).astype(labels.dtype)

    return _pushed(context, spec, aims, steps, step_size, eps)


def det(
    context: Context, spec: Derived, *, steps: int = 100, step_size: float = 0.1, eps: float = 0.5
) -> Arrays:
    """Images pushed to the class after their own, labelled so, by PGD.

    Args:
        steps: of PGD, without a random start.
        step_size, eps: Euclidean lengths of a step and of the budget.
    """
    classes = context.dataset(spec.data).num_classes
    return _pushed(context, spec, lambda keys, labels: (labels + 1) % classes, steps, step_size, eps)


def _pushed(
    context: Context,
    spec: Derived,
    aims: Callable[[Key, Array], Array],
    steps: int,
    step_size: float,
    eps: float,
) -> Arrays:
    context.check_classes((spec.of,), spec.data)
    attack = attacks.pgd(eps, steps, step_size=step_size, norm="l2", random_start=False, targeted=True)

    def change(predict: Predict, keys: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        wanted = aims(keys, labels)
        return attack(keys, predict, images, wanted), wanted

    return _made(context, spec, context.dataset(spec.data), change)


def _made(context: Context, spec: Derived, dataset: data.Dataset, change: Change) -> Arrays:
    """Images and labels of the whole data set after `change`, 8 bits."""

    def one(examples: data.Examples, shared: tuple[Predict, Key]) -> tuple[Array, Array]:
        predict, key = shared
        keys = fold_in(key, examples.indices)
        images, labels = change(predict, keys, data.to_float(examples.images), examples.labels)
        return jnp.round(255 * images).astype(jnp.uint8), labels

    shared = context.predict(spec.of), jax.random.key(spec.seed)
    images, labels = context.each(mapped(one), dataset, shared, spec.call.name)
    return {"images": images, "labels": labels}
