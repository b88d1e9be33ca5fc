"""Nets as functions of images in [0, 1]: for attacks and metrics (`predictor`), and for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferjax.random import one_key
from transferjax.typing import Array, Key, Predict, PyTree

Statistics = float | Sequence[float] | np.ndarray | Array


@dataclass(frozen=True)
class Forward:
    """The static part of a predictor: equal for equal modules, so new weights do not recompile."""

    module: nn.Module

    def __call__(self, variables: PyTree, mean: Array, std: Array, images: Array) -> Array:
        logits = self.module.apply(variables, (images - mean) / std)
        return cast(Array, logits)


def predictor(module: nn.Module, variables: PyTree, mean: Statistics = 0.0, std: Statistics = 1.0) -> Predict:
    """`images in [0, 1] -> logits`: the net in evaluation mode with its normalization inside.

    A pytree whose leaves are the weights: pass it to jitted functions as an argument. Two predictors of equal
    modules share one compilation.

    Args:
        module: a net whose `apply(variables, images)` gives logits.
        variables: `{"params": …}` and, if the net has any, `"batch_stats"`.
        mean, std: of the training images, a number or one per channel; the net sees `(images - mean) / std`.

    Raises:
        ValueError: a std that is not positive.
    """
    if not isinstance(std, jax.core.Tracer) and not np.all(np.asarray(std) > 0):
        raise ValueError(f"std must be positive, got {std}")
    as_array = lambda value: jnp.asarray(value, jnp.result_type(float))  # noqa: E731
    return jax.tree_util.Partial(Forward(module), variables, as_array(mean), as_array(std))


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
        key: for dropout; a net without dropout needs none.

    Returns:
        logits `[B, K]`; the new `batch_stats` (`{}` for a net without).
    """
    rngs = None if key is None else {"dropout": one_key(key)}
    images = (images - jnp.asarray(mean)) / jnp.asarray(std)
    logits, new = module.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
    return logits, new.get("batch_stats", {})
