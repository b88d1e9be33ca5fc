"""Files of weights: networks that a study takes from them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import RESNET, TEST, TRAIN, VGG, attacked, failure, make, network, training, verdicts

from transferjax import data, models
from transferjax.predicts import Preprocessing
from transferjax.study import binding, shapes
from transferjax.study.mistakes import Mistakes
from transferjax.study.plan import make_plan
from transferjax.study.specs import Apply, Call, Derived, Measure, Pretrained, build
from transferjax.study.store import Store

TWENTY = models.build("cifar_vgg11", num_classes=20, width=4, blocks=(1, 1))
STATISTICS = {"mean": (0.3,), "std": (0.35,)}


@pytest.fixture(scope="module")
def variables():
    """Weights of a net with 20 logits."""
    return jax.jit(TWENTY.init)(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def file(variables, tmp_path_factory):
    return models.save(variables, tmp_path_factory.mktemp("weights") / "net.safetensors")


def pretrained(file, **more):
    fields = {"label_map": tuple(range(3, 13)), "preprocessing": Call(name="normalize", options=STATISTICS)}
    return binding.bound(Pretrained(model=VGG, file=str(file), **fields | more))


def test_it_is_a_target_and_a_surrogate_without_any_training(context, file, variables):
    net = pretrained(file)
    images = attacked(net)
    norm = binding.bound(Measure(call=Call(name="gradient_norm"), of=net, data=TEST))
    trace = binding.bound(Measure(call=Call(name="weight_trace"), of=net, data=TEST))
    clean, hit, _, norms, traces = make(context, verdicts(net), verdicts(net, images), images, norm, trace)
    assert not list(context.store.entries("Network"))
    x = data.to_float(jnp.asarray(data.load("digits", "test").subset(32).images))
    logits = models.predictor(TWENTY, variables, **STATISTICS)(x)[:, 3:13]
    np.testing.assert_array_equal(clean["classes"], logits.argmax(-1))
    np.testing.assert_allclose(context.predict(net)(x), logits, atol=1e-5)
    assert np.mean(hit["classes"] == hit["labels"]) <= np.mean(clean["classes"] == clean["labels"])
    assert norms["values"].shape == (32,)
    assert traces["values"].shape == (1,)


def test_beside_trained_networks_as_surrogate_and_as_target(context, file):
    theirs, ours = pretrained(file), network(RESNET)
    pair = attacked((theirs, ours))
    one, two, both = make(context, verdicts(ours, attacked(theirs)), verdicts(theirs, attacked(ours)), pair)
    assert one["classes"].shape == two["classes"].shape == (32,)
    assert both["images"].shape == (32, 8, 8, 1)


def seen(**options):
    return Call(name="preprocessing", options=options)


def test_what_it_wants_to_see_is_part_of_it(context, file, variables):
    options = {
        "size": 6,
        "crop": 0.75,
        "interpolation": "bicubic",
        "scale": 255,
        "mean": 70,
        "label_offset": 2,
    }
    net = pretrained(file, preprocessing=seen(**options), label_map=tuple(range(1, 11)))
    clean = make(context, verdicts(net))
    x = data.to_float(jnp.asarray(data.load("digits", "test").subset(32).images))
    form = Preprocessing(6, 0.75, interpolation="bicubic", scale=255.0, mean=(70.0,), label_offset=2)
    logits = models.predictor(TWENTY, variables)(form.see(x))[:, 3:13]
    np.testing.assert_allclose(context.predict(net)(x), logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(clean["classes"], logits.argmax(-1))
    assert context.num_classes(pretrained(file, preprocessing=seen(label_offset=2), label_map=())) == 18
    whole = seen(label_offset=2, num_classes=20)
    assert context.num_classes(pretrained(file, preprocessing=whole, label_map=())) == 20
    assert pretrained(file, preprocessing=seen(scale=255)).key != pretrained(file, preprocessing=seen()).key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "rgb"}, "channels must be one of 'RGB', 'BGR'; got 'rgb'"),
        ({"crop": 0.5}, "crop must lie in"),
        ({"classes": (1,)}, "has no option 'classes'; the engine gives it"),
    ],
)
def test_mistakes_in_what_it_wants_to_see(file, options, message):
    with pytest.raises(Mistakes, match=message):
        pretrained(file, preprocessing=seen(**options))


def test_a_file_of_weights_changes_after_it_was_named(context, file, variables, tmp_path):
    """You see: "… is another file than the study named"; of one that is gone "weights … are not
    there", before anything is made.
    Do: put the file back, or start the study again: it names the new one.
    """
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    net = pretrained(copy)
    assert net.key == pretrained(file).key
    images = attacked(net, eps=0.01)
    models.save(jax.tree.map(lambda a: a + 1, variables), copy)
    context.forget()
    assert "is another file than the study named" in failure(context, images)
    assert pretrained(copy).key != net.key
    copy.unlink()
    with pytest.raises(Mistakes, match=r"copy\.safetensors.* are not there: save torchvision's"):
        pretrained(copy)
    special = tmp_path / "resnet50.l2_eps0.05.safetensors"
    with pytest.raises(Mistakes, match=r"the resnet50 that 'l2_eps0.05' says, not the usual one"):
        binding.bound(Pretrained(model=Call(name="resnet50"), file=str(special)))


def test_no_file_at_all_is_a_mistake():
    with pytest.raises(Mistakes, match="give `file`"):
        build(Pretrained, {"model": {"name": "cifar_vgg11"}}, "network")


def test_logits_of_a_file_of_weights_are_no_classes_of_the_data(context, file):
    """You see: "20 logits, the data 10 classes", or "24 is beyond the 20 logits".
    Do: give `label_map`: which logit is which class of the data.
    """
    wrong = pretrained(file, label_map=())
    measured = [
        binding.bound(Measure(call=Call(name=name), of=nets, data=TEST))
        for name, nets in (("smoothness", (wrong,)), ("similarity", (wrong, wrong)))
    ]
    pushed = binding.bound(Derived(call=Call(name="det", options={"steps": 1}), of=wrong, data=TEST))
    for spec in (verdicts(wrong), *measured, pushed):
        assert "20 logits, the data 10 classes" in failure(context, spec)
    with pytest.raises(Mistakes, match="24 is beyond the 20 logits"):
        pretrained(file, label_map=tuple(range(15, 25)))


@pytest.mark.parametrize("label_map", [(), tuple(range(3, 13))])
def test_fine_tuning_begins_with_its_weights(label_map, context, file, variables):
    """With a head of its own for other classes; with the rows of the label map where they are the classes."""
    t = training(0.5, ("constant", {"peak": 1e-6}))
    net = network(VGG, t=t, start=pretrained(file, label_map=label_map))
    make(context, net)
    tuned = context.variables(net)["params"]
    head = tuned.pop(TWENTY.head)
    given = dict(variables["params"])
    given_head = given.pop(TWENTY.head)
    chex.assert_trees_all_close(tuned, given, atol=1e-4)
    assert head["kernel"].shape[-1] == 10
    near = np.allclose(head["kernel"], given_head["kernel"][:, 3:13], atol=1e-4)
    assert near == bool(label_map)


def test_a_network_of_other_classes_is_a_start_too(context, tmp_path):
    digits = data.load("digits", "train").subset(64)
    few = data.Dataset(digits.images, digits.labels % 3, tuple("abc"))
    data.save(few, tmp_path / "few", "train")
    three = network(VGG, data=TRAIN.replace(name=str(tmp_path / "few"), count=0))
    net = network(VGG, t=training(0.5, ("constant", {"peak": 1e-6})), start=three)
    make(context, three, net)
    before, after = (context.variables(n)["params"] for n in (three, net))
    np.testing.assert_allclose(before["features.0"]["kernel"], after["features.0"]["kernel"], atol=1e-4)
    assert before[TWENTY.head]["kernel"].shape[-1] == 3
    assert after[TWENTY.head]["kernel"].shape[-1] == 10


def test_weights_of_another_net_are_no_start(context, file):
    wide = Call(name="cifar_vgg11", options={"width": 8, "blocks": (1, 1)})
    with pytest.raises(ValueError, match="weights of cifar_vgg11 do not fit cifar_vgg11"):
        network(wide, start=network())
    with pytest.raises(ValueError, match=r"do not fit|has shape|expected"):
        network(wide, start=pretrained(file))


def test_a_net_of_its_own_file_says_which(tmp_path):
    lost = Pretrained(model=Call(name="hgd_inception_v3"), file=str(tmp_path / "hgd.safetensors"))
    said = r"get denoise_incepv3_012\.ckpt of github.*convert denoise_incepv3_012\.ckpt"
    with pytest.raises(Mistakes, match=said):
        binding.bound(lost)


def test_a_dry_run_traces_what_stands_in_files(context, file, tmp_path):
    """Alone, behind a defence, and in an ensemble; what would fail when it is made fails now."""
    net = pretrained(file)
    defended = binding.bound(Apply(call=Call(name="bit_depth"), of=net))
    other = pretrained(file, preprocessing=Call(name="normalize", options={"mean": (0.1,), "std": (0.2,)}))
    right = [
        *(attacked(net), attacked((net, network())), attacked((net, other)), attacked((net, defended))),
        *(verdicts(defended, attacked(net)), verdicts(net), verdicts(other)),
    ]
    shapes.check_plan(make_plan(right, Store(tmp_path)))
    lost = attacked(net, Call(name="fia", options={"layer": "nowhere"}))
    with pytest.raises(Mistakes, match=f"Adversarial {lost.key[:12]}.*nowhere"):
        shapes.check_plan(make_plan([lost], Store(tmp_path)))
    grey = verdicts(binding.bound(Apply(call=Call(name="jpeg"), of=net)))
    with pytest.raises(Mistakes, match=f"Verdicts {grey.key[:12]}: JPEG here is for RGB images; got 1"):
        shapes.check_plan(make_plan([grey], Store(tmp_path)))
