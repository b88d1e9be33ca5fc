"""The catalogue, continued: attacks on vision transformers, which know of their tokens."""

import math
from functools import partial
from typing import Any, Unpack, cast

import jax
import jax.numpy as jnp

from transferjax.attacks.builders import with_momentum
from transferjax.attacks.recipe import Momentum, recipe
from transferjax.attacks.rules import outwards
from transferjax.attacks.samplers import grid_of, paced_patch_out, patch_out
from transferjax.predicts.snapshots import of_each
from transferjax.predicts.stochastic import with_keys
from transferjax.random import fold_in, per_example
from transferjax.typing import Array, Attack, Key, Predict


def _token_importance(predict: Predict, layer: str, x: Array) -> Array:
    """`Σ_c f_c ∂(Σ_k z_k)/∂f_c` of each token in the image, `[B, rows, columns]`; f are a layer's features.

    Raises:
        ValueError: the layer's features are no tokens of a square grid.
    """
    from transferjax.predicts.modules import with_features  # with Flax, which few attacks need

    _, shape = jax.eval_shape(lambda x: with_features(predict, layer, x), x)

    def total(shift: Array) -> tuple[Array, Array]:
        logits, features = with_features(predict, layer, x, shift)
        return logits.sum(), features

    grads, features = jax.grad(total, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    each = (features * grads).sum(-1)
    if each.ndim == 3:  # [B, rows, columns], as Swin's
        return each
    side = math.isqrt(each.shape[1]) if each.ndim == 2 else 0
    if side < 1:
        raise ValueError(
            f"layer={layer!r} gives {features.shape}: expected tokens [B, N, C] or [B, rows, columns, C], "
            "such as a block of a vision transformer"
        )
    return each[:, -(side**2) :].reshape(-1, side, side)  # a class's token comes first


def _on_grid(maps: Array, images: Array, patch: int) -> Array:
    """Maps `[B, rows, columns]` of the whole image as means over its patches; they then go from 0 to 1."""
    size, (rows, columns) = images.shape[1:3], grid_of(images.shape, patch)
    fine = jax.image.resize(maps, (len(maps), *size), "bilinear")
    ends = rows * patch - size[0], columns * patch - size[1]
    sums = [
        jnp.pad(a, ((0, 0), (0, ends[0]), (0, ends[1]))).reshape(-1, rows, patch, columns, patch).sum((2, 4))
        for a in (fine, jnp.ones((1, *size), maps.dtype))
    ]
    means = sums[0] / sums[1]
    low, high = (pick(means, (1, 2), keepdims=True) for pick in (jnp.min, jnp.max))
    return (means - low) / jnp.where(high > low, high - low, 1)


def _by_gradients_of(name: str, run: Attack, **factors: float) -> Attack:
    """The attack on the surrogate as a function of `predicts.tokens` has it."""

    def attack(key: Key, predict: Predict, images: Array, labels: Array, *, info: bool = False) -> Any:
        from transferjax.predicts import tokens  # with Flax, which few attacks need

        changed = of_each(predict, partial(getattr(tokens, name), **factors))
        return cast(Any, run)(key, changed, images, labels, info=info)

    return attack


@recipe
def tgr(
    eps: float,
    steps: int = 10,
    *,
    attention: float = 0.25,
    qkv: float = 0.75,
    mlp: float = 0.5,
    **options: Unpack[Momentum],
) -> Attack:
    """Token gradient regularization: MI by gradients without their extreme tokens; see `predicts.tgr`.

    Args:
        attention, qkv, mlp: factors of the gradients in a block.

    Reference: Zhang et al., "Transferable Adversarial Attacks on Vision Transformers with Token Gradient
    Regularization", CVPR 2023, with the official code's values: steps of `eps / steps`, ten.
    """

    run = with_momentum(eps=eps, steps=steps, **options)
    return _by_gradients_of("tgr", run, attention=attention, qkv=qkv, mlp=mlp)


@recipe
def pna(
    eps: float,
    steps: int = 10,
    *,
    patch: int = 16,
    share: float = 130 / 196,
    weight: float = 0.1,
    attention: float = 0.0,
    **options: Unpack[Momentum],
) -> Attack:
    """Pay no attention and patch out: `max L(x0 + m ⊙ δ) + λ ‖δ‖₂`, m on random patches, by other gradients.

    They are those of `predicts.pna`, which come back through an attention's values alone.

    Args:
        patch: side of a patch in pixels, that of the transformer's.
        share: of the patches on which m is 1, drawn for each gradient; see `samplers.patch_out`.
        weight: λ, of the perturbation's length; see `rules.outwards`.
        attention: factor of the gradients through attention weights.

    Reference: Wei et al., "Towards Transferable Adversarial Attacks on Vision Transformers", AAAI 2022: steps
    of `eps / steps`, ten, 130 of 196 patches, λ = 0.1.
    """
    run = with_momentum(outwards(weight), patch_out(patch, share), eps=eps, steps=steps, **options)
    return _by_gradients_of("pna", run, attention=attention)


@recipe(alone=True)
def att(
    eps: float,
    steps: int = 10,
    *,
    layer: str,
    patch: int = 16,
    prob: float = 0.99,
    low: float = 0.4,
    high: float = 0.8,
    attention: float = 0.45,
    qkv: float = 0.7,
    mlp: float = 0.65,
    gamma: float = 0.5,
    weight: float = 0.01,
    truncated: int = 2,
    **options: Unpack[Momentum],
) -> Attack:
    """Adaptive token tuning: gradients of `predicts.att`, at images of which patches are left out.

    Each patch of the perturbation is left with a probability that falls from `prob` to between `low` and
    `high`, the lower the less the patch matters (`samplers.paced_patch_out`). What it matters is
    `Σ_c f_c ∂(Σ_k z_k)/∂f_c`, of the tokens of a layer at the clean image, once, with the same gradients.

    Args:
        layer: the end of the path of the Flax module, a block near the last, whose tokens say which patches
            matter; where layers are normalized first, no nearer than two blocks before the last (see below).
        patch: side of a patch in pixels.
        prob: of a patch to be left, before the first step.
        low, high: the same at the last step, of the image's least and most important patch.
        attention, qkv, mlp: factors of the gradients in a block; see `predicts.att`, whose surrogate is as it
            is here: bring one that is not tuned yet.
        gamma: γ, what is left of an extreme gradient that varies as before.
        weight: λ, how much the extremes depend on that.
        truncated: the deepest blocks, through whose attention weights nothing comes back.

    Reference: Ming et al., "Boosting the Transferability of Adversarial Attack on Vision Transformer with
    Adaptive Token Tuning", NeurIPS 2024, with the official code's values for a ViT-B/16 ("blocks.10"): steps
    of `eps / steps`, ten. There all images share their draws, and the first gradient, which says what
    matters, still has the deviations that the attack before it left. And of a ViT's next to last block, which
    it looks at, what matters is rounding: the last block reads these tokens through a layer normalization
    alone, which forgets their length, so `Σ_c f_c ∂z/∂f_c = 0` by Euler's theorem.
    """

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        from transferjax.predicts import tokens

        tuned = tokens.att(predict, attention, qkv, mlp, gamma, weight, truncated)
        own = with_keys(tuned, fold_in(per_example(key, len(images)), 0))
        matters = _on_grid(_token_importance(own, layer, images).astype(jnp.float32), images, patch)
        left = paced_patch_out(steps, low + (high - low) * matters, patch, prob)
        return with_momentum(left, eps=eps, steps=steps, **options)(key, tuned, images, labels)

    return attack
