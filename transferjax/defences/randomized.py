"""Random pre-processing: resize and pad, random affine maps."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from transferjax.attacks.inputs import on_canvas
from transferjax.predicts.snapshots import log_mean_probabilities
from transferjax.predicts.stochastic import Stochastic
from transferjax.random import fold_in, typed
from transferjax.typing import Array, Key, Predict


@dataclass(frozen=True)
class _ResizeAndPad:
    rate: float
    resize_back: bool

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        size = x.shape[1], x.shape[2]
        canvas = math.ceil(size[0] * self.rate), math.ceil(size[1] * self.rate)
        back = size if self.resize_back else None
        return predict(jax.vmap(lambda key, x: on_canvas(key, x, size, canvas, back))(keys, x))


def resize_and_pad(
    predict: Predict, key: Key, rate: float = 331 / 299, resize_back: bool = False
) -> Stochastic:
    """R&P: resized to a random size up to `rate` times as large, at a random place on a black canvas.

    The net sees the canvas, which is `rate` times as large, unless `resize_back`.

    Reference: Xie et al., "Mitigating Adversarial Effects through Randomization", ICLR 2018.
    """
    if rate <= 1:
        raise ValueError(f"rate must be above 1; got {rate}")
    return Stochastic(jax.tree_util.Partial(_ResizeAndPad(rate, resize_back), predict), typed(key))


@dataclass(frozen=True)
class _RandomAffine:
    samples: int
    angle: float
    shear: float
    shift: float
    zoom: float

    def warp(self, key: Key, x: Array) -> Array:
        """One image under one random map, bilinear, the border repeated."""
        u = jax.random.uniform(key, (5,), minval=-1)
        angle, shear = jnp.deg2rad(self.angle * u[0]), jnp.deg2rad(self.shear * u[1])
        zoom = 1 + self.zoom * u[2]
        turn = jnp.array(
            [[jnp.cos(angle), -jnp.sin(angle + shear)], [jnp.sin(angle), jnp.cos(angle + shear)]]
        )
        size = jnp.array(x.shape[:2])
        middle = (size - 1) / 2
        rows, columns = jnp.meshgrid(*(jnp.arange(n) for n in x.shape[:2]), indexing="ij")
        place = jnp.stack([rows, columns], -1) - middle
        source = zoom * place @ turn.T + middle + self.shift * u[3:] * size
        at = lambda channel: jax.scipy.ndimage.map_coordinates(  # noqa: E731
            channel, [source[..., 0], source[..., 1]], order=1, mode="nearest"
        )
        return jax.vmap(at, -1, -1)(x)

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        def one(number: Array) -> Array:
            return predict(jax.vmap(self.warp)(fold_in(keys, number), x))

        return log_mean_probabilities(jax.lax.map(one, jnp.arange(self.samples)))


def random_affine(
    predict: Predict,
    key: Key,
    samples: int = 5,
    *,
    angle: float = 10.0,
    shear: float = 5.0,
    shift: float = 0.05,
    zoom: float = 0.1,
) -> Stochastic:
    """NIPS-r3: the mean probability over random rotations, shears, shifts and zooms; logs of it as logits.

    Args:
        samples: maps to average over.
        angle, shear: degrees, in both directions.
        shift: share of the image's side.
        zoom: share of the size.

    Reference: Thomas & Elibol, the third place of the NIPS 2017 defence competition; they average over an
    ensemble of nets too: give `predicts.mean_probabilities(…)` as predict.
    """
    net = _RandomAffine(samples, angle, shear, shift, zoom)
    return Stochastic(jax.tree_util.Partial(net, predict), typed(key))
