"""How a gradient becomes a step: optax transformations over images `[B, H, W, C]`, each image on its own.

Steps go *up* the objective, so scales are positive: `optax.chain(normalize_by_mean_abs(), optax.trace(1.0),
sign(), optax.scale(2 / 255))` is MI-FGSM. A zero gradient is a zero step.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from transferjax import norms
from transferjax.typing import Array


def _each(function: Callable[[Array], Array]) -> optax.GradientTransformation:
    return optax.stateless_with_tree_map(lambda g, _: function(g))


def applied(transformation: optax.GradientTransformation, u: Array) -> Array:
    """What a transformation without a memory makes of u."""
    return transformation.update(u, transformation.init(u))[0]


def sign() -> optax.GradientTransformation:
    """`sign(g)`, the steepest ascent of the L∞ ball; 0 where g is 0."""
    return _each(jnp.sign)


def normalize_by_l2() -> optax.GradientTransformation:
    """`g / ‖g‖₂` per image, the steepest ascent of the L2 ball."""
    return _each(lambda g: norms.unit(g, tuple(range(1, g.ndim))))


def normalize_by_mean_abs() -> optax.GradientTransformation:
    """`g / mean|g|` per image, so that the gradients of all steps weigh the same in a momentum.

    Reference: Dong et al., CVPR 2018, eq. 6 (which writes the L1 norm; the official code takes the mean).
    """

    def scale(g: Array) -> Array:
        size = jnp.mean(jnp.abs(g), axis=tuple(range(1, g.ndim)), keepdims=True)
        return g / jnp.where(size > 0, size, 1)

    return _each(scale)


def direction(norm: str) -> optax.GradientTransformation:
    """The steepest ascent of the norm's ball: `sign` or `normalize_by_l2`."""
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be one of linf, l2; got {norm!r}")
    return sign() if norm == "linf" else normalize_by_l2()


def steepest(norm: str, step_size: float) -> optax.GradientTransformation:
    """`direction(norm)`, scaled to a step of length `step_size` (pixel units of [0, 1])."""
    return optax.chain(direction(norm), optax.scale(step_size))


def momentum(decay: float, norm: str, step_size: float) -> optax.GradientTransformation:
    """`m ← decay · m + g / mean|g|`, then the steepest step along m.

    Reference: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018.
    """
    return optax.chain(normalize_by_mean_abs(), optax.trace(decay), steepest(norm, step_size))


def _filter(x: Array, window: Array) -> Array:
    """Correlates every channel with the same window `[h, w]`, zeros around the image."""
    planes = jnp.moveaxis(x, -1, 1).reshape(-1, 1, *x.shape[1:3])
    planes = jax.lax.conv_general_dilated(planes, window[None, None], (1, 1), "SAME")
    return jnp.moveaxis(planes.reshape(x.shape[0], x.shape[3], *x.shape[1:3]), 1, -1)


def gaussian_kernel(kernel_size: int, sigma: float) -> Array:
    """A normalized Gaussian `[kernel_size]` of standard deviation `sigma` pixels, which may be none."""
    offsets = jnp.arange(kernel_size) - (kernel_size - 1) / 2
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)) ** 2)
    return weights / weights.sum()


def smooth(kernel_size: int, sigma: float) -> optax.GradientTransformation:
    """`W * g` with a Gaussian W: the gradient averaged over small translations of the image.

    The Gaussian is separable: two convolutions with `kernel_size` taps each instead of one with its square.

    Args:
        kernel_size: taps in each direction, odd.
        sigma: standard deviation in pixels. The papers' `nsig = 3` means `sigma = (kernel_size - 1) / 2 / 3`.

    Reference: Dong et al., "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant
    Attacks", CVPR 2019.
    """
    if kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size must be odd, so that smoothing does not shift the image; got {kernel_size}"
        )

    def blur(g: Array) -> Array:
        taps = gaussian_kernel(kernel_size, sigma).astype(g.dtype)
        return _filter(_filter(g, taps[:, None]), taps[None, :])

    return _each(blur)


class ShrinkState(NamedTuple):
    """The sign of the last update, and the length that is left, per pixel."""

    sign: Array
    length: Array


def shrink_on_flip(eta: float = 0.94, norm: str = "linf") -> optax.GradientTransformation:
    """Steps along `direction(norm)` of u that shrink by `eta` wherever the sign differs from the last step's.

    Reference: Zhu et al. (GRA), ICCV 2023.
    """

    along = direction(norm)

    def init(x: Array) -> ShrinkState:
        return ShrinkState(jnp.zeros_like(x), jnp.full_like(x, 1 / eta))  # the first step is one long

    def update(u: Array, state: ShrinkState, _: Array | None = None) -> tuple[Array, ShrinkState]:
        now = jnp.sign(u)
        length = state.length * jnp.where(now == state.sign, 1, eta)
        return length * applied(along, u), ShrinkState(now, length)

    return optax.GradientTransformation(init, update)


def shrinking_momentum(decay: float, norm: str, step_size: float, eta: float) -> optax.GradientTransformation:
    """`momentum` whose steps `shrink_on_flip` of its sign."""
    return optax.chain(
        normalize_by_mean_abs(), optax.trace(decay), shrink_on_flip(eta, norm), optax.scale(step_size)
    )


def patch_wise(
    eps: float, step_size: float, *, beta: float = 10.0, gamma: float | None = None, kernel_size: int = 3
) -> optax.GradientTransformation:
    """Amplified sign steps, and what they overshoot the budget by handed to the neighbouring pixels.

    `a ← a + beta · step_size · sign(u)`; `p = gamma · sign(W * (|a| - eps)₊ sign(a))`, W the mean of the
    neighbours; the step is `beta · step_size · sign(u) + p`, and p is added to a. `gamma` is as long as the
    amplified step if None.

    Reference: Gao et al., "Patch-wise Attack for Fooling Deep Neural Network", ECCV 2020, algorithm 1.
    """
    gamma = beta * step_size if gamma is None else gamma
    taps = jnp.ones((kernel_size, kernel_size)).at[kernel_size // 2, kernel_size // 2].set(0)

    def update(u: Array, amplified: Array, _: Array | None = None) -> tuple[Array, Array]:
        step = beta * step_size * jnp.sign(u)
        amplified += step
        over = jnp.maximum(jnp.abs(amplified) - eps, 0) * jnp.sign(amplified)
        around = _filter(over, taps.astype(u.dtype))
        # Overshoots are multiples of the step and often cancel: their sum is zero but for rounding.
        spread = jnp.where(jnp.abs(around) > 1e-6, gamma * jnp.sign(around), 0)
        return step + spread, amplified + spread

    return optax.GradientTransformation(jnp.zeros_like, update)
