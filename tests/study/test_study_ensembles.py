"""Several surrogates at once: what they are to an attack, and that snapshots compile like one net."""

import jax
import numpy as np
import pytest
from small import RESNET, VGG, attacked, failure, make, network, training

from transferjax import data
from transferjax.predicts.snapshots import Snapshots
from transferjax.study import registry
from transferjax.study.make import _surrogate
from transferjax.study.specs import Call

CLEAN = data.load("digits", "test").subset(32).images
CONSTANT = ("constant", {"peak": 0.05})


@pytest.fixture(scope="module")
def snapshots():
    """LGV: training goes on from a trained network at a constant rate; four snapshots an epoch."""
    base = network(VGG, seed=3)
    t = training(2.0, CONSTANT)
    return tuple(network(VGG, t=t, seed=3, start=base, epoch=e) for e in (0.5, 1.0, 1.5, None))


def lgv(snapshots, **options):
    return attacked(snapshots, Call(name="lgv", options={"steps": 5} | options))


def test_lgv_is_made_from_snapshots_of_one_training(context, snapshots):
    arrays = make(context, *snapshots)
    kernels = [next(v for n, v in a.items() if n.endswith("kernel")) for a in arrays]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    steps = {e.spec.epoch: e.provenance["steps"] for e in context.store.entries("Network") if e.spec.start}
    assert steps == {0.5: 1, 1.0: 2, 1.5: 3, None: 4}  # one training, looked at four times
    made = make(context, lgv(snapshots))
    assert 0 < np.abs(made["images"].astype(int) - CLEAN).max() <= 32


def test_snapshots_compile_like_one_net(context, snapshots):
    """One stacked predict, and as many convolutions in the program with four as with two."""
    spec = lgv(snapshots)
    make(context, *snapshots)
    stacked = _surrogate(context, spec)
    assert isinstance(stacked, Snapshots)
    assert len(stacked) == 4

    def convolutions(few):
        predict = _surrogate(context, lgv(few))
        attack = registry.make(registry.ATTACKS, spec.attack, eps=0.1)
        images = CLEAN[:2].astype(np.float32) / 255
        traced = jax.make_jaxpr(attack)(jax.random.key(0), predict, images, np.array([1, 2]))
        return str(traced).count("conv_nhwc[")

    assert convolutions(snapshots) == convolutions(snapshots[:2]) > 0


def test_the_order_and_the_members_are_part_of_what_they_are(snapshots):
    assert lgv(snapshots).key != lgv(snapshots[::-1]).key
    assert lgv(snapshots).key != lgv(snapshots[:3]).key


def test_an_ensemble_of_architectures_is_the_mean_of_their_losses(context):
    nets = network(VGG), network(RESNET)
    spec = attacked(nets, Call(name="fgsm"))
    made = make(context, spec)
    assert isinstance(_surrogate(context, spec), tuple)
    labels = np.asarray(data.load("digits", "test").subset(32).labels)
    x = CLEAN.astype(np.float32) / 255

    @jax.jit
    def gradient(predicts, x):
        def loss(x):
            logs = [jax.nn.log_softmax(p(x))[np.arange(32), labels] for p in predicts]
            return -sum(logs).sum()

        return jax.grad(loss)(x)

    expected = np.clip(x + 32 / 255 * np.sign(gradient([context.predict(n) for n in nets], x)), 0, 1)
    assert np.mean(np.abs(made["images"] / 255 - expected) < 1e-3) > 0.99


def test_seeds_of_one_architecture_are_stacked_and_their_mean_is_the_same(context):
    nets = network(VGG, seed=0), network(VGG, seed=1)
    spec = attacked(nets, Call(name="bim", options={"steps": 2}))
    make(context, spec)
    stacked, apart = _surrogate(context, spec), tuple(map(context.predict, nets))
    assert isinstance(stacked, Snapshots)
    attack = jax.jit(registry.make(registry.ATTACKS, spec.attack, eps=32 / 255))
    images, labels = CLEAN.astype(np.float32) / 255, np.arange(32) % 10
    one, other = (attack(jax.random.key(0), predict, images, labels) for predict in (stacked, apart))
    assert np.mean(np.abs(one - other) < 1e-4) > 0.99


ALONE = ("apgd", "apgd_t", "fab", "square", "auto_attack", "fia")


@pytest.mark.parametrize("name", ALONE)
def test_attacks_on_one_net_say_so(name, context, snapshots):
    make(context, *snapshots)
    options = {"layer": "features.0"} if name == "fia" else {}
    spec = attacked(snapshots[:2], Call(name=name, options=options))
    assert f"{name} takes one surrogate" in failure(context, spec)
