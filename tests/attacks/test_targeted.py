"""Targets, and losses made for reaching them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks
from transferjax.attacks.catalogue.targeted import poincare, triplet


@pytest.fixture
def logits():
    return jax.random.normal(jax.random.key(0), (200, 10)), jnp.arange(200) % 10


@pytest.mark.parametrize("rule", ["next", "random", "least_likely"])
def test_targets_differ_from_labels(rule, logits):
    targets = attacks.choose_targets(rule, jax.random.key(1), *logits)
    assert targets.shape == (200,)
    assert np.all((targets >= 0) & (targets < 10))
    assert not np.any(targets == logits[1])


def test_random_targets_are_uniform_over_the_others(logits):
    targets = attacks.choose_targets("random", jax.random.key(1), *logits)
    steps = np.bincount((np.asarray(targets) - np.asarray(logits[1])) % 10, minlength=10)
    assert steps[0] == 0
    assert steps[1:].min() > 5


def test_least_likely(logits):
    """Where the least likely class is the label, the next one."""
    z, labels = logits
    labels = labels.at[:100].set(z[:100].argmin(-1))
    targets = attacks.choose_targets("least_likely", jax.random.key(1), z, labels)
    order = np.argsort(z, -1)
    np.testing.assert_array_equal(targets, np.where(order[:, 0] == labels, order[:, 1], order[:, 0]))


def test_unknown_rule(logits):
    with pytest.raises(ValueError, match="must be one of next, random, least_likely; got 'nearest'"):
        attacks.choose_targets("nearest", jax.random.key(1), *logits)


def test_poincare_by_hand():
    """`u = z / ‖z‖₁` against the distance in the Poincaré ball, computed in plain numpy."""
    z, targets = np.array([[1.0, -2.0, 1.0]]), np.array([1])
    u, v = z[0] / 4, np.array([0, 1 - 1e-5, 0])
    delta = 2 * np.sum((u - v) ** 2) / ((1 - u @ u) * (1 - v @ v))
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            poincare(jnp.asarray(z), jnp.asarray(targets)), np.arccosh(1 + delta), rtol=1e-6
        )


def test_a_triplet_by_hand():
    """`(|z_truth| - |z_target|) / ‖z‖₂ + margin`, and no less than 0."""
    z = np.array([[3.0, -4.0, 0.0], [-1.0, 2.0, 2.0], [0.5, -8.0, 1.0]])
    targets, truth = np.array([1, 2, 1]), np.array([0, 0, 2])
    expected = [0.0, 0.0, 0.0]
    for i, margin in ((0, 0.5), (1, 0.6), (2, 1.2)):
        apart = abs(z[i, truth[i]]) - abs(z[i, targets[i]])
        expected[i] = max(0, apart / np.linalg.norm(z[i]) + margin)
        found = triplet(jnp.asarray(z[i : i + 1]), targets[i : i + 1], truth[i : i + 1], margin)
        np.testing.assert_allclose(found, expected[i], rtol=1e-5)
    assert min(expected) > 0.2
    assert triplet(jnp.asarray(z), jnp.asarray(targets), jnp.asarray(truth)).tolist() == [0, 0, 0]


def test_losses_fall_towards_the_target_and_survive_zero_logits():
    far, near = jnp.array([[5.0, 0.1, 0.1]]), jnp.array([[0.1, 5.0, 0.1]])
    target, truth = jnp.array([1]), jnp.array([0])
    assert poincare(near, target)[0] < poincare(far, target)[0]
    assert triplet(near, target, truth)[0] < triplet(far, target, truth)[0]
    for loss in (lambda z: poincare(z, target).sum(), lambda z: triplet(z, target, truth).sum()):
        assert np.all(np.isfinite(jax.grad(loss)(jnp.zeros((1, 3)))))
