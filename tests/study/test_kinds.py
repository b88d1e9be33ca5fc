"""Studies of every kind of network, from a config; and every kind of spec as JSON."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import BIM, TEST, TRAIN, attacked, failure, make, network, training, verdicts

from configs import common
from transferjax import data, models
from transferjax.study import binding, config, views
from transferjax.study.mistakes import Mistakes
from transferjax.study.resolve import Context
from transferjax.study.run import Local, run
from transferjax.study.services import record_answers
from transferjax.study.specs import KINDS, Apply, Call, Derived, Goal, Measure, Pretrained, Purifier, Service
from transferjax.study.store import Store
from transferjax.study.walk import from_json, to_json

SHARED = {
    "data": common.data("digits", "train", 64),
    "training": common.training(1, batch_size=32, warmup_epochs=0.0, padding=0, flip=False, peak=0.05),
    "mean": (0.3,),
    "std": (0.3,),
}
VGG = ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})


def every_kind(file):
    """One spec of each kind, nested in each other."""
    net = network(parts=(Call(name="sam", options={"rho": 0.1}),), epoch=0.5)
    derived = binding.bound(Derived(call=Call(name="det", options={"steps": 2}), of=net, data=TRAIN))
    pre = binding.bound(
        Pretrained(
            model=Call(name=VGG[0], options=VGG[1]),
            file=str(file),
            label_map=tuple(range(10)),
            preprocessing=Call(name="normalize", options={"mean": 0.3, "std": 0.3}),
        )
    )
    purifier = binding.bound(
        Purifier(call=Call(name="hgd", options={"features": 1}), of=net, data=derived, training=training(0.5))
    )
    apply = binding.bound(Apply(call=Call(name="purified"), of=(pre, purifier)))
    images = attacked((apply, net), BIM, goal=Goal(aim="least_likely", of=net), data=derived)
    measure = binding.bound(Measure(call=Call(name="similarity"), of=(apply, pre), data=derived))
    fine = network(start=pre, data=derived)
    service = Service(name="api", record="x")
    return [
        net,
        derived,
        pre,
        purifier,
        apply,
        images,
        measure,
        fine,
        service,
        images.goal,
        images.attack,
        net.training,
        TEST,
        verdicts(service, images),
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    net = models.build(VGG[0], **VGG[1])
    variables = jax.jit(net.init)(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))
    return models.save(variables, tmp_path_factory.mktemp("weights") / "net.safetensors")


def test_every_kind_survives_json(file):
    """What a worker reads is what was meant: the key, and the paths that are no part of it."""
    found = every_kind(file)
    assert {type(spec) for spec in found} == set(KINDS.values())
    for spec in found:
        again = from_json(to_json(spec))
        assert again.key == spec.key
        assert to_json(again) == to_json(spec)
        assert binding.bound(again).key == binding.bound(spec).key


def read(networks, **block):
    fields = {"surrogates": ("one",), "targets": ("two",), "attacks": ("BIM",), "eps_255": (32,)}
    return config.read(
        common.study(
            "Kinds",
            networks=networks,
            attacks=(("BIM", "bim", {"steps": 2}),),
            blocks=(("main", {**fields, "data": common.data("digits", count=32), **block}),),
            views=(("transfer", "table", {"block": "main"}),),
        ),
        views.VIEWS,
    )


def frame(context, study):
    """What the study's one view is drawn from, made."""
    rows = views.rows_of(study, study.views[0])
    demand = list(dict.fromkeys(spec for row in rows for spec in row.needs.values()))
    outcome = run(demand, context.store, Local(context))
    assert not outcome.failed, outcome.failed
    table = views.frame_of(rows, context.arrays, context.store.has)
    assert views.draw(study, study.views[0], table)
    return table


def pretrained(file, **more):
    model = {"name": VGG[0], "options": VGG[1]}
    return {"kind": "Pretrained", "model": model, "file": str(file), **more}


def test_a_study_without_any_training(file, one_device, tmp_path):
    seen = {"preprocessing": {"name": "normalize", "options": {"mean": (0.3,), "std": (0.3,)}}}
    study = read((("one", {}, pretrained(file, **seen)), ("two", {}, pretrained(file))), noise=False)
    context = Context(Store(tmp_path))
    table = frame(context, study)
    assert len(table) == 1
    assert 0 <= table["asr"].iloc[0] <= 1
    assert {entry.kind for entry in context.store.entries()} == {"Adversarial", "Verdicts"}


def test_a_study_of_every_kind_of_network(file, context, tmp_path):
    """An ensemble of a defended and a fine-tuned net, a service, purified and pretrained targets."""
    net = common.network(*VGG, **SHARED)
    made = common.derived("det", net, common.data("digits", "train", 64), steps=2)
    purifier = {
        "kind": "Purifier",
        "call": {"name": "comdefend", "options": {"features": 2}},
        "data": made,
        "training": SHARED["training"],
    }
    around = lambda name, *of, **options: {  # noqa: E731
        "kind": "Apply",
        "call": {"name": name, "options": options},
        "of": of,
    }
    tuned = common.network(*VGG, **SHARED | {"data": made}, start=pretrained(file))
    record = str(tmp_path / "answers.safetensors")
    networks = (
        ("one", {}, (around("bit_depth", net, bits=5), tuned)),
        ("two", {}, around("purified", net, purifier)),
        ("service", {}, {"kind": "Service", "name": "api", "record": record}),
        ("pretrained", {}, pretrained(file)),
    )
    study = read(
        networks, targets=("two", "service", "pretrained"), goals=("untargeted", "next"), noise=False
    )
    asked = [spec for row in views.rows_of(study, study.views[0]) for spec in row.needs.values()]
    bought = [spec for spec in asked if isinstance(spec.target, Service)]
    pictures = {spec.images for spec in bought}
    run([image for image in pictures if image.kind == "Adversarial"], context.store, Local(context))
    for image in pictures:
        answer = lambda x: (10 * x.mean((1, 2, 3))).astype(int)  # noqa: E731
        record_answers(answer, context.dataset(image).images, record)
    table = frame(context, study)
    assert len(table) == 2 * 3
    assert table["asr"].between(0, 1).all()


def test_images_that_were_not_bought_take_no_others_along(context, tmp_path):
    """You see: for those alone "… images have no recorded answer in …; buy them with …".
    Do: that.
    """
    service = Service(name="api", record=str(tmp_path / "answers.safetensors"))
    lacking, bought = (TEST.replace(count=count) for count in (8, 4))
    record_answers(lambda x: [3] * len(x), context.dataset(bought).images, service.record)
    assert "4 of 8 images have no recorded answer" in failure(
        context, *(verdicts(service, images) for images in (lacking, bought))
    )
    assert context.store.has(verdicts(service, bought))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"one": {"kind": "Service", "name": "api"}}, "'one' cannot stand among the surrogates"),
        ({"two": {"kind": "Purifer"}}, "did you mean Purifier"),
        ({"one": {"kind": "Apply", "call": {"name": "jpgg"}}}, "of is missing"),
        ({"one": {"kind": "Pretrained", "model": {"name": "cifar_vgg11"}}}, "give `file`"),
        ({"one": {"kind": "Pretrained", "model": {"name": "cifar_vgg11"}, "file": "gone.npz"}}, "gone.npz"),
    ],
)
def test_mistakes_in_networks_are_one_line_each(changes, message):
    nets = {"one": common.network(*VGG, **SHARED), "two": common.network(*VGG, **SHARED)} | changes
    with pytest.raises(Mistakes) as caught:
        read(tuple((label, {}, spec) for label, spec in nets.items()))
    assert any(message in line for line in caught.value.lines)
    assert all("\n" not in line for line in caught.value.lines)


def test_an_ensemble_for_an_attack_of_one_net_is_a_mistake():
    net = common.network(*VGG, **SHARED)
    with pytest.raises(Mistakes, match="apgd takes one surrogate, not 2"):
        config.read(
            common.study(
                "Kinds",
                networks=(("one", {}, (net, {**net, "seed": 1})), ("two", {}, net)),
                attacks=(("APGD", "apgd", {}),),
                blocks=(
                    (
                        "main",
                        {
                            "surrogates": ("one",),
                            "targets": ("two",),
                            "attacks": ("APGD",),
                            "eps_255": (8,),
                            "data": common.data("digits"),
                        },
                    ),
                ),
                views=(("transfer", "table", {"block": "main"}),),
            ),
            views.VIEWS,
        )


def test_data_of_one_name_and_other_pixels_are_other_data(tmp_path):
    """Acceptance of content: names and places are no part of a key, pixels are."""
    grey = data.load("digits", "test").subset(16)
    changed = np.array(grey.images)
    changed[0, 0, 0] ^= 1
    for name, images in (("a", grey.images), ("b", grey.images), ("c", changed)):
        data.save(data.Dataset(images, grey.labels, grey.class_names), tmp_path / name, "test")
    one, same, other = (binding.bound(TEST.replace(name=str(tmp_path / n), count=0)) for n in "abc")
    assert one.key == same.key != other.key


def test_distortion_is_of_attacked_images_and_no_network(context):
    net = network()
    images = attacked(net, Call(name="noise"), eps=32 / 255)
    measure = binding.bound(Measure(call=Call(name="distortion"), data=images))
    found, moved = make(context, measure, images)
    clean = context.dataset(images.data).images / 255
    lengths = np.sqrt(((moved["images"] / 255 - clean) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(found["l2"], lengths, rtol=1e-5)
    assert (found["ssim"] < 1).all()
    again = binding.bound(Measure(call=Call(name="distortion"), of=net, data=images))
    assert "of attacked images, and of no network" in failure(context, again)
