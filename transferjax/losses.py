"""Classification losses, one value per example; reduce where you call them.

`targets` are classes `[B]` (integers) or probabilities `[B, K]`; `logits` are `[B, K]`. An attack maximizes
these (towards a target: minimizes them), training minimizes them.
"""

import jax
import jax.numpy as jnp

from transferjax.checks import check_loss
from transferjax.naming import place_of
from transferjax.typing import Array, Loss


def values_of(loss: Loss, logits: Array, targets: Array) -> Array:
    """`loss(logits, targets)`, one value per example `[B]`.

    Raises:
        ValueError: another shape, by which the examples would weigh upon each other.
    """
    values = loss(logits, targets)
    if (shape := jnp.shape(values)) != (count := logits.shape[:1]):
        raise ValueError(
            f"the loss {place_of(loss)} must return one value per example, shape {count}; got shape {shape}: "
            "reduce over the classes, and not over the examples"
        )
    return values


def one_hot(labels: Array, num_classes: int, dtype: jnp.dtype = jnp.float32) -> Array:
    """Probabilities `[B, K]` of integer labels `[B]`; probabilities pass through."""
    check_loss((*jnp.shape(labels)[:1], num_classes), labels, "labels")
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return labels


def probabilities(logits: Array, targets: Array) -> Array:
    """The targets as probabilities, shaped like the logits: what all losses begin with.

    Raises:
        ValueError: targets that are neither classes `[B]` nor probabilities `[B, K]`, see `check_loss`.
    """
    check_loss(logits.shape, targets)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    return targets


def of_class(logits: Array, classes: Array) -> Array:
    """Each example's entry of its class, `z[i, k_i]`, `[B]`."""
    return jnp.take_along_axis(logits, classes[:, None], -1)[:, 0]


def _split(logits: Array, targets: Array) -> tuple[Array, Array]:
    """The logit of the (most probable) target class, and the largest other logit."""
    truth = jax.nn.one_hot(probabilities(logits, targets).argmax(-1), logits.shape[-1], dtype=bool)
    of_target = jnp.where(truth, logits, 0).sum(-1)
    return of_target, jnp.where(truth, -jnp.inf, logits).max(-1)


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Soft-target cross-entropy `-Σ_k t_k log softmax(z)_k`, `[B]`, in float32 at least.

    Written as `Σ_k t_k (z_top - z_k) + Σ_k t_k log1p(Σ_{k≠top} exp(z_k - z_top))` with the largest logit
    z_top: its derivatives of every order keep their relative precision where the net is sure and `p - t`,
    which is what the usual form leaves to the gradient, cancels to zero.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    targets = probabilities(logits, targets)
    top = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
    below = jnp.where(top, 0, logits - jnp.where(top, logits, 0).sum(-1, keepdims=True))
    others = jnp.where(top, 0, jnp.exp(below)).sum(-1)
    impossible = (targets == 0) & jnp.isneginf(below)
    return targets.sum(-1) * jnp.log1p(others) - (targets * jnp.where(impossible, 0, below)).sum(-1)


def logit(logits: Array, targets: Array) -> Array:
    """The logit loss `-Σ_k t_k z_k`, `[B]`: minus the target's logit for hard labels.

    Reference: Zhao et al., "On Success and Simplicity", NeurIPS 2021.
    """
    return -(probabilities(logits, targets) * logits).sum(-1)


def margin(logits: Array, targets: Array) -> Array:
    """The margin `max_{k≠y} z_k - z_y`, `[B]`; positive where the classifier does not say y.

    Reference: Carlini & Wagner, S&P 2017, loss f6.
    """
    of_target, of_other = _split(logits, targets)
    return of_other - of_target


def dlr(logits: Array, targets: Array) -> Array:
    """Difference of logits ratio `(max_{k≠y} z_k - z_y) / (z_π1 - z_π3)`, `[B]`; needs three classes.

    Reference: Croce & Hein, ICML 2020, eq. 6.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"dlr needs at least 3 classes, got logits of shape {logits.shape}; use margin")
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, targets) / (top[..., 0] - top[..., 2] + 1e-12)
