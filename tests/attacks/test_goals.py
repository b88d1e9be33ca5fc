"""Targets go to attacks that reach for them, and to no others; said before anything is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, data
from transferjax.attacks import craft, projections, updates
from transferjax.attacks.catalogue.auto_attack import one_after_another
from transferjax.attacks.goals import check_goal
from transferjax.defences.purifier_training import guided_loss
from transferjax.study.registry import ATTACKS

N, EPS = 8, 8 / 255
RNG = np.random.default_rng(0)
DATASET = data.Dataset(
    RNG.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8), np.arange(N, dtype=np.int32), tuple("abcdefghij")
)
TARGETS = (DATASET.labels + 3) % 10


def untouched(x):
    raise AssertionError("computed")


NEEDED = {"admix": {"pool": jnp.ones((1, 8, 8, 3))}, "self_universality": {"layer": "conv"}}
MIXED = ("fgsm", "pgd", "mi_fgsm", "admix", "tpa", "svre", "logit", "po_trip", "self_universality")
UNTARGETED = ("apgd", "apgd_t", "fab", "square", "auto_attack")
BY_NATURE = ("logit", "po_trip", "self_universality", "logit_margin", "s4st", "cfm", "everywhere")


def make(name, **options):
    return ATTACKS.row(name).factory(EPS, **NEEDED.get(name, {}), **options)


def loop(targeted):
    return attacks.ascend(updates.sign(), projections.linf(EPS), steps=1, targeted=targeted)


def plain(key, predict, images, labels):
    return images


@pytest.mark.parametrize("name", MIXED)
def test_goals_of_recipes(name):
    with pytest.raises(
        ValueError, match=f"{name} is untargeted.*run away from the targets: make it with targ"
    ):
        craft(make(name, targeted=False), untouched, DATASET, targets=TARGETS)
    with pytest.raises(ValueError, match=f"{name} is targeted, and without targets"):
        craft(make(name, targeted=True), untouched, DATASET)
    check_goal(make(name, targeted=True), TARGETS)
    check_goal(make(name, targeted=False))


@pytest.mark.parametrize("name", MIXED)
def test_goals_by_default(name):
    """Untargeted, but for attacks that are made for reaching a target."""
    aims, other = (TARGETS, None) if name in BY_NATURE else (None, TARGETS)
    check_goal(make(name), aims)
    with pytest.raises(ValueError, match="targets"):
        craft(make(name), untouched, DATASET, targets=other)


@pytest.mark.parametrize("name", UNTARGETED)
@pytest.mark.parametrize("targeted", [None, True])
def test_attacks_over_target_classes_are_untargeted(name, targeted):
    attack = attacks.fab(EPS, target_classes=9) if name == "fab" else make(name)
    with pytest.raises(
        ValueError, match=f"{name} is (untargeted.*no targeted goal.*pgd|made with targeted=F)"
    ):
        craft(attack, untouched, DATASET, targets=TARGETS, targeted=targeted)
    check_goal(attack)


@pytest.mark.parametrize("wrap", [lambda f: f, functools.partial, jax.tree_util.Partial])
def test_goals_of_functions_that_do_not_say(wrap):
    attack = wrap(plain)
    with pytest.raises(ValueError, match="does not say whether it runs towards targets: give targeted=True"):
        craft(attack, untouched, DATASET, targets=TARGETS, eps=EPS)
    with pytest.raises(ValueError, match="run away from the targets"):
        craft(attack, untouched, DATASET, targets=TARGETS, eps=EPS, targeted=False)
    with pytest.raises(ValueError, match="is targeted, and without targets"):
        craft(attack, untouched, DATASET, eps=EPS, targeted=True)
    check_goal(attack)
    check_goal(attack, TARGETS, targeted=True)


def test_the_loop_says_its_goal():
    with pytest.raises(ValueError, match="run away from the targets: make it with targeted=True"):
        craft(loop(False), untouched, DATASET, targets=TARGETS, eps=EPS)
    with pytest.raises(ValueError, match="is targeted, and without targets"):
        craft(loop(True), untouched, DATASET, eps=EPS)
    with pytest.raises(ValueError, match="made with targeted=False; got targeted=True"):
        craft(loop(False), untouched, DATASET, targets=TARGETS, eps=EPS, targeted=True)
    check_goal(loop(True), TARGETS)
    for compiled in (jax.jit(loop(True)), jax.jit(make("pgd", targeted=True))):
        check_goal(compiled, TARGETS)
        with pytest.raises(ValueError, match="is targeted, and without targets"):
            craft(compiled, untouched, DATASET, eps=EPS)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (TARGETS[:, None], r"squeeze\(-1\)"),
        (np.eye(10)[TARGETS], "argmax"),
        (TARGETS + 0.5, "targets must be integers; got float64"),
        (TARGETS[:3], r"targets must be one class per image, shape \(8,\); got \(3,\)"),
        (TARGETS + 5, "targets must lie in 0 … 9"),
    ],
)
def test_targets_that_are_no_classes(targets, message):
    with pytest.raises(ValueError, match=message):
        craft(make("pgd", targeted=True), untouched, DATASET, targets=targets)


def test_what_needs_untargeted_attacks():
    for function in (one_after_another, functools.partial(guided_loss, untouched)):
        with pytest.raises(
            ValueError, match="pgd is targeted, and without targets it would run towards the tr"
        ):
            function(make("pgd", targeted=True))
        function(make("pgd"))
