"""Blocks of attacks: budgets of either norm from one program, and images that are mixed in."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import attacked, failure, make, network

from transferjax import attacks, data
from transferjax.random import fold_in
from transferjax.study import binding, registry
from transferjax.study.make import attack_of
from transferjax.study.mistakes import Mistakes
from transferjax.study.plan import group_key
from transferjax.study.specs import Call, Goal
from transferjax.study.walk import from_json, to_json

TEST = data.load("digits", "test").subset(32)
X0 = TEST.images.astype(float) / 255


def lengths(images, norm):
    far = (images / 255 - X0).reshape(32, -1)
    return np.abs(far).max(-1) if norm == "linf" else np.linalg.norm(far, axis=-1)


@pytest.mark.parametrize(("norm", "budgets"), [("linf", (8 / 255, 32 / 255)), ("l2", (0.5, 2.0))])
def test_budgets_share_a_program_and_each_is_kept(norm, budgets, context):
    specs = [attacked(network(), Call(name="pgd", options={"steps": 3}), norm=norm, eps=e) for e in budgets]
    assert len({group_key(spec) for spec in specs}) == 1
    small, large = make(context, *specs)
    for made, eps in zip((small, large), budgets, strict=True):
        assert np.all(lengths(made["images"], norm) <= eps + 1e-6)
        assert lengths(made["images"], norm).max() > 0.8 * eps
    crafting = context._cache["craft", specs[0].attack.key, False, norm][0]
    assert crafting._cache_size() == 1


def test_admix_takes_its_partners_from_the_attacked_data(context):
    spec = attacked(network(), Call(name="admix", options={"steps": 2, "samples": 2, "scales": 2}))
    made = make(context, spec)
    x, pool = (data.to_float(jnp.asarray(TEST.images)) for _ in range(2))
    direct = jax.jit(attacks.admix(spec.eps, 2, samples=2, scales=2, pool=pool))
    expected = direct(
        fold_in(jax.random.key(0), jnp.arange(32)), context.predict(network()), x, jnp.asarray(TEST.labels)
    )
    assert np.mean(np.abs(made["images"] / 255 - expected) < 1.5 / 255) > 0.99
    alone = attacks.admix(spec.eps, 2, samples=2, scales=2, pool=jnp.zeros((1, 8, 8, 1)))
    other = jax.jit(alone)(
        fold_in(jax.random.key(0), jnp.arange(32)), context.predict(network()), x, jnp.asarray(TEST.labels)
    )
    assert np.mean(np.abs(other - expected) > 1.5 / 255) > 0.01


def test_pieces_in_options_are_bound_and_know_the_budget(context):
    """Rules, ensembles and projections by name; `eps` is that of the block."""
    rule = {"name": "average", "options": {"transform": {"name": "diversity", "options": {"rate": 0.75}}}}
    options = {"steps": 2, "outer_rules": (rule,), "project": {"name": "l2_nearest", "options": {}}}
    spec = attacked(network(), Call(name="mi_fgsm", options=options), norm="l2", eps=1.0)
    made = make(context, spec)
    assert np.all(lengths(made["images"], "l2") <= 1 + 1e-6)
    assert from_json(to_json(spec)).key == spec.key
    same = {**options, "outer_rules": ({**rule, "options": {**rule["options"], "samples": 1, "chunk": 1}},)}
    again = attacked(network(), Call(name="mi_fgsm", options=same), norm="l2", eps=1.0)
    assert again.key == spec.key  # a default said aloud; `chunk` changes no result
    with pytest.raises(Mistakes, match="did you mean diversity"):
        attacked(network(), Call(name="bim", options={"outer_rules": (Call(name="diversty"),)}))
    with pytest.raises(Mistakes, match="the engine gives it"):
        attacked(network(), Call(name="bim", options={"eps": 0.1}))


def test_attacks_made_for_targets_flee_a_label_when_they_are_told_to():
    for goal in (Goal(), Goal(aim="next")):
        attack = attack_of(Call(name="logit"), goal, 0.1, "linf")
        assert dict(attack.settings)["targeted"] == goal.targeted


@pytest.mark.parametrize("name", ["apgd", "fab", "square", "auto_attack"])
def test_what_an_attack_does_not_know_fails_in_one_line(name, context):
    spec = attacked(network(), Call(name=name), goal=Goal(aim="next"))
    assert f"{name} has no targeted form; these have: fgsm, bim" in failure(context, spec)


def test_tuples_of_whole_numbers_are_numbers_where_numbers_are_meant():
    def bind(at):
        call = Call(name="step_decay", options={"peak": 1, "at": at})
        return binding.bind(registry.SCHEDULES, call)

    assert bind((1, 2)).key == bind((1.0, 2.0)).key != bind((1.0, 3.0)).key
    with pytest.raises(Mistakes, match="needs the option 'peak'"):
        binding.bound(network().training.replace(schedule=Call(name="constant")))


def test_an_attack_of_ones_own(context, tmp_path, monkeypatch):
    """By the file that holds it; with the pixels of the catalogue's that it is."""
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "studied.py").write_text(
        "from transferjax import attacks\n\n"
        "def mine(eps, steps=3, *, share: float = 0.5):\n    return attacks.bim(share * eps, steps)\n"
    )
    name = f"{tmp_path}/studied.py:mine"
    mine, known = (Call(name=name, options={"share": 1.0}), Call(name="bim", options={"steps": 3}))
    one, other = (make(context, attacked(network(), call)) for call in (mine, known))
    np.testing.assert_array_equal(one["images"], other["images"])
    spec = attacked(network(), mine)
    assert from_json(to_json(spec)) == spec
    with pytest.raises(Mistakes, match="share must be float; got 'a'"):
        binding.call_of(registry.ATTACKS, name, {"share": "a"})


def test_an_attack_that_ends_in_nan_is_refused(context, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "lost.py").write_text(
        "def mine(eps):\n    return lambda key, predict, x, y: x * float('nan')\n"
    )
    assert "ends in NaN" in failure(context, attacked(network(), Call(name=f"{tmp_path}/lost.py:mine")))
