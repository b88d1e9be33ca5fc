"""A small net of handwritten digits, and what an attack does to one of them and asks of the net."""

import inspect
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from transferjax import data, models
from transferjax.attacks import spent
from transferjax.attacks.goals import is_targeted
from transferjax.losses import cross_entropy
from transferjax.models.conv import conv_general_dilated
from transferjax.models.vit import ViT
from transferjax.study.registry import ATTACKS

SIZE, EPS = 32, 48 / 255
"""Pixels, and a budget that can be seen on black and white."""

VIT = ViT(num_classes=10, image_size=SIZE, patch=8, depth=2, width=32, heads=4, hidden=64)

conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)  # fast inside an attack's loop


class Net(nn.Module):
    """Two convolutions."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(8, (5, 5), strides=2, name="first")(x))
        x = nn.relu(conv(16, (3, 3), strides=2, name="mix")(x))
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


def net(attentive: bool = False) -> nn.Module:
    return VIT if attentive else Net()


@cache
def weights(seed: int = 0, attentive: bool = False):
    """Trained for a second or two, on 1,000 digits."""
    train = data.load("digits", "train", size=SIZE).subset(1000)
    images, labels = data.to_float(jnp.asarray(train.images)), jnp.asarray(train.labels)
    module = net(attentive)
    variables, optimizer = module.init(jax.random.key(seed), images[:1]), optax.adam(3e-3)

    @jax.jit
    def step(variables, state):
        grads = jax.grad(lambda v: cross_entropy(module.apply(v, images), labels).mean())(variables)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for _ in range(40):
        variables, state = step(variables, state)
    return variables


@cache
def digit(attentive: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """One test image `[1, 32, 32, 1]` and its label, which the net gets right."""
    test = data.load("digits", "test", size=SIZE)
    images = np.asarray(data.to_float(jnp.asarray(test.images[:32])))
    says = np.asarray(predict(attentive=attentive)(images).argmax(-1))
    row = int(np.argmax(says == test.labels[:32]))
    return images[row : row + 1], test.labels[row : row + 1]


def predict(seed: int = 0, attentive: bool = False):
    return models.predictor(net(attentive), weights(seed, attentive))


def _kind(name: str) -> str:
    """The module of the catalogue that makes it."""
    return ATTACKS.row(name).factory.__module__.rpartition(".")[2]


def arguments(name: str) -> dict:
    """What an attack needs besides its budget."""
    pool = np.asarray(data.load("digits", "train", size=SIZE).images[:8], np.float32) / 255
    needed = inspect.signature(ATTACKS.row(name).factory).parameters
    layer = "blocks.0" if _kind(name) == "transformers" else "mix"
    return {key: value for key, value in {"pool": pool, "layer": layer}.items() if key in needed}


def run(name: str):
    """The attack at its defaults on one digit: clean, adversarial, label, what the net says, and the work.

    Attacks of several surrogates have two; what goes to given targets goes to the next class.
    """
    attentive = _kind(name) == "transformers"
    images, labels = digit(attentive)
    attack = ATTACKS.row(name).factory(EPS, **arguments(name))
    aims = (labels + 1) % 10 if is_targeted(attack) else labels
    one = predict(attentive=attentive)
    surrogate = (one, predict(seed=1)) if _kind(name) == "committees" else one
    work = spent(attack, surrogate, images.shape[1:])
    adversarial = jax.jit(attack)(jax.random.key(0), surrogate, images, aims)
    says = [int(one(x).argmax(-1)[0]) for x in (images, adversarial)]
    return images, np.asarray(adversarial), int(labels[0]), says, work
