"""From configs to studies: every mechanism's parts, and mistakes that are named before anything runs."""

import csv
from pathlib import Path

import pytest

from configs import cifar10_cpu, cifar10_magnitudes, common, digits
from configs.methods import magnitudes, method, named, strength
from transferjax.study import config as configs
from transferjax.study import views
from transferjax.study.mistakes import Mistakes

SMALL = {"width": 4, "blocks": (1,)}


def read(config):
    return configs.read(config, views.VIEWS)


def small(**changes):
    """A study of one surrogate and one target; changes by path: `network_training_epochs=3`."""
    shared = {
        "data": common.data("digits", "train", 64),
        "training": common.training(2, batch_size=32, warmup_epochs=1.0, padding=1),
        **digits.INK,
    }
    parts = {
        "network": common.network("cifar_resnet18", SMALL, parts=method("SAM"), **shared),
        "attack": ["PGD", "pgd", {"steps": 3}],
        "block": dict(
            common.main_block(("ST",), ("VGG",), data=common.data("digits", count=16), eps_255=(8,))[1]
        ),
        "view": ["transfer", "table", {"block": "main"}],
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = parts
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[int(name) if name.isdigit() else name] = value
    return common.study(
        "Small",
        networks=(
            ("ST", {}, parts["network"]),
            *common.targets({"VGG": ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})}, **shared),
        ),
        attacks=(tuple(parts["attack"]),),
        blocks=(("main", parts["block"]),),
        views=(tuple(parts["view"]),),
    )


def test_the_committed_studies_are_valid():
    study = read(digits.get_config("smoke"))
    assert [str(member) for member in study.networks] == ["ST (seed 0)", "SAM&IR (seed 0)", "VGG (seed 0)"]
    assert len(read(small()).views) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network__model__name": "cifar_resnet81"}, "cifar_resnet18"),
        ({"network__model__options": {"wdith": 4}}, "no option 'wdith'.*width"),
        ({"network__training__epcohs": 3}, "unknown field 'training.epcohs'; did you mean epochs"),
        ({"network__training__batch_size": 100_000}, "100000"),
        ({"network__training__schedule": common.call("warmup_cosine", peak=0.1, warmup_epochs=9)}, "warmup"),
        ({"network__training__schedule": common.call("cosine", peak=0.1)}, "did you mean warmup_cosine"),
        ({"network__training__augment": common.call("crop_flip", paddin=1)}, "did you mean padding"),
        ({"network__training__dtype": "float23"}, "float32"),
        ({"network__epoch": 3.0}, "epoch 3 of a training of 2 epochs"),
        ({"network__data__name": "digit"}, "digits"),
        ({"network__data__count": 100_000}, "100000"),
        (
            {"network__parts": (common.call("smm", rho=0.1),)},
            "unknown mechanism part 'smm'; did you mean sam",
        ),
        ({"network__parts": (common.call("sam", row=0.1),)}, "no option 'row'; did you mean rho"),
        ({"network__parts": (common.call("sam"),)}, "needs the option 'rho'"),
        ({"network__parts": (common.call("sam", rho=-1.0),)}, "rho"),
        ({"network__kind": "Netwrok"}, "did you mean Network"),
        ({"attack__1": "pdg"}, "did you mean .*pgd"),
        ({"attack__2": {"stpes": 3}}, "no option 'stpes'; did you mean steps"),
        ({"attack__2": {"eps": 3}}, "the engine gives it"),
        ({"attack__1": "fab", "attack__2": {}}, "fab has no targeted form"),
        ({"block__eps_255": (4000,)}, "0–255"),
        ({"block__eps_255": (32 / 255,)}, r"below 1/255, and .* lose it: write eps_255=\(32,\)"),
        (
            {
                "network__start": {
                    "kind": "Pretrained",
                    "model": common.call("resnet50"),
                    "file": "r.safetensors",
                }
            },
            "'r.safetensors' are not there: .*timm's resnet50 .*transferjax convert resnet50.pth",
        ),
        ({"block__eps_255": ()}, "eps_255 .* is empty"),
        ({"block__targets": ()}, "targets is empty"),
        ({"block__targets": ("VVG",)}, "unknown network 'VVG'; did you mean VGG"),
        ({"block__attacks": ("PDG",)}, "unknown attack 'PDG'; did you mean PGD"),
        ({"block__goals": ("untargetted",)}, "untargeted"),
        ({"block__goals": ("least_likely",)}, "needs `of`"),
        ({"block__surogates": ()}, "did you mean surrogates"),
        ({"view__1": "tabel"}, "did you mean table"),
        ({"view__2": {"block": "mian"}}, "unknown block 'mian'; did you mean main"),
        ({"view__2": {"block": "main", "colour": 1}}, "unknown option 'colour'"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(Mistakes, match=message):
        read(small(**change))


def test_all_mistakes_come_at_once_and_once():
    with pytest.raises(Mistakes) as caught:
        read(small(attack__2={"stpes": 3}, block__targets=("VVG",), network__training__epcohs=3))
    assert len(caught.value.lines) == 3
    assert "network 'ST', network 'VGG': unknown field" in str(caught.value)  # both have that training
    assert all("\n" not in line for line in caught.value.lines)


def test_what_has_one_meaning_has_one_key():
    same = (
        (common.call("input_gradient", weight=1), common.call("sam", rho=0.1, adaptive=False)),
        (common.call("sam", rho=0.1), common.call("input_gradient", weight=1.0)),
    )
    one, other = (read(small(network__parts=parts)).networks[0].specs[0] for parts in same)
    assert one == other


TABLE = list(csv.DictReader((Path(__file__).parents[1] / "golden/table11.csv").read_text().splitlines()))


def same(a, b):
    return (a["mechanism"], a["dataset"]) == (b["mechanism"], b["dataset"])


@pytest.mark.parametrize("row", TABLE, ids=lambda r: "-".join(r.values()))
def test_magnitudes_are_those_of_table_11(row):
    (part,) = method(f"{row['mechanism']}_{row['tau']}", row["dataset"])
    assert next(iter(part["options"].values())) == float(row["value"])
    shown = [r["tau"] for r in TABLE if r["used_in_tables_2_3"] == "1" and same(r, row)]
    if shown == [row["tau"]]:  # a mechanism at one magnitude is what its bare name means
        assert method(row["mechanism"], row["dataset"]) == method(
            f"{row['mechanism']}_{row['tau']}", row["dataset"]
        )


def test_the_equations_are_rows_of_their_own():
    for name, option in (("IR", "scaling"), ("JR_2", "scaling"), ("MU_1", "rounds"), ("CM_5", "rounds")):
        (official,), (paper,) = method(name), method(f"{name}[paper]")
        assert paper["options"] != official["options"]
        assert paper["options"] == official["options"] | {option: 1 if option == "rounds" else "paper"}
    assert method("SAM&IR[paper]") == method("SAM") + method("IR[paper]")
    with pytest.raises(ValueError, match="they differ on MU, CM, IR, JR"):
        method("SAM[paper]")
    with pytest.raises(ValueError, match="'IR paper': expected a name"):
        method("IR paper")


def test_adversarial_training_on_imagenette_takes_five_steps_of_two_fifths():
    (part,) = method("AT", "imagenette")
    assert part["options"] == {"eps": 1.0, "steps": 5, "step_size": 0.4}
    assert method("AT") == ({"name": "adversarial", "options": {"eps": 0.03}},)


def test_strengths_are_what_grows_with_tau():
    assert strength("AT_7") == 1.0
    assert strength("CO_1", "imagenette") == 80
    assert strength("IR") == strength("IR_3") == 0.5
    assert strength("ST") is strength("SAM&IR") is strength("SWA") is None
    assert magnitudes("AT") == tuple(f"AT_{tau}" for tau in range(1, 8))


def test_parts_add_up():
    assert method("SAM&IR") == method("SAM") + method("IR")
    assert method("ST") == ()
    assert method("SAM & IR_5") == method("SAM&IR_5")
    assert named("ST+SAM & IR") == ("ST", "SAM&IR")


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        ("SMA&IR", "unknown mechanism 'SMA': expected one of ST, MU"),
        ("sam", "unknown mechanism 'sam': did you mean SAM[?]"),
        ("SAM_6", "from 1 to 5"),
        ("SAM_03", "SAM_03: expected a τ from 1 to 5"),
        ("l-SAM_5", "l-SAM has no τ"),
        ("ST_4", "ST has no τ"),
        ("EMA_9", "EMA has no τ"),
        ("SAM&SAM", "SAM named twice"),
        ("SAM&IR&IR_5", "IR and IR_5 are both input_gradient"),
        ("SAM&l-SAM", "SAM and l-SAM are both sam"),
    ],
)
def test_a_mechanism_that_means_nothing_is_refused(mechanism, message):
    with pytest.raises(ValueError, match=message):
        method(mechanism)


@pytest.mark.parametrize("file", [cifar10_cpu, cifar10_magnitudes])
def test_variants_are_read(file):
    labels = [label for label, tags, _ in file.get_config("seeds=2").networks if tags.get("seed") == 1]
    assert labels[0] == "ST"
    for wrong, message in {
        "sedes=2": "unknown variant 'sedes'",
        "seeds=0": "seeds=0: expected at least 1",
        "seeds=two": "seeds=two: expected a whole number",
        "seeds": "seeds: a value is missing, as in seeds=1",
    }.items():
        with pytest.raises(ValueError, match=message):
            file.get_config(wrong)


def test_a_switch_is_on_or_off():
    assert common.variant("b", b=False) == common.variant("b=True", b=False) == {"b": True}
    assert common.variant("b=false", b=True) == {"b": False}
    with pytest.raises(ValueError, match="b=no: expected true or false"):
        common.variant("b=no", b=False)
