"""Attacks: bad input and the words for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferjax import attacks
from transferjax.attacks import goals, inspection

GOOD = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)


def test_targets_are_the_labels():
    """You see: "1 of 3 targets equal the true label, so there is nothing to attack: `choose_targets` never
    picks the label".
    Do: choose other classes for them.
    """
    with pytest.raises(ValueError, match="1 of 3 targets equal the true label"):
        goals.check_targets(np.array([1, 2, 3]), np.array([2, 2, 1]))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (jax.nn.softmax(jnp.arange(6.0).reshape(2, 3)), "returned probabilities"),
        (jnp.array([[0.0, np.nan]]), "NaN or infinite logits"),
        (jnp.zeros((2, 3, 4)), r"logits \[B, K\]; got shape \(2, 3, 4\)"),
    ],
)
def test_predict_returns_probabilities(logits, message):
    """You see: of `craft`, commands and studies, "predict returned probabilities (…), whose gradients vanish
    where the net is sure; return the logits before the softmax".
    Do: that.
    """
    with pytest.raises(ValueError, match=message):
        inspection.check_logits(logits)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 20.0))
@settings(deadline=None, max_examples=30)
def test_logits_are_not_taken_for_probabilities(seed, scale):
    logits = scale * np.random.default_rng(seed).standard_normal((8, 10))
    assert not inspection.looks_like_probabilities(logits)
    assert inspection.looks_like_probabilities(jax.nn.softmax(jnp.asarray(logits)))


def sqrt_at_zero(x):
    return jnp.stack([jnp.sqrt(x.sum((1, 2, 3))), jnp.ones(len(x))], -1)


def test_the_gradient_of_predict_is_nan(tiny_predict):
    """You see: "the gradient of 1 of 2 images is NaN or infinite; look for a norm, a sqrt or a division at
    zero inside predict".
    Do: that.
    """
    labels = jnp.array([0, 1])
    with pytest.raises(ValueError, match="gradient of 1 of 2 images is NaN or infinite"):
        inspection.check_predict(
            sqrt_at_zero, jnp.stack([jnp.zeros((4, 4, 3)), jnp.ones((4, 4, 3))]), labels, jax.random.key(0)
        )
    inspection.check_predict(tiny_predict(), jnp.asarray(GOOD[:2]), labels, jax.random.key(0))


def constant(x):
    return jnp.broadcast_to(jnp.array([0.2, 0.8]), (len(x), 2))


def noisy(keys, x):
    return x.sum((1, 2))[:, :2] + jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)


def test_robustness_flags(tiny_predict):
    labels, key = jnp.zeros(4, jnp.int32), jax.random.key(0)
    assert inspection.robustness_flags(tiny_predict(), jnp.asarray(GOOD), labels, key) == ()
    flags = inspection.robustness_flags(jax.tree_util.Partial(constant), jnp.asarray(GOOD), labels, key)
    assert [flag.split(":")[0] for flag in flags] == [
        "predict returns probabilities",
        "the gradient vanishes for 100% of the images",
    ]
    random = attacks.Stochastic(jax.tree_util.Partial(noisy), jax.random.key(1))
    (flag,) = inspection.robustness_flags(random, jnp.asarray(GOOD), labels, key)
    assert 'version="rand"' in flag
