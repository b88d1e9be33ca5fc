"""Randomized smoothing: the class that wins most often under Gaussian noise, with a certified L2 radius."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.checks import check_images
from transferjax.predicts.snapshots import log_mean_probabilities
from transferjax.predicts.stochastic import Stochastic, inside
from transferjax.random import fold_in, per_example, sample, typed
from transferjax.typing import Array, Key, Predict

ABSTAIN = -1


@dataclass(frozen=True)
class _Smoothed:
    sigma: float
    samples: int

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        def one(number: Array) -> Array:
            drawn = fold_in(keys, number)
            noise = sample(jax.random.normal, drawn, x.shape[1:], x.dtype)
            return inside(predict, drawn)(x + self.sigma * noise)

        return log_mean_probabilities(jax.lax.map(one, jnp.arange(self.samples)))


def smoothed(predict: Predict, key: Key, sigma: float = 0.25, samples: int = 32) -> Stochastic:
    """The net's mean probability under Gaussian noise; logs of it as logits, with a gradient.

    Args:
        sigma: standard deviation of the noise, in pixel units of [0, 1].
        samples: draws.

    Raises:
        ValueError: a sigma below 0, or no draws.

    Reference: Cohen et al., ICML 2019; Salman et al., NeurIPS 2019, for the soft form.
    """
    if sigma < 0 or samples < 1:
        raise ValueError(f"sigma {sigma}, samples {samples}: expected at least 0 and 1")
    return Stochastic(jax.tree_util.Partial(_Smoothed(sigma, samples), predict), typed(key))


class Certificate(NamedTuple):
    """Classes `[B]`, -1 where it abstains, and L2 radii `[B]` in units of [0, 1], 0 where it abstains."""

    classes: np.ndarray
    radii: np.ndarray


def count_votes(predict: Predict, keys: Key, x: Array, sigma: float, samples: int) -> Array:
    """How often each class wins under noise, `[B, K]`; logits with a NaN vote for none."""

    def add(votes: Array, number: Array) -> tuple[Array, None]:
        drawn = fold_in(keys, number)
        noise = sample(jax.random.normal, drawn, x.shape[1:], x.dtype)
        logits = inside(predict, drawn)(x + sigma * noise)
        winner = jnp.where(jnp.isnan(logits).any(-1), ABSTAIN, logits.argmax(-1))
        return votes + jax.nn.one_hot(winner, votes.shape[-1], dtype=jnp.int32), None

    classes = jax.eval_shape(predict, x).shape[-1]
    return jax.lax.scan(add, jnp.zeros((len(x), classes), jnp.int32), jnp.arange(samples))[0]


def certify(
    predict: Predict,
    keys: Key,
    images: Array,
    *,
    sigma: float = 0.25,
    guess: int = 100,
    samples: int = 1000,
    alpha: float = 0.001,
    run: Callable[..., Callable[..., Array]] = jax.jit,
) -> Certificate:
    """With probability 1 - alpha, no perturbation shorter than the radius changes the smoothed class.

    `R = σ Φ⁻¹(p)`, p the lower Clopper–Pearson bound of the winner's probability; it abstains if p < ½.

    Args:
        predict: the net under the noise; best one that was trained with it.
        keys: one per example `[B]`, or one.
        images: `[B, H, W, C]` in [0, 1].
        sigma: of the noise, in pixel units of [0, 1].
        guess, samples: draws that guess the winner, and that bound its probability.
        alpha: the chance to be wrong.
        run: compiles; the identity to run eagerly.

    Raises:
        ValueError: a sigma or an alpha outside of its range, or no draws.

    Reference: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, section
    3.2.
    """
    from scipy import stats  # slow, and nothing else here needs it

    check_images(images)
    if not sigma > 0 or not 0 < alpha < 1 or min(guess, samples) < 1:
        said = f"sigma {sigma}, alpha {alpha}, guess {guess}, samples {samples}"
        raise ValueError(f"{said}: expected sigma above 0, alpha between 0 and 1, draws of at least 1")

    def both(predict: Predict, keys: Key, x: Array) -> Array:
        few = count_votes(predict, fold_in(keys, 0), x, sigma, guess)
        many = count_votes(predict, fold_in(keys, 1), x, sigma, samples)
        winner = few.argmax(-1)
        return jnp.stack([winner, jnp.take_along_axis(many, winner[:, None], -1)[:, 0]])

    classes, hits = np.asarray(run(both)(predict, per_example(keys, len(images)), images))
    low = np.where(hits > 0, stats.beta.ppf(alpha, np.maximum(hits, 1), samples - hits + 1), 0.0)
    sure = low > 0.5
    return Certificate(np.where(sure, classes, ABSTAIN), np.where(sure, sigma * stats.norm.ppf(low), 0.0))
