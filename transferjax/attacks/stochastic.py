"""Predicts that draw: ghost networks, randomized defences."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from transferjax.random import per_example
from transferjax.typing import Array, Key, Predict


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stochastic:
    """A random predict: `draw(keys [B], x) -> logits`, with a key for when nobody gives one.

    Attacks hand it fresh keys at every gradient (its randomness is averaged over, EOT), one per example.
    Called like any predict, it draws from its own key and the place in the batch, so evaluation repeats.
    """

    draw: Callable[[Key, Array], Array]
    key: Key

    def __call__(self, x: Array) -> Array:
        """Logits `[B, K]`."""
        return self.draw(per_example(self.key, x.shape[0]), x)


def with_keys(predict: Predict, keys: Key) -> Predict:
    """The predict, its randomness drawn from `keys [B]` if it has any."""
    if isinstance(predict, Stochastic):
        return lambda x: predict.draw(keys, x)
    return predict
