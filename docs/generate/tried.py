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
from transferjax.study.registry import ATTACKS

SIZE, EPS = 32, 48 / 255
"""Pixels, and a budget that can be seen on black and white."""

conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)  # fast inside an attack's loop


class Net(nn.Module):
    """Two convolutions."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(8, (5, 5), strides=2, name="first")(x))
        x = nn.relu(conv(16, (3, 3), strides=2, name="mix")(x))
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


@cache
def weights(seed: int = 0):
    """Trained for a second or two, on 1,000 digits."""
    train = data.load("digits", "train", size=SIZE).subset(1000)
    images, labels = data.to_float(jnp.asarray(train.images)), jnp.asarray(train.labels)
    variables, optimizer = Net().init(jax.random.key(seed), images[:1]), optax.adam(3e-3)

    @jax.jit
    def step(variables, state):
        grads = jax.grad(lambda v: cross_entropy(Net().apply(v, images), labels).mean())(variables)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for _ in range(40):
        variables, state = step(variables, state)
    return variables


@cache
def digit() -> tuple[np.ndarray, np.ndarray]:
    """One test image `[1, 32, 32, 1]` and its label, which the net gets right."""
    test = data.load("digits", "test", size=SIZE)
    images = np.asarray(data.to_float(jnp.asarray(test.images[:32])))
    says = np.asarray(predict()(images).argmax(-1))
    row = int(np.argmax(says == test.labels[:32]))
    return images[row : row + 1], test.labels[row : row + 1]


def predict(seed: int = 0):
    return models.predictor(Net(), weights(seed))


def arguments(name: str) -> dict:
    """What an attack needs besides its budget."""
    pool = np.asarray(data.load("digits", "train", size=SIZE).images[:8], np.float32) / 255
    needed = inspect.signature(ATTACKS.row(name).factory).parameters
    return {key: value for key, value in {"pool": pool, "layer": "mix"}.items() if key in needed}


def run(name: str):
    """The attack at its defaults on one digit: clean, adversarial, label, what the net says, and the work.

    Attacks of several surrogates have two; what goes to given targets goes to the next class.
    """
    images, labels = digit()
    attack = ATTACKS.row(name).factory(EPS, **arguments(name))
    aims = (labels + 1) % 10 if is_targeted(attack) else labels
    surrogate = (
        (predict(), predict(seed=1)) if name in ("svre", "cwa", "ada_ea", "smer", "lgv") else predict()
    )
    work = spent(attack, surrogate, images.shape[1:])
    adversarial = jax.jit(attack)(jax.random.key(0), surrogate, images, aims)
    says = [int(predict()(x).argmax(-1)[0]) for x in (images, adversarial)]
    return images, np.asarray(adversarial), int(labels[0]), says, work
