"""Nets of Linen, NNX and Equinox, and any JAX function, as a predict."""

import importlib
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from transferjax import attacks, models
from transferjax.models.modes import in_mode
from transferjax.predicts import from_callable

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
X, LABELS, KEY = jnp.asarray(IMAGES / 255, jnp.float32), jnp.array([0, 1, 2, 0, 1]), jax.random.key(0)


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


WEIGHTS = jax.random.normal(KEY, (48, 3))


def test_weights_are_leaves():
    predict = from_callable(linear, WEIGHTS)
    assert [leaf.shape for leaf in jax.tree.leaves(predict)] == [(48, 3)]
    attack = jax.jit(attacks.bim(0.1, 2))
    np.testing.assert_allclose(
        attack(KEY, predict, X, LABELS),
        attack(KEY, from_callable(lambda x: linear(WEIGHTS, x)), X, LABELS),
        atol=1e-6,
    )


def trains(x, train):
    return linear(WEIGHTS, x) * (100 if train else 1)


def rests(x, *, deterministic):
    return linear(WEIGHTS, x) * (1 if deterministic else 100)


def draws(x, key, training=True):
    assert key is None
    return linear(WEIGHTS, x) * (100 if training else 1)


@pytest.mark.parametrize("function", [trains, rests, draws, lambda x: linear(WEIGHTS, x)])
def test_functions_are_put_into_evaluation_mode(function):
    np.testing.assert_allclose(jax.jit(from_callable(function))(X), linear(WEIGHTS, X), rtol=1e-5)


def test_one_image_at_a_time():
    predict = from_callable(lambda weights, image: image.reshape(-1) @ weights, WEIGHTS, batched=False)
    np.testing.assert_allclose(predict(X), linear(WEIGHTS, X), rtol=1e-5)


class TrainArgument(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(2, (3, 3))(x))
        return linen.Dense(3)(linen.Dropout(0.5, deterministic=not train)(x).reshape(len(x), -1))


class DeterministicArgument(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic=False):
        x = linen.BatchNorm(use_running_average=deterministic)(linen.Conv(2, (3, 3))(x))
        return linen.Dense(3)(linen.Dropout(0.5)(x, deterministic).reshape(len(x), -1))


class TrainingField(linen.Module):
    training: bool = True

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=not self.training)(linen.Conv(2, (3, 3))(x))
        return linen.Dense(3)(linen.Dropout(0.5, deterministic=not self.training)(x).reshape(len(x), -1))


class NoMode(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.Conv(2, (3, 3))(x).reshape(len(x), -1))


LINEN = [TrainArgument(), DeterministicArgument(), TrainingField(), NoMode()]


def variables_of(module):
    keys = {"params": KEY, "dropout": KEY}
    return module.init(keys, X, **in_mode(module, train=True))


@pytest.mark.parametrize("module", LINEN, ids=lambda m: type(m).__name__)
class TestLinen:
    def test_evaluation(self, module):
        variables = variables_of(module)
        predict = from_callable(module, variables)
        expected = {
            "TrainArgument": lambda: module.apply(variables, X, False),
            "DeterministicArgument": lambda: module.apply(variables, X, True),
            "TrainingField": lambda: module.clone(training=False).apply(variables, X),
            "NoMode": lambda: module.apply(variables, X),
        }[type(module).__name__]()
        for ours in (predict, from_callable(module.apply, variables), models.predictor(module, variables)):
            np.testing.assert_allclose(jax.jit(ours)(X), expected, rtol=1e-5, atol=1e-6)
        assert models.is_piecewise_linear(predict, X)

    def test_training_with_one_key_or_one_per_example(self, module):
        variables = variables_of(module)
        logits, statistics = models.train_apply(module, variables, X, key=KEY)
        assert logits.shape == (5, 3)
        if not isinstance(module, NoMode):
            assert not np.allclose(
                jax.tree.leaves(statistics)[0], jax.tree.leaves(variables["batch_stats"])[0]
            )
            again, _ = models.train_apply(module, variables, X, key=jax.random.key(1))
            assert not np.allclose(logits, again)  # dropout drops
        several, _ = models.train_apply(module, variables, X, key=jax.random.split(KEY, 5))
        assert several.shape == logits.shape


def test_a_linen_module_without_variables():
    with pytest.raises(TypeError, match="NoMode is a Linen module: give its variables too"):
        from_callable(NoMode())


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(self.norm(self.conv(x))).reshape(len(x), -1))


def test_nnx_in_whatever_mode_and_left_in_it():
    module = Nnx(nnx.Rngs(0))
    predict = from_callable(module)
    assert not module.dropout.deterministic
    module.eval()
    expected = module(X)
    for ours in (predict, from_callable(module)):
        np.testing.assert_allclose(jax.jit(lambda p, x: p(x))(ours, X), expected, rtol=1e-5, atol=1e-6)
    moved = jax.jit(attacks.bim(0.1, 2))(KEY, predict, X, LABELS)
    assert np.abs(moved - X).max() == pytest.approx(0.1, abs=1e-6)


@jax.tree_util.register_pytree_node_class
class Pytree:
    """As Equinox's modules are: arrays and functions are its leaves, and it takes one image."""

    def __init__(self, weights, activation):
        self.weights, self.activation = weights, activation

    def tree_flatten(self):
        return (self.weights, self.activation), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def __call__(self, image, *, key=None):
        return self.activation(image.reshape(-1) @ self.weights)


def test_pytrees_that_are_callable():
    predict = from_callable(Pytree(WEIGHTS, jax.nn.gelu), batched=False)
    expected = jax.nn.gelu(linear(WEIGHTS, X))
    np.testing.assert_allclose(jax.jit(lambda p, x: p(x))(predict, X), expected, rtol=1e-5, atol=1e-6)
    assert [leaf.shape for leaf in jax.tree.leaves(predict)] == [(48, 3)]


def test_equinox(monkeypatch):
    try:
        eqx: ModuleType = importlib.import_module("equinox")
    except ImportError:
        pytest.skip("Equinox is not installed")

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        dropout: eqx.nn.Dropout
        dense: eqx.nn.Linear

        def __call__(self, image, key):
            return self.dense(self.dropout(jax.nn.relu(self.conv(image)), key=key).reshape(-1))

    net = Net(eqx.nn.Conv2d(3, 2, 3, key=KEY), eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 3, key=KEY))
    from transferjax.predicts import Preprocessing

    predict = Preprocessing(layout="NCHW")(from_callable(net, batched=False))
    expected = jax.vmap(lambda image: eqx.nn.inference_mode(net)(image, None))(X.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(jax.jit(lambda p, x: p(x))(predict, X), expected, rtol=1e-5, atol=1e-6)
    assert not net.dropout.inference


def test_what_cannot_be_called():
    with pytest.raises(TypeError, match="expected a function or a net; got dict"):
        from_callable({"params": 1})
