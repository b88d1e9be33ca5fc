"""The script that trains purifiers, part by part, on digits and tiny nets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import purify
from transferjax import data, models

EPS = 0.15


class Classifier(nn.Module):
    """Random features and a linear layer."""

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(8, (3, 3), name="features")(x))
        return nn.Dense(10, name="head")(y.reshape(len(y), -1))


@pytest.fixture(scope="module")
def problem():
    """A classifier of digits, its linear layer fitted in closed form."""
    digits, net = data.load("digits", "train").subset(512), Classifier()
    images = data.to_float(jnp.asarray(digits.images))
    params = net.init(jax.random.key(0), images[:1])["params"]
    features = np.asarray(nn.relu(nn.Conv(8, (3, 3)).apply({"params": params["features"]}, images)))
    features = features.reshape(len(images), -1)
    solved = np.linalg.solve(features.T @ features + np.eye(512), features.T @ np.eye(10)[digits.labels])
    params = params | {"head": {"kernel": 10 * jnp.asarray(solved, jnp.float32), "bias": jnp.zeros(10)}}
    return models.predictor(net, {"params": params}), digits


@pytest.mark.parametrize(
    ("kind", "steps", "least"), [("comdefend", 20, 0), ("hgd", 40, 0.2), ("nrp", 150, 0.3)]
)
def test_a_purifier_is_trained_and_defends(kind, steps, least, problem):
    """Of ComDefend, which takes much longer to learn anything, only that it runs."""
    predict, digits = problem
    net, loss, terms = purify.make(kind, predict, EPS, "features", 4, blocks=1)
    variables = purify.train(net, loss, digits, steps=steps, batch_size=32, learning_rate=1e-2, **terms)
    few = digits.subset(64)
    images, purifier = data.to_float(jnp.asarray(few.images)), models.predictor(net, variables)
    found = purify.accuracies(predict, purifier, images, few.labels, EPS)
    assert found["clean, bare"] > 0.9
    assert found["attacked, bare"] < 0.1
    assert found["attacked, purified"] >= least
    assert found["attacked through it"] <= found["attacked, purified"]
