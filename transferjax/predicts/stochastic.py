"""Predicts that draw: ghost networks, randomized defences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import jax

from transferjax.random import fold_in, per_example
from transferjax.typing import Array, Key


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


T = TypeVar("T")
INSIDE = 0x1A51DE


def inside(predict: T, keys: Key) -> T:
    """What stands inside of a net that draws from `keys [B]`, drawing apart from it.

    A net that asks it several times gives keys of each time: its randomness is averaged over, too.
    """
    return with_keys(predict, fold_in(keys, INSIDE))


def with_keys(predict: T, keys: Key) -> T:
    """The predict, its randomness drawn from `keys [B]` if it has any, or if one inside of it has."""
    inside = 0

    def fresh(part: Any) -> Any:
        nonlocal inside
        if not isinstance(part, Stochastic):
            return part
        inside += 1
        return replace(part, draw=with_keys(part.draw, fold_in(keys, inside)), key=fold_in(keys, inside))

    if isinstance(predict, Stochastic):
        return cast(T, replace(predict, draw=with_keys(predict.draw, keys), key=keys))
    return jax.tree.map(fresh, predict, is_leaf=lambda part: isinstance(part, Stochastic))
