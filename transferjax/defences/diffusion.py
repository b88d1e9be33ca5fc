"""Purification by diffusion: noise drowns the perturbation, and a diffusion model takes the noise away."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.defences.lossy import straight_through
from transferjax.models.layers import Net
from transferjax.predicts.stochastic import Stochastic
from transferjax.random import fold_in, sample, typed
from transferjax.typing import Array, Key, Predict, PyTree

Noise = Callable[[Array, Array], Array]
"""(noisy images in [-1, 1] `[B, H, W, C]`, times from 0 to 999 `[B]`) -> the noise in them, as they are."""
LEVELS = 1000
RATES = (0.1, 20.0)
"""β at the times 0 and 1, of the variance-preserving process; a level is a thousandth of the time."""
END = 1e-5


@dataclass(frozen=True)
class _Apply:
    net: Net

    def __call__(self, variables: PyTree, x: Array, times: Array) -> Array:
        return cast(Array, self.net.apply(variables, x, times))[..., : x.shape[-1]]


def noise_predictor(net: Net, variables: PyTree) -> Noise:
    """What a `DiffusionUNet` says of the noise; a pytree, its leaves the variables."""
    return jax.tree_util.Partial(_Apply(net), variables)


def _left(time: Any) -> Any:
    """ᾱ(t), the variance's share of the image that is left."""
    low, high = RATES
    return np.exp(-0.5 * (high - low) * time**2 - low * time)


def _resized(x: Array, height: int, width: int) -> Array:
    return jax.image.resize(x, (len(x), height, width, x.shape[3]), "bilinear", antialias=False)


@dataclass(frozen=True)
class _DiffPure:
    strength: float
    step: float
    size: int | None
    bpda: bool

    def __call__(self, predict: Predict, noise: Noise, keys: Key, x: Array) -> Array:
        y = self.purify(noise, keys, jax.lax.stop_gradient(x) if self.bpda else x)
        return predict(straight_through(x, y) if self.bpda else y)

    def purify(self, noise: Noise, keys: Key, x: Array) -> Array:
        sides = x.shape[1], x.shape[2]
        y = 2 * _resized(x, *((self.size, self.size) if self.size else sides)) - 1
        normal = lambda number: sample(jax.random.normal, fold_in(keys, number), y.shape[1:], y.dtype)  # noqa: E731
        low, high = RATES
        rates = np.linspace(low, high, LEVELS) / LEVELS
        left = np.cumprod(1 - rates)[max(round(self.strength * LEVELS), 1) - 1]
        y = math.sqrt(left) * y + math.sqrt(1 - left) * normal(0)

        count = max(math.ceil((self.strength - END) / self.step - 1e-6), 1)
        times = self.strength - self.step * np.arange(count)
        spans = times - np.append(times[1:], END)
        beta = low + (high - low) * times
        factors = (1 + 0.5 * beta * spans, beta * spans / np.sqrt(1 - _left(times)), np.sqrt(beta * spans))
        levels = np.minimum(np.floor(LEVELS * times + 1e-6), LEVELS - 1)

        @jax.checkpoint
        def back(y: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
            """Euler and Maruyama's step of the reverse equation; the score is `-noise / √(1 - ᾱ)`."""
            number, level, grow, drift, spread = now
            found = noise(y, jnp.full(len(y), level)).astype(y.dtype)
            return grow * y - drift * found + spread * normal(number), None

        numbers = jnp.arange(1, count + 1), jnp.asarray(levels, jnp.float32)
        y, _ = jax.lax.scan(back, y, (*numbers, *(jnp.asarray(factor, y.dtype) for factor in factors)))
        return _resized((y + 1) / 2, *sides)


def diffpure(
    predict: Predict,
    noise: Noise,
    key: Key,
    strength: float = 0.15,
    step: float = 1e-3,
    size: int | None = None,
    *,
    bpda: bool = False,
) -> Stochastic:
    """DiffPure: noise up to a time t*, `√ᾱ x + √(1 - ᾱ) n`, and the reverse process back from there.

    `dx = -½ β(t) (x + 2 s(x, t)) dt + √β(t) dw`, from t* down to 0, the score s from the predicted noise.

    Args:
        noise: a diffusion model's, such as `noise_predictor(net, variables)`.
        strength: t*, in (0, 1]; the authors' 0.15 is for ImageNet at 4/255, and 0.1 for CIFAR-10 at 8/255.
        step: of the equation's solution: `strength / step` predictions of the noise for an image.
        size: of the images that the diffusion model knows; they are enlarged and made small again.
        bpda: attacks see the gradient of the identity; else that of the whole process.

    Raises:
        ValueError: a strength that is no part of the process, or a step that is none of the strength.

    Reference: Nie et al., "Diffusion Models for Adversarial Purification", ICML 2022.
    """
    if not END < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1], above {END}, where the process ends; got {strength}")
    if not 0 < step <= strength:
        raise ValueError(f"step must lie in (0, strength], at most {strength}; got {step}")
    return Stochastic(
        jax.tree_util.Partial(_DiffPure(strength, step, size, bpda), predict, noise), typed(key)
    )
