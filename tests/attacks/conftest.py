"""The three-layer net of the golden attacks, and nets small enough that compiling them is cheap."""

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    weight = noise / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1 * noise
    return weight.astype(np.float32)


def conv(x, weight, bias, stride):
    """Torch's convolution with padding 1: weight OIHW, images NHWC."""
    dimensions = ("NHWC", "OIHW", "NHWC")
    return (
        jax.lax.conv_general_dilated(
            x, weight, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=dimensions
        )
        + bias
    )


def tiny_net(weights, x):
    x = x.astype(weights["conv1.weight"].dtype)
    x = jax.nn.relu(conv(x, weights["conv1.weight"], weights["conv1.bias"], 1))
    x = jax.nn.relu(conv(x, weights["conv2.weight"], weights["conv2.bias"], 2))
    return 8 * (x.mean((1, 2)) @ weights["fc.weight"].T + weights["fc.bias"])


@pytest.fixture
def tiny_predict():
    """dtype -> the golden net as a pytree with its weights as leaves."""
    shapes = json.loads((GOLDEN / "attacks_tiny.state_dict.json").read_text())

    def build(dtype=jnp.float32):
        weights = {
            name: jnp.asarray(golden_weight(name, tuple(shape)), dtype) for name, shape in shapes.items()
        }
        return jax.tree_util.Partial(tiny_net, weights)

    return build


@pytest.fixture(scope="session")
def golden():
    with np.load(GOLDEN / "attacks_tiny.npz") as arrays:
        return SimpleNamespace(arrays={name: arrays[name] for name in arrays.files})
