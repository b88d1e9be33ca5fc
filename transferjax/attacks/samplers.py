"""Rules that sample as `average` cannot: points that remember, transformations that resist."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transferjax.attacks.rules import average, check_chunk, divide_by, uniform_noise, unit_of
from transferjax.attacks.warps import warp
from transferjax.chain import chain
from transferjax.random import fold_in, sample
from transferjax.typing import Array, GradFn, Key, Memory, Rule


def resisting(
    draw: Callable[[Key, Array], Array], transform: Callable[[Array, Array], Array], rho: float
) -> Rule:
    """`J(θ')ᵀ g(T(x, θ'))` with `θ' = θ - rho ∇θ L(T(x, θ))`: a transformation that first undoes the attack.

    Args:
        draw: `(keys, x) -> θ [B, …]`.
        transform: T, `(x, θ) -> x`.
        rho: length of the step down the objective, of which ∇θ keeps its length.
    """

    def rule(grad_fn: GradFn) -> GradFn:
        def resisted(x: Array, memory: Memory, keys: Key, labels: Array):
            theta = draw(fold_in(keys, 0), x)
            y, pull = jax.vjp(lambda theta: transform(x, theta), theta)
            (_, memory), grads = grad_fn(y, memory, fold_in(keys, 1), labels)
            theta = theta - rho * pull(grads)[0]
            y, pull = jax.vjp(lambda x: transform(x, theta), x)
            aux, grads = grad_fn(y, memory, fold_in(keys, 2), labels)
            return aux, pull(grads)[0]

        return resisted

    return rule


def constrained_warps(
    samples: int = 20, mesh: int = 3, beta: float = 1.0, rho: float = 0.01, *, chunk: int = 1
) -> Rule:
    """The mean gradient through warps by thin plates that first take a step down the loss: `resisting`.

    Args:
        samples: warps.
        mesh: control points in each direction; those inside go by a uniform draw, those at the border stay.
        beta: how far they go at most, in each direction, in units of half the image.
        rho: length of the step down, in units of the gradient.

    Reference: Lin et al., "Boosting Adversarial Transferability across Model Genus by Deformation-Constrained
    Warping", AAAI 2024. The official code draws one warp for a batch and steps along the gradient of its mean
    loss; and its image is a little larger than the grid that it is sampled on.
    """
    if mesh < 3:
        raise ValueError(
            f"mesh={mesh}: expected at least 3 control points in each direction, one of them inside"
        )

    def draw(keys: Key, x: Array) -> Array:
        return sample(jax.random.uniform, keys, (mesh - 2, mesh - 2, 2), x.dtype, -beta, beta)

    def bent(x: Array, inner: Array) -> Array:
        return warp(x, jnp.pad(inner, ((0, 0), (1, 1), (1, 1), (0, 0))))

    return chain(average(lambda keys, x, _: x, samples, chunk=chunk), resisting(draw, bent, rho))


def inverted_points(
    radius: float,
    inner_radius: float,
    neighbors: int,
    norm: str = "linf",
    *,
    inner_decay: float = 0.9,
    chunk: int = 1,
) -> Rule:
    """`1/N Σ_n g(x + u_n + inner_radius · p_n)`, and then `p_n ← ĝ_n - inner_decay · p_n`: points that go on.

    The gradient that a point found one step ago stands for the worst direction around it, every other time
    with the sign turned.

    Args:
        radius: of the uniform neighbours u.
        inner_radius: how far a point goes along its p, a sum of directions ĝ = g / mean|g| (in L2, g / ‖g‖₂).
        neighbors: N.
        norm: of the neighbourhood and of the directions.
        inner_decay: of p.
        chunk: neighbours at once; divides N.

    Reference: Qiu et al., "Boosting Adversarial Transferability with Low-Cost Optimization via Maximin
    Expected Flatness", 2024, algorithm 1.
    """
    check_chunk(neighbors, chunk)
    around, direction = uniform_noise(radius, norm), "l2" if norm == "l2" else "mean_abs"

    def rule(grad_fn: GradFn) -> GradFn:
        def inverted(x: Array, memory: Memory, keys: Key, labels: Array):
            before = memory.get("inverted_points", jnp.zeros((neighbors, *x.shape), x.dtype))
            shared = {name: value for name, value in memory.items() if name != "inverted_points"}

            def one(inputs: tuple[Array, Array]) -> Any:
                number, p = inputs
                own = fold_in(keys, number)
                y = around(fold_in(own, 0), x, number) + inner_radius * p
                aux, grads = grad_fn(y, shared, fold_in(own, 1), labels)
                return (aux, grads), unit_of(grads, direction) - inner_decay * p

            several, after = jax.lax.map(one, (jnp.arange(neighbors), before), batch_size=chunk)
            (values, inner), grads = jax.tree.map(lambda a: divide_by(neighbors)(a.sum(0)), several)
            return (values, inner | {"inverted_points": after}), grads

        return inverted

    return rule


def patch_out(patch: int = 16, share: float = 130 / 196) -> Rule:
    """`m · g(x0 + m · (x - x0))`: the gradient where a random share of the perturbation's patches is left.

    x0 is the clean image, as the attack keeps it; m is 1 on the chosen patches and 0 elsewhere.

    Args:
        patch: side of a patch in pixels, that of the transformer's; those at the border may be cut.
        share: of the patches that are chosen, in (0, 1].

    Reference: Wei et al., "Towards Transferable Adversarial Attacks on Vision Transformers", AAAI 2022: 130
    of the 196 patches of 16 x 16 (which each image of a batch shares); its other half is `predicts.pna`, its
    reward of long perturbations `rules.outwards`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a share in (0, 1]; got {share=}")

    def chosen(keys: Key, shape: tuple[int, int]) -> Array:
        count = shape[0] * shape[1]
        rank = jnp.argsort(jnp.argsort(sample(jax.random.uniform, keys, (count,))))
        return (rank < max(round(share * count), 1)).reshape(-1, *shape)

    return _on_patches(patch, chosen)


def paced_patch_out(steps: int, share: float | Array = 0.6, patch: int = 16, prob: float = 0.99) -> Rule:
    """`patch_out` at its own pace: each patch is left with probability `prob - (prob - share) t / steps`.

    t counts the gradients that the rule was asked for, from 1 on, and stays at `steps`.

    Args:
        steps: of the attack.
        share: the probability at the last step: a number, or `[B, rows, columns]`, one of each patch.
        patch: side of a patch in pixels; those at the border may be cut.
        prob: the probability before the first step.

    Reference: Ming et al., "Boosting the Transferability of Adversarial Attack on Vision Transformer with
    Adaptive Token Tuning", NeurIPS 2024: from 0.99 to 0.4 … 0.8, the more important a patch the higher (with
    draws that all images share); its other half is `predicts.att`, both are `attacks.att`.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if jnp.ndim(share) not in (0, 3):
        raise ValueError(f"expected a share, or shares [B, rows, columns]; got {jnp.shape(share)}")

    def rule(grad_fn: GradFn) -> GradFn:
        def paced(x: Array, memory: Memory, keys: Key, labels: Array):
            done = memory.get("paced_patch_out", jnp.zeros((), jnp.int32)) + 1
            level = prob - (prob - jnp.asarray(share)) * jnp.minimum(done, steps) / steps
            part = _on_patches(patch, lambda keys, shape: sample(jax.random.uniform, keys, shape) < level)
            return part(grad_fn)(x, memory | {"paced_patch_out": done}, keys, labels)

        return paced

    return rule


def grid_of(shape: tuple[int, ...], patch: int) -> tuple[int, int]:
    """Rows and columns of patches of images `[B, H, W, C]`."""
    return -(-shape[1] // patch), -(-shape[2] // patch)


def _on_patches(patch: int, chosen: Callable[[Key, tuple[int, int]], Array]) -> Rule:
    """`m · g(x0 + m · (x - x0))`, m on the patches of the grid that are chosen, `[B, rows, columns]`."""
    if patch < 1:
        raise ValueError(f"expected a patch of at least 1 pixel; got {patch=}")

    def rule(grad_fn: GradFn) -> GradFn:
        def patched(x: Array, memory: Memory, keys: Key, labels: Array):
            def part(keys: Key, x: Array, _: Any) -> Array:
                grid = chosen(keys, grid_of(x.shape, patch))[..., None].repeat(patch, 1).repeat(patch, 2)
                return jnp.where(grid[:, : x.shape[1], : x.shape[2]], x, memory["clean"])

            return average(part)(grad_fn)(x, memory, keys, labels)

        return patched

    return rule
