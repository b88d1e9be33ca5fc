"""Crafting over a data set: the same images by every road, and files that survive interruptions."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, data
from transferjax.attacks import Crafted, craft
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


def test_a_damaged_file_is_named_by_its_path(dataset, predict, tmp_path):
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format="png")
    path = tmp_path / "images" / "000003.png"
    for content in (path.read_bytes()[:50], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            Crafted.load(tmp_path)


class Stop(Exception):
    pass


@pytest.mark.parametrize("format", ["npy", "png"])
def test_an_interrupted_run_goes_on(format, dataset, predict, tmp_path, monkeypatch):
    """Stopped at the third batch, continued with another batch size: the same files, none crafted twice."""
    module = sys.modules["transferjax.attacks.craft"]  # the function of that name hides it
    write, calls = module._Place.write, []

    def failing(self, rows, x):
        calls.append(rows)
        if len(calls) == 3:
            raise Stop
        write(self, rows, x)

    with monkeypatch.context() as patch:
        patch.setattr(module._Place, "write", failing)
        with pytest.raises(Stop):
            craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    with pytest.raises(FileNotFoundError, match="run craft again"):
        Crafted.load(tmp_path)
    seen = []
    monkeypatch.setattr(
        module._Place, "write", lambda self, rows, x: (seen.append(rows), write(self, rows, x))
    )
    made = craft(ATTACK, predict, dataset, tmp_path, batch_size=24, format=format)
    assert np.concatenate(seen).tolist() == list(range(16, N))
    monkeypatch.undo()
    assert np.mean(made.images == craft(ATTACK, predict, dataset, batch_size=8).images) > 0.999
    seen.clear()
    craft(ATTACK, predict, dataset, tmp_path, batch_size=8, format=format)
    assert not seen


def test_another_run_is_refused_with_the_difference(dataset, predict, tmp_path):
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
def test_lossy_formats_are_refused(format, dataset, predict):
    with pytest.raises(ValueError, match="is lossy: compression changes the perturbation"):
        craft(ATTACK, predict, dataset, format=format)


def test_errors_come_before_the_work(dataset, predict):
    with pytest.raises(ValueError, match="batch_size 12 does not divide over 8 devices"):
        craft(ATTACK, predict, dataset, batch_size=12)
    with pytest.raises(ValueError, match="give eps and norm"):
        craft(lambda key, predict, x, y: x, predict, dataset, batch_size=8)
    probabilities = jax.tree_util.Partial(lambda p, x: jax.nn.softmax(p(x)), predict)
    with pytest.raises(ValueError, match="returned probabilities"):
        craft(ATTACK, probabilities, dataset, batch_size=8)
