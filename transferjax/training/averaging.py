"""Averages of the weights along training, kept in the optimizer's state: the last link of an optax chain.

    optimizer = optax.chain(sgd(0.1), ema(0.999))
    params = averaged_params(state.opt_state)

The average has weights of its own but no batch statistics: recompute them with `recompute_batch_stats`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from transferjax.checks import check_numbers
from transferjax.typing import Array, PyTree


class AverageState(NamedTuple):
    """`average` of `averaged` weights, after `step` steps."""

    average: PyTree
    averaged: Array
    step: Array


def _averaging(
    weight: Callable[[Array], Array], counts: Callable[[Array], Array]
) -> optax.GradientTransformation:
    """`average ← average + weight(count) (w − average)` after each step that counts; updates pass through."""

    def init(params: PyTree) -> AverageState:
        return AverageState(
            jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        )

    def update(updates: PyTree, state: AverageState, params: PyTree = None) -> tuple[PyTree, AverageState]:
        if params is None:
            raise ValueError("averaging needs the parameters: optimizer.update(grads, state, params)")
        step = state.step + 1
        counted = counts(step)
        rate = jnp.where(counted, weight(state.averaged), 0.0)
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, w: a + (rate * (w - a)).astype(a.dtype), state.average, new)
        return updates, AverageState(average, state.averaged + counted, step)

    return optax.GradientTransformation(init, update)


def ema(decay: float) -> optax.GradientTransformation:
    """Exponential moving average `a ← d a + (1 − d) w`, from the initial weights, every step.

    Raises:
        ValueError: a decay outside of [0, 1).
    """
    check_numbers(decay=decay)
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: expected at least 0 and less than 1")
    return _averaging(lambda count: jnp.float32(1 - decay), lambda step: jnp.bool_(True))


def swa(total_steps: int, steps_per_epoch: int = 1, *, start: float = 0.75) -> optax.GradientTransformation:
    """Stochastic weight averaging: the plain mean of the weights after each epoch of the end of training.

    With SAM among the rules this is WASAM.

    Args:
        total_steps: of the whole training.
        steps_per_epoch: how far apart the averaged weights are.
        start: the part of the training after which averaging begins, in [0, 1).

    Reference: Izmailov et al., UAI 2018, algorithm 1; Kaddour et al. (WASAM), NeurIPS 2022.
    """
    check_numbers(total_steps=total_steps, steps_per_epoch=steps_per_epoch, start=start)
    if not 0 <= start < 1 or not 1 <= steps_per_epoch <= total_steps:
        raise ValueError(f"expected 0 <= start < 1 <= steps_per_epoch <= total_steps; got {start=}, "
                         f"{steps_per_epoch=}, {total_steps=}")  # fmt: skip
    first = int(start * total_steps)
    if total_steps // steps_per_epoch * steps_per_epoch <= first:
        raise ValueError(
            f"{start=}: no epoch of {steps_per_epoch} steps ends between step {first} and the last, "
            f"{total_steps}, so that nothing would be averaged: begin sooner"
        )
    counts = lambda step: (step > first) & (step % steps_per_epoch == 0)  # noqa: E731
    return _averaging(lambda averaged: 1.0 / (averaged + 1), counts)


def averaged_params(opt_state: optax.OptState) -> PyTree | None:
    """The average in an optimizer's state, or None where nothing is averaged (yet)."""
    found = [
        leaf
        for leaf in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, AverageState))
        if isinstance(leaf, AverageState)
    ]
    return found[0].average if found and found[0].averaged > 0 else None


def recompute_batch_stats(
    batch_stats_of: Callable[[PyTree, Array], PyTree], batch_stats: PyTree, batches: Iterable[Array]
) -> PyTree:
    """The mean of the batches' own statistics, instead of a moving average with the weights of the past.

    In training mode a network answers `m old + (1 − m) own`; asking with old = 0 and old = 1 tells m, and
    from then on old = 0 tells each batch's own.

    Args:
        batch_stats_of: (old batch statistics, images) -> new ones, of the network in training mode.
        batch_stats: any, for their structure; `{}` passes through.
        batches: images, as `batch_stats_of` takes them.

    Reference: Izmailov et al., UAI 2018, section 3.2 (PyTorch's `update_bn`).
    """
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    zeros, ones = (jax.tree.map(fill, batch_stats) for fill in (jnp.zeros_like, jnp.ones_like))
    total, momentum, count = zeros, None, 0
    for images in batches:
        own = batch_stats_of(zeros, images)
        if momentum is None:
            momentum = jax.tree.map(jnp.subtract, batch_stats_of(ones, images), own)
        total = jax.tree.map(jnp.add, total, own)
        count += 1
    if momentum is None:
        raise ValueError("no batches to recompute the batch statistics from")
    return jax.tree.map(lambda s, m: s / count / (1 - m), total, momentum)
