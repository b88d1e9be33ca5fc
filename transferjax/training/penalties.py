"""Penalties on how the logits react to the input, added to the training loss.

A penalty sees the logits and one pullback `d logits -> d images` of the step's forward pass, so that several
penalties share it. Of IR and JR two scalings exist, because the paper and its official code differ:

    scaling     IR (input gradient)              JR (input Jacobian)
    paper       λ mean_i ‖∇x CE_i‖₂              λ mean_i ‖J_i‖_F
    official    λ ‖∇x Σ_i CE_i‖₂ / B             λ ½ mean_i ‖J_i‖²_F / B

Under data parallelism `axis_name` makes the norm and the batch size B those of the whole batch; every device
then returns the same share of the penalty, so that the mean over devices is the penalty.
"""

import jax
import jax.numpy as jnp

from transferjax.checks import check_numbers
from transferjax.losses import cross_entropy
from transferjax.norms import norm, unit
from transferjax.random import per_example, sample
from transferjax.typing import Array, Key, Penalty, Pullback

SCALINGS = ("official", "paper")


def _check(weight: float, scaling: str) -> None:
    check_numbers(weight=weight)
    if not isinstance(weight, jax.core.Tracer) and weight < 0:
        raise ValueError(f"weight={weight}: expected 0 or more, as a penalty makes the loss no smaller")
    if scaling not in SCALINGS:
        raise ValueError(f"scaling={scaling!r}: expected one of {SCALINGS}")


def _sizes(x: Array) -> Array:
    """The norm of each example, `[B]`, in float32 or wider."""
    return norm(x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(range(1, x.ndim)))


def _batch_size(logits: Array, axis_name: str | None) -> int:
    return len(logits) * (jax.lax.axis_size(axis_name) if axis_name else 1)


def input_gradient(weight: float, *, scaling: str = "official", axis_name: str | None = None) -> Penalty:
    """IR: the norm of the gradient of the cross-entropy w.r.t. the input.

    `paper`: `λ mean_i ‖∇x CE_i‖₂`; `official`: `λ ‖∇x Σ_i CE_i‖₂ / B`, one norm over the whole batch.

    Args:
        weight: λ ≥ 0, in loss units per gradient unit.
        scaling: see the module docstring.
        axis_name: the mapped axis of data parallelism.

    Reference: Zhang et al., S&P 2024, section 4.1.1; Ross & Doshi-Velez, AAAI 2018.
    """
    _check(weight, scaling)

    def penalty(key: Key, logits: Array, targets: Array, pullback: Pullback) -> Array:
        del key
        d_logits = jax.grad(lambda z: cross_entropy(z, targets).sum())(logits)
        sizes = _sizes(pullback(d_logits))
        if scaling == "paper":
            return weight * sizes.mean()
        total = norm(jax.lax.all_gather(sizes, axis_name) if axis_name else sizes)
        return weight * total / _batch_size(logits, axis_name)

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
        weight: λ ≥ 0.
        projections: n ≥ 1 pullbacks, or None for the exact norm with K pullbacks.
        scaling: see the module docstring.
        axis_name: the mapped axis of data parallelism.

    Reference: Zhang et al., S&P 2024, section 4.1.1; Hoffman et al., arXiv:1908.02729, eq. 9.
    """
    _check(weight, scaling)
    check_numbers(projections=projections)
    if projections is not None and projections < 1:
        raise ValueError(f"projections={projections}: expected at least 1, or None for the exact Jacobian")

    def penalty(key: Key, logits: Array, targets: Array, pullback: Pullback) -> Array:
        del targets
        count, classes = logits.shape
        if projections is None:
            basis = jnp.broadcast_to(jnp.eye(classes, dtype=logits.dtype)[:, None], (classes, count, classes))
            sizes = norm(jax.vmap(lambda v: _sizes(pullback(v)))(basis), 0)
        else:
            keys = per_example(key, count)
            v = sample(jax.random.normal, keys, (projections, classes), logits.dtype).swapaxes(0, 1)
            drawn = norm(jax.vmap(lambda v: _sizes(pullback(v)))(unit(v, -1)), 0)
            sizes = (classes / projections) ** 0.5 * drawn
        if scaling == "paper":
            return weight * sizes.mean()
        return weight * 0.5 * (sizes**2).mean() / _batch_size(logits, axis_name)

    return penalty


def score_matching(weight: float, *, projections: int = 1, exact: bool = False) -> Penalty:
    """DCG: how far `s = ∇x log p(y|x)` is from the gradient of the log density of the class's images.

    `λ mean_i (‖s_i‖² + 2 vᵀ ∂s_i/∂x v)`, v uniform of length one: score matching, with 1/D of the trace of
    s's Jacobian, D numbers to an image. Of a net that is piecewise linear in x (ReLU, pooling) that trace is
    `−tr(Jᵀ (diag p − p pᵀ) J)` for every label, so a pullback estimates it, and no third derivative is taken;
    of other nets the curvature of the logits themselves is left out.

    Args:
        weight: λ ≥ 0.
        projections: n ≥ 1 pullbacks that estimate the trace.
        exact: the whole trace, as in Hyvärinen's identity. What is smallest then is a net whose probabilities
            turn over within a few pixels' change: nothing but the loss holds gradients back.

    Reference: Zhu et al., "Toward Understanding and Boosting Adversarial Transferability From a Distribution
    Perspective" (DRA), IEEE TIP 2022, λ = 6, with which a trained net is tuned; Hyvärinen, JMLR 2005. DRA's
    repository has no training; JerryMazeyu's, from which v's length is, adds ‖s‖ and not its square.
    """
    _check(weight, "official")
    check_numbers(projections=projections)
    if projections < 1:
        raise ValueError(f"projections={projections}: expected at least 1")

    def penalty(key: Key, logits: Array, targets: Array, pullback: Pullback) -> Array:
        log_p = jax.nn.log_softmax(logits)
        p, root = jnp.exp(log_p), jnp.exp(log_p / 2)
        score = pullback(targets - p)
        keys = per_example(key, len(logits))
        u = sample(jax.random.normal, keys, (projections, logits.shape[-1]), logits.dtype).swapaxes(0, 1)
        # Of covariance diag p − p pᵀ: the trace is the mean of their pullbacks' squared lengths.
        drawn = root * u - p * (root * u).sum(-1, keepdims=True)
        traces = (jax.vmap(lambda v: _sizes(pullback(v)))(drawn) ** 2).mean(0)
        share = 1 if exact else score[0].size
        return weight * (_sizes(score) ** 2 - 2 * traces / share).mean()

    return penalty
