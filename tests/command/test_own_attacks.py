"""An attack of one's own wherever attacks are named: in Python, on the command line, in a study."""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import transferjax
from transferjax import attacks, data
from transferjax.command.main import main
from transferjax.command.written import attack_to_folder
from transferjax.study import binding, registry
from transferjax.study.mistakes import Mistakes

OWN = '''
from transferjax import attacks

def crop_mi(eps, steps=2, *, share=0.9, samples=1):
    """A plain factory, without a norm."""
    return attacks.mi_fgsm(share * eps, steps)

@attacks.recipe
def named(eps, *, rate: float = 0.5, norm: str = "linf"):
    return attacks.bim(rate * eps, 2, norm=norm)

finished = attacks.fgsm(0.1)
'''


@pytest.fixture
def here(colours, monkeypatch):
    monkeypatch.chdir(colours)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (colours / "ownattacks.py").write_text(OWN)
    registry._own.cache_clear()
    yield colours
    for name in ("mynets", "ownattacks"):
        sys.modules.pop(name, None)


def test_attacks_that_mix_others_in_take_them_from_the_images(here, capsys):
    flags = "evaluate --surrogate mynets:steep --data imgs --attack admix:steps=2 bim:steps=2"
    assert main(flags.split()) == 0
    assert "admix:steps=2" in capsys.readouterr().out


@pytest.fixture
def linear():
    weights = jnp.eye(3)[:, ::-1] * 20
    return jax.tree_util.Partial(lambda w, x: x.mean((1, 2)) @ w, weights)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return data.Dataset(rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8), np.arange(8) % 3, num_classes=3)


def crop_mi(eps, steps=2, *, share=0.9):
    return attacks.mi_fgsm(share * eps, steps)


FORMS = {
    "a function": crop_mi,
    "in a list": [crop_mi],
    "by a label": {"mine": crop_mi},
    "with options": {"mine": (crop_mi, {"share": 0.5, "steps": 3})},
    "a lambda": {"mine": lambda eps: attacks.fgsm(eps)},
    "a partial": {"mine": functools.partial(crop_mi, share=0.5)},
    "a partial of the catalogue": [functools.partial(attacks.pgd, steps=2)],
    "beside the catalogue": ["fgsm", crop_mi],
}


@pytest.mark.parametrize("form", FORMS)
def test_in_python(form, linear, images):
    results = transferjax.evaluate({"s": linear}, {"t": linear}, images, FORMS[form], 32)
    assert "mine" in set(results.attack) or set(results.attack) & {"crop_mi", "pgd"}
    assert len(results) >= 2


def test_on_the_command_line(here, tmp_path):
    given = "ownattacks.py:crop_mi ownattacks:named:rate=1.0 mine=ownattacks.py:crop_mi:share=0.7,samples=2"
    flags = f"--surrogate s=mynets.py:steep --data imgs --eps_255 64 --out {tmp_path} --attack {given}"
    assert main(["evaluate", *flags.split()]) == 0
    results = pd.read_csv(tmp_path / "results.csv").set_index("attack").asr
    assert set(results.index) == {"ownattacks.py:crop_mi", "ownattacks:named:rate=1.0", "mine", "noise"}
    flags = f"mynets.py:steep --attack ownattacks.py:named --data imgs --out {tmp_path}/adv"
    assert main(["attack", *flags.split()]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ownattacks.py:crop_mi:shrae=0.7", "crop_mi has no option 'shrae': did you mean share?"),
        ("ownattacks.py:crop_mi:samples=0", "samples must be at least 1; got 0"),
        ("ownattacks.py:crop_ni", "ownattacks.py has no 'crop_ni'; did you mean crop_mi?"),
        ("nowhere.py:crop_mi", "there is no file 'nowhere.py'"),
        ("ownattacks:finished", r"is a finished attack, its eps is bound; expected .* \(eps, \*\*options\)"),
    ],
)
def test_mistakes_are_one_line(given, message, here, capsys):
    flags = f"--surrogate s=mynets.py:steep --data imgs --attack {given}"
    assert main(["evaluate", *flags.split()]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mine": attacks.fgsm(0.1)}, "attack 'mine': fgsm.* is a finished attack, its eps is bound"),
        (
            {"mine": lambda eps: None},
            "attack 'mine': <lambda> returned NoneType None; expected an attack",
        ),
        ([attacks.ascend(None, None, steps=1)], "takes predict and images, as a finished attack does"),
    ],
)
def test_what_is_no_factory(given, message, linear, images):
    with pytest.raises(ValueError, match=message):
        transferjax.evaluate({"s": linear}, {"t": linear}, images, given)


def test_a_norm_that_it_does_not_have(linear, images):
    with pytest.raises(ValueError, match="crop_mi has no option 'norm'"):
        transferjax.evaluate({"s": linear}, {"t": linear}, images, crop_mi, 64, norm="l2")


def test_in_a_study_changed_code_is_another_result(here):
    call = lambda **options: binding.call_of(registry.ATTACKS, "ownattacks.py:named", options)  # noqa: E731
    before = call(rate=0.7)
    assert before.key == call(rate=0.7).key != call().key
    with pytest.raises(Mistakes, match=r"has no option 'raet'.*did you mean rate"):
        call(raet=0.7)
    with pytest.raises(Mistakes, match="nowhere"):
        binding.call_of(registry.ATTACKS, "nowhere:named", {})
    (here / "ownattacks.py").write_text(OWN.replace("bim", "mi_fgsm"))
    registry._own.cache_clear()
    sys.modules.pop("ownattacks")
    assert call(rate=0.7).key != before.key


def test_what_attack_wrote_is_read_as_it_was(here, tmp_path):
    """Grey stays grey, and a class without images keeps the numbers of those behind it."""
    rng = np.random.default_rng(0)
    clean = data.Dataset(
        rng.integers(0, 256, (6, 6, 6, 1), dtype=np.uint8), np.array([9, 2, 2, 0, 5, 9]), num_classes=12
    )
    predict = jax.tree_util.Partial(lambda w, x: x.mean((1, 2)) @ w, jnp.ones((1, 12)))
    made = attack_to_folder(attacks.noise(0.1), predict, clean, tmp_path, sources=range(6), surrogate={})
    for place in (tmp_path, tmp_path / "images"):
        again = data.load(str(place), "")
        np.testing.assert_array_equal(again.images, made.images)
        np.testing.assert_array_equal(again.labels, clean.labels)
        assert again.class_names == clean.class_names
    assert data.load(str(tmp_path), "", size=12).images.shape == (6, 12, 12, 1)
