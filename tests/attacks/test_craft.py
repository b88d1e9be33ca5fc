"""Adversarial images on disk: the same by every road, in files that survive interruptions."""

import functools
import json
import resource
import shutil
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, data
from transferjax.attacks import Crafted, craft
from transferjax.attacks.craft import check_kept, crafting
from transferjax.files import Unwritable
from transferjax.predicts import linear_backprop
from transferjax.random import fold_in

N, EPS = 20, 8 / 255
ATTACK = attacks.pgd(EPS, 2)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    classes = tuple("abcdefghij")
    return data.Dataset(
        rng.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8), rng.integers(0, 10, N).astype(np.int32), classes
    )


@pytest.fixture
def predict(tiny_predict):
    return tiny_predict()


def test_the_attack_on_every_image(dataset, predict):
    """As the attack itself with the documented keys, rounded; inside the ball in whole levels."""
    made = craft(ATTACK, predict, dataset, seed=3, batch_size=8)
    keys = fold_in(jax.random.key(3), jnp.arange(N))
    x = jax.jit(attacks.pgd(EPS, 2, quantize=True))(
        keys, predict, jnp.asarray(dataset.images, jnp.float32) / 255, dataset.labels
    )
    difference = np.abs(made.images.astype(int) - np.round(np.asarray(x) * 255).astype(int))
    assert np.mean(difference == 0) > 0.999
    moved = np.abs(made.images.astype(int) - dataset.images.astype(int))
    assert moved.max() == 8
    assert made.images.dtype == np.uint8
    np.testing.assert_array_equal(made.labels, dataset.labels)
    assert made.targets is None


def test_batch_size_does_not_matter(dataset, predict):
    """The last batch is ragged in one case and not in the other."""
    one = craft(ATTACK, predict, dataset, batch_size=8).images
    other = craft(ATTACK, predict, dataset, batch_size=40).images
    assert np.mean(one == other) > 0.999
    assert not np.array_equal(one, craft(ATTACK, predict, dataset, batch_size=8, seed=1).images)


@pytest.mark.parametrize("format", ["npy", "png"])
def test_files_hold_what_was_made(format, dataset, predict, tmp_path):
    made = craft(ATTACK, predict, dataset, tmp_path / "run", batch_size=8, format=format)
    np.testing.assert_array_equal(made.images, craft(ATTACK, predict, dataset, batch_size=8).images)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["attack"].startswith("pgd(eps=0.0313")
    assert manifest["images"] == N
    assert not list((tmp_path / "run").rglob("*.partial"))
    again = Crafted.load(tmp_path / "run")
    np.testing.assert_array_equal(again.images, made.images)


def test_one_png_of_adversarial_images_is_cut(dataset, predict, tmp_path):
    """You see: "…/images/000003.png is damaged (50 bytes)", within "… is damaged (…); run craft again, it
    makes them anew".
    Do: that.
    """
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format="png")
    path = tmp_path / "images" / "000003.png"
    for content in (path.read_bytes()[:50], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            Crafted.load(tmp_path)


class Stop(Exception):
    pass


@pytest.mark.parametrize("format", ["npy", "png"])
def test_crafting_is_interrupted(format, dataset, predict, tmp_path, monkeypatch):
    """You see: from Crafted.load "… holds no finished adversarial images; run craft again".
    Do: that: it goes on from the last batch, with another batch size, too.
    """
    module = sys.modules["transferjax.attacks.crafted"]
    write, calls = module.Place.write, []

    def failing(self, rows, x):
        calls.append(rows)
        if len(calls) == 3:
            raise Stop
        write(self, rows, x)

    with monkeypatch.context() as patch:
        patch.setattr(module.Place, "write", failing)
        with pytest.raises(Stop):
            craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    with pytest.raises(FileNotFoundError, match="run craft again"):
        Crafted.load(tmp_path)
    seen = []
    monkeypatch.setattr(
        module.Place, "write", lambda self, rows, x: (seen.append(rows), write(self, rows, x))
    )
    made = craft(ATTACK, predict, dataset, tmp_path, batch_size=24, format=format)
    assert np.concatenate(seen).tolist() == list(range(16, N))
    monkeypatch.undo()
    assert np.mean(made.images == craft(ATTACK, predict, dataset, batch_size=8).images) > 0.999
    seen.clear()
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    assert not seen


def test_other_adversarial_images_are_in_the_directory(dataset, predict, tmp_path):
    """You see: "… holds other adversarial images; choose another directory, or delete it", and each
    difference: "seed: 0 there, 1 here".
    Do: that.
    """
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8)
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 here"):
        craft(ATTACK, predict, dataset, tmp_path, batch_size=8, seed=1)
    with pytest.raises(ValueError, match=r"attack: .pgd.*there, .mi_fgsm.* here"):
        craft(attacks.mi_fgsm(EPS, 2), predict, dataset, tmp_path, batch_size=8)
    heavier = jax.tree.map(lambda w: 2 * w, predict)
    with pytest.raises(ValueError, match="predict: "):
        craft(ATTACK, heavier, dataset, tmp_path, batch_size=8)


def test_targets(dataset, predict, tmp_path):
    targets = (dataset.labels + 1) % 10
    made = craft(
        attacks.bim(EPS, 2, targeted=True), predict, dataset, tmp_path, targets=targets, batch_size=8
    )
    np.testing.assert_array_equal(made.targets, targets)
    np.testing.assert_array_equal(Crafted.load(tmp_path).targets, targets)
    with pytest.raises(ValueError, match="20 of 20 targets equal"):
        craft(ATTACK, predict, dataset, targets=dataset.labels, batch_size=8)


@pytest.mark.parametrize("format", ["jpg", "webp", ".jpeg"])
def test_adversarial_images_as_jpeg(format, dataset, predict):
    """You see: "format 'jpg' is lossy: compression changes the perturbation, and may leave the ball; use one
    of …".
    Do: that.
    """
    with pytest.raises(ValueError, match="is lossy: compression changes the perturbation"):
        craft(ATTACK, predict, dataset, format=format)


def test_an_attack_of_ones_own_does_not_say_its_budget(dataset, predict):
    """You see: "give eps and norm: …"; likewise "batch_size 12: expected a positive multiple of the 8
    devices", "predict returned probabilities", all before the work.
    Do: that.
    """
    with pytest.raises(ValueError, match="batch_size 12: expected a positive multiple of the 8 devices"):
        craft(ATTACK, predict, dataset, batch_size=12)
    with pytest.raises(ValueError, match="give eps and norm"):
        craft(lambda key, predict, x, y: x, predict, dataset, batch_size=8)
    probabilities = jax.tree_util.Partial(lambda p, x: jax.nn.softmax(p(x)), predict)
    with pytest.raises(ValueError, match="returned probabilities"):
        craft(ATTACK, probabilities, dataset, batch_size=8)


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


class Linear:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return linear(self.weights, x)

    predict = __call__


HIDDEN = {
    "lambda": lambda w: lambda x: linear(w, x),
    "partial": lambda w: functools.partial(linear, w),
    "object": Linear,
    "method": lambda w: Linear(w).predict,
    "jit": lambda w: jax.jit(lambda x: linear(w, x)),
    "Partial around a closure": lambda w: jax.tree_util.Partial(lambda x: linear(w, x)),
    "ensemble": lambda w: (lambda x: linear(WEIGHTS, x), lambda x: linear(w, x)),
    "snapshots": lambda w: attacks.ensembles.Snapshots(
        jax.tree_util.Partial(lambda i, x: linear(i * w, x), jnp.ones(2))
    ),
    "stochastic": lambda w: attacks.Stochastic(lambda keys, x: linear(w, x), jax.random.key(0)),
    "same logits, other gradients": lambda w: (
        lambda x: (
            linear(WEIGHTS, jax.lax.stop_gradient(x))
            + 0 * linear(w, x)
            + linear(w, x)
            - jax.lax.stop_gradient(linear(w, x))
        )
    ),
}
WEIGHTS = np.random.default_rng(1).standard_normal((192, 10)).astype(np.float32)


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_weights_that_nobody_can_see_are_told_apart(hide, dataset, tmp_path):
    """The second model does not get the first one's images; a millionth of difference counts."""
    made = craft(ATTACK, hide(WEIGHTS), dataset, tmp_path, batch_size=8)
    again = craft(ATTACK, hide(WEIGHTS.copy()), dataset, tmp_path, batch_size=24)
    np.testing.assert_array_equal(made.images, again.images)
    for other in (WEIGHTS[:, ::-1], WEIGHTS * np.float32(1 + 1e-6)):
        with pytest.raises(ValueError, match=r"(predict|outputs): "):
            craft(ATTACK, hide(jnp.asarray(other)), dataset, tmp_path, batch_size=8)


def test_the_static_part_of_a_predict_counts(dataset, predict, tmp_path):
    """Equal leaves, equal logits, other gradients: a surrogate with linear backpropagation."""
    linear_relu = linear_backprop
    craft(ATTACK, linear_relu(predict, 0), dataset, tmp_path, batch_size=8)
    with pytest.raises(ValueError, match=r"predict: .*\n.*outputs: .*other logits or gradients"):
        craft(ATTACK, linear_relu(predict, 1), dataset, tmp_path, batch_size=8)


def test_a_model_answers_differently_from_call_to_call(dataset, tmp_path):
    """You see: "… answers the same images differently from call to call", where a directory is gone on with.
    Do: make its randomness a key (attacks.Stochastic), or delete the directory.
    """
    rng = np.random.default_rng(0)
    predict = lambda x: linear(WEIGHTS + rng.standard_normal(WEIGHTS.shape).astype(np.float32), x)  # noqa: E731
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8)
    with pytest.raises(ValueError, match="answers the same images differently from call to call"):
        craft(ATTACK, predict, dataset, tmp_path, batch_size=8)


def test_the_data_set_changed_since_the_images_were_made(dataset, predict, tmp_path):
    """You see: "… holds other adversarial images; …", with "labels: …" or "pixels: …".
    Do: choose another directory, or delete it.
    """
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8)
    for key, other in (("labels", dataset.labels[::-1]), ("pixels", dataset.images[::-1])):
        changed = replace(dataset, **{"images" if key == "pixels" else key: other})
        assert changed.fingerprint == dataset.fingerprint
        with pytest.raises(ValueError, match=rf"\n  {key}: "):
            craft(ATTACK, predict, changed, tmp_path, batch_size=8)


def signed_steps(size):
    def attack(keys, predict, images, labels):
        return jnp.clip(images + size * jnp.sign(images - 0.5), 0, 1)

    return attack


def test_attacks_of_ones_own_are_told_apart(dataset, predict, tmp_path):
    make = functools.partial(
        craft, predict=predict, dataset=dataset, directory=tmp_path, batch_size=8, eps=EPS
    )
    make(signed_steps(EPS))
    make(signed_steps(EPS))
    with pytest.raises(ValueError, match="attack: "):
        make(signed_steps(EPS / 2))
    with pytest.raises(
        ValueError, match=r"the attack has no stable name .*lambda.* define a function at the top"
    ):
        make(lambda keys, predict, images, labels: images)


@pytest.mark.parametrize("option", ["loss", "inner_rules", "outer_rules", "ensemble", "project"])
def test_options_without_a_name_are_refused_where_there_is_a_directory(option, dataset, predict, tmp_path):
    """Before anything is computed; without a directory they work."""
    unnamed = {
        "loss": lambda logits, labels: -logits.max(1),
        "inner_rules": (lambda grad_fn: grad_fn,),
        "outer_rules": (lambda grad_fn: grad_fn,),
        "ensemble": lambda members: members.at(0),
        "project": lambda x, x0: x0,
    }
    attack = attacks.pgd(EPS, 1, **{option: unnamed[option]})
    with pytest.raises(ValueError, match=rf"^{option} of pgd has no stable name \(the lambda in line"):
        craft(attack, None, dataset, tmp_path / "run", batch_size=8)
    assert not (tmp_path / "run").exists()
    craft(attack, predict, dataset, batch_size=8)


def damage(file, how):
    if how == "cut to ten":
        np.save(file, np.load(file)[:10])
    elif how == "flipped":
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(file.read_bytes()[:20])


@pytest.mark.parametrize(
    ("format", "name", "how"),
    [
        ("npy", "images.npy", "cut to ten"),
        ("npy", "images.npy", "flipped"),
        ("npy", "labels.npz", "truncated"),
        ("npy", "checksum.json", "truncated"),
        ("png", "images/000007.png", "truncated"),
    ],
)
def test_adversarial_images_are_cut_or_a_byte_of_them_is_flipped(
    format, name, how, dataset, predict, tmp_path
):
    """You see: "… is damaged (BadZipFile: …); run craft again, it makes them anew"; from craft a warning:
    "what … holds is made again: …".
    Do: that.
    """
    made = craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    expected = np.array(made.images)
    damage(tmp_path / name, how)
    with pytest.raises(ValueError, match=r"is damaged .*run craft again"):
        Crafted.load(tmp_path)
    with pytest.warns(UserWarning, match=r"is made again: .*is damaged"):
        again = craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    np.testing.assert_array_equal(again.images, expected)
    np.testing.assert_array_equal(Crafted.load(tmp_path).images, expected)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("format", ["npy", "png"])
def test_half_of_the_adversarial_images_are_copied_elsewhere(format, dataset, predict, tmp_path, monkeypatch):
    """You see: nothing: crafting goes on there; half that is damaged is made again from the start, with a
    warning.
    Do: nothing.
    """
    place, seen = sys.modules["transferjax.attacks.crafted"].Place, []
    write = place.write

    def twice(self, rows, x):
        if rows[0] >= 16:
            raise Interrupted
        write(self, rows, x)

    with monkeypatch.context() as patch:
        patch.setattr(place, "write", twice)
        with pytest.raises(Interrupted):
            craft(ATTACK, predict, dataset, tmp_path / "here", batch_size=8, format=format)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    monkeypatch.setattr(place, "write", lambda self, rows, x: (seen.append(rows), write(self, rows, x)))
    there = craft(ATTACK, predict, dataset, tmp_path / "there", batch_size=8, format=format)
    assert np.concatenate(seen).tolist() == [16, 17, 18, 19]
    file = tmp_path / "here" / ("images.npy.partial" if format == "npy" else "images/000003.png")
    if format == "npy":
        partial = np.load(file, mmap_mode="r+")
        partial[3, 0, 0, 0] ^= 1
        partial.flush()
    else:
        damage(file, "truncated")
    seen.clear()
    with pytest.warns(UserWarning, match="is made again: "):
        here = craft(ATTACK, predict, dataset, tmp_path / "here", batch_size=8, format=format)
    assert np.concatenate(seen).tolist() == list(range(N))
    np.testing.assert_array_equal(here.images, there.images)


def test_the_manifest_of_adversarial_images_is_damaged(dataset, predict, tmp_path):
    """You see: "…/manifest.json is damaged (…); delete …, or name another".
    Do: that: nobody knows whose images these are.
    """
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8)
    damage(tmp_path / "manifest.json", "truncated")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .*delete"):
        craft(ATTACK, predict, dataset, tmp_path, batch_size=8)


def test_there_is_no_memory_for_a_batch(dataset, predict):
    """You see: "out of memory (…): a smaller batch_size than 8 changes no image, nor does a smaller `chunk`
    of the attack".
    Do: that.
    """

    def greedy(keys, predict, images, labels):
        with jax.ensure_compile_time_eval():  # a constant that XLA has no room for
            return images + jnp.zeros((1 << 45,))[0]

    with pytest.raises(MemoryError, match=r"out of memory \(.*a smaller batch_size than 8 .*`chunk`"):
        craft(greedy, predict, dataset, eps=EPS, batch_size=8)


@pytest.mark.parametrize("format", ["npy", "png"])
def test_the_disk_is_full_under_adversarial_images(format, dataset, predict, tmp_path):
    """You see: "cannot write …: No space left on device; make room there, then the same command continues".
    Do: that.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(Unwritable, match=r"cannot write .*; make room there"):
            craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    made = craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    np.testing.assert_array_equal(made.images, craft(ATTACK, predict, dataset, batch_size=8).images)


def test_nan_is_told_where_the_compiler_drops_it():
    """XLA's minima and maxima on CPU pass over NaN inside of a fusion: black images, and no distance."""

    def lost(key, predict, images, labels):
        return jnp.clip(images + EPS * jnp.nan * images, 0, 1)

    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (128, 32, 32, 3), np.uint8))
    examples = data.Examples(images, jnp.zeros(128, jnp.int32), jnp.arange(128), jnp.ones(128))
    predict = jax.tree_util.Partial(lambda x: x.mean((1, 2)))
    batch = jax.jit(lambda examples, eps, key: crafting(lost, eps, "linf")(examples, (predict, key, labels)))
    labels = jnp.zeros(128, jnp.int32)
    _, far = batch(examples, jnp.float32(EPS), jax.random.key(0))
    with pytest.raises(ValueError, match="lost ends in NaN for 128 of 128 images"):
        check_kept("lost", np.asarray(far), images.shape[1:], EPS, "linf")


def test_a_kernel_of_one_smooths_nothing(dataset, predict):
    images, labels = data.to_float(jnp.asarray(dataset.images)), jnp.asarray(dataset.labels)
    key = jax.random.key(0)
    found = attacks.tim(EPS, 3, kernel_size=1)(key, predict, images, labels)
    np.testing.assert_allclose(found, attacks.mi_fgsm(EPS, 3)(key, predict, images, labels), atol=1e-6)
