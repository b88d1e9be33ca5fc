"""Auto-PGD: projected ascent with momentum that halves its own step when progress stalls."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.catalogue.auto_attack.loop import (
    gradient_and_logits,
    is_fooled,
    logits_of,
    pick,
    until_fooled,
)
from transferjax.attacks.projections import ball
from transferjax.attacks.recipe import recipe
from transferjax.attacks.updates import applied, direction
from transferjax.attacks.vocabulary import loss_of
from transferjax.checks import check_labels
from transferjax.losses import dlr, margin, of_class
from transferjax.norms import unit
from transferjax.random import fold_in, per_example, sample
from transferjax.typing import Array, Attack, Key, Loss, Predict


class State(NamedTuple):
    """All that APGD carries from step to step; arrays `[B, …]`, but for the number of the step."""

    number: Array
    x: Array
    previous: Array
    gradient: Array
    value: Array
    step_size: Array
    best: Array  # the image of the highest loss, its gradient and loss
    best_gradient: Array
    best_value: Array
    rises: Array  # steps since the last checkpoint that raised the loss
    checked_value: Array  # the best loss at the last checkpoint
    reduced: Array  # whether the last checkpoint halved the step
    fooling: Array  # the first image that fooled the net
    fooled: Array


def checkpoints(steps: int) -> np.ndarray:
    """For each step the length of the window that ends there, or 0.

    `p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)`, from 0 and 0.22, in shares of all steps.
    """
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    windows, last = np.zeros(steps, np.int32), 0
    while last + window <= steps:
        last += window
        windows[last - 1] = window
        window = max(window - shrink, least)
    return windows


def _start(norm: str, eps: float, keys: Key, x: Array) -> Array:
    """A random point on the border of the ball, before it is cut by [0, 1]."""
    if norm == "linf":
        noise = sample(jax.random.uniform, keys, x.shape[1:], x.dtype, -1, 1)
        return x + eps * noise / jnp.abs(noise).max((1, 2, 3), keepdims=True)
    noise = sample(jax.random.normal, keys, x.shape[1:], x.dtype)
    return x + eps * unit(noise, (1, 2, 3))


def run(
    norm: str,
    eps: float,
    steps: int,
    loss: Loss,
    *,
    rho: float = 0.75,
    eot: int = 1,
    until_success: bool = True,
) -> Callable[[Key, Predict, Array, Array], tuple[Array, Array]]:
    """One run of APGD: `(keys [B], predict, images, labels) -> (images, fooled)`.

    Args:
        norm, eps, steps: budget and number of steps.
        loss: what to raise.
        rho: ρ, the share of rising steps below which the step is halved.
        eot: gradients to average for a random predict.
        until_success: stop once all images are fooled, and prefer the image that fooled the net to the one of
            the highest loss.
    """
    project = ball(norm, eps)
    up = direction(norm)
    windows = jnp.asarray(checkpoints(steps))

    def attack(keys: Key, predict: Predict, images: Array, labels: Array) -> tuple[Array, Array]:
        grad_fn = gradient_and_logits(predict, loss, eot)

        def look(x: Array, number: Array | int) -> tuple[Array, Array, Array]:
            memory = {"logits": jnp.zeros_like(logits)}
            (value, memory), gradient = grad_fn(x, memory, fold_in(keys, number + 1), labels)
            return value, gradient, memory["logits"].argmax(-1) != labels

        def move(s: State) -> Array:
            share = jnp.where(s.number > 0, 0.75, 1.0)
            length = s.step_size[:, None, None, None]
            ahead = project(s.x + length * applied(up, s.gradient), images)
            return project(s.x + share * (ahead - s.x) + (1 - share) * (s.x - s.previous), images)

        def step(s: State) -> State:
            x = move(s)
            value, gradient, fools = look(x, s.number)
            better = value > s.best_value
            window = windows[s.number]
            s = s._replace(
                x=x,
                previous=s.x,
                gradient=gradient,
                value=value,
                best=pick(better, x, s.best),
                best_gradient=pick(better, gradient, s.best_gradient),
                best_value=jnp.maximum(value, s.best_value),
                rises=s.rises + (value > s.value),
                fooling=pick(fools & ~s.fooled, x, s.fooling),
                fooled=s.fooled | fools,
            )
            s = jax.tree.map(lambda a, b: jnp.where(window > 0, a, b), _checkpoint(s, window, rho), s)
            return s._replace(number=s.number + 1)

        def unfinished(s: State) -> Array:
            return (s.number < steps) & ~(until_success & jnp.all(s.fooled))

        logits = jax.eval_shape(lambda x: logits_of(predict, keys, x), images)
        x = project(_start(norm, eps, fold_in(keys, 0), images), images)
        value, gradient, fools = look(x, 0)
        s = jax.lax.while_loop(
            unfinished,
            step,
            State(
                number=jnp.zeros((), jnp.int32),
                x=x,
                previous=x,
                gradient=gradient,
                value=value,
                step_size=jnp.full(value.shape, 2 * eps, x.dtype),
                best=x,
                best_gradient=gradient,
                best_value=value,
                rises=jnp.zeros(value.shape, jnp.int32),
                checked_value=value,
                reduced=jnp.ones(value.shape, bool),
                fooling=x,
                fooled=fools,
            ),
        )
        return (pick(s.fooled, s.fooling, s.best) if until_success else s.best), s.fooled

    return attack


def _checkpoint(s: State, window: Array, rho: float) -> State:
    """Halve the step and return to the best image where the loss rose too seldom, or nothing got better."""
    stalls = s.rises <= rho * window
    stuck = ~s.reduced & (s.checked_value >= s.best_value)
    halve = stalls | stuck
    return s._replace(
        step_size=jnp.where(halve, s.step_size / 2, s.step_size),
        x=pick(halve, s.best, s.x),
        gradient=pick(halve, s.best_gradient, s.gradient),
        rises=jnp.zeros_like(s.rises),
        checked_value=s.best_value,
        reduced=halve,
    )


def targeted_dlr(targets: Array) -> Loss:
    """`-(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2)`, `[B]`; needs four classes.

    Reference: Croce & Hein, ICML 2020.
    """

    def loss(logits: Array, labels: Array) -> Array:
        if logits.shape[-1] < 4:
            raise ValueError(f"the targeted DLR loss needs at least 4 classes; got {logits.shape[-1]}")
        for name, classes in (("labels", labels), ("targets", targets)):
            check_labels(classes, len(logits), name=name)
        top = jax.lax.top_k(logits, 4)[0]
        difference = of_class(logits, targets) - of_class(logits, labels)
        return difference / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)

    return loss


def dlr_or_margin(logits: Array, labels: Array) -> Array:
    """DLR, and for two classes, which it is not defined for, the margin."""
    return (dlr if logits.shape[-1] >= 3 else margin)(logits, labels)


def towards(targets: Array, num_classes: int) -> Loss:
    """The targeted DLR, and for fewer than the four classes that it needs `z_t - z_y`."""

    if num_classes >= 4:
        return targeted_dlr(targets)
    return lambda logits, labels: of_class(logits, targets) - of_class(logits, labels)


def ranked_classes(logits: Array, labels: Array) -> Array:
    """The classes but the label, the most likely first, `[B, K - 1]`.

    Raises:
        ValueError: a single class.
    """
    if logits.shape[-1] < 2:
        raise ValueError(
            f"an attack needs at least 2 classes; predict returned logits of shape {logits.shape}: for the "
            "one logit z of a binary net return jnp.concatenate([jnp.zeros_like(z), z], -1)"
        )
    others = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    return jnp.argsort(-others, axis=-1)[:, :-1]


@recipe(alone=True)
def apgd(
    eps: float,
    steps: int = 100,
    *,
    norm: str = "linf",
    loss: str | Loss = "cross_entropy",
    restarts: int = 1,
    rho: float = 0.75,
    eot: int = 1,
    until_success: bool = True,
) -> Attack:
    """Auto-PGD; loss="dlr" for the difference of logits ratio.

    Images that the net gets wrong already are returned as they are, if `until_success`.

    Args:
        restarts: runs from other random points, for images that are not fooled yet.
        rho: ρ of the checkpoints.
        eot: gradients to average for a random predict.
        until_success: False runs all steps and returns the image of the highest loss: for transfer.

    Reference: Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
    Parameter-free Attacks", ICML 2020, algorithm 1.
    """
    one_run = run(norm, eps, steps, loss_of(loss), rho=rho, eot=eot, until_success=until_success)

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        keys = per_example(key, len(images))
        fooled = is_fooled(predict, keys, images, labels) & until_success

        def attempt(number: Array) -> tuple[Array, Array]:
            return one_run(fold_in(keys, number), predict, images, labels)

        return until_fooled(images, fooled, attempt, restarts)[0]

    return attack


@recipe(alone=True)
def apgd_t(
    eps: float,
    steps: int = 100,
    *,
    norm: str = "linf",
    target_classes: int = 9,
    restarts: int = 1,
    rho: float = 0.75,
    eot: int = 1,
) -> Attack:
    """Auto-PGD with the targeted DLR loss, towards the `target_classes` most likely other classes in turn.

    With two or three classes (the targeted DLR needs four) the loss is the difference between the logits of
    the target and the label.

    Reference: Croce & Hein, ICML 2020.
    """

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        keys = per_example(key, len(images))
        logits = logits_of(predict, keys, images)
        ranked = ranked_classes(logits, labels)
        count = min(target_classes, ranked.shape[1])

        def attempt(number: Array) -> tuple[Array, Array]:
            loss = towards(ranked[:, number % count], logits.shape[-1])
            one_run = run(norm, eps, steps, loss, rho=rho, eot=eot)
            return one_run(fold_in(keys, number), predict, images, labels)

        return until_fooled(images, logits.argmax(-1) != labels, attempt, restarts * count)[0]

    return attack
