"""Small nets whose Hessians are small enough to be written out."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

SIDE, CHANNELS, CLASSES = 4, 2, 5


@functools.cache  # one function per activation, so that nets of the same kind share compilations
def _mlp(activation):
    def apply(weights, images):
        hidden = images.reshape(images.shape[0], -1)
        for matrix, bias in weights[:-1]:
            hidden = activation(hidden @ matrix + bias)
        return hidden @ weights[-1][0] + weights[-1][1]

    return apply


@pytest.fixture(scope="session")
def mlp():
    """`mlp(seed, activation, classes, scale)`: a three-layer net as a `Predict`, in the current precision."""

    def make(seed=0, activation=jax.nn.relu, classes=CLASSES, scale=1.0):
        sizes = (SIDE * SIDE * CHANNELS, 24, 16, classes)
        keys = jax.random.split(jax.random.key(seed), 6).reshape(3, 2)
        draw = jax.random.normal
        weights = [
            (draw(key[0], (m, n), float) * (2 / m) ** 0.5, 0.1 * draw(key[1], (n,), float))
            for key, m, n in zip(keys, sizes, sizes[1:], strict=False)
        ]
        weights[-1] = (scale * weights[-1][0], weights[-1][1])
        return Partial(_mlp(activation), weights)

    return make


@pytest.fixture(scope="session")
def batch():
    """`batch(count, classes)`: images in [0, 1] and labels."""

    def make(count=6, classes=CLASSES):
        images = jax.random.uniform(jax.random.key(7), (count, SIDE, SIDE, CHANNELS), float)
        return images, jnp.arange(count) % classes

    return make


@pytest.fixture(scope="session")
def full_hessians():
    """`full_hessians(predict, images, labels)`: every input Hessian written out, `[B, N, N]`."""

    @jax.jit
    def make(predict, images, labels):
        def loss(flat, label):
            return -jax.nn.log_softmax(predict(flat.reshape(1, *images.shape[1:])))[0, label]

        return jax.vmap(jax.hessian(loss))(images.reshape(images.shape[0], -1), labels)

    return make
