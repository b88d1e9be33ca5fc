"""What a recipe shows of its options, and what it says to those that are not."""

import inspect
import typing

import numpy as np
import pytest

from transferjax import attacks, losses
from transferjax.attacks import vocabulary
from transferjax.attacks.recipe import DEFAULTS, MEANINGS, Momentum, Options, recipe
from transferjax.study.registry import ATTACKS

RECIPES = {name: ATTACKS.row(name).factory for name in ATTACKS.rows()}
NEEDED = {"eps": 0.1, "pool": np.zeros((1, 4, 4, 3), np.float32), "layer": "Dense_0"}
every_recipe = pytest.mark.parametrize("name", RECIPES)


def parameters(name):
    return inspect.signature(RECIPES[name]).parameters


def make(name, **options):
    return RECIPES[name](**{n: v for n, v in NEEDED.items() if n in parameters(name)} | options)


def test_the_shared_options_have_defaults_and_meanings():
    assert set(Momentum.__annotations__) == set(DEFAULTS)
    assert set(Options.__annotations__) < set(DEFAULTS)
    assert set(DEFAULTS) < set(MEANINGS)


@every_recipe
def test_nothing_hides_in_the_options(name):
    """The signature, the help and the settings name all there is, with its value."""
    kinds = {p.kind for p in parameters(name).values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    settings = dict(make(name).settings)
    assert list(settings) == list(parameters(name))
    for option, parameter in parameters(name).items():
        if parameter.default is not parameter.empty:
            assert settings[option] == parameter.default, option
        if option in DEFAULTS:
            assert f"    {option}: " in RECIPES[name].__doc__
    assert "0x" not in str(inspect.signature(RECIPES[name]))
    assert make(name) == make(name, **{n: p.default for n, p in parameters(name).items() if n not in NEEDED})
    expected = {
        "dim": {
            "loss",
            "inner_rules",
            "outer_rules",
            "targeted",
            "decay",
            "norm",
            "random_start",
            "step_size",
            "ensemble",
        }
    }
    assert expected.get(name, set()) <= set(settings)


@every_recipe
def test_out_of_range_is_refused_at_construction(name):
    """Every option of the vocabulary, at values that no attack can have."""
    bad = {
        vocabulary.COUNT: (0, -1, 2.5, True, "3", None),
        vocabulary.FROM_ZERO: (-0.1, np.nan, np.inf, "1"),
        vocabulary.POSITIVE: (0, -1.0),
        vocabulary.SHARE: (-0.1, 1.1),
        vocabulary.KERNEL: (0, 2, 3.0),
    }
    for option, parameter in parameters(name).items():
        for value in bad.get(vocabulary.RANGES.get(option), ()):
            if value is not parameter.default and (value != 0 or parameter.default != 0):
                with pytest.raises(ValueError, match=rf"^{option} must "):
                    make(name, **{option: value})
        if option in vocabulary.SWITCHES:
            with pytest.raises(ValueError, match=f"{option} must be True or False; got 'no'"):
                make(name, **{option: "no"})


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (attacks.apgd, {"restarts": 0}),
        (attacks.fab, {"restarts": 0}),
        (attacks.square, {"restarts": 0}),
        (attacks.square, {"queries": 0}),
        (attacks.auto_attack, {"queries": 0}),
        (attacks.auto_attack, {"target_classes": 0}),
        (attacks.apgd_t, {"target_classes": 0}),
        (attacks.fab, {"target_classes": -1}),
        (attacks.apgd, {"eot": 0}),
        (attacks.emi_fgsm, {"samples": 0}),
        (attacks.emi_fgsm, {"chunk": 0}),
        (attacks.vmi_fgsm, {"neighbors": 0}),
        (attacks.sim, {"scales": 0}),
        (attacks.rap, {"inner_steps": 0}),
        (attacks.svre, {"inner_steps": 0}),
        (attacks.mi_fgsm, {"decay": -1.0}),
        (attacks.dim, {"prob": 1.5}),
    ],
)
def test_empty_options(factory, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} must .*; got {value}"):
        factory(0.1, **options)


def test_emi_chunk_is_checked_before_any_image_is_seen():
    with pytest.raises(ValueError, match="chunk=2, samples=11"):
        attacks.emi_fgsm(0.1, chunk=2)


@pytest.mark.parametrize("name", [n for n in RECIPES if "norm" in parameters(n) and n != "pi_fgsm"])
def test_l2_budgets_are_lengths(name):
    """3 is no 0–255 unit in L2, and it is one in L∞."""
    make(name, eps=3.0, norm="l2")
    with pytest.raises(ValueError, match=r"eps=3.0 looks like 0–255 units"):
        make(name, eps=3.0)


@pytest.mark.parametrize(
    ("factory", "wrong", "message"),
    [
        (attacks.pgd, "alpha", "pgd has no option 'alpha': that is step_size here"),
        (attacks.pgd, "eps_step", "that is step_size here"),
        (attacks.pgd, "step", "did you mean steps. Elsewhere that is step_size"),
        (attacks.pgd, "eps_iter", "that is step_size here"),
        (attacks.pgd, "nb_iter", "that is steps here"),
        (attacks.pgd, "max_iter", "that is steps here"),
        (attacks.square, "max_iter", "that is queries here"),
        (attacks.square, "n_queries", "that is queries here"),
        (attacks.pgd, "num_steps", "that is steps here"),
        (attacks.pgd, "iterations", "that is steps here"),
        (attacks.pgd, "epsilon", "that is eps here"),
        (attacks.mi_fgsm, "momentum", "that is decay here"),
        (attacks.mi_fgsm, "mu", "that is decay here"),
        (attacks.mi_fgsm, "decay_factor", "that is decay here"),
        (attacks.mi_fgsm, "loss_fn", "that is loss here"),
        (attacks.vmi_fgsm, "N", "that is neighbors here"),
        (attacks.vmi_fgsm, "num_neighbor", "that is neighbors here"),
        (attacks.vmi_fgsm, "beta", "that is zeta here"),
        (attacks.ssa, "N", "that is samples here"),
        (attacks.dim, "diversity_prob", "that is prob here"),
        (attacks.dim, "resize_rate", "that is rate here"),
        (attacks.pgd, "rand_init", "that is random_start here"),
        (attacks.pgd, "random_strat", "did you mean random_start?"),
        (attacks.pgd, "random_starts", "did you mean random_start?"),
        (attacks.pgd, "target", "did you mean targeted?"),
        (attacks.pgd, "targetted", "did you mean targeted?"),
        (attacks.vmi_fgsm, "neighbours", "did you mean neighbors?"),
        (attacks.pgd, "clip_min", r"images lie in \[0, 1\]"),
        (attacks.pgd, "model", "predict comes with the call"),
        (attacks.apgd, "targeted", r"pgd\(eps, targeted=True\)"),
        (attacks.fgsm, "steps", "that is part of the attack; leave it out"),
        (attacks.po_trip, "loss", "that is part of the attack"),
        (attacks.bim, "random_start", "that is part of the attack"),
        (attacks.fab, "colour", "it takes eps, steps, norm, restarts"),
    ],
)
def test_names_of_other_libraries(factory, wrong, message):
    with pytest.raises(TypeError, match=message):
        factory(0.1, **{wrong: 1})


def test_a_missing_budget():
    with pytest.raises(TypeError, match="pgd: missing a required argument: 'eps'"):
        attacks.pgd()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("ce", "loss='ce': that is 'cross_entropy' here"),
        ("xent", "that is 'cross_entropy' here"),
        ("CE", "that is 'cross_entropy' here"),
        ("CW", "that is 'margin' here"),
        ("cw", "that is 'margin' here"),
        ("DLR", "that is 'dlr' here"),
        ("dlr_targeted", "apgd_t takes the targeted DLR"),
        ("dlr-targeted", "apgd_t takes the targeted DLR"),
        ("cross_entopy", "did you mean 'cross_entropy'?"),
        ("one_hot", "expected one of cross_entropy, logit, margin, dlr, or a function"),
    ],
)
@pytest.mark.parametrize("factory", [attacks.pgd, attacks.apgd, attacks.logit])
def test_losses_of_other_libraries(factory, loss, message):
    with pytest.raises(ValueError, match=message):
        factory(0.1, loss=loss)


def test_every_loss_by_its_name():
    for name in vocabulary.LOSSES:
        assert vocabulary.loss_of(name) is getattr(losses, name)
        assert attacks.pgd(0.1, loss=name) == attacks.pgd(0.1, loss=getattr(losses, name))


def test_a_recipe_of_ones_own():
    """Bare `**options` stay open, and their values count; a `TypedDict` shows what it holds."""

    @recipe
    def mine(eps: float, **options: typing.Any):
        return attacks.pgd(eps, **options)

    assert repr(mine(0.1, steps=3)) == "mine(eps=0.1, steps=3)"
    assert mine(0.1, steps=3) != mine(0.1, steps=4)

    @recipe(without=("project",), loss="margin")
    def other(eps: float, **options: typing.Unpack[Options]):
        return attacks.fgsm(eps, **options)

    assert inspect.signature(other).parameters["loss"].default == "margin"
    assert dict(other(0.1).settings)["loss"] == "margin"
    with pytest.raises(TypeError, match="other has no option 'project'"):
        other(0.1, project=None)
