"""Whatever is put around a network: one law for every row of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import BIM, RESNET, attacked, failure, make, network, verdicts

from transferjax import data
from transferjax.predicts.stochastic import Stochastic
from transferjax.study import binding, registry
from transferjax.study.mistakes import Mistakes
from transferjax.study.resolve import Context
from transferjax.study.specs import Adversarial, Apply, Call, Data, Measure

ROWS = {
    "bit_depth": {},
    "jpeg": {"quality": 50},
    "feature_distillation": {},
    "resize_and_pad": {"rate": 1.25, "resize_back": True},
    "nips_r3": {},
    "random_affine": {"samples": 2},
    "smoothed": {"samples": 2},
    "skip_gradient": {},
    "linear_backprop": {},
    "ghost_skips": {},
    "ghost_dropout": {"rate": 0.1},
    "mean_logits": {},
    "mean_probabilities": {},
    "swag_mean": {"count": 3},
    "select_classes": {"indices": tuple(range(10))[::-1]},
    "resized": {"size": 12},
    "tgr": {},
    "weight_scaling": {},
    "pna": {},
    "att": {},
}
ATTENTIVE = ("tgr", "pna", "att")
VIT = Call(
    name="cifar_vit_small",
    options={"image_size": 8, "depth": 1, "width": 8, "heads": 2, "hidden": 8},
)
SEVERAL = ("mean_logits", "mean_probabilities", "swag_mean")
ELSEWHERE = dict.fromkeys(("purified", "nrp", "diffpure"), "tests/study/test_study_purifiers.py")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The digits in colour: JPEG is for RGB."""
    path = tmp_path_factory.mktemp("colour")
    for split in ("train", "test"):
        grey = data.load("digits", split).subset(64)
        tinted = np.concatenate([grey.images, 255 - grey.images, grey.images // 2], -1)
        data.save(data.Dataset(tinted, grey.labels, grey.class_names), path, split)
    return path


@pytest.fixture(scope="module")
def nets(context, images):
    """Two networks of the same structure, and a transformer."""
    source = Data(name=str(images), split="train")
    colour = {"data": source, "mean": (0.3,) * 3, "std": (0.3,) * 3}
    found = [network(RESNET, **colour, seed=seed) for seed in (0, 1)] + [network(VIT, **colour)]
    make(context, *found)
    return found


@pytest.fixture(scope="module")
def seen(images):
    return Data(name=str(images), split="test", count=16)


def around(name, nets, **options):
    of = tuple(nets[:2]) if name in SEVERAL else (nets[2 if name in ATTENTIVE else 0],)
    return binding.bound(Apply(call=Call(name=name, options=options or ROWS[name]), of=of))


def test_every_row_has_a_law():
    assert {*ROWS, *ELSEWHERE} == set(registry.APPLY.rows())


@pytest.mark.parametrize("name", ROWS)
def test_it_is_a_network_that_is_attacked(name, context, nets, seen):
    """Logits of the network's shape; an attack moves the image inside the ball, and not as without it."""
    spec = around(name, nets)
    (net, *_) = spec.of
    plain = context.predict(net)
    predict, batch = context.predict(spec), context.dataset(seen)
    clean = data.to_float(jnp.asarray(batch.images))
    assert jax.eval_shape(predict, clean).shape == jax.eval_shape(plain, clean).shape == (16, 10)
    made = make(context, attacked(spec, data=seen))
    far = np.abs(made["images"].astype(int) - batch.images)
    assert 0 < far.max() <= 32
    bare = make(context, attacked(net, data=seen))
    assert np.any(made["images"] != bare["images"])
    assert context.num_classes(spec) == 10


def test_what_they_compute(context, nets, seen):
    x = data.to_float(jnp.asarray(context.dataset(seen).images))
    one, two = (context.predict(net)(x) for net in nets[:2])
    predict = lambda name, **options: context.predict(around(name, nets, **options))  # noqa: E731
    np.testing.assert_allclose(predict("mean_logits")(x), (one + two) / 2, atol=1e-5)
    np.testing.assert_array_equal(predict("select_classes")(x), one[:, ::-1])
    wide = jax.image.resize(x, (16, 12, 12, 3), "bilinear")
    np.testing.assert_allclose(predict("resized")(x), context.predict(nets[0])(wide), atol=1e-5)
    np.testing.assert_allclose(predict("skip_gradient")(x), one, atol=1e-5)


@pytest.mark.parametrize("outer", [None, "bit_depth"])
def test_what_draws_does_not_hang_on_the_batch(outer, context, nets, seen):
    """Verdicts of a randomized defence, alone and inside of another: in batches of 16, and of 5."""
    spec = around("ghost_dropout", nets, rate=0.6)
    assert isinstance(context.predict(spec), Stochastic)
    spec = spec if outer is None else binding.bound(Apply(call=Call(name=outer), of=spec))
    of = {"gradient_norm": spec, "similarity": (spec, nets[1])}
    measured = [binding.bound(Measure(call=Call(name=n), of=nets, data=seen)) for n, nets in of.items()]
    plan = [verdicts(spec, seen), attacked(spec, data=seen), *measured]
    whole = make(context, *plan)
    small = Context(context.store, batch_size=5)
    from transferjax.study.make import make as make_again

    parts = [dict(make_again(small, [one]))[one]["arrays"] for one in plan]
    assert len(set(whole[0]["classes"])) > 1
    np.testing.assert_array_equal(whole[0]["classes"], parts[0]["classes"])
    assert np.mean(whole[1]["images"] == parts[1]["images"]) > 0.99  # rounding may turn a sign
    for number in (2, 3):
        np.testing.assert_allclose(whole[number]["values"], parts[number]["values"], rtol=1e-3, atol=1e-4)


def test_mistakes_show_before_anything_is_made(nets):
    with pytest.raises(Mistakes, match="did you mean jpeg"):
        binding.bound(Apply(call=Call(name="jpg"), of=nets[0]))
    with pytest.raises(ValueError, match="stands around predict; `of` names 2"):
        binding.bound(Apply(call=Call(name="jpeg"), of=tuple(nets[:2])))
    with pytest.raises(Mistakes, match="needs the option 'indices'"):
        binding.bound(Apply(call=Call(name="select_classes"), of=nets[0]))


def test_another_number_of_classes_is_no_silent_nonsense(context, nets, seen):
    few = around("select_classes", nets, indices=(1, 2, 3))
    for spec in (verdicts(few, seen), attacked(few, data=seen)):
        assert "3 logits, the data 10 classes" in failure(context, spec)


def test_a_random_or_wrapped_network_stands_where_a_network_does(context, nets, seen):
    """A goal of a wrapped network, an attack on a wrapped ensemble."""
    wrapped = around("mean_logits", nets)
    goal = {"aim": "least_likely", "of": around("bit_depth", nets)}
    spec = binding.bound(Adversarial(surrogates=wrapped, attack=BIM, goal=goal, eps=0.1, data=seen))
    assert make(context, spec)["aims"].shape == (16,)
