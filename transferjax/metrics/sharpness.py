"""Sharpness: how much the loss grows in a ball around the weights (or around anything else)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from transferjax.metrics.spectrum import Estimate
from transferjax.norms import norm, unit
from transferjax.random import one_key
from transferjax.typing import Array, Key, PyTree

Scalar = Callable[[PyTree], Array]
"""The loss as a function of the weights alone: a scalar."""


def _direction(key: Key, like: Array) -> Array:
    return unit(jax.random.normal(key, like.shape, like.dtype))


def average_sharpness(key: Key, loss: Scalar, params: PyTree, radius: float, samples: int = 16) -> Estimate:
    """`E_δ L(w + δ) - L(w)` for δ uniform in the l2 ball; near a minimum `ρ² tr H / (2 (N + 2))`.

    Args:
        key: one key.
        loss: `params -> scalar`.
        params: the weights w.
        radius: ρ, in the weights' units.
        samples: draws, at least 2.

    Returns:
        The mean over draws and its standard error.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to know the error; got {samples}")
    weights, unravel = ravel_pytree(params)

    def rise(key: Key) -> Array:
        along, length = jax.random.split(key)
        distance = radius * jax.random.uniform(length, dtype=weights.dtype) ** (1 / weights.size)
        return loss(unravel(weights + distance * _direction(along, weights)))

    rises = jax.lax.map(rise, jax.random.split(one_key(key), samples)) - loss(params)
    return Estimate(rises.mean(), rises.std(ddof=1) / samples**0.5)


def worst_case_sharpness(
    key: Key, loss: Scalar, params: PyTree, radius: float, steps: int = 20, step_size: float = 1.0
) -> Array:
    """`max_{‖δ‖₂ ≤ ρ} L(w + δ) - L(w)` by projected gradient ascent; near a minimum `ρ² λ_max / 2`.

    `δ ← Π_ρ(δ + η ρ g / ‖g‖)` from a random δ of length ρ/100; the best step counts. A lower estimate of the
    maximum; for a quadratic the ascent is a power iteration.

    Args:
        key: one key, for the start: at a minimum the gradient itself points nowhere.
        loss: `params -> scalar`.
        params: the weights w.
        radius: ρ, in the weights' units.
        steps: gradients to spend.
        step_size: η, in units of the radius.

    Reference: Foret et al., "Sharpness-Aware Minimization", ICLR 2021, eq. 1; Andriushchenko and Flammarion,
    "Towards Understanding Sharpness-Aware Minimization", ICML 2022.
    """
    weights, unravel = ravel_pytree(params)
    value_and_grad = jax.value_and_grad(lambda delta: loss(unravel(weights + delta)))

    def ascend(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        delta, best = carry
        value, gradient = value_and_grad(delta)
        delta = delta + step_size * radius * unit(gradient)
        size = norm(delta)
        delta = delta * jnp.minimum(1, radius / jnp.where(size > 0, size, 1))
        return (delta, jnp.maximum(best, value)), None

    start = radius / 100 * _direction(one_key(key), weights)
    here = loss(params)
    (delta, best), _ = jax.lax.scan(ascend, (start, here), None, length=steps)
    return jnp.maximum(best, loss(unravel(weights + delta))) - here
