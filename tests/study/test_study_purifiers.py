"""Purifiers: each trains through the host loop, continues where it stopped, and stands before a network."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import BIM, TRAIN, attacked, failure, make, network, training, verdicts

from transferjax import data, models
from transferjax.defences import NRP, DiffusionUNet, diffpure, noise_predictor
from transferjax.study import binding
from transferjax.study.mistakes import Mistakes
from transferjax.study.resolve import Context
from transferjax.study.specs import Apply, Call, Purifier
from transferjax.study.store import Store

ADAM = {"optimizer": Call(name="adam"), "augment": Call(name="crop_flip", options={"padding": 1})}
SMALL = {
    "comdefend": {"features": 2},
    "hgd": {"features": 1, "eps": 16 / 255},
    "nrp": {"features": 2, "blocks": 1, "layer": "features.0", "eps": 16 / 255},
}


def purifier(name, epochs=2.0, **more):
    t = training(epochs, ("warmup_cosine", {"peak": 3e-3}), **ADAM)
    of = None if name == "comdefend" else network()
    return binding.bound(
        Purifier(call=Call(name=name, options=SMALL[name]), of=of, data=TRAIN, training=t, **more)
    )


def defended(spec, **options):
    return binding.bound(Apply(call=Call(name="purified", options=options), of=(network(), spec)))


@pytest.mark.parametrize("name", SMALL)
def test_a_purifier_is_trained_evaluated_and_attacked_through(context, name):
    spec = purifier(name)
    net = defended(spec)
    images, blind = attacked(net), attacked(defended(spec, bpda=True))
    arrays, hit, seen, taken = make(context, spec, verdicts(net, images), images, blind)
    assert arrays["history/loss"].shape == (2,)
    assert np.isfinite(arrays["history/loss"]).all()
    assert hit["classes"].shape == (32,)
    assert np.any(seen["images"] != taken["images"])  # the gradient of the purifier, and that of the identity
    assert np.any(seen["images"] != make(context, attacked(network()))["images"])


def behind_nrp(predict, net, variables, _):
    return lambda x: predict(jnp.clip(net.apply(variables, x), 0, 1))


def behind_diffpure(predict, net, variables, key):
    return diffpure(predict, noise_predictor(net, variables), key, 0.02, 0.01, 16)


PUBLISHED = {
    "nrp": (NRP(features=4, growth=2, blocks=1), {"features": 4, "blocks": 1}, behind_nrp, r"NRP\.pth"),
    "diffpure": (
        DiffusionUNet(width=32, multiples=(1,)),
        {"strength": 0.02, "step": 0.01, "size": 16, "width": 32, "multiples": (1,)},
        behind_diffpure,
        r"256x256_diffusion_uncond\.pt",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_whose_weights_are_in_a_file(context, tmp_path, name):
    """The net behind it, known by what is in the file; another file is no other weights in silence."""
    net, options, behind, published = PUBLISHED[name]
    variables = net.init(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))
    variables = jax.tree.map(lambda leaf: leaf + 0.01, variables)  # zeros would do nothing
    file = models.save(variables, tmp_path / "net.safetensors")
    options = options | {"weights": str(file)}
    spec = binding.bound(Apply(call=Call(name=name, options=options), of=network()))
    images, hit = attacked(spec), verdicts(spec, attacked(spec))
    make(context, network(), images, hit)
    x = data.to_float(jnp.asarray(context.dataset(images.data).images))
    found = context.predict(spec)
    expected = behind(context.predict(network()), net, variables, getattr(found, "key", None))
    np.testing.assert_allclose(found(x), expected(x), atol=1e-5)
    again = shutil.copy(file, tmp_path / "again.safetensors")
    same = Apply(call=Call(name=name, options=options | {"weights": str(again)}), of=network())
    assert binding.bound(same).key == spec.key
    Path(file).write_bytes(b"other weights")
    with pytest.raises(Mistakes, match="is another file than the study named"):
        attacked(spec, eps=0.01)
    context.forget()
    assert "is another file than the study named" in failure(context, images.replace(seed=1))
    lost = Apply(call=Call(name=name, options={"weights": "nowhere.pth"}), of=network())
    said = rf"weights='nowhere\.pth' is not there: expected {published} of github"
    with pytest.raises(Mistakes, match=said):
        binding.bound(lost)


def test_one_that_was_stopped_ends_with_the_same_bits(context, tmp_path):
    """At the second epoch of four, as by a kill: what follows the last checkpoint is trained again."""
    spec = purifier("comdefend", epochs=4.0)

    class Killed(BaseException):
        pass

    def kill(text, done, total, /, **figures):
        if done >= 0.7 * total:  # after the checkpoint of the second epoch
            raise Killed

    again = Context(Store(tmp_path), checkpoint_epochs=1, progress=kill)
    with pytest.raises(Killed):
        make(again, spec)
    again.progress = lambda *args, **figures: None
    found = make(again, spec)
    (entry,) = again.store.entries()
    assert 0 < entry.provenance["steps"] < 8
    expected = make(context, spec)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"call": Call(name="hgd")}, "guided by a classifier: give `of`"),
        ({"call": Call(name="comdefend"), "of": network()}, "leave `of` out"),
        ({"call": Call(name="hgdd")}, "did you mean hgd"),
        ({"call": Call(name="nrp", options={"featurs": 3})}, "no option 'featurs'; did you mean features"),
    ],
)
def test_mistakes_show_before_anything_is_trained(fields, message):
    with pytest.raises((ValueError, Mistakes), match=message):
        binding.bound(Purifier(data=TRAIN, training=training(), **fields))


def test_a_purifier_stands_before_a_network_and_not_alone():
    with pytest.raises(ValueError, match="match any of the expected tags"):
        attacked(purifier("comdefend"), BIM)
    with pytest.raises(ValueError, match="stands around predict and purifier; `of` names 1"):
        binding.bound(Apply(call=Call(name="purified"), of=(network(),)))
