"""Other gradients from the same vision transformer: what comes back through its attention and its tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.models.layers import Attended
from transferjax.predicts.modules import tapped
from transferjax.predicts.surrogates import expect
from transferjax.typing import Array, Predict


def _coming_back(y: Array, change: Callable[[Array], Array]) -> Array:
    """y, whose cotangent is changed on its way back."""

    @jax.custom_vjp
    def same(y: Array) -> Array:
        return y

    same.defvjp(lambda y: (y, None), lambda _, pulled: (change(pulled),))
    return same(y)


def _without_extremes(grads: Array) -> Array:
    """`[…, tokens, channels]`, 0 at the tokens of each channel's largest and smallest entry."""
    places = jnp.arange(grads.shape[-2])[:, None]
    extreme = [pick(grads, -2, keepdims=True) == places for pick in (jnp.argmax, jnp.argmin)]
    return jnp.where(extreme[0] | extreme[1], 0, grads)


def _without_extreme_lines(grads: Array) -> Array:
    """`[…, n, m]`, 0 in the rows and columns of the largest and the smallest entry of each matrix."""
    rows, columns = grads.shape[-2:]
    flat = grads.reshape(*grads.shape[:-2], rows * columns)
    for pick in (jnp.argmax, jnp.argmin):
        at = pick(flat, -1)[..., None, None]
        hit = (jnp.arange(rows)[:, None] == at // columns) | (jnp.arange(columns) == at % columns)
        grads = jnp.where(hit, 0, grads)
    return grads


@dataclass(frozen=True)
class _Tokens:
    attention: float
    qkv: float
    mlp: float
    extremes: bool

    def __call__(self, predict: Predict, x: Array) -> Array:
        found: list[str | None] = []

        def change(module: nn.Module, y: Array) -> Array:
            if isinstance(module, Attended):
                found.append(module.name)
                factor, cut = self.attention, _without_extreme_lines
            elif module.name in ("qkv", "mlp"):
                factor, cut = (self.qkv if module.name == "qkv" else self.mlp), _without_extremes
            else:
                return y
            return _coming_back(y, lambda grads: factor * (cut(grads) if self.extremes else grads))

        logits = tapped(predict, x, change)
        expect(found, "attention (`models.layers.Attended`)")
        return logits


def tgr(predict: Predict, attention: float = 0.25, qkv: float = 0.75, mlp: float = 0.5) -> Predict:
    """The same logits; gradients without the extreme tokens: token gradient regularization.

    What comes back to a block's attention weights, to its queries, keys and values, and to what its MLP
    gives is multiplied by a factor. Of each channel it is 0 at the tokens where it is largest and smallest,
    and of each head's attention in the rows and columns where it is.

    Args:
        predict: of a vision transformer of `transferjax.models`.
        attention, qkv, mlp: the factors.

    Raises:
        ValueError: when it is called, a net without attention.

    Reference: Zhang et al., "Transferable Adversarial Attacks on Vision Transformers with Token Gradient
    Regularization", CVPR 2023, the factors of its official code (which, for a batch, takes the extremes of
    the first image).
    """
    return jax.tree_util.Partial(_Tokens(attention, qkv, mlp, True), predict)


def pna(predict: Predict, attention: float = 0.0) -> Predict:
    """The same logits; gradients through an attention's weights are multiplied by `attention`: pay none.

    Raises:
        ValueError: when it is called, a net without attention.

    Reference: Wei et al., "Towards Transferable Adversarial Attacks on Vision Transformers", AAAI 2022, whose
    other half is `attacks.samplers.patch_out`.
    """
    return jax.tree_util.Partial(_Tokens(attention, 1.0, 1.0, False), predict)
