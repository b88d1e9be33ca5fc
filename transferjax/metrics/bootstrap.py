"""From per-example numbers to a data set's: mean and supremum with a bootstrap confidence interval."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.random import one_key
from transferjax.typing import Array, Key


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: Array
    low: Array
    high: Array


def bootstrap_interval(
    key: Key,
    values: Array,
    statistic: Callable[[Array], Array] = jnp.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """A statistic of values `[N]` and its percentile bootstrap interval.

    Draws N of the N examples with replacement, `resamples` times, and takes the quantiles
    `(1 ± level)/2` of the statistic over the draws.

    Args:
        key: one key.
        values: one number per example; a tuple of them is drawn jointly, say for a correlation.
        statistic: `values -> scalar`. The mean is the expected smoothness. `jnp.max` estimates the supremum
            from below, and its interval cannot reach above the sample's maximum: the bootstrap is known to
            fail for extremes, so read it as how much one image decides.
        level: coverage, in (0, 1).
        resamples: how many draws.

    Reference: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979; for extremes Bickel and
    Freedman, 1981, section 6.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}")
    count = len(jax.tree.leaves(values)[0])
    if count == 0:
        raise ValueError("values are empty")

    def draw(key: Key) -> Array:
        chosen = jax.random.randint(key, (count,), 0, count)
        return statistic(jax.tree.map(lambda each: each[chosen], values))

    draws = jax.lax.map(draw, jax.random.split(one_key(key), resamples))
    low, high = jnp.quantile(draws, jnp.array([(1 - level) / 2, (1 + level) / 2]))
    return Interval(statistic(values), low, high)
