"""Names that hold in every process, and say what they stand for."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, losses, models
from transferjax.attacks import ensembles, inputs, projections, rules, updates
from transferjax.naming import UnstableName, described, stable_name
from transferjax.training import rules as training_rules

POOL = np.arange(12.0, dtype=np.float32).reshape(1, 2, 2, 3) / 12
SCALE = 2.0


def mine(logits, labels):
    return SCALE * losses.margin(logits, labels)


def scaled(factor):
    def loss(logits, labels, power=1):
        return factor * mine(logits, labels) ** power

    return loss


@dataclass
class Point:
    x: object
    y: float = 0.0


class Holder:
    def __init__(self, *values):
        self.values = values

    def method(self):
        return self.values


def values():
    """Everything that may stand in a manifest, made anew."""
    eps = 8 / 255
    return {
        "number": eps,
        "array": POOL,
        "other dtype": POOL.astype(np.float64),
        "other shape": POOL.reshape(2, 1, 2, 3),
        "scalar": np.float32(0.5),
        "key": jax.random.key(1),
        "other key": jax.random.key(2),
        "set": {"a", "b", "c"},
        "dict": {"b": 1, "a": losses.margin},
        "one": (1,),
        "function": losses.margin,
        "own function": mine,
        "own closure": scaled(2.0),
        "other closure": scaled(3.0),
        "class": jnp.float32,
        "partial": functools.partial(losses.margin, targets=POOL),
        "Partial": jax.tree_util.Partial(losses.margin, POOL),
        "jit": jax.jit(losses.margin),
        "vmap": jax.vmap(losses.margin),
        "custom derivative": jax.nn.relu,
        "average": rules.average(inputs.diversity(0.9), 5),
        "other average": rules.average(inputs.diversity(0.8), 5),
        "shuffle": inputs.block_shuffle(),
        "admix": inputs.admix(POOL),
        "one member": ensembles.one_member(),
        "svre": ensembles.svre(eps, 0.01),
        "projection": projections.l2_nearest(eps),
        "optax": updates.momentum(1.0, "linf", 0.1),
        "training rule": training_rules.sam(0.1),
        "dataclass": Point(POOL),
        "other dataclass": Point(POOL, 1.0),
        "object": Holder(POOL),
        "method": Holder(POOL).method,
        "net": models.predict.Forward(models.build("cifar_resnet18")),
        "other net": models.predict.Forward(models.build("cifar_resnet18", num_classes=7)),
        "recipe": attacks.pgd(eps, loss=losses.margin, outer_rules=(rules.average(inputs.halve, 5),)),
        "what it runs": attacks.pgn(eps).run,
    }


def all_names():
    return {what: stable_name(value) for what, value in values().items()}


def test_names_are_the_same_in_the_next_process():
    code = "import json, test_naming; print(json.dumps(test_naming.all_names()))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    here = all_names()
    assert json.loads(run.stdout) == here
    assert len(set(here.values())) == len(here)
    assert not [name for name in here.values() if " at 0x" in name]


def test_names_are_readable():
    names = all_names()
    assert names["function"] == "transferjax.losses.margin"
    assert names["number"] == repr(8 / 255)
    assert names["average"].startswith("transferjax.attacks.rules.average.<locals>.rule(chunk=1, ")
    assert "small=0.9" in names["average"]
    loss = "loss='margin', outer_rules=(transferjax.attacks.rules.average"
    assert loss in repr(attacks.pgd(0.1, loss=losses.margin, outer_rules=(rules.average(inputs.halve, 5),)))


def test_code_and_what_it_reads_count(monkeypatch):
    """An edited function of the same name is another; one that reads another global is, too."""

    def edited(source):
        scope = {"__name__": "__main__", "factor": 2}
        exec(source, scope)
        return stable_name(scope["loss"])

    one = edited("def loss(x): return 2 * x")
    assert one == edited("def loss(x):\n    # twice\n    return 2 * x")
    assert one.startswith("__main__.loss#")
    assert len({one, edited("def loss(x): return 3 * x"), edited("def loss(x): return factor * x")}) == 3
    before = stable_name(scaled(2.0))
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert stable_name(scaled(2.0)) != before


def test_a_function_that_calls_itself_has_a_name():
    def outer(n):
        return outer(n - 1) if n else 0

    assert stable_name(outer) == stable_name(outer)


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x,
        (lambda x: x,),
        functools.partial(lambda x: x),
        jax.jit(lambda x: x),
        rules.average(lambda keys, x, number: x),
        Holder(lambda x: x).method,
        np.array([object()]),
        np.random.default_rng(0),
        iter([1]),
        [1].append,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_compared_has_no_name(value):
    with pytest.raises(UnstableName):
        stable_name(value)
    assert described(value) == repr(value)


def test_traced_values_have_none():
    def f(eps):
        with pytest.raises(UnstableName, match="is traced"):
            stable_name(eps)
        assert "eps=" in repr(attacks.pgd(eps))
        return eps

    jax.jit(f)(0.1)
