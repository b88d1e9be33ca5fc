import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from transferjax import models
from transferjax.metrics.attention import activations, grad_cam, layers


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


IMAGES = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
VARIABLES = Net().init(jax.random.key(1), IMAGES)
PREDICT = models.predictor(Net(), VARIABLES)
CLASSES = jnp.array([0, 2])


def test_layers_are_listed():
    shapes = layers(PREDICT, IMAGES)
    assert shapes["conv"] == (2, 8, 8, 4)
    assert shapes["head"] == (2, 3)


def test_activations():
    params = VARIABLES["params"]["conv"]
    expected = nn.Conv(4, (3, 3)).apply({"params": params}, IMAGES)
    np.testing.assert_allclose(activations(PREDICT, IMAGES, "conv"), expected, rtol=1e-5, atol=1e-6)


def test_grad_cam_against_the_formula():
    """z_y = mean(relu(A)) · w_y, so α_c = mean([A_c > 0]) w_yc / 64."""
    maps = activations(PREDICT, IMAGES, "conv")
    head = VARIABLES["params"]["head"]["kernel"].T[CLASSES]
    weights = (maps > 0).mean((1, 2)) * head
    expected = jax.nn.relu(jnp.einsum("bhwc,bc->bhw", maps, weights))
    found = jax.jit(grad_cam)(PREDICT, IMAGES, CLASSES)
    largest = expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected / jnp.where(largest > 0, largest, 1), rtol=1e-4, atol=1e-5)


def test_a_net_of_the_zoo_has_maps_at_the_images_size():
    net = models.build("cifar_resnet18", width=4, blocks=(1, 1))
    images = jnp.ones((2, 32, 32, 3)) * jnp.linspace(0, 1, 32)[:, None]
    predict = models.predictor(net, jax.jit(net.init)(jax.random.key(0), images))
    found = jax.jit(grad_cam)(predict, images, jnp.array([1, 2]))
    assert found.shape == (2, 32, 32)
    assert found.min() >= 0
    assert found.max() <= 1


def test_unknown_layers_are_refused():
    with pytest.raises(ValueError, match=r"no module .* ends in 'stage9'; it has"):
        grad_cam(PREDICT, IMAGES, CLASSES, "stage9")
    with pytest.raises(ValueError, match="not maps"):
        grad_cam(PREDICT, IMAGES, CLASSES, "head")
    with pytest.raises(ValueError, match="no layer has a map"):
        grad_cam(lambda x: x.mean((1, 2)), IMAGES, CLASSES)
