"""Weights that are tuned on the way: one step in NumPy, for each image its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, models
from transferjax.attacks import ensembles, inputs
from transferjax.attacks.ascend import gradient_of, objective_of
from transferjax.attacks.rules import average, variance_tuning
from transferjax.attacks.tuning import moved, tuned_weights, weights_of
from transferjax.chain import initial_memory
from transferjax.predicts import Snapshots
from transferjax.predicts.stochastic import Stochastic
from transferjax.random import fold_in, sample

SHAPE, CLASSES, EPS = (3, 2, 2, 2), 3, 0.1
LABELS = np.array([1, 0, 2])
KEYS = fold_in(jax.random.key(0), jnp.arange(3))
RATE, RHO, DECAY = 0.4, 0.3, 0.5


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights["w"] + weights["b"]


@pytest.fixture
def problem():
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(8, CLASSES)), "b": draw.normal(size=CLASSES)}
    clean = draw.uniform(0.3, 0.7, SHAPE)
    return weights, clean, clean + draw.uniform(-0.1, 0.1, SHAPE)


def walk(ensemble, predict, x, clean, steps=1, targeted=False, labels=LABELS, keys=KEYS):
    """Gradients of several steps at the same point, and what is kept."""
    gradient = lambda predict: gradient_of(predict, targeted=targeted)  # noqa: E731
    several = ensembles.members(predict, gradient, (), objective_of(targeted=targeted))
    grad_fn = ensemble(several)
    at = jnp.asarray(x), {"clean": jnp.asarray(clean)}, keys, jnp.asarray(labels)
    memory, found = initial_memory(grad_fn, *at), []
    for step in range(steps):
        (_, memory), grads = jax.jit(grad_fn)(at[0], memory, fold_in(keys, step), at[3])
        found.append(np.asarray(grads))
    return found, memory


def slope(w, b, x, label):
    """Gradients of the cross-entropy of one image with respect to x, w and b."""
    z = x.ravel() @ w + b
    rest = np.exp(z - z.max()) / np.exp(z - z.max()).sum() - np.eye(CLASSES)[label]
    return (w @ rest).reshape(x.shape), np.outer(x.ravel(), rest), rest


@pytest.mark.parametrize("targeted", [False, True])
def test_the_step_is_sam_with_momentum_in_numpy(problem, targeted, x64):
    """Three steps of each image alone: down the loss of x and of the clean image, twice a gradient."""
    weights, clean, x = problem
    sign, expected = -1 if targeted else 1, []

    def both(i, w, b):
        found = (slope(w, b, image[i], LABELS[i])[1:] for image in (x, clean))
        return [sign * (one + other) for one, other in zip(*found, strict=True)]

    for i, label in enumerate(LABELS):
        w, b = weights["w"].copy(), weights["b"].copy()
        mw, mb = 0, 0
        for _ in range(3):
            gw, gb = both(i, w, b)
            length = np.sqrt((gw**2).sum() + (gb**2).sum())
            gw, gb = both(i, w + RHO * gw / length, b + RHO * gb / length)
            mw, mb = DECAY * mw + gw, DECAY * mb + gb
            w, b = w - RATE * mw, b - RATE * mb
            expected.append(sign * slope(w, b, x[i], label)[0])
    predict = jax.tree_util.Partial(linear, jax.tree.map(jnp.asarray, weights))
    found, _ = walk(tuned_weights(RATE, RHO, DECAY), predict, x, clean, 3, targeted)
    np.testing.assert_allclose(found, np.array(expected).reshape(3, 3, *SHAPE[1:]).swapaxes(0, 1), rtol=1e-8)


def test_rules_see_weights_that_stand_still(problem, x64):
    """With a mean over x and x/2 around the tuned net, the weights move as without; rules may remember."""
    weights, clean, x = problem
    predict = jax.tree_util.Partial(linear, jax.tree.map(jnp.asarray, weights))
    _, plain = walk(tuned_weights(RATE, RHO, DECAY), predict, x, clean, 2)
    rules = variance_tuning(0.1, 2), average(inputs.halve, 2)
    _, ruled = walk(tuned_weights(RATE, RHO, DECAY, rules), predict, x, clean, 2)
    ours, theirs = plain["tuned_weights_0"], ruled["tuned_weights_0"]
    jax.tree.map(np.testing.assert_array_equal, ours["changes"], theirs["changes"])
    assert set(theirs["rules"]) == {"variance_tuning"}
    assert np.abs(theirs["rules"]["variance_tuning"]).max() > 0


def test_without_a_rate_it_is_the_plain_gradient(problem, x64):
    weights, clean, x = problem
    predict = jax.tree_util.Partial(linear, jax.tree.map(jnp.asarray, weights))
    (grads,), _ = walk(tuned_weights(0.0), predict, x, clean)
    expected = [
        slope(weights["w"], weights["b"], one, label)[0] for one, label in zip(x, LABELS, strict=True)
    ]
    np.testing.assert_allclose(grads, expected, rtol=1e-8)


def test_several_nets_have_weights_of_their_own(problem, x64):
    """The mean of two tuned gradients, stacked or as a tuple."""
    weights, clean, x = problem
    one = jax.tree_util.Partial(linear, jax.tree.map(jnp.asarray, weights))
    two = jax.tree.map(lambda a: 0.5 * a, one)
    ensemble = tuned_weights(RATE, RHO, DECAY)
    alone = [walk(ensemble, predict, x, clean, 2)[0] for predict in (one, two)]
    for several in ((one, two), Snapshots.stack([one, two])):
        found, memory = walk(ensemble, several, x, clean, 2)
        np.testing.assert_allclose(found, np.mean(alone, 0), rtol=1e-8)
        assert {"tuned_weights_0", "tuned_weights_1"} <= set(memory)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(CLASSES)(jnp.tanh(x).mean((1, 2)))


def test_statistics_and_normalization_are_no_weights():
    """Of a Flax net those under "params"; of another pytree its floating leaves."""
    images = jnp.ones((1, 4, 4, 3))
    variables = Net().init(jax.random.key(0), images)
    predict = models.predictor(Net(), variables, mean=(0.5, 0.4, 0.3), std=0.2)
    weights, put = weights_of(predict)
    assert len(weights) == len(jax.tree.leaves(variables["params"]))
    zero = put([jnp.zeros_like(w) for w in weights])
    np.testing.assert_array_equal(zero(images), jnp.zeros((1, CLASSES)))
    same = jax.tree.map(np.array_equal, zero.args[0]["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(same))
    others = {"w": jnp.ones((2, 2)), "n": jnp.arange(3), "key": jax.random.key(0)}
    assert len(weights_of(jax.tree_util.Partial(linear, others))[0]) == 1
    with pytest.raises(ValueError, match="holds no weights that could be tuned: make it a jax"):
        weights_of(jax.tree_util.Partial(lambda x: x))


def test_an_image_with_a_change_of_its_own(problem):
    """Images see `w + c_b`; where nothing is changed, the net."""
    weights, _, x = problem
    predict = jax.tree_util.Partial(linear, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights))
    x, (b, w) = jnp.asarray(x, jnp.float32), weights_of(predict)[0]  # in the order of their names
    changes = [jnp.zeros((3, *a.shape)).at[1].set(1.0) for a in (b, w)]
    expected = np.array(predict(x))
    expected[1] = linear({"w": w + 1, "b": b + 1}, x[1:2])[0]
    np.testing.assert_allclose(moved(predict, changes)(x), expected, rtol=1e-5)


def test_random_nets_draw_for_each_image(problem):
    """Keys go with their images, whatever the batch."""
    weights, clean, x = problem
    weights = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights)

    def noisy(weights, keys, x):
        return linear(weights, x) * (1 + sample(jax.random.normal, keys, (CLASSES,)))

    predict = Stochastic(jax.tree_util.Partial(noisy, weights), jax.random.key(0))
    x, clean = jnp.asarray(x, jnp.float32), jnp.asarray(clean, jnp.float32)
    attack = attacks.awt(EPS, 2, neighbors=2)
    whole = jax.jit(attack)(KEYS, predict, clean, jnp.asarray(LABELS))
    last = jax.jit(attack)(KEYS[2:], predict, clean[2:], jnp.asarray(LABELS[2:]))
    np.testing.assert_allclose(last, whole[2:], atol=1e-6)
    assert jnp.abs(whole - attack(fold_in(KEYS, 1), predict, clean, jnp.asarray(LABELS))).max() > 0.01


def test_members_of_ones_own_must_say_their_nets():
    with pytest.raises(ValueError, match="without nets and an objective"):
        tuned_weights()(ensembles.Members(1, lambda _: None))


@pytest.mark.parametrize("chunk", [1, 2])
def test_without_tuning_awt_is_pgn(problem, chunk):
    """Up to the keys of the neighbours, of which there is but one place without a radius."""
    weights, clean, _ = problem
    predict = jax.tree_util.Partial(linear, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights))
    images, labels = jnp.asarray(clean, jnp.float32), jnp.asarray(LABELS)
    few = {"steps": 3, "neighbors": 2, "zeta": 0.0, "chunk": chunk}
    pgn = attacks.pgn(EPS, **few)(KEYS, predict, images, labels)
    still = attacks.awt(EPS, **few, weight_rate=0.0)(KEYS, predict, images, labels)
    np.testing.assert_allclose(still, pgn, atol=1e-6)
    tuned = attacks.awt(EPS, **few, weight_rate=30.0)(KEYS, predict, images, labels)
    assert jnp.abs(tuned - pgn).max() > 0.01
