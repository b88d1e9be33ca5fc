"""FAB: the smallest perturbation, by steps to the linearized boundary that stay near the clean image."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.attacks.catalogue.auto_attack.apgd import ranked_classes
from transferjax.attacks.catalogue.auto_attack.loop import is_fooled, logits_of, pick, until_fooled
from transferjax.attacks.projections import ball, l2_norm
from transferjax.attacks.recipe import recipe
from transferjax.losses import of_class
from transferjax.random import fold_in, per_example, sample
from transferjax.typing import Array, Attack, Key, Predict

AXES = (1, 2, 3)


def _size(norm: str, x: Array) -> Array:
    """The length of each image, `[B, 1, 1, 1]`."""
    return jnp.abs(x).max(AXES, keepdims=True) if norm == "linf" else l2_norm(x)


def to_hyperplane(norm: str, x: Array, w: Array, gap: Array) -> Array:
    """The shortest d with `⟨w, d⟩ = gap` and `x + d` in [0, 1]; as near as the box allows if it does not.

    `d_i = s_i min(t a_i, room_i)` with signs s that close the gap, a = 1 (L∞) or |w| (L2), and the one t for
    which `Σ |w_i| min(t a_i, room_i) = |gap|`. The pixels that hit their room only become more as t grows, so
    solving for the others again and again ends at the exact t after finitely many rounds.

    Args:
        x: `[B, H, W, C]` in [0, 1].
        w: normals, like x.
        gap: `[B]`.

    Reference: Croce & Hein, "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
    ICML 2020; they sort the pixels.
    """
    direction = jnp.sign(w) * jnp.sign(gap)[:, None, None, None]
    room = jnp.where(direction > 0, 1 - x, x)
    weight = jnp.abs(w)
    largest = weight.max(AXES, keepdims=True)
    largest = jnp.where(largest > 0, largest, 1)
    weight = weight / largest  # so that no square underflows
    speed = (weight > 0).astype(x.dtype) if norm == "linf" else weight
    goal = jnp.abs(gap)[:, None, None, None] / largest

    def solve(t: Array) -> Array:
        hit = t * speed >= room
        left = goal - jnp.sum(jnp.where(hit, weight * room, 0), AXES, keepdims=True)
        pace = jnp.sum(jnp.where(hit, 0, weight * speed), AXES, keepdims=True)
        # With every pixel at its border any t does; keeping it ends the loop.
        return jnp.where(pace > 0, jnp.maximum(left / jnp.where(pace > 0, pace, 1), t), t)

    zero = jnp.zeros_like(goal)
    t, _ = jax.lax.while_loop(
        lambda pair: jnp.any(pair[0] > pair[1]),
        lambda pair: (solve(pair[0]), pair[0]),
        (solve(zero), zero - 1),
    )
    return direction * jnp.minimum(t * speed, room)


class State(NamedTuple):
    """Where FAB is, and the nearest adversarial example so far."""

    x: Array
    nearest: Array
    distance: Array


Boundary = Callable[[Array, Key], tuple[Array, Array]]
"""(x, keys) -> (signed difference of logits `[B]`, negative while the label wins, and its gradient)"""


def _towards(predict: Predict, labels: Array, targets: Array) -> Boundary:
    """The boundary between the label and one target each."""

    def boundary(x: Array, keys: Key) -> tuple[Array, Array]:
        def difference(x: Array) -> tuple[Array, Array]:
            z = logits_of(predict, keys, x)
            values = of_class(z, targets) - of_class(z, labels)
            return values.sum(), values

        grads, values = jax.grad(difference, has_aux=True)(x)
        return values, grads

    return boundary


def _nearest(predict: Predict, labels: Array, norm: str) -> Boundary:
    """The boundary that is nearest in the linearized net: one backward pass for each class."""

    def boundary(x: Array, keys: Key) -> tuple[Array, Array]:
        z, pull = jax.vjp(lambda x: logits_of(predict, keys, x), x)
        truth = jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)
        own = (z * truth).sum(-1)

        def look(best: tuple[Array, Array, Array], k: Array) -> tuple[tuple[Array, Array, Array], None]:
            values = z[:, k] - own
            (grads,) = pull(jax.nn.one_hot(k, z.shape[-1], dtype=z.dtype) - truth)
            dual = jnp.abs(grads).sum(AXES) if norm == "linf" else l2_norm(grads)[:, 0, 0, 0]
            distance = jnp.where(labels == k, jnp.inf, jnp.abs(values) / jnp.where(dual > 0, dual, 1e-12))
            nearer = distance < best[0]
            return (
                jnp.minimum(distance, best[0]),
                jnp.where(nearer, values, best[1]),
                pick(nearer, grads, best[2]),
            ), None

        start = jnp.full(own.shape, jnp.inf, z.dtype), own, jnp.zeros_like(x)
        return jax.lax.scan(look, start, jnp.arange(z.shape[-1]))[0][1:]

    return boundary


def _start(norm: str, eps: float, keys: Key, x: Array) -> Array:
    """A random point half way to the border of the ball."""
    if norm == "linf":
        noise = sample(jax.random.uniform, keys, x.shape[1:], x.dtype, -1, 1)
    else:
        noise = sample(jax.random.normal, keys, x.shape[1:], x.dtype)
    return jnp.clip(x + 0.5 * eps * noise / _size(norm, noise), 0, 1)


def _run(norm: str, steps: int, alpha_max: float, eta: float, beta: float):
    """One run from x: `(x, boundary, keys, predict, images, labels) -> (nearest example, distance)`."""

    def attack(
        x: Array, boundary: Boundary, keys: Key, predict: Predict, images: Array, labels: Array
    ) -> tuple[Array, Array]:
        def step(s: State, number: Array) -> tuple[State, None]:
            now = fold_in(keys, number)
            value, w = boundary(s.x, now)
            value, w = value.astype(s.x.dtype), w.astype(s.x.dtype)
            from_x = to_hyperplane(norm, s.x, w, -value)
            inner = jnp.sum(w * (images - s.x), AXES)
            from_clean = to_hyperplane(norm, images, w, -value - inner)
            near, far = (jnp.maximum(_size(norm, d), 1e-8) for d in (from_x, from_clean))
            bias = jnp.minimum(near / (near + far), alpha_max)
            x = (1 - bias) * (s.x + eta * from_x) + bias * (images + eta * from_clean)
            x = jnp.clip(x, 0, 1)
            fools = is_fooled(predict, now, x, labels)
            distance = _size(norm, x - images)[:, 0, 0, 0]
            nearer = fools & (distance < s.distance)
            return State(
                x=pick(fools, images + beta * (x - images), x),
                nearest=pick(nearer, x, s.nearest),
                distance=jnp.where(nearer, distance, s.distance),
            ), None

        first = State(x, images, jnp.full(len(x), jnp.inf, x.dtype))
        last, _ = jax.lax.scan(step, first, jnp.arange(steps))
        return last.nearest, last.distance

    return attack


@recipe(alone=True)
def fab(
    eps: float,
    steps: int = 100,
    *,
    norm: str = "linf",
    restarts: int = 1,
    target_classes: int = 0,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Attack:
    """Fast adaptive boundary: the nearest adversarial example, if it lies in the ball.

    Else what was found is pulled back into the ball (and fools nobody). Images that the net gets wrong
    already are returned as they are.

    Args:
        restarts: the first from the clean image, the others from random points around it.
        target_classes: FAB-T towards that many most likely other classes in turn, one backward pass a step; 0
            for untargeted FAB, one for each class.
        alpha_max: how far a step may be pulled towards the clean image.
        eta: overshoot of the boundary.
        beta: step back towards the clean image after success.

    Reference: Croce & Hein, ICML 2020, algorithm 1.
    """
    one_run = _run(norm, steps, alpha_max, eta, beta)

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        keys = per_example(key, len(images))
        logits = logits_of(predict, keys, images)
        ranked = ranked_classes(logits, labels)
        count = min(target_classes, ranked.shape[1]) or 1

        def attempt(number: Array) -> tuple[Array, Array]:
            now = fold_in(keys, number)
            if target_classes:
                boundary = _towards(predict, labels, ranked[:, number % count])
            else:
                boundary = _nearest(predict, labels, norm)
            random = _start(norm, eps, fold_in(now, 0), images)
            x = jnp.where(number < count, images, random)
            nearest, distance = one_run(x, boundary, fold_in(now, 1), predict, images, labels)
            return ball(norm, eps)(nearest, images), distance <= eps

        return until_fooled(images, logits.argmax(-1) != labels, attempt, restarts * count)[0]

    return attack
