"""Pixel by pixel against torchattacks and TransferAttack, on arrays computed once with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks

EPS, STEP = 8 / 255, 2 / 255
BUDGET = {"eps": EPS, "steps": 10, "step_size": STEP}
PLAIN = BUDGET | {"random_start": False}

PEERS = {
    "torchattacks__FGSM": attacks.fgsm(EPS),
    "torchattacks__BIM": attacks.bim(**BUDGET),
    "torchattacks__PGD": attacks.pgd(**PLAIN),
    "torchattacks__PGD__targeted": attacks.pgd(**PLAIN, targeted=True),
    "torchattacks__PGDL2": attacks.pgd(1.0, 10, step_size=0.2, norm="l2", random_start=False),
    "torchattacks__MIFGSM": attacks.mi_fgsm(**BUDGET),
    "torchattacks__MIFGSM__targeted": attacks.mi_fgsm(**BUDGET, targeted=True),
    "torchattacks__NIFGSM": attacks.ni_fgsm(**BUDGET),
    "torchattacks__SINIFGSM": attacks.si_ni_fgsm(**BUDGET, scales=5),
    "torchattacks__TIFGSM": attacks.tim(**BUDGET, decay=0.0, kernel_size=15),
    "transferattack__MIFGSM": attacks.mi_fgsm(**BUDGET),
    "transferattack__NIFGSM": attacks.ni_fgsm(**BUDGET),
    "transferattack__EMIFGSM": attacks.emi_fgsm(**BUDGET, samples=11, radius=7.0),
    "transferattack__TIM": attacks.tim(**BUDGET, kernel_size=7),
    "transferattack__SIM": attacks.sim(**BUDGET, scales=5),
    "transferattack__GNP": attacks.gnp(**BUDGET, radius=0.01, beta=0.8, variant="transferattack"),
    "transferattack__PGN_no_noise": attacks.pgn(EPS, 10, step_size=EPS / 10, neighbors=1, zeta=0, delta=0.5),
}


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
