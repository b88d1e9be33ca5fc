"""Other gradients, and other nets, from the same surrogate: `Predict -> Predict`.

`skip_gradient` and the ghosts change what passes through the modules of a Flax net (see `modules`). Each
returns a pytree like the predict it takes. Linear backpropagation has a file of its own.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.models.layers import Branch
from transferjax.predicts.modules import tapped
from transferjax.predicts.stochastic import Stochastic
from transferjax.random import fold_in, sample, typed
from transferjax.typing import Array, Key, Predict


def ends_branch(module: nn.Module) -> bool:
    """Whether the module's output is what a block adds to its skip connection: its `Branch`."""
    return isinstance(module, Branch)


def is_rectified_sum(module: object) -> bool:
    """Whether a block computes `relu(branch + skip)`, as it declares by `rectified_sum`."""
    return getattr(module, "rectified_sum", False)


def expect(found: object, what: str) -> None:
    """A method that finds nothing to change would silently be the plain gradient."""
    if not found:
        raise ValueError(
            f"this net has no {what}: expected a predict of a Flax net of `transferjax.models`, or of one "
            "whose blocks mark theirs (`models.layers.Branch`)"
        )


@dataclass(frozen=True)
class _SkipGradient:
    decay: float
    branch: Callable[[nn.Module], bool]

    def __call__(self, predict: Predict, x: Array) -> Array:
        found: list[str | None] = []

        def decayed(module: nn.Module, y: Array) -> Array:
            if not self.branch(module):
                return y
            found.append(module.name)
            return self.decay * y + jax.lax.stop_gradient((1 - self.decay) * y)

        logits = tapped(predict, x, decayed)
        expect(found, "residual branch")
        return logits


def skip_gradient(
    predict: Predict, decay: float = 0.5, branch: Callable[[nn.Module], bool] = ends_branch
) -> Predict:
    """The same logits; gradients that pass through a residual branch are multiplied by `decay`.

    Args:
        predict: of a Flax net, such as `models.predictor` makes.
        decay: γ; 1 is the plain gradient.
        branch: which modules end a residual branch; those that the net's blocks mark.

    Raises:
        ValueError: when it is called, a net without residual branches.

    Reference: Wu et al., "Skip Connections Matter", ICLR 2020. The official code scales the gradients
    of ReLUs inside the branches instead, and normalizes every block's gradient.
    """
    return jax.tree_util.Partial(_SkipGradient(decay, branch), predict)


def weight_scaling(predict: Predict, factor: float = 0.93) -> Predict:
    """The same net with the kernels of its convolutions multiplied by `factor`, biases as they are.

    Args:
        predict: any, whose leaves are named as Flax names weights.
        factor: p.

    Raises:
        ValueError: no convolution's kernel among its leaves.

    Reference: Wu et al. (SASD-WS), "Improving Transferable Targeted Adversarial Attacks with Model
    Self-Enhancement", CVPR 2024, whose official code scales every weight: p is no probability there.
    """
    found = []

    def scaled(path: jax.tree_util.KeyPath, leaf: Array) -> Array:
        if not (jax.tree_util.keystr(path[-1:]) == "['kernel']" and jnp.ndim(leaf) == 4):
            return leaf
        found.append(path)
        return factor * leaf

    changed = jax.tree_util.tree_map_with_path(scaled, predict)
    expect(found, "convolution")
    return changed


def _keys_at(keys: Key, module: nn.Module) -> Key:
    return fold_in(keys, zlib.crc32("/".join(module.path).encode()))


@dataclass(frozen=True)
class _GhostSkips:
    radius: float

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        scaled: list[str | None] = []

        def scale(block: Any) -> Array:
            uniform = sample(jax.random.uniform, _keys_at(keys, block), (1, 1, 1))
            return 1 + self.radius * (2 * uniform - 1)

        def change(module: nn.Module, y: Array) -> Array:
            # relu(branch + λ skip) = λ relu(branch / λ + skip)
            if isinstance(module, Branch) and is_rectified_sum(module.parent):
                return y / scale(module.parent)
            if not is_rectified_sum(module):
                return y
            scaled.append(module.name)
            return y * scale(module)

        logits = tapped(predict, x, change)
        expect(scaled, "block that ends in relu(branch + skip)")
        return logits


def ghost_skips(predict: Predict, key: Key, radius: float = 0.22) -> Stochastic:
    """Every skip connection of a ResNet scaled by a random λ in `[1 - radius, 1 + radius]`, one per example.

    Raises:
        ValueError: a radius outside of [0, 1): λ stays above 0.

    Reference: Li et al., "Learning Transferable Adversarial Examples via Ghost Networks", AAAI 2020.
    """
    if not 0 <= radius < 1:
        raise ValueError(f"radius {radius}: expected a number in [0, 1)")
    return Stochastic(jax.tree_util.Partial(_GhostSkips(radius), predict), typed(key))


@dataclass(frozen=True)
class _GhostDropout:
    rate: float

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        dropped: list[str | None] = []

        def drop(module: nn.Module, y: Array) -> Array:
            if not isinstance(module, nn.Conv):
                return y
            dropped.append(module.name)
            kept = sample(jax.random.bernoulli, _keys_at(keys, module), 1 - self.rate, y.shape[1:])
            return jnp.where(kept, y / (1 - self.rate), 0)

        logits = tapped(predict, x, drop)
        expect(dropped, "convolution")
        return logits


def ghost_dropout(predict: Predict, key: Key, rate: float = 0.012) -> Stochastic:
    """Dropout behind every convolution of a Flax net.

    Raises:
        ValueError: a rate outside of [0, 1); when it is called, a net without convolutions.

    Reference: Li et al., AAAI 2020.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate {rate}: expected a number in [0, 1)")
    return Stochastic(jax.tree_util.Partial(_GhostDropout(rate), predict), typed(key))
