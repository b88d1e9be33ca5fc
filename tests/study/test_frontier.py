"""Attacks at equal cost: every row of the config spends what its label says."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from configs import frontier, sp2024
from transferjax import models
from transferjax.attacks import spent
from transferjax.report.tables import NOISE
from transferjax.study import config, registry, views
from transferjax.study.binding import call_of
from transferjax.study.make import attack_of
from transferjax.study.specs import Call, Goal

POOL = np.zeros((1, 8, 8, 3), np.uint8)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.Conv(2, (3, 3), name="layer2.0")(x).mean((1, 2)))


@pytest.mark.parametrize("name", frontier.ATTACKS)
def test_every_attack_spends_what_its_label_says(name):
    predict = models.predictor(Net(), Net().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    for label, row, options in frontier.attacks("layer2.0", (name,)):
        call = Call(name=row, options=options)
        pool = POOL if registry.accepts(registry.ATTACKS, call, "pool") else None
        attack = attack_of(call, Goal(), 8 / 255, "linf", pool)
        assert f"{name} {spent(attack, predict, (8, 8, 3)).gradients}" == label


@pytest.mark.parametrize("known", [True, False])
def test_the_view_draws_a_section_for_each_goal(known):
    """Also where target and surrogate get no image right, as small nets do not."""
    study = config.read(frontier.get_config("smoke"), views.VIEWS)
    rows = [
        {"mechanism": m, "seed": 0, "attack": a, "gradients": g, "target": t, "goal": goal, "eps_255": 8.0}
        | {"asr": g / 2000, "asr_correct": g / 1000 if known else np.nan}
        for m in ("ST", "SAM&IR")
        for a, g in (("PGD 10", 10), ("PGN 100", 100))
        for t in ("VGG", "ViT")
        for goal in ("untargeted", "targeted")
    ]
    noise = {"mechanism": NOISE, "attack": NOISE, "gradients": 0, "asr": 0.01, "asr_correct": 0.01}
    rows += [{**row, **noise} for row in rows[:2]]
    sections = views.VIEWS["frontier"].draw(pd.DataFrame(rows), study, block="main")
    assert [s.title.split(": ")[1] for s in sections] == ["untargeted, ε = 8/255", "targeted, ε = 8/255"]
    for section in sections:
        ((table,), (figure,)) = section.tables, section.figures
        assert list(table.center.index) == ["PGD 10", "PGN 100"]
        assert figure.startswith("frontier_")


def test_the_config_is_read_and_its_variants_choose():
    study = config.read(frontier.get_config("smoke"), views.VIEWS)
    assert [name for name, _ in study.blocks["main"].attacks] == ["PGD 10", "SIA 10", "FIA 10"]
    one = frontier.get_config("cpu,gradients=100,attacks=PGN+SIA,count=50")
    assert [label for label, *_ in one.attacks] == ["PGN 100", "SIA 100"]
    assert dict(one.blocks)["main"]["data"]["count"] == 50
    whole = frontier.get_config()
    assert len(whole.attacks) == 3 * len(frontier.ATTACKS)
    assert len(dict(whole.blocks)["main"]["targets"]) == 6 + 2
    for wrong, said in (
        ("attacks=PDG", "attacks=PDG: the table has PGD, MI"),
        ("gradients=50", "one of 10, 100"),
    ):
        with pytest.raises(ValueError, match=said):
            frontier.get_config(f"cpu,{wrong}")


@pytest.mark.parametrize("scale", frontier.SCALES)
def test_every_scale_names_what_there_is(scale):
    c = frontier.get_config(scale)
    known, ((_, block),) = {label for label, *_ in c.networks}, c.blocks
    assert {*block["surrogates"], *block["targets"]} <= known
    assert set(block["attacks"]) == {label for label, *_ in c.attacks}
    for _, attack, options in c.attacks:
        assert call_of(registry.ATTACKS, attack, options).name == attack


def test_the_surrogates_are_the_s_and_p_studys():
    """What one study trained the other does not train again."""
    ours, theirs = frontier.get_config("cpu"), sp2024.get_config("cpu,seed=0")
    shared = {
        label: [spec for name, _, spec in theirs.networks if name == label] for label, *_ in ours.networks
    }
    for label, _, spec in ours.networks:
        assert spec in shared[label] or label in ("ResNet18", "ViT", *frontier.DEFENCES)
