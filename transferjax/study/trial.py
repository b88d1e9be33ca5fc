"""What costs nothing to build is built before anything is computed: a mistake shows before hours of work."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

from transferjax import data, models
from transferjax.models.weights.torch import input_channels
from transferjax.study import registry
from transferjax.study.content import facts
from transferjax.study.nets import module_of, recipe_of
from transferjax.study.networks import check_fit, optimizer, program_of, train_step
from transferjax.study.shapes import abstract, image_of, of_file, predict_of
from transferjax.study.specs import STORED, Apply, Data, Network, Pretrained, Purifier, Spec, Training
from transferjax.study.walk import children
from transferjax.typing import PyTree

COUNTING = ("msam", "look_sam", "ema")
"""Parts that remember from step to step, and know nothing of an optimizer that waits for several batches."""


def try_out(spec: Spec, stored: Callable[[Spec], bool]) -> None:
    """Builds a spec and what is inside of it, but for what was made already.

    Raises:
        ValueError, TypeError, OSError: options, sizes, weights or files that do not fit.
    """
    if isinstance(spec, STORED) and stored(spec):
        return
    trials: dict[type[Spec], Callable[[Any], object]] = {
        Network: _network,
        Purifier: _purifier,
        Apply: _apply,
        Pretrained: _pretrained,
    }
    if trial := trials.get(type(spec)):
        trial(spec)
    for child in children(spec):
        try_out(child, stored)


def _network(spec: Network) -> None:
    fresh = _variables(program_of(spec))
    if spec.start is None:
        return
    net = module_of(spec, facts(spec.data).num_classes)
    if isinstance(spec.start, Network):
        check_fit(spec, net, _variables(program_of(spec.start))["params"], fresh["params"])
    else:
        models.pretrained(net, models.read_tensors(spec.start.file), fresh)


@cache
def _variables(spec: Network) -> PyTree:
    """The shapes of a network's weights; its train step is built too."""
    known = facts(spec.data)
    for name in ("mean", "std"):
        _check_channels(name, getattr(spec, name), known.image_shape[-1])
    if min(spec.std) <= 0:
        raise ValueError(f"std {spec.std}: expected positive values")
    counting = [part.name for part in spec.parts if part.name in COUNTING]
    if spec.training.accumulate > 1 and counting:
        raise ValueError(
            f"accumulate {spec.training.accumulate}: {', '.join(counting)} keeps account of steps, and "
            "would take each batch for one: expected accumulate=1"
        )
    train_step(spec, known.num_classes, _steps_per_epoch(spec.training, known.size))
    cropped = isinstance(spec.data, Data) and "scale" in dict(spec.data.options)
    if spec.training.augment is not None and cropped:
        raise ValueError("the data come as random crops, flipped half of the time already: no `augment` then")
    return abstract(spec)


def _steps_per_epoch(training: Training, size: int) -> int:
    """Of a training on so many images, which must hold a batch, and in all an update."""
    found = data.steps_per_epoch(size, training.batch_size)
    steps = max(1, round(training.epochs * found))
    if training.accumulate > steps:
        expected = f"expected at most the {steps} batches of the whole training"
        raise ValueError(f"accumulate {training.accumulate}: {expected}")
    return found


def _purifier(spec: Purifier) -> None:
    recipe_of(spec)
    optimizer(spec.training, _steps_per_epoch(spec.training, facts(spec.data).size))
    if spec.training.augment is not None:
        registry.make(registry.AUGMENTS, spec.training.augment)


def _check_channels(name: str, values: tuple[float, ...], channels: int) -> None:
    if len(values) not in (1, channels):
        raise ValueError(f"{name} {values}: expected one value, or one for each of {channels} channels")


@cache
def _pretrained(spec: Pretrained) -> None:
    """Reads a file of weights by the names of its net, and makes what it wants to see."""
    registry.make(registry.PREPROCESSING, spec.preprocessing)
    if not spec.file:
        return  # weights that another machine has: whoever makes something of them says so
    net, variables = of_file(spec)
    channels = input_channels(net, variables)
    if spec.label_map and max(spec.label_map) >= net.num_classes:
        raise ValueError(f"label_map: {max(spec.label_map)} is beyond the {net.num_classes} logits")
    for name in ("mean", "std"):
        _check_channels(name, spec.preprocessing.arguments.get(name, (0.0,)), channels)


def _apply(spec: Apply) -> None:
    """Traces a factory around networks of the study on one image; files say nothing of their images' size."""
    registry.check_predicts(registry.APPLY, spec.call, len(spec.of))
    if not _from_file(spec):
        jax.eval_shape(lambda v, x: predict_of(spec, v)(x), abstract(spec), image_of(spec))


def _from_file(spec: Spec) -> bool:
    return isinstance(spec, Pretrained) or (isinstance(spec, Apply) and any(map(_from_file, spec.of)))
