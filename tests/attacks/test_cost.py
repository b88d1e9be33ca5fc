"""What attacks spend: counted in their programs, against what a running program asks of its nets."""

import inspect
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from watch import Watch

from transferjax import attacks, models
from transferjax.attacks.ascend import ascend
from transferjax.attacks.cost import spent
from transferjax.predicts import Snapshots
from transferjax.study.registry import ATTACKS

SHAPE, CLASSES, EPS = (2, 4, 4, 3), 4, 0.1
FEW = {"steps": 2, "neighbors": 4, "samples": 2, "scales": 2, "inner_steps": 2, "queries": 3, "chunk": 2}
FEW |= {"target_classes": 2, "restarts": 2, "eot": 2, "kernel_size": 3, "late_start": 0}
NEEDED = {"pool": np.full((1, *SHAPE[1:]), 0.5, np.float32), "layer": "mix"}
LABELS = jnp.zeros(SHAPE[0], jnp.int32)


class Net(nn.Module):
    """Class 0, whatever the image: no attack ends early."""

    @nn.compact
    def __call__(self, x):
        z = nn.Dense(CLASSES, name="head")(jnp.tanh(nn.Dense(6, name="mix")(x.reshape(len(x), -1))))
        return z + 50 * jax.nn.one_hot(0, CLASSES)


X = 0.2 + 0.6 * jax.random.uniform(jax.random.key(0), SHAPE)
PREDICT = models.predictor(Net(), Net().init(jax.random.key(1), X))


def make(name):
    known = inspect.signature(ATTACKS.row(name).factory).parameters
    chosen = {n: v for n, v in (FEW | NEEDED).items() if n in known}
    return ATTACKS.row(name).factory(EPS, **chosen)


@pytest.mark.parametrize(
    "name", ["noise", "fgsm", "vmi_fgsm", "apgd", "apgd_t", "fab", "square", "auto_attack"]
)
def test_a_running_program_asks_as_often_as_was_counted(name):
    """Those that end early, on a net where they cannot; of the others `test_recipe_norms` says it."""
    watch = Watch()
    watched = jax.tree_util.Partial(watch, PREDICT)
    jax.block_until_ready(jax.jit(make(name))(jax.random.key(2), watched, X, LABELS))
    counted = spent(make(name), PREDICT, SHAPE[1:])
    assert watch.spent(SHAPE[0]) == counted
    assert counted.gradients > 0 or name in ("noise", "square")


@pytest.mark.parametrize(
    ("attack", "evaluations", "gradients"),
    [
        (attacks.noise(EPS), 0, 0),
        (attacks.fgsm(EPS), 1, 1),
        (attacks.pgd(EPS), 10, 10),
        (attacks.sim(EPS), 50, 50),
        (attacks.admix(EPS, pool=NEEDED["pool"]), 150, 150),
        (attacks.vmi_fgsm(EPS), 210, 210),
        (attacks.vmi_fgsm(EPS, chunk=20), 210, 210),
        (attacks.pgn(EPS), 400, 400),
        (attacks.rap(EPS), 400 * 9, 400 * 9),
        (attacks.po_trip(EPS), 21, 20),
        (attacks.sia(EPS), 200, 200),
        (attacks.decowa(EPS), 400, 400),
        (attacks.anda(EPS), 250, 250),
        (attacks.ops(EPS), 9010, 9010),
        (attacks.l2t(EPS, pool=NEEDED["pool"]), 30, 30),
        (attacks.awt(EPS), 10 * (4 + 40), 10 * (4 + 40)),
        (attacks.mef(EPS), 400, 400),
        (attacks.fgsra(EPS), 210, 210),
        (attacks.logit_margin(EPS), 300, 300),
        (attacks.s4st(EPS), 900, 900),
        (attacks.fia(EPS, layer="mix"), 30 + 10, 30 + 10),
        (attacks.bfa(EPS, layer="mix"), 60 + 10, 60 + 10),
        (attacks.ilpd(EPS, layer="mix"), 200, 100),
        (attacks.cfm(EPS, pool=NEEDED["pool"]), 600, 300),
        (attacks.everywhere(EPS, pool=NEEDED["pool"]), 6000, 3000),
        (attacks.square(EPS), 5002, 0),
    ],
    ids=str,
)
def test_the_papers_attacks_spend(attack, evaluations, gradients):
    """What a table of equal cost puts side by side."""
    assert spent(attack, PREDICT, SHAPE[1:]) == (evaluations, gradients)


def test_all_surrogates_count():
    pair = (PREDICT, PREDICT)
    assert spent(attacks.pgd(EPS), pair, SHAPE[1:]).gradients == 20
    assert spent(attacks.lgv(EPS), pair, SHAPE[1:]).gradients == 50
    assert spent(attacks.lgv(EPS), Snapshots.stack(pair), SHAPE[1:]).gradients == 50
    assert spent(attacks.awt(EPS), pair, SHAPE[1:]).gradients == 2 * 10 * (4 + 40)
    assert spent(attacks.svre(EPS), pair, SHAPE[1:]).gradients == 10 * (2 + 8 * 2)
    assert spent(attacks.ada_ea(EPS), pair, SHAPE[1:]) == (10 * (2 + 4 + 2), 10 * (2 + 2))
    assert spent(attacks.smer(EPS), pair, SHAPE[1:]) == (10 * 8 * (1 + 2), 10 * 8)


def test_a_loop_without_a_limit_is_named():
    def forever(grad_fn):
        def rule(x, memory, keys, labels):
            x = jax.lax.while_loop(lambda x: (x > 0).all(), lambda x: grad_fn(x, memory, keys, labels)[1], x)
            return grad_fn(x, memory, keys, labels)

        return rule

    attack = ascend(attacks.updates.sign(), lambda x, x0: x, steps=1, rules=(forever,))
    with pytest.raises(ValueError, match=r"no limit: write its condition as `number < limit"):
        spent(attack, PREDICT, SHAPE[1:])
    assert partial(spent, attacks.fab(EPS, 2))(PREDICT, SHAPE[1:]).gradients == 2 * CLASSES
