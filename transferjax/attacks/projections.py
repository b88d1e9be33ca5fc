"""The budget: project on it, draw from it, round inside it.

The feasible set of an attack is the ball of radius `eps` around the clean image, intersected with [0, 1].
Images are `[B, H, W, C]`, each with a ball of its own; `norm` is "linf" or "l2"; `eps` is in
pixel units of [0, 1].
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from transferjax.norms import norm, unit
from transferjax.random import sample
from transferjax.typing import Array, Key, Projection

T = TypeVar("T")

Start = Callable[[Key, Array], Array]
"""(keys `[B]`, clean images) -> where the ascent begins, not yet projected."""

NORMS = ("linf", "l2")


def _of_norm(norm: str, **choices: T) -> T:
    if norm not in choices:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    return choices[norm]


def l2_norm(x: Array) -> Array:
    """`‖x_b‖₂`, shaped `[B, 1, 1, 1]` to broadcast over the images."""
    return norm(x, tuple(range(1, x.ndim)), keepdims=True)


def linf(eps: float) -> Projection:
    """Nearest point with `‖x - x0‖∞ ≤ eps` and x in [0, 1]: `clip(x, max(x0 - eps, 0), min(x0 + eps, 1))`."""

    def project(x: Array, x0: Array) -> Array:
        return jnp.clip(x, jnp.maximum(x0 - eps, 0), jnp.minimum(x0 + eps, 1))

    return project


def l2(eps: float) -> Projection:
    """Scale `x - x0` to the L2 ball, then clip to [0, 1]: feasible, and the field's usual choice.

    Not the nearest feasible point (`l2_nearest` is), but what torchattacks, foolbox and published numbers
    use.
    """

    def project(x: Array, x0: Array) -> Array:
        d = x - x0
        size = l2_norm(d)
        return jnp.clip(x0 + d * jnp.minimum(1, eps / jnp.where(size > 0, size, 1)), 0, 1)

    return project


def l2_nearest(eps: float) -> Projection:
    """Nearest point with `‖x - x0‖₂ ≤ eps` and x in [0, 1]: `clip(x0 + t (x - x0), 0, 1)`, the largest t ≤ 1.

    Where `l2` leaves budget unused, because a pixel hits 0 or 1, this one spends it on the others. With S the
    pixels that hit it, at distances b, the exact t solves `Σ_S b² + t² Σ_rest (x - x0)² = eps²`; S only grows
    with t, so repeating the solution reaches it in finitely many rounds. An image is at its fixed point or is
    not, whatever the rest of its batch does.
    """

    def project(x: Array, x0: Array) -> Array:
        d = x - x0
        room = jnp.where(d > 0, 1 - x0, x0)  # how far a pixel can go before it hits 0 or 1
        size = jnp.abs(d)

        def solve(t: Array) -> Array:
            hit = t * size >= room
            spent, free = l2_norm(jnp.where(hit, room, 0)), l2_norm(jnp.where(hit, 0, size))
            left = jnp.sqrt(jnp.maximum(eps - spent, 0)) * jnp.sqrt(eps + spent)
            t_next = left / jnp.where(free > 0, free, 1)
            return jnp.clip(jnp.where(free > 0, t_next, 1), t, 1)

        start = jnp.zeros_like(l2_norm(x))
        t, _ = jax.lax.while_loop(
            lambda pair: jnp.any(pair[0] > pair[1]),
            lambda pair: (solve(pair[0]), pair[0]),
            (solve(start), start),
        )
        return jnp.clip(x0 + t * d, 0, 1)

    return project


def inwards(x: Array, x0: Array) -> Array:
    """`x` in the dtype of `x0`; a pixel that this would round away from x0 is rounded towards it.

    So no image leaves a ball around x0 by its rounding, whatever the norm.
    """
    if x.dtype == x0.dtype:
        return x
    clean, near = x0.astype(x.dtype), x.astype(x0.dtype)
    wide = near.astype(x.dtype)  # compared and not subtracted: a difference would be rounded itself
    away = jnp.where(x < clean, wide < x, wide > x)
    return jnp.where(away, jnp.nextafter(near, x0), near)


def ball(norm: str, eps: float) -> Projection:
    """The projection of that norm: `linf(eps)` or `l2(eps)`."""
    return _of_norm(norm, linf=linf, l2=l2)(eps)


def uniform(norm: str, eps: float) -> Start:
    """A start drawn uniformly from the ball, before it is cut by [0, 1].

    Reference: Madry et al., ICLR 2018.
    """

    def linf_noise(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, -eps, eps)

    def l2_noise(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        direction, radius = jax.random.split(key)
        d = jax.random.normal(direction, shape, dtype)
        u = jax.random.uniform(radius, (), dtype)
        return eps * u ** (1 / math.prod(shape)) * unit(d)

    draw = _of_norm(norm, linf=linf_noise, l2=l2_noise)
    return lambda keys, x0: x0 + sample(draw, keys, x0.shape[1:], x0.dtype)


def eight_bit(norm: str, eps: float) -> Projection:
    """Round to multiples of 1/255 without leaving the ball, for images that will be stored as 8-bit PNGs.

    L∞: the nearest level inside the ball. L2: the nearest level of every pixel if that stays in the ball,
    else each pixel's nearest level on the way to x0. Clean images stored in 8 bits have levels in every ball;
    a pixel of an x0 that is off the levels, with none in its ball, is left at x0.
    """

    def linf_round(x: Array, x0: Array) -> Array:
        # 1e-4 levels (4e-7) of grace: 8/255 in floating point may fall a hair short of eight levels.
        low = jnp.ceil(255 * jnp.maximum(x0 - eps, 0) - 1e-4)
        high = jnp.floor(255 * jnp.minimum(x0 + eps, 1) + 1e-4)
        return jnp.where(low <= high, jnp.clip(jnp.round(255 * x), low, high) / 255, x0)

    def l2_round(x: Array, x0: Array) -> Array:
        nearest = jnp.round(255 * x) / 255
        inwards = jnp.where(x > x0, jnp.floor(255 * x), jnp.ceil(255 * x)) / 255
        inwards = jnp.where((inwards - x0) * (x - x0) >= 0, inwards, x0)
        return jnp.where(l2_norm(nearest - x0) <= eps, nearest, inwards)

    return _of_norm(norm, linf=linf_round, l2=l2_round)
