"""Rules turn one gradient into another: `GradFn -> GradFn` (see `transferjax.typing`).

A rule calls the gradient it wraps as often, and wherever, it likes. Rules nest: `chain(sam(0.1), er(0.05))`
takes SAM's ascent step around the explicitly regularized gradient. In the equations g(w) is the wrapped
gradient, ⟨·,·⟩ and ‖·‖ run over all parameters together. Every rule leaves a zero gradient a zero gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from transferjax.checks import check_numbers
from transferjax.norms import norm, unit
from transferjax.typing import Array, Batch, GradFn, Key, Memory, PyTree, Rule

BATCH_STATS = ("both", "first")


def _add(x: PyTree, scale: float | Array, y: PyTree) -> PyTree:
    """`x + scale · y` in the dtype of x."""
    return jax.tree.map(lambda a, b: a + (scale * b).astype(a.dtype), x, y)


def _orthogonal(x: PyTree, direction: PyTree) -> PyTree:
    """What of x is orthogonal to d, `x - ⟨x, d⟩ d/‖d‖²`; all of it where d is zero."""
    direction = unit(direction)
    return _add(x, -optax.tree.vdot(x, direction), direction)


def _weight_scale(params: PyTree) -> PyTree:
    """ASAM's T_w: |w| for weights (kernels and normalization scales), 1 for biases."""

    def scale(path: jax.tree_util.KeyPath, w: Array) -> Array:
        return jnp.ones_like(w) if "bias" in jax.tree_util.keystr(path[-1:]) else jnp.abs(w)

    return jax.tree_util.tree_map_with_path(scale, params)


def _ascend(params: PyTree, grads: PyTree, rho: float, adaptive: bool) -> PyTree:
    """`w + ρ g/‖g‖`, or adaptively `w + ρ T²g/‖Tg‖`."""
    if not adaptive:
        return _add(params, rho, unit(grads))
    scale = _weight_scale(params)
    scaled = unit(jax.tree.map(jnp.multiply, scale, grads))
    return _add(params, rho, jax.tree.map(jnp.multiply, scale, scaled))


def _check(rho: float, batch_stats: str) -> None:
    check_numbers(rho=rho)
    if not isinstance(rho, jax.core.Tracer) and rho <= 0:
        raise ValueError(f"rho={rho}: expected a positive radius; for plain training leave the rule out")
    if batch_stats not in BATCH_STATS:
        raise ValueError(f"batch_stats={batch_stats!r}: expected one of {BATCH_STATS}")


def _kept(batch_stats: str) -> tuple[str, ...]:
    """What a second pass does not change."""
    return ("metrics",) if batch_stats == "both" else ("metrics", "batch_stats")


def _second_pass(
    grad_fn: GradFn, rho: float, adaptive: bool, batch_stats: str
) -> Callable[..., tuple[Memory, PyTree]]:
    """(params, memory and gradient at them, data) -> memory and gradient at the perturbed ones."""

    def second_pass(params: PyTree, first: Memory, grads: PyTree, *data: PyTree):
        (_, second), ascent = grad_fn(_ascend(params, grads, rho, adaptive), first, *data)
        return second | {name: first[name] for name in _kept(batch_stats) if name in first}, ascent

    return second_pass


def gsam(rho: float, alpha: float, *, adaptive: bool = False, batch_stats: str = "both") -> Rule:
    """Sharpness-aware minimization with the surrogate gap: SAM, ASAM (α = 0), GSAM and AGSAM in one.

    `p = g(w + ε)`, `ε = ρ g/‖g‖` or adaptively `ρ T²g/‖Tg‖` with `T = |w|` (1 for biases); the step is
    `p − α (g − ⟨g, p⟩ p/‖p‖²)`: what of g is orthogonal to p widens the gap between w and its neighbour.

    Args:
        rho: radius ρ > 0 of the neighbourhood, in units of the weights; l-SAM is a large one.
        alpha: weight α of the gap.
        adaptive: scale the neighbourhood by the weights.
        batch_stats: whether the batch statistics move in "both" passes, or in the "first" alone.

    Returns:
        A rule of two gradients a step; value and metrics are those at w.

    Reference: Foret et al., ICLR 2021, eq. 2; Kwon et al. (ASAM), ICML 2021, eq. 7; Zhuang et al. (GSAM),
    ICLR 2022, algorithm 1, with constant ρ. The S&P paper's official code moves batch statistics in both.
    """
    _check(rho, batch_stats)
    check_numbers(alpha=alpha)

    def rule(grad_fn: GradFn) -> GradFn:
        second_pass = _second_pass(grad_fn, rho, adaptive, batch_stats)

        def sharpness_aware(params: PyTree, memory: Memory, *data: PyTree):
            (value, memory), grads = grad_fn(params, memory, *data)
            memory, ascent = second_pass(params, memory, grads, *data)
            if alpha:
                ascent = _add(ascent, -alpha, _orthogonal(grads, ascent))
            return (value, memory), ascent

        return sharpness_aware

    return rule


def sam(rho: float, *, adaptive: bool = False, batch_stats: str = "both") -> Rule:
    """Sharpness-aware minimization: `g(w + ρ g/‖g‖)`; see `gsam`."""
    return gsam(rho, 0.0, adaptive=adaptive, batch_stats=batch_stats)


def asam(rho: float, *, batch_stats: str = "both") -> Rule:
    """Adaptive SAM: `g(w + ρ T²g/‖Tg‖)`, `T = |w|`; see `gsam`."""
    return gsam(rho, 0.0, adaptive=True, batch_stats=batch_stats)


def agsam(rho: float, alpha: float, *, batch_stats: str = "both") -> Rule:
    """Adaptive SAM with the surrogate gap; see `gsam`."""
    return gsam(rho, alpha, adaptive=True, batch_stats=batch_stats)


def look_sam(rho: float, alpha: float = 0.7, every: int = 5, *, batch_stats: str = "both") -> Rule:
    """LookSAM: SAM every k-th step, and in between g plus the remembered part of SAM's gradient.

    Every k-th step `s = g(w + ρ g/‖g‖)`, and `v = s − ⟨s, g⟩ g/‖g‖²` is remembered; otherwise the step is
    `g + α ‖g‖ v/‖v‖`.

    Args:
        rho: radius ρ of the neighbourhood, in units of the weights.
        alpha: weight α of the remembered direction.
        every: k ≥ 1.
        batch_stats: as in `gsam`.

    Reference: Liu et al., CVPR 2022, algorithm 1.
    """
    _check(rho, batch_stats)
    check_numbers(alpha=alpha, every=every)
    if every < 1:
        raise ValueError(f"every={every}: expected at least 1")

    def rule(grad_fn: GradFn) -> GradFn:
        second_pass = _second_pass(grad_fn, rho, False, batch_stats)

        def looking(params: PyTree, memory: Memory, *data: PyTree):
            zero = {"step": jnp.zeros((), jnp.int32), "direction": optax.tree.zeros_like(params)}
            state = memory.get("look_sam", zero)
            (value, memory), grads = grad_fn(params, memory, *data)

            def look():
                after, ascent = second_pass(params, memory, grads, *data)
                return after, ascent, _orthogonal(ascent, grads)

            def reuse():
                v = state["direction"]
                return memory, _add(grads, alpha * norm(grads), unit(v)), v

            memory, grads, direction = jax.lax.cond(state["step"] % every == 0, look, reuse)
            return (value, memory | {"look_sam": {"step": state["step"] + 1, "direction": direction}}), grads

        return looking

    return rule


def msam(rho: float, decay: float = 0.9) -> Rule:
    """Momentum-SAM: `g(w − ρ m/‖m‖)`, `m ← μ m + g(w − ρ m/‖m‖)`; for one gradient a step.

    The gradient is taken ahead, where the momentum of the steps before leads, as Nesterov's is but at a fixed
    distance: against the momentum, a sum of gradients, so not where SAM climbs to. The momentum starts at
    zero, so the first step is a plain one.

    Args:
        rho: distance ρ > 0 ahead, in units of the weights.
        decay: μ, as the optimizer's momentum.

    Returns:
        A rule of one gradient a step; value and metrics are those at the perturbed weights.

    Reference: Becker et al., arXiv 2401.12033, algorithm 1. The official code's m holds the weight decay too,
    which here is the optimizer's alone.
    """
    _check(rho, "both")
    check_numbers(decay=decay)
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay}: expected a share of the momentum to keep, at least 0 and below 1")

    def rule(grad_fn: GradFn) -> GradFn:
        def ahead(params: PyTree, memory: Memory, *data: PyTree):
            momentum = memory.get("msam", optax.tree.zeros_like(params))
            (value, memory), grads = grad_fn(_add(params, -rho, unit(momentum)), memory, *data)
            return (value, memory | {"msam": _add(grads, decay, momentum)}), grads

        return ahead

    return rule


def esam(rho: float, beta: float = 0.5, gamma: float = 0.5, *, batch_stats: str = "both") -> Rule:
    """Efficient SAM: some of the weights climb, and the examples whose loss grew most say where to go.

    `ε = ρ/β · m g/‖m g‖` with a mask m that takes each of the weights' arrays with probability β, and the
    step is the gradient at w + ε of the γ B examples with the largest `ℓᵢ(w + ε) − ℓᵢ(w)`.

    An example's loss is `B ∂L/∂cᵢ` at c = 1, where c scales the examples' targets: cross-entropy is linear in
    them, and nothing else has to tell the losses apart.

    Args:
        rho: radius ρ > 0 of the neighbourhood, in units of the weights.
        beta: share β of the arrays that climb; if none is drawn, the weights stay where they are.
        gamma: share γ of the batch in the second gradient, at least one example; of each device's own.
        batch_stats: as in `gsam`; "both" are the first and the last.

    Returns:
        A rule of one gradient, a forward pass and γ of a gradient a step; value and metrics are those at w.
        Masks are the same for all seeds.

    Reference: Du et al., "Efficient Sharpness-aware Minimization for Improved Training of Neural Networks",
    ICLR 2022, algorithm 1, β = γ = 0.5. The official code draws whole arrays too, and leaves out one example
    of the γ B.
    """
    _check(rho, batch_stats)
    check_numbers(beta=beta, gamma=gamma)
    for name, share in {"beta": beta, "gamma": gamma}.items():
        if not 0 < share <= 1:
            raise ValueError(f"{name}={share}: expected a share above 0 and at most 1")

    def rule(grad_fn: GradFn) -> GradFn:
        def efficient(params: PyTree, memory: Memory, keys: Key, batch: Batch):
            step = memory.get("esam", jnp.zeros((), jnp.int32))
            (value, first), grads, before = _with_losses(grad_fn, params, memory, keys, batch)
            climbing = _some(grads, jax.random.fold_in(jax.random.key(0), step), beta)
            ahead = _ascend(params, climbing, rho / beta, False)
            *_, after = _with_losses(grad_fn, ahead, memory, keys, batch)
            _, most = jax.lax.top_k(after - before, max(1, round(gamma * len(after))))
            chosen = jax.tree.map(lambda leaf: leaf[most], (keys, batch))
            (_, second), ascent = grad_fn(ahead, first, *chosen)
            kept = {name: first[name] for name in _kept(batch_stats) if name in first}
            return (value, second | kept | {"esam": step + 1}), ascent

        return efficient

    return rule


def _with_losses(
    grad_fn: GradFn, params: PyTree, memory: Memory, keys: Key, batch: Batch
) -> tuple[tuple[Array, Memory], PyTree, Array]:
    """What `grad_fn` returns, and the loss of each example `[B]`, up to a factor that all share."""

    def scaled(scale: Array) -> tuple[Array, tuple]:
        targets = scale[:, None] * batch.targets
        aux, grads = grad_fn(params, memory, keys, batch._replace(targets=targets))
        return aux[0], (aux, grads)

    ones = jnp.ones(len(batch.targets), batch.targets.dtype)
    (_, (aux, grads)), losses = jax.value_and_grad(scaled, has_aux=True)(ones)
    return aux, grads, losses


def _some(tree: PyTree, key: Key, share: float) -> PyTree:
    """The arrays that a draw takes, each with that probability; 0 in place of the others."""
    leaves, structure = jax.tree.flatten(tree)
    taken = jax.tree.unflatten(structure, list(jax.random.bernoulli(key, share, (len(leaves),))))
    return jax.tree.map(lambda take, leaf: jnp.where(take, leaf, 0), taken, tree)


def gnp(weight: float, rho: float = 0.1, *, batch_stats: str = "both") -> Rule:
    """Gradient norm penalty: `g + λ (g(w + ρ g/‖g‖) − g)/ρ`.

    The gradient of `L + λ ‖∇w L‖`, to first order in ρ; λ = ρ is SAM.

    Args:
        weight: λ, in units of the weights.
        rho: ρ > 0, how far the second gradient is taken, in units of the weights.
        batch_stats: as in `gsam`.

    Returns:
        A rule of two gradients a step; value and metrics are those at w.

    Reference: Zhao et al., "Penalizing Gradient Norm for Efficiently Improving Generalization", ICML 2022; Li
    et al., "Making Substitute Models More Bayesian Can Enhance Transferability of Adversarial Examples", ICLR
    2023, whose official code has λ = 1, ρ = 0.1.
    """
    _check(rho, batch_stats)
    check_numbers(weight=weight)

    def rule(grad_fn: GradFn) -> GradFn:
        second_pass = _second_pass(grad_fn, rho, False, batch_stats)

        def penalized(params: PyTree, memory: Memory, *data: PyTree):
            (value, memory), grads = grad_fn(params, memory, *data)
            memory, ahead = second_pass(params, memory, grads, *data)
            share = weight / rho
            return (value, memory), jax.tree.map(lambda g, p: (1 - share) * g + share * p, grads, ahead)

        return penalized

    return rule


def er(weight: float) -> Rule:
    """ER, explicit gradient regularization: `g + λ H g`, the gradient of `L + λ/2 ‖∇w L‖²`.

    The Hessian-vector product is exact, forward over reverse, and shares the forward and backward pass of g.

    Args:
        weight: λ, in units of a step size.

    Reference: Zhang et al., S&P 2024, section 4.1.2; Barrett & Dherin, ICLR 2021, eq. 7.
    """
    check_numbers(weight=weight)

    def rule(grad_fn: GradFn) -> GradFn:
        def regularized(params: PyTree, memory: Memory, *data: PyTree):
            def gradient(w: PyTree):
                aux, grads = grad_fn(w, memory, *data)
                return grads, aux

            grads, hessian_vector_product, aux = jax.linearize(gradient, params, has_aux=True)
            return aux, _add(grads, weight, hessian_vector_product(grads))

        return regularized

    return rule
