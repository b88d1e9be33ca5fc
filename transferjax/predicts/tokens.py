"""Other gradients from the same vision transformer: what comes back through its attention and its tokens."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.models.layers import Attended
from transferjax.norms import norm
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


def _coming_back_with(
    y: Array, state: Array, change: Callable[[Array, Array], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """y and a state; on their way back `change` makes both cotangents new.

    A state that is handed on from module to module without being used carries nothing forwards. Its cotangent
    is zero behind the last of them, and from there each module reads what the one after it has left.
    """

    @jax.custom_vjp
    def same(y: Array, state: Array) -> tuple[Array, Array]:
        return y, state

    same.defvjp(lambda y, state: ((y, state), None), lambda _, pulled: change(*pulled))
    return same(y, state)


def _scale_extremes(grads: Array, by: Array | float = 0.0) -> Array:
    """`[B, tokens, channels]`, times `by` at the tokens of each channel's largest and smallest entry.

    Tokens may be those of a grid, or of windows: `[B, rows, columns, channels]`.
    """
    tokens = grads.reshape(len(grads), -1, grads.shape[-1])
    places = jnp.arange(tokens.shape[1])[:, None]
    extreme = [pick(tokens, 1, keepdims=True) == places for pick in (jnp.argmax, jnp.argmin)]
    hit = (extreme[0] | extreme[1]).reshape(grads.shape)
    return jnp.where(hit, by * grads, grads).astype(grads.dtype)


def _scale_extreme_lines(grads: Array, by: Array | float = 0.0) -> Array:
    """`[…, n, m]`, times `by` in the row and in the column of the largest entry, and of the smallest.

    Where two of these lines cross, `by` counts twice.
    """
    rows, columns = grads.shape[-2:]
    flat, scaled = grads.reshape(*grads.shape[:-2], rows * columns), grads
    for pick in (jnp.argmax, jnp.argmin):
        at = pick(flat, -1)[..., None, None]
        for hit in (jnp.arange(rows)[:, None] == at // columns, jnp.arange(columns) == at % columns):
            scaled = jnp.where(hit, by * scaled, scaled)
    return scaled.astype(grads.dtype)


SCALE = {"attention": _scale_extreme_lines, "qkv": _scale_extremes, "mlp": _scale_extremes}


def _part(module: nn.Module) -> str | None:
    """Which part of a block it is that the module ends, by its name in `SCALE`.

    An MLP that convolves (Visformer's first stage) has no tokens.
    """
    if isinstance(module, Attended):
        return "attention"
    return module.name if module.name in ("qkv", "mlp") and not getattr(module, "groups", 0) else None


def _found(parts: Collection[str]) -> None:
    """Raises a ValueError unless the attention is among the parts that were found."""
    expect("attention" in parts, "attention (`models.layers.Attended`)")


@dataclass(frozen=True)
class _Tokens:
    attention: float
    qkv: float
    mlp: float
    extremes: bool

    def __call__(self, predict: Predict, x: Array) -> Array:
        found: list[str] = []

        def change(module: nn.Module, y: Array) -> Array:
            part = _part(module)
            if part is None:
                return y
            found.append(part)
            factor, scale = getattr(self, part), SCALE[part]
            return _coming_back(y, lambda grads: factor * (scale(grads) if self.extremes else grads))

        logits = tapped(predict, x, change)
        _found(found)
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


def _deviation(grads: Array) -> Array:
    """The standard deviation of each example's entries `[B]`, in float32 at least."""
    flat = grads.reshape(len(grads), -1).astype(jnp.promote_types(grads.dtype, jnp.float32))
    return norm(flat - flat.mean(-1, keepdims=True), -1) / max(flat.shape[-1] - 1, 1) ** 0.5


@dataclass(frozen=True)
class _Tuned:
    attention: float
    qkv: float
    mlp: float
    gamma: float
    weight: float
    truncated: int

    def __call__(self, predict: Predict, x: Array) -> Array:
        states: dict[str, Array] = {}

        def change(module: nn.Module, y: Array) -> Array:
            part = _part(module)
            if part is None:
                return y
            dtype = jnp.promote_types(y.dtype, jnp.float32)
            state = states.get(part, jnp.zeros((len(y), 2), dtype))
            y, states[part] = _coming_back_with(y, state, partial(self.back, part))
            return y

        logits = tapped(predict, x, change)
        _found(states)
        return logits

    def back(self, part: str, grads: Array, state: Array) -> tuple[Array, Array]:
        """A part's gradient, tuned, and the state `[B, 2]`: its deviation, and how many came before."""
        each = lambda value: value.reshape(-1, *[1] * (grads.ndim - 1))  # noqa: E731
        after, count = state.T
        cut = (part == "attention") & (count < self.truncated)
        weakened = each(jnp.where(cut, 0, getattr(self, part))) * grads
        grown = jnp.where(after > 0, _deviation(weakened) / jnp.where(after > 0, after, 1), 1)
        kept = jnp.clip(self.gamma + self.weight * (1 - grown), 0, 1)
        tuned = SCALE[part](weakened, each(kept)).astype(grads.dtype)
        return tuned, jnp.stack([_deviation(tuned), count + 1], -1).astype(state.dtype)


def att(
    predict: Predict,
    attention: float = 0.45,
    qkv: float = 0.7,
    mlp: float = 0.65,
    gamma: float = 0.5,
    weight: float = 0.01,
    truncated: int = 2,
) -> Predict:
    """The same logits; gradients whose extreme tokens are weakened, as much as they vary: token tuning.

        g_l ← factor · g_l,    extremes of g_l ← clip(γ + λ (1 - σ(g_l) / σ_{l+1}), 0, 1) · extremes of g_l

    As in `tgr` what comes back to a block's attention weights, to its queries, keys and values, and to what
    its MLP gives is multiplied by a factor, and then its extremes (of the attention the rows and columns of
    the extremes) by another, which falls where the gradient varies more than that of the same part in the
    block behind. σ is a standard deviation over an example's entries, σ_{l+1} that of what was left there;
    in the last block, and behind blocks whose gradient is constant, the other factor is γ. Nothing comes back
    through the attention weights of the deepest blocks.

    Args:
        predict: of a vision transformer of `transferjax.models`.
        attention, qkv, mlp: the factors.
        gamma: γ, what is left of an extreme that varies as before.
        weight: λ.
        truncated: how many blocks, the deepest, have attention weights through which nothing comes back; all
            of them where there are fewer.

    Raises:
        ValueError: when it is called, a net without attention.

    Reference: Ming et al., "Boosting the Transferability of Adversarial Attack on Vision Transformer with
    Adaptive Token Tuning", NeurIPS 2024, the factors of its official code for a ViT-B/16 (for which it
    truncates two of twelve blocks). Its deviations are those of a batch, and its extremes those of the first
    image; it attacks one image at a time. Its hook at the attention is on a dropout that does nothing, and
    gets what comes back to the scores that the softmax takes. The whole attack is `attacks.att`.
    """
    return jax.tree_util.Partial(_Tuned(attention, qkv, mlp, gamma, weight, truncated), predict)
