"""A small net of handwritten digits that counts what an attack asks of it."""

from functools import cache, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from transferjax import data, models
from transferjax.losses import cross_entropy
from transferjax.models.conv import conv_general_dilated
from transferjax.study.registry import ATTACKS

SIZE, EPS = 32, 48 / 255
"""Pixels, and a budget that can be seen on black and white."""

conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)  # fast inside an attack's loop


class Work(NamedTuple):
    """Gradients and forward passes per image."""

    gradients: int
    forwards: int


_seen = {"gradients": 0, "forwards": 0}


def _note(what: str, count: int) -> None:
    _seen[what] += count


@jax.custom_vjp
def _counted(x):
    jax.debug.callback(lambda: _note("forwards", len(x)))
    return x


def _forward(x):
    return _counted(x), x.shape[0]


def _backward(count, grads):
    jax.debug.callback(lambda: _note("gradients", grads.shape[0]))
    return (grads,)


_counted.defvjp(_forward, _backward)


class Net(nn.Module):
    """Two convolutions; `counts` says whether it notes what it is asked."""

    counts: bool = False

    @nn.compact
    def __call__(self, x):
        x = _counted(x) if self.counts else x
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


def predict(counts: bool = False, seed: int = 0):
    return models.predictor(Net(counts), weights(seed))


def arguments(name: str) -> dict:
    """What an attack needs besides its budget."""
    if name == "admix":
        pool = data.load("digits", "train", size=SIZE).images[:8]
        return {"pool": np.asarray(pool, np.float32) / 255}
    return {"layer": "mix"} if name == "self_universality" else {}


def run(name: str):
    """The attack at its defaults on one digit: clean, adversarial, label, what the net says, and the work.

    Attacks of several surrogates have two; what goes to given targets goes to the next class.
    """
    images, labels = digit()
    factory = ATTACKS.row(name).factory
    attack = factory(EPS, **arguments(name))
    aimed = name in ("self_universality", "po_trip", "logit")
    several = name in ("svre", "cwa", "lgv")
    aims = (labels + 1) % 10 if aimed else labels
    surrogate = tuple(predict(True, seed) for seed in (0, 1)) if several else predict(True)
    jax.block_until_ready(surrogate)
    _seen.update(gradients=0, forwards=0)
    adversarial = jax.jit(attack)(jax.random.key(0), surrogate, images, aims)
    jax.block_until_ready(adversarial)
    jax.effects_barrier()
    work = Work(_seen["gradients"], _seen["forwards"])
    says = [int(predict()(x).argmax(-1)[0]) for x in (images, adversarial)]
    return images, np.asarray(adversarial), int(labels[0]), says, work
