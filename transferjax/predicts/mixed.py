"""Features of other, clean images mixed into those of an image: a net that an attack has to outshout."""

import zlib
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.predicts.modules import path_of, tapped
from transferjax.predicts.stochastic import Stochastic, with_keys
from transferjax.predicts.surrogates import expect
from transferjax.random import fold_in, sample, typed
from transferjax.typing import Array, Key, Predict


@dataclass(frozen=True)
class _CleanFeatures:
    prob: float
    ratio: float
    divisor: int

    def __call__(self, predict: Predict, pool: Array, keys: Key, x: Array) -> Array:
        partner = sample(jax.random.randint, fold_in(keys, 0), (), 0, len(pool))
        drawn, clean = with_keys(predict, fold_in(keys, 1)), dict[str, Array]()

        def note(module: nn.Module, y: Array) -> Array:
            if self._mixes(module, y, x):
                clean[path_of(module)] = jax.lax.stop_gradient(y)
            return y

        def mix(module: nn.Module, y: Array) -> Array:
            other = clean.get(path_of(module))
            if other is None:
                return y
            own = fold_in(keys, zlib.crc32(path_of(module).encode()))
            channels = (*(1,) * (y.ndim - 2), y.shape[-1])
            share = sample(jax.random.uniform, fold_in(own, 0), channels, y.dtype, maxval=self.ratio)
            on = sample(jax.random.bernoulli, fold_in(own, 1), self.prob, (1,) * (y.ndim - 1))
            return jnp.where(on, (1 - share) * y + share * other, y)

        tapped(drawn, jnp.asarray(pool, x.dtype)[partner], note)
        expect(clean, "convolution or linear layer of features small enough to mix")
        return tapped(drawn, x, mix)

    def _mixes(self, module: nn.Module, y: Array, x: Array) -> bool:
        small = y.ndim < 4 or y.shape[2] <= x.shape[2] // self.divisor
        return isinstance(module, nn.Dense) or (isinstance(module, nn.Conv) and small)


def clean_features(
    predict: Predict, pool: Array, key: Key, prob: float = 0.1, ratio: float = 0.75, divisor: int = 4
) -> Stochastic:
    """Clean feature mixup: at random layers `(1 - a) f(x) + a f(x')`, x' a clean image of a pool.

    x' is one image for all layers of an evaluation, whose features are computed along with it: two
    evaluations of predict for each.

    Args:
        predict: of a Flax net.
        pool: clean images `[P, H, W, C]` in [0, 1].
        key: for when nobody gives one.
        prob: of mixing, for each image and layer: those that end in a linear layer, and convolutions with
            outputs of at most `1 / divisor` of the image's side.
        ratio: a is uniform in `[0, ratio]`, one for each channel.
        divisor: of the image's side.

    Reference: Byun et al., "Introducing Competition to Boost the Transferability of Targeted Adversarial
    Examples through Clean Feature Mixup", CVPR 2023. The official code keeps the features of the batch's
    clean images, and shuffles them anew in each layer.
    """
    mixed = jax.tree_util.Partial(_CleanFeatures(prob, ratio, divisor), predict, pool)
    return Stochastic(mixed, typed(key))
