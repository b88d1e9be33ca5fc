"""Penalties on how strongly the logits react to the input, added to the training loss.

A penalty sees the logits and one pullback `d logits -> d images` of the step's forward pass, so that several
penalties share it. Two scalings exist for each, because the paper and its official code differ:

    scaling     IR (input gradient)              JR (input Jacobian)
    paper       λ mean_i ‖∇x CE_i‖₂              λ mean_i ‖J_i‖_F
    official    λ ‖∇x Σ_i CE_i‖₂ / B             λ ½ mean_i ‖J_i‖²_F / B

Under data parallelism `axis_name` makes the norm and the batch size B those of the whole batch; every device
then returns the same share of the penalty, so that the mean over devices is the penalty.
"""

import jax
import jax.numpy as jnp

from transferjax.losses import probabilities
from transferjax.random import per_example, sample
from transferjax.typing import Array, Key, Penalty, Pullback

SCALINGS = ("official", "paper")


def _check(scaling: str) -> None:
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r}: expected one of {SCALINGS}")


def _squared_norms(x: Array) -> Array:
    """`Σ x²` over all but the first axis, `[B]`, accumulated in float32 or wider."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.square(x).reshape(len(x), -1).sum(-1)


def _root(x: Array) -> Array:
    """Square root whose derivative at zero is zero instead of infinite: a dead input is no reason for NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _batch_size(logits: Array, axis_name: str | None) -> int:
    return len(logits) * (jax.lax.axis_size(axis_name) if axis_name else 1)


def input_gradient(weight: float, *, scaling: str = "official", axis_name: str | None = None) -> Penalty:
    """IR: the norm of the gradient of the cross-entropy w.r.t. the input.

    `paper`: `λ mean_i ‖∇x CE_i‖₂`; `official`: `λ ‖∇x Σ_i CE_i‖₂ / B`, one norm over the whole batch.

    Args:
        weight: λ, in loss units per gradient unit.
        scaling: see the module docstring.
        axis_name: the mapped axis of data parallelism.

    Reference: Zhang et al., S&P 2024, section 5.1; Ross & Doshi-Velez, AAAI 2018.
    """
    _check(scaling)

    def penalty(key: Key, logits: Array, targets: Array, pullback: Pullback) -> Array:
        del key
        targets = probabilities(logits, targets)
        d_logits = jax.nn.softmax(logits) * targets.sum(-1, keepdims=True) - targets
        squares = _squared_norms(pullback(d_logits))
        if scaling == "paper":
            return weight * _root(squares).mean()
        total = jax.lax.psum(squares.sum(), axis_name) if axis_name else squares.sum()
        return weight * _root(total) / _batch_size(logits, axis_name)

    return penalty


def jacobian(
    weight: float,
    *,
    projections: int | None = 1,
    scaling: str = "official",
    axis_name: str | None = None,
) -> Penalty:
    """JR: the Frobenius norm of the Jacobian of the logits w.r.t. the input.

    `paper`: `λ mean_i ‖J_i‖_F`; `official`: `λ ½ mean_i ‖J_i‖²_F / B`. With n projections the squared norm is
    estimated without bias by `K/n Σ_j ‖v_jᵀ J_i‖²`, v_j uniform on the unit sphere of the logits.

    Args:
        weight: λ.
        projections: n ≥ 1 pullbacks, or None for the exact norm with K pullbacks.
        scaling: see the module docstring.
        axis_name: the mapped axis of data parallelism.

    Reference: Zhang et al., S&P 2024, section 5.1; Hoffman et al., arXiv:1908.02729, eq. 9.
    """
    _check(scaling)
    if projections is not None and projections < 1:
        raise ValueError(f"projections={projections}: expected at least 1, or None for the exact Jacobian")

    def penalty(key: Key, logits: Array, targets: Array, pullback: Pullback) -> Array:
        del targets
        count, classes = logits.shape
        if projections is None:
            basis = jnp.broadcast_to(jnp.eye(classes, dtype=logits.dtype)[:, None], (classes, count, classes))
            squares = jax.vmap(lambda v: _squared_norms(pullback(v)))(basis).sum(0)
        else:
            keys = per_example(key, count)
            v = sample(jax.random.normal, keys, (projections, classes), logits.dtype).swapaxes(0, 1)
            v = v / jnp.linalg.norm(v, axis=-1, keepdims=True)
            squares = classes * jax.vmap(lambda v: _squared_norms(pullback(v)))(v).mean(0)
        if scaling == "paper":
            return weight * _root(squares).mean()
        return weight * 0.5 * squares.mean() / _batch_size(logits, axis_name)

    return penalty
