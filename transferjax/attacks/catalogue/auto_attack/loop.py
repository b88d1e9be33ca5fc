"""What the attacks of AutoAttack share: they stop where the net is fooled, and shapes never change.

An image that is fooled keeps the adversarial example that did it, whatever happens to the rest of its batch;
a loop ends when all are fooled. So results do not depend on the batch, and nothing recompiles.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from transferjax.attacks.ascend import logits_of
from transferjax.attacks.rules import average
from transferjax.typing import Array, GradFn, Key, Loss, Memory, Predict

Attempt = Callable[[Array], tuple[Array, Array]]
"""number of the attempt -> (candidates `[B, H, W, C]`, fooled `[B]`)"""


def pick(condition: Array, yes: Array, no: Array) -> Array:
    """`where` with a condition `[B]` for arrays `[B, …]`."""
    return jnp.where(condition.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no)


def is_fooled(predict: Predict, keys: Key, x: Array, labels: Array) -> Array:
    """Whether each image is not given its label, `[B]`."""
    return logits_of(predict, keys, x).argmax(-1) != labels


def gradient_and_logits(predict: Predict, loss: Loss, eot: int = 1) -> GradFn:
    """The gradient of the loss, averaged over `eot` draws of a random predict; logits go to the memory."""

    def grad_fn(x: Array, memory: Memory, keys: Key, labels: Array):
        def objective(x: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = logits_of(predict, keys, x)
            values = loss(logits, labels)
            return values.sum(), (values, logits)

        (_, (values, logits)), grads = jax.value_and_grad(objective, has_aux=True)(x)
        return (values, memory | {"logits": logits}), grads

    return average(lambda keys, x, number: x, eot)(grad_fn)


def until_fooled(x: Array, fooled: Array, attempt: Attempt, attempts: int) -> tuple[Array, Array]:
    """Attempt after attempt, until all are fooled: (images, fooled).

    Images that no attempt fools keep the candidate of the first one.

    Args:
        x: `[B, H, W, C]`, kept by images that are fooled from the beginning.
        fooled: `[B]`, of images that need no attempt.
        attempt: its number -> candidates and their success.
        attempts: how many.
    """

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, x, fooled = state
        candidates, success = attempt(number)
        x = pick(~fooled & (success | (number == 0)), candidates, x)
        return number + 1, x, fooled | success

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return (state[0] < attempts) & ~jnp.all(state[2])

    _, x, fooled = jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), x, fooled))
    return x, fooled
