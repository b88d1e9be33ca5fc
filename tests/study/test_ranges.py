"""Configs and flags: whatever is out of its range is one line with the name and what was expected."""

import inspect
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import cv2
import numpy as np
import pytest

from tests.study import small
from transferjax.study import binding, registry, specs
from transferjax.study.mistakes import Mistakes
from transferjax.study.specs import Apply, Call, Data, Pretrained, Purifier, Spec, build

TABLES = {t.what: t for t in vars(registry).values() if isinstance(t, registry.Table)}
SIGNED = {
    ("normalize", "mean"),
    ("preprocessing", "mean"),
    ("probe", "radius"),
    ("probe", "here"),
    ("probe", "there"),
    ("mix", "here"),
    ("mix", "there"),
    ("ada_ea", "threshold"),
}  # -1 means something


def numbers(annotation):
    """What -1 looks like where a number may stand; None where none may."""
    kind, inside = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType, Annotated):
        return next((found for part in inside if (found := numbers(part)) is not None), None)
    if kind in (int, float):
        return kind(-1)
    if inspect.isclass(kind) and issubclass(kind, tuple) and inside and kind is tuple:
        one = numbers(inside[0])
        return None if one is None else (one,) * (1 if inside[1:] in ((), (...,)) else len(inside))
    return None


OPTIONS = [
    pytest.param(table, row, option, value, id=f"{what}-{row}-{option}")
    for what, table in TABLES.items()
    for row in table.rows()
    for option, parameter in table.options(row).items()
    if (value := numbers(parameter.annotation)) is not None and (row, option) not in SIGNED
]


def test_there_are_options_of_every_table():
    """Nobody forgot to look."""
    assert {param.values[0].what for param in OPTIONS} == TABLES.keys()
    assert len(OPTIONS) > 300


@pytest.mark.parametrize(("table", "row", "option", "value"), OPTIONS)
def test_an_option_is_negative(table, row, option, value):
    """You see: "attack 'pgd': steps must be at least 1; got -1".
    Do: give a number in that range.
    """
    with pytest.raises(Mistakes) as caught:
        binding.bind(table, Call(name=row, options={option: value}))
    (line,) = [line for line in caught.value.lines if "needs the option" not in line]
    assert f"{row!r}: {option} m" in line  # must, or may
    assert f"got {value!r}" in line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_option_is_nan_or_infinite(value):
    """You see: "attack: options: expected a finite number; got nan".
    Do: give one.
    """
    with pytest.raises(Mistakes, match=r"expected a finite number; got (nan|inf|-inf)"):
        build(Call, {"name": "pgd", "options": {"eps": value}}, "attack")


@pytest.mark.parametrize(
    ("table", "row", "option", "value", "message"),
    [
        ("model", "cifar_resnet18", "width", 0, "width must be positive; got 0"),
        ("model", "cifar_resnet18", "blocks", (2, 0), r"blocks must be at least 1; got \(2, 0\)"),
        ("model", "cifar_wideresnet28_10", "dropout", 1.0, r"dropout must lie in \[0, 1\), below 1; got 1.0"),
        ("schedule", "constant", "peak", 0.0, "peak must be positive; got 0.0"),
        ("optimizer", "sgd", "momentum", 1.0, "momentum must lie in .*; got 1.0"),
        ("mechanism part", "label_smoothing", "prob", 1.5, r"prob must lie in \[0, 1\]; got 1.5"),
        (
            "mechanism part",
            "sam",
            "batch_stats",
            "none",
            "batch_stats must be one of both, first; got 'none'",
        ),
        ("measure", "smoothness", "k", 0, "k must be at least 1; got 0"),
        ("measure", "smoothness", "method", "exakt", "method must be one of auto, exact, .*; got 'exakt'"),
        ("measure", "augmentation_shift", "variance", 1.0, "variance must lie between 0 and 1; got 1.0"),
        ("predict wrapper", "jpeg", "quality", 101, "quality must lie in 1 … 100; got 101"),
        ("predict wrapper", "resized", "method", "smooth", "method must be one of nearest, .*; got 'smooth'"),
        ("derived data", "robust", "steps", 0, "steps must be at least 1; got 0"),
        ("purifier", "hgd", "features", 0, "features must be at least 1; got 0"),
        ("preprocessing", "normalize", "std", (0.2, 0.0), r"std must be positive; got \(0.2, 0.0\)"),
        ("attack", "tim", "kernel_size", 4, "kernel_size must be odd and at least 1; got 4"),
    ],
)
def test_what_is_said_of_an_option(table, row, option, value, message):
    """In the words of the table."""
    with pytest.raises(Mistakes, match=message):
        binding.bind(TABLES[table], Call(name=row, options={option: value}))


def spec_fields():
    """Every numeric field of every kind of spec."""
    for kind in specs.KINDS.values():
        for name, field in kind.model_fields.items():
            value = numbers(field.annotation)
            if value is not None:
                yield pytest.param(kind, name, value, id=f"{kind.__name__}-{name}")


FREE = {("Call", "version"), ("Network", "mean"), ("Network", "std")}  # the engine's; asked with the data


@pytest.mark.parametrize(("kind", "name", "value"), list(spec_fields()))
def test_a_field_is_negative(kind, name, value):
    """You see: "network: seed: Input should be greater than or equal to 0; got -1".
    Do: give a number in that range.
    """
    if (kind.__name__, name) in FREE:
        pytest.skip("may be negative, or is asked where the data are known")
    with pytest.raises(Mistakes) as caught:
        build(kind, {name: value, "file": "x"} if kind is Pretrained else {name: value}, kind.__name__)
    (line,) = [line for line in caught.value.lines if name in line and "missing" not in line]
    assert "-1" in line


def choices():
    """Every field with a list of what it may be."""
    for kind in specs.KINDS.values():
        for name, field in kind.model_fields.items():
            if get_origin(field.annotation) is Literal and name != "kind":
                yield pytest.param(kind, name, get_args(field.annotation), id=f"{kind.__name__}-{name}")


@pytest.mark.parametrize(("kind", "name", "known"), list(choices()))
def test_a_choice_is_none_of_those_that_there_are(kind, name, known):
    """You see: "norm: Input should be 'linf' or 'l2'; got 'l3'".
    Do: take one of them.
    """
    with pytest.raises(Mistakes) as caught:
        build(kind, {name: "float31"}, kind.__name__)
    (line,) = [line for line in caught.value.lines if name in line]
    assert all(repr(choice) in line for choice in known)
    assert "'float31'" in line


@pytest.mark.parametrize("kind", list(specs.KINDS.values()), ids=list(specs.KINDS))
def test_a_field_is_unknown(kind):
    """You see: "network: unknown field 'modelz'; did you mean model?", or all that there are.
    Do: correct the name.
    """
    with pytest.raises(Mistakes, match=r"unknown field 'colour'; (did you mean|known: )"):
        build(kind, {"colour": 1}, kind.__name__)


def test_a_wrapper_is_of_no_network():
    """You see: "of: Tuple should have at least 1 item …; got ()".
    Do: name a network.
    """
    with pytest.raises(Mistakes) as caught:
        build(specs.Apply, {"of": ()}, "Apply")
    (line,) = [line for line in caught.value.lines if "of" in line]
    assert "at least 1 item" in line
    assert "got ()" in line


def test_a_measure_is_of_no_network():
    """You see: "of: expected at least one network for 'smoothness'; got ()".
    Do: name a network.
    """
    fields = {"data": {"kind": "Data", "name": "digits"}}
    assert build(specs.Measure, {**fields, "call": {"name": "distortion"}}, "measure").of == ()
    with pytest.raises(Mistakes, match=r"of: expected at least one network for 'smoothness'; got \(\)"):
        build(specs.Measure, {**fields, "call": {"name": "smoothness"}}, "measure")


def test_an_attack_has_no_surrogate():
    """You see: "surrogates: expected at least one for 'pgd'; got ()".
    Do: name a surrogate.
    """
    fields = {"surrogates": (), "data": {"kind": "Data", "name": "digits"}, "eps": 0.1}
    assert build(specs.Adversarial, {**fields, "attack": {"name": "noise"}}, "noise").surrogates == ()
    with pytest.raises(Mistakes, match=r"surrogates: expected at least one for 'pgd'; got \(\)"):
        build(specs.Adversarial, {**fields, "attack": {"name": "pgd"}}, "images")


def bound(spec: Spec) -> Any:
    return binding.bound(spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, r"mean \(0.1, 0.2, 0.3\): expected one value, or one for each of 1 chan"),
        ({"std": ()}, r"std \(\): expected one value"),
        ({"std": (0.0,)}, r"std \(0.0,\): expected positive"),
        ({"t": {"accumulate": 3}}, "accumulate 3: expected at most the 2 batches of the whole training"),
        ({"t": {"batch_size": 65}}, "batch_size 65 does not fit a data set of 64 examples"),
        ({"epoch": 1.5}, "epoch 1.5 of a training of 1 epochs"),
        (
            {"t": {"accumulate": 2}, "parts": (Call(name="msam", options={"rho": 0.1}),)},
            "accumulate 2: msam keeps account of steps, .* expected accumulate=1",
        ),
    ],
)
def test_fields_do_not_agree_with_the_data_or_the_training(changes, message):
    """You see: "batch_size 65 does not fit a data set of 64 examples", "epoch 1.5 of a training of 1 epochs",
    "mean …: expected one value, or one for each of 1 channels".
    Do: make them agree.
    """
    if more := changes.pop("t", None):
        changes["t"] = small.training(1.0, **{}).replace(**more)
    with pytest.raises(Mistakes, match=message):
        small.network(**changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call(name="jpeg"), "JPEG here is for RGB images; got 1 channels"),
        (Call(name="skip_gradient"), "branch"),
        (Call(name="select_classes", options={"indices": (0, 10)}), "index 10 is beyond the 10 logits"),
        (Call(name="resized", options={"size": 1}), "too small for this net"),
    ],
)
def test_a_wrapper_does_not_fit_its_network(call, message):
    """You see: "JPEG here is for RGB images; got 1 channels", or "index 10 is beyond the 10 logits", before
    anything is trained.
    Do: take another wrapper, or another network.
    """
    with pytest.raises(Mistakes, match=message):
        bound(Apply(call=call, of=(small.network(),)))


@pytest.mark.parametrize("chosen", [(-1, 2), (3, 3)])
def test_a_label_map_names_a_logit_twice(chosen):
    """You see: "label_map: expected different logits, from 0 on; got (3, 3)".
    Do: correct it.
    """
    with pytest.raises(Mistakes, match=r"label_map: expected different logits, from 0 on; got \("):
        build(Pretrained, {"model": {"name": "resnet18"}, "file": "x", "label_map": chosen}, "network")


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images."""
    for name in ("cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((16, 16, 3), 128, np.uint8))
    return str(tmp_path)


@pytest.mark.parametrize("value", [0, -1, 8.5, "8", True, (8, 8)])
@pytest.mark.parametrize("name", ["digits", "a folder"])
def test_the_size_of_images_is_no_size(folder, name, value):
    """You see: "digits: size must be a whole number of pixels, at least 1; got 0".
    Do: give one.
    """
    path = folder if name == "a folder" else name
    with pytest.raises(Mistakes) as caught:
        bound(Data(name=path, split="train", options={"size": value}))
    (line,) = caught.value.lines
    assert "size must be a whole number of pixels, at least 1" in line
    assert f"got {value!r}" in line


@pytest.mark.parametrize("scale", [0.5, (0.5,), (0.1, 0.5, 1.0), (0.0, 1.0), (1.0, 0.5), (0.5, 2.0), "ab"])
def test_the_scale_of_crops_is_no_scale(folder, scale):
    """You see: "expected two bounds each of scale and ratio, got …", or "expected 0 < scale <= 1 …".
    Do: give two bounds.
    """
    with pytest.raises(Mistakes, match=r"expected (two bounds|0 < scale)") as caught:
        bound(Data(name=folder, split="train", options={"scale": scale}))
    assert len(caught.value.lines) == 1


def test_a_purifiers_training_is_tried_before_anything_is_computed():
    """A batch larger than the data, no update in all, a warm-up that never ends."""
    purifier = Purifier(call={"name": "comdefend", "options": {"features": 4}}, data=small.TRAIN,
                        training=small.training())  # fmt: skip
    for changes, message in (
        ({"batch_size": 65}, "batch_size 65 does not fit"),
        ({"accumulate": 3}, "accumulate 3: expected at most the 2"),
        ({"schedule": Call(name="warmup_cosine", options={"peak": 0.1, "warmup_epochs": 3.0})}, "warmup=6"),
    ):
        with pytest.raises(Mistakes, match=message):
            bound(purifier.replace(training=purifier.training.replace(**changes)))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workers=-1", "--workers=-1: "),
        ("--wokers=2", "did you mean.*workers|'wokers'"),
    ],
)
def test_a_flag_out_of_its_range_is_one_line(finish, tmp_path, flag, message):
    """Nothing is made, not even the store."""
    code, out, err = finish(tmp_path / "store", flag, config=None)
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()
