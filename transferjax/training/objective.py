"""The training objective: mean loss plus penalties that share one pullback to the images."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from transferjax.checks import check_batch, check_tuple
from transferjax.losses import cross_entropy
from transferjax.random import fold_in
from transferjax.typing import Array, Batch, Key, Loss, Memory, Penalty, PyTree

Forward: TypeAlias = Callable[[dict[str, PyTree], Key, Array], tuple[Array, PyTree]]
"""(variables, keys, images `[B, H, W, C]`) -> (logits `[B, K]`, new batch statistics), in training mode."""

Objective: TypeAlias = Callable[[PyTree, Memory, Key, Batch], tuple[Array, Memory]]
"""(params, memory, keys, batch) -> (scalar, memory with new `batch_stats` and `metrics`)."""


def objective(
    forward: Forward, *, loss: Loss = cross_entropy, penalties: tuple[Penalty, ...] = ()
) -> Objective:
    """`mean_i loss(z_i, t_i) + Σ_j penalty_j`.

    The forward pass is linearized w.r.t. the images once, and only if a penalty asks for it. Gradients of a
    penalty flow through the batch statistics, which couple the images of a batch, as in the official code.

    Args:
        forward: the network in training mode.
        loss: one value per example.
        penalties: of `training.penalties`; penalty j draws with the keys folded with j.

    Raises:
        ValueError: penalties that are no tuple; when it is called, targets that are no probabilities, or
            images of bytes.

    Returns:
        An objective; `metrics` in its memory holds `loss` (without penalties) and `accuracy`.
    """

    check_tuple("penalties", penalties, "penalties", "penalty")

    def value(params: PyTree, memory: Memory, keys: Key, batch: Batch) -> tuple[Array, Memory]:
        check_batch(batch)
        kind = batch.images.dtype
        if not jnp.issubdtype(kind, jnp.floating):  # crops and flips take bytes, and no net does
            raise ValueError(f"images of a batch must be floats in [0, 1]; got {kind}: data.to_float(images)")
        variables = {"params": params, "batch_stats": memory["batch_stats"]}

        def logits_of(images: Array) -> tuple[Array, PyTree]:
            return forward(variables, keys, images)

        if penalties:
            logits, pullback, batch_stats = jax.vjp(logits_of, batch.images, has_aux=True)
        else:
            logits, batch_stats = logits_of(batch.images)
        plain = loss(logits, batch.targets).mean()
        total = plain
        for j, penalty in enumerate(penalties):
            cotangents = lambda d_logits: pullback(d_logits)[0]  # noqa: E731
            total = total + penalty(fold_in(keys, j), logits, batch.targets, cotangents)
        accuracy = jnp.mean(logits.argmax(-1) == batch.targets.argmax(-1))
        metrics = {"loss": plain, "accuracy": accuracy}
        return total, {**memory, "batch_stats": batch_stats, "metrics": metrics}

    return value
