"""Nets as functions of images in [0, 1]: for attacks and metrics (`predictor`), and for training."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from transferjax.models.modes import in_mode, module_in_mode
from transferjax.random import fold_in, typed
from transferjax.typing import Array, Key, Predict, PyTree

Statistics = float | Sequence[float] | np.ndarray | Array


@dataclass(frozen=True)
class Forward:
    """The static part of a predictor: equal for equal modules, so new weights do not recompile."""

    module: nn.Module

    def __call__(self, variables: PyTree, mean: Array, std: Array, images: Array) -> Array:
        module = module_in_mode(self.module, train=False)
        for name, values in (("mean", mean), ("std", std)):
            if jnp.ndim(values) and values.shape[-1] not in (1, images.shape[-1]):
                raise ValueError(f"{name} has {values.shape[-1]} entries, for images of shape {images.shape}")
        try:
            logits = module.apply(variables, (images - mean) / std, **in_mode(module, train=False))
        except ScopeParamShapeError as error:
            raise ValueError(
                f"{type(module).__name__} does not fit images of shape {images.shape}, whose last axis has "
                f"the channels: {error}"
            ) from error
        return cast(Array, logits)


def predictor(module: nn.Module, variables: PyTree, mean: Statistics = 0.0, std: Statistics = 1.0) -> Predict:
    """`images in [0, 1] -> logits`: the net in evaluation mode with its normalization inside.

    A pytree whose leaves are the weights: pass it to jitted functions as an argument. Two predictors of equal
    modules share one compilation.

    Args:
        module: any Linen net whose `apply(variables, images)` gives logits; it is put into evaluation mode by
            `train`, `deterministic`, … of its call, or by its fields of these names (see `modes`).
        variables: `{"params": …}` and, if the net has any, `"batch_stats"`.
        mean, std: of the training images, a number or one per channel; the net sees `(images - mean) / std`.

    Raises:
        ValueError: a std that is not positive.
    """
    if not isinstance(std, jax.core.Tracer) and not np.all(np.asarray(std) > 0):
        raise ValueError(f"std must be positive, got {std}")
    as_array = lambda value: jnp.asarray(value, jnp.result_type(float))  # noqa: E731
    return jax.tree_util.Partial(Forward(module), variables, as_array(mean), as_array(std))


@dataclass(frozen=True)
class Selection:
    """The static part of `select_classes`: the logits of some classes, of any function of images."""

    indices: tuple[int, ...]

    def __call__(self, predict: Any, *inputs: Array) -> Array:
        logits = predict(*inputs)
        self.check(logits.shape[-1])
        return logits[..., np.array(self.indices)]

    def check(self, num_classes: int) -> None:
        """An index beyond the last logit would silently be that of the last."""
        if max(self.indices) >= num_classes:
            raise ValueError(f"index {max(self.indices)} is beyond the {num_classes} logits of predict")


def select_classes(predict: Predict, indices: Iterable[int]) -> Predict:
    """A net of many classes beside nets of few: `images -> logits[:, indices]`.

    A pytree with the leaves of `predict`; around a `Stochastic` it is a `Stochastic` too. The classes of a
    data set of a net for ImageNet: `select_classes(predict, data.imagenet_indices(dataset.class_names))`.

    Args:
        predict: any.
        indices: which logits, in the order of the labels' classes.

    Returns:
        A predict with logits `[B, len(indices)]`.

    Raises:
        ValueError: no index, no integers, one that comes twice, or one outside of the logits; of a predict
            that does not know how many it has, at its first call.
    """
    given = list(indices)
    if any(isinstance(index, bool | np.bool_) or not hasattr(index, "__index__") for index in given):
        raise ValueError(f"indices must be integers; got {given}")
    chosen = tuple(map(operator.index, given))
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ValueError(f"indices must be different numbers of logits, from 0 on; got {chosen}")
    selection = Selection(chosen)
    function = getattr(predict, "func", None)
    if isinstance(function, Forward) and hasattr(function.module, "num_classes"):
        selection.check(function.module.num_classes)
    if hasattr(predict, "draw"):  # a Stochastic, to which attacks give fresh keys
        return replace(cast(Any, predict), draw=jax.tree_util.Partial(selection, predict.draw))
    return jax.tree_util.Partial(selection, predict)


def train_apply(
    module: nn.Module,
    variables: PyTree,
    images: Array,
    mean: Statistics = 0.0,
    std: Statistics = 1.0,
    key: Key | None = None,
) -> tuple[Array, PyTree]:
    """The net in training mode: logits, and the batch statistics after this batch.

    Args:
        module, variables, mean, std: as in `predictor`.
        images: `[B, H, W, C]` in [0, 1].
        key: for dropout, one or one per example; a net without dropout needs none.

    Returns:
        logits `[B, K]`; the new `batch_stats` (`{}` for a net without).
    """
    images = (images - jnp.asarray(mean)) / jnp.asarray(std)
    module = module_in_mode(module, train=True)
    logits, new = module.apply(
        variables, images, **in_mode(module, train=True), mutable=["batch_stats"], rngs=_streams(key)
    )
    return logits, new.get("batch_stats", {})


def _streams(key: Key | None) -> dict[str, Key] | None:
    """What Linen draws from. Keys per example are those of a step, and a layer draws for the whole batch."""
    if key is None:
        return None
    one = typed(key)
    one = one[0] if one.ndim else one
    return {"dropout": one, "params": fold_in(one, 1)}  # the second is where Linen looks for any other stream
