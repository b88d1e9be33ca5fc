"""Random pre-processing: resize and pad, random affine maps."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from transferjax.attacks.inputs import on_canvas
from transferjax.predicts.snapshots import log_mean_probabilities
from transferjax.predicts.stochastic import Stochastic, inside
from transferjax.random import fold_in, typed
from transferjax.typing import Array, Key, Predict


@dataclass(frozen=True)
class _ResizeAndPad:
    rate: float
    resize_back: bool

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        size = x.shape[1], x.shape[2]
        height, width = (math.ceil(side * self.rate - 1e-6) for side in size)  # 1.1 times 100 is 110
        back = size if self.resize_back else None
        padded = jax.vmap(lambda key, x: on_canvas(key, x, size, (height, width), back))(keys, x)
        return inside(predict, keys)(padded)


def resize_and_pad(
    predict: Predict, key: Key, rate: float = 331 / 299, resize_back: bool = False
) -> Stochastic:
    """R&P: resized to a random size up to `rate` times as large, at a random place on a black canvas.

    The net sees the canvas, which is `rate` times as large, unless `resize_back`.

    Reference: Xie et al., "Mitigating Adversarial Effects through Randomization", ICLR 2018. Their code for
    the competition adds the probabilities of thirty draws, half of them mirrored, resizes by the nearest
    pixel, and pads what it has scaled to [-1, 1]: with grey. Sizes and places are drawn as `dim` draws them,
    the largest of both left out.
    """
    if rate <= 1:
        raise ValueError(f"rate must be above 1; got {rate}")
    return Stochastic(jax.tree_util.Partial(_ResizeAndPad(rate, resize_back), predict), typed(key))


def _moved(x: Array, matrix: Array, shift: Array, **outside: Any) -> Array:
    """One image `[H, W, C]`, bilinear: its pixel p is that of x at `middle + matrix (p - middle) + shift`."""
    middle = (jnp.array(x.shape[:2]) - 1) / 2
    rows, columns = jnp.meshgrid(*(jnp.arange(n) for n in x.shape[:2]), indexing="ij")
    source = (jnp.stack([rows, columns], -1) - middle) @ matrix.T + middle + shift
    at = lambda channel: jax.scipy.ndimage.map_coordinates(  # noqa: E731
        channel, [source[..., 0], source[..., 1]], order=1, **outside
    )
    return jax.vmap(at, -1, -1)(x)


@dataclass(frozen=True)
class _RandomAffine:
    samples: int
    angle: float
    shear: float
    shift: float
    zoom: float

    def warp(self, key: Key, x: Array) -> Array:
        """One image under one random map, the border repeated."""
        u = jax.random.uniform(key, (5,), minval=-1)
        angle, shear = jnp.deg2rad(self.angle * u[0]), jnp.deg2rad(self.shear * u[1])
        zoom = 1 + self.zoom * u[2]
        turn = jnp.array(
            [[jnp.cos(angle), -jnp.sin(angle + shear)], [jnp.sin(angle), jnp.cos(angle + shear)]]
        )
        return _moved(x, zoom * turn, self.shift * u[3:] * jnp.array(x.shape[:2]), mode="nearest")

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        def one(number: Array) -> Array:
            drawn = fold_in(keys, number)
            return inside(predict, drawn)(jax.vmap(self.warp)(drawn, x))

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
    """The mean probability over random rotations, shears, shifts and zooms; logs of it as logits.

    Args:
        samples: maps to average over.
        angle, shear: degrees, in both directions.
        shift: share of the image's side.
        zoom: share of the size.

    Raises:
        ValueError: no samples.

    Reference: that of `nips_r3`, whose own maps are smaller and nearly the same every time.
    """
    if samples < 1:
        raise ValueError(f"samples {samples}: expected at least 1")
    net = _RandomAffine(samples, angle, shear, shift, zoom)
    return Stochastic(jax.tree_util.Partial(net, predict), typed(key))


@dataclass(frozen=True)
class _NipsR3:
    angle: float
    shear: float
    shift: float
    zoom: float
    jitter: float

    def warp(self, key: Key, x: Array) -> Array:
        """One image, grey where it has nothing."""
        u = 1 + self.jitter * jax.random.uniform(key, (6,), minval=-1)
        shear, angle = jnp.deg2rad(self.shear * u[0]), jnp.deg2rad(-self.angle * u[1])
        sheared = jnp.array([[1, -jnp.sin(shear)], [0, jnp.cos(shear)]])
        turned = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        shift = self.shift * u[2:4] * jnp.array(x.shape[:2])
        matrix = sheared @ jnp.diag(self.zoom * u[4:]) @ turned
        return _moved(x, matrix, sheared @ shift, mode="constant", cval=0.5)

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        return inside(predict, keys)(jax.vmap(self.warp)(keys, x))


def nips_r3(
    predict: Predict,
    key: Key,
    *,
    angle: float = 180 / 128,
    shear: float = 180 / 128,
    shift: float = 0.02,
    zoom: float = 0.95,
    jitter: float = 0.05,
) -> Stochastic:
    """NIPS-r3: sheared, shifted, enlarged and turned, each by its amount times `1 + U(-jitter, jitter)`.

    Args:
        angle, shear: degrees.
        shift: share of the image's sides.
        zoom: share of the image that is seen.
        jitter: share of each amount.

    Reference: Thomas & Elibol, the third place of the NIPS 2017 defence competition. This is the branch
    of most weight; they add the logits of several nets (give `predicts.mean_logits(…)` as predict), two of
    which see images turned by 2 or 3 degrees with noise, and as JPEG. They take the nearest pixel four
    times, and we one bilinear step.
    """
    net = _NipsR3(angle, shear, shift, zoom, jitter)
    return Stochastic(jax.tree_util.Partial(net, predict), typed(key))
