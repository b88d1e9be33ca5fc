"""Weights for any net without compiling anything: they follow from each tensor's name and shape."""

import zlib

import jax
import numpy as np
import pytest

from transferjax import models


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The formula of `tests/golden/README.md`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    n = rng.standard_normal(shape)
    if name.endswith("running_var"):
        n = 0.5 + rng.random(shape)
    elif name.endswith("running_mean"):
        n = 0.1 * n
    elif name.endswith(("pos_embed", "cls_token")):
        n = 0.02 * n
    elif len(shape) >= 2:
        n = n / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        n = 1 + 0.1 * n
    else:
        n = 0.1 * n
    return np.asarray(n, np.float32)


@pytest.fixture(scope="session")
def golden_tensor():
    return tensor


@pytest.fixture(scope="session")
def variables_of():
    """(module, channels) -> variables."""

    def make(module: models.Net, channels: int = 3):
        shapes = models.abstract_variables(module, channels)
        empty = models.to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))
        return models.from_torch(module, {name: tensor(name, value.shape) for name, value in empty.items()})

    return make
