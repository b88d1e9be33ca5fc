"""Configs and flags: whatever is wrong comes out as lines that name it, and nothing is made."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common, digits
from configs.methods import method
from transferjax.study import config as configs
from transferjax.study import views
from transferjax.study.mistakes import Mistakes

VIEWS = ("table", "matrix", "spectrum", "images", "training", "accuracy")


def plain():
    """A small study as plain dicts and tuples, with a piece in an attack's options."""
    shared = {
        "data": common.data("digits", "train", 64),
        "training": common.training(2, batch_size=32, warmup_epochs=1.0, padding=1, dtype="float32"),
        **digits.INK,
    }
    rules = (common.call("average", transform=common.call("diversity"), samples=2),)
    small = {"width": 4, "blocks": (1,)}
    network = common.network("cifar_resnet18", small, parts=method("SAM"), **shared)
    return {
        "title": "Small",
        "batch_size": 64,
        "checkpoint_epochs": 1,
        "error": "std",
        "networks": (
            ("ST", {"mechanism": "ST", "seed": 0}, network),
            *common.targets({"VGG": ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})}, **shared),
        ),
        "attacks": (("PGD", "pgd", {"steps": 3, "outer_rules": rules}),),
        "blocks": (common.main_block(("ST",), ("VGG",), data=common.data("digits", count=16), eps_255=(8,)),),
        "views": tuple((view, view, {"block": "main"}) for view in VIEWS),
    }


def places(value, at=()):
    """Every place in a config."""
    yield at
    inside = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    )
    for name, part in inside:
        yield from places(part, (*at, name))


def changed(value, at, change):
    """The config with what stands at a place changed."""
    if not at:
        return change(value)
    if isinstance(value, dict):
        return value | {at[0]: changed(value[at[0]], at[1:], change)}
    return tuple(changed(part, at[1:], change) if i == at[0] else part for i, part in enumerate(value))


def lines(config):
    """What is wrong with a config; nothing else may come out of it."""
    try:
        study = configs.read(ConfigDict(config), views.VIEWS)
    except Mistakes as mistakes:
        return mistakes.lines
    for view in study.views:
        views.rows_of(study, view)
    return []


def test_the_plain_study_is_right():
    assert lines(plain()) == []


OTHERS = {"nothing": None, "number": -3, "text": "smtih", "empty": (), "object": object(), "dict": {"a": 1}}
FIRST = [at for at in places(plain()) if at and at[:2] != ("networks", 1)]


@pytest.mark.parametrize("kind", OTHERS)
def test_any_value_at_any_place_is_right_or_a_mistake(kind):
    right = []
    for at in FIRST:
        found = lines(changed(plain(), at, lambda value: OTHERS[kind]))
        assert all("\n" not in line and len(line) < 500 for line in found)
        if not found:
            right.append(".".join(map(str, at)))
    assert len(right) < 15, right


NAMES = [at for at in FIRST if isinstance(at[-1], str) and at[:3] != ("networks", 0, 1)]  # tags are free


def test_a_misspelt_name_at_any_place_is_one_line_with_the_nearest():
    for at in NAMES:
        right, wrong = at[-1], f"{at[-1]}z"

        def misspell(fields, right=right, wrong=wrong):
            return {(wrong if name == right else name): value for name, value in fields.items()}

        found = lines(changed(plain(), at[:-1], misspell))
        (line,) = [line for line in found if wrong in line]
        assert right in line.split(wrong, 1)[1] or "call {'name'" in line or right in ("name", "kind"), line
        assert not any("needs the option" in other or "name is missing" in other for other in found), found


@pytest.mark.parametrize("wrap", [ConfigDict, lambda fields: ConfigDict(fields, type_safe=False)])
def test_config_dicts_inside_of_tuples_are_read(wrap):
    config = plain()
    for at in (("networks", 0, 2, "data"), ("networks", 0, 2), ("blocks", 0, 1), ("attacks", 0, 2)):
        config = changed(config, at, wrap)
    assert lines(config) == []


def said(at, value, message):
    at = tuple(int(part) if part.isdigit() else part for part in at.split())
    change = value if callable(value) else lambda old: value
    with pytest.raises(Mistakes, match=message):
        configs.read(ConfigDict(changed(plain(), at, change)), views.VIEWS)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("networks", lambda entries: (*entries, entries[0]), "networks: 'ST .seed 0.' is named twice"),
        ("attacks", lambda entries: entries * 2, "attacks: 'PGD' is named twice"),
        ("blocks", lambda entries: entries * 2, "blocks: 'main' is named twice"),
        ("views", lambda entries: (*entries, entries[0]), "views: 'table' is named twice"),
        ("blocks 0 1 eps_255", (8, 8), "eps_255: 8.0 is named twice"),
        ("blocks 0 1 surrogates", ("ST", "ST"), "surrogates: 'ST' is named twice"),
    ],
)
def test_a_name_is_given_twice(at, value, message):
    """You see: "attacks: 'PGD' is named twice".
    Do: leave one out, or give it another name.
    """
    said(at, value, message)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("blocks 0 1 measures", (), "has no similarity 'similarity' to view"),
        ("blocks 0 1 goals", (), "goals is empty"),
        ("blocks 0 1 attacks", (), "view 'images': block 'main' has no attacks"),
    ],
)
def test_a_list_is_empty(at, value, message):
    """You see: "block 'main': goals is empty, so nothing would be made", or "view 'images': block 'main'
    has no attacks, which this view shows".
    Do: fill it, or leave out the view.
    """
    said(at, value, message)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("batch_size", 0, "greater than or equal to 1"),
        ("networks 0 2 training batch_size", 0, "batch_size: .*greater than or equal to 1; got 0"),
    ],
)
def test_a_batch_size_is_zero(at, value, message):
    """You see: "config: batch_size: Input should be greater than or equal to 1; got 0".
    Do: give a positive one.
    """
    said(at, value, message)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("blocks 0 1 eps_255", 8, "eps_255: Input should be a valid tuple"),
        (
            "networks 0 2 training optimizer options momentum",
            "0.9",
            "momentum must be float; got '0.9'",
        ),
        ("networks 0 2 model options width", "4", "width must be int"),
        ("networks 0 2 parts 0 options rho", True, "rho must be float; got True"),
        ("attacks 0 2 outer_rules 0 options transform", 7, "transform must be a piece; got 7"),
    ],
)
def test_a_value_is_of_another_type(at, value, message):
    """You see: "network 'ST': optimizer 'sgd': momentum must be float; got '0.9'".
    Do: give a value of that type.
    """
    said(at, value, message)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("blocks 0 1 eps_255", (8, 4000), "4000/255: .*0–255 units"),
        ("networks 0 2 mean", (0.3, 0.3, 0.3), "one for each of 1 channels"),
        ("networks 0 2 std", (0.0,), "expected positive"),
        ("networks 0 2 seed", 1 << 32, "less than 4294967296"),
        ("networks 0 2 training dtype", "float64", "JAX computes in 32 bits: set JAX_ENABLE_X64=1"),
    ],
)
def test_a_number_is_too_large_or_too_small(at, value, message):
    """You see: "a budget of 4000/255: eps=15.68… looks like 0–255 units; …", "std (0.0,): expected positive
    values", or "seed: Input should be less than 4294967296; got 4294967296".
    Do: give a number in that range.
    """
    said(at, value, message)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("blocks 0 1 data kind", "Dta", "unknown kind 'Dta'; did you mean Data"),
        ("views 0 0", "../x", "expected a name for files"),
        (
            "attacks 0 2 outer_rules 0 options transform options",
            {"pob": 0.5},
            "no option 'pob'; did you mean prob",
        ),
        ("error", "sd", "'half_range', 'std' or 'two_std'"),
    ],
)
def test_a_name_in_a_config_is_misspelt(at, value, message):
    """You see: "piece 'diversity' has no option 'pob'; did you mean prob?", or "unknown kind 'Dta'; did
    you mean Data?".
    Do: correct it.
    """
    said(at, value, message)


def test_mistakes_of_one_network_come_together_and_hide_no_others():
    config = changed(plain(), ("networks", 0, 2, "data", "name"), lambda name: "digit")
    config = changed(config, ("networks", 0, 2, "model", "options"), lambda options: {**options, "wdith": 4})
    config = changed(config, ("attacks", 0, 1), lambda name: "pdg")
    config = changed(config, ("blocks", 0, 1, "targets"), lambda targets: ())
    found = lines(config)
    for part in ("wdith", "'digit'", "'pdg'", "targets is empty"):
        assert sum(part in line for line in found) == 1, found
    assert len(found) == 4


def test_numbers_have_one_spelling():
    same = []
    for weight in (1, 1.0, np.float64(1)):
        parts = (common.call("input_gradient", weight=weight),)
        config = changed(plain(), ("networks", 0, 2, "parts"), lambda old, p=parts: p)
        same.append(configs.read(ConfigDict(config), views.VIEWS).networks[0].specs[0])
    assert len(set(same)) == 1
