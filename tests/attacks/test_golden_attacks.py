"""Pixel by pixel against torchattacks and TransferAttack, on arrays computed once with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.peers import PEERS


@pytest.fixture
def craft(golden, tiny_predict):
    def run(name, attack):
        labels = jnp.asarray(golden.arrays["labels"], jnp.int32)
        targets = (labels + 1) % 10 if "targeted" in name else labels
        images = jnp.asarray(golden.arrays["images"], jnp.float64)
        return np.asarray(jax.jit(attack)(jax.random.key(0), tiny_predict(jnp.float64), images, targets))

    return run


@pytest.mark.parametrize("name", PEERS)
def test_equal_pixels(name, golden, craft, x64):
    ours, peer = craft(name, PEERS[name]), golden.arrays[name]
    assert np.mean(np.abs(ours - peer) < 1e-4) >= 0.99


def test_no_golden_array_is_forgotten(golden):
    assert set(PEERS) == set(golden.arrays) - {"images", "labels", "logits"}


def test_the_net_is_the_peers_net(golden, tiny_predict, x64):
    logits = tiny_predict(jnp.float64)(jnp.asarray(golden.arrays["images"], jnp.float64))
    np.testing.assert_allclose(logits, golden.arrays["logits"], rtol=1e-9, atol=1e-9)
