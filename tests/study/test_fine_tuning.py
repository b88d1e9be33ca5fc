"""Large images in a study: streams of crops, fine-tuning from files."""

import shutil

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from transferjax import data, models
from transferjax.study import config as configs
from transferjax.study import content, networks, resolve
from transferjax.study.mistakes import Mistakes
from transferjax.study.run import Local, run
from transferjax.study.specs import Data
from transferjax.study.store import Store

CLASSES = ("dark", "bright")
SMALL = {"width": 4, "blocks": (1, 1)}  # 16 px -> 4 px


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two kinds, of many shapes: 8 + 4 of each."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(120 * label, 120 * label + 136, (*rng.integers(20, 40, 2), 3), np.uint8)
                assert cv2.imwrite(str(root / split / name / f"{i}.png"), pixels)
    return root


def fields(folder, model="cifar_vgg11", options=SMALL, *, augment=None, crops=None, **more):
    """A small network on these pictures, two steps of eight."""
    source = common.data(str(folder), "train", **{"size": 16, "scale": (0.35, 1.0), **(crops or {})})
    training = common.training(1, batch_size=8, warmup_epochs=0.0, padding=0, flip=False)
    training["augment"] = augment
    return common.network(model, options, data=source, training=training, **common.IMAGENET, **more)


def test_a_folder_is_trained_on_as_random_crops(folder, tmp_path):
    spec = configs.network(fields(folder))
    stream = content.load(spec.data)
    assert isinstance(stream, data.ImageStream)
    assert (len(stream), stream.class_names, stream.image_shape) == (16, ("bright", "dark"), (16, 16, 3))
    store = Store(tmp_path)
    outcome = run([spec], store, Local(resolve.Context(store)))
    assert not outcome.failed
    found = store.get(spec)
    assert found["history/step"].tolist() == [2]
    assert np.isfinite(found["history/loss"]).all()


def test_a_picture_is_changed_after_a_study_was_read(folder, tmp_path):
    """You see: "data … (train) is not what the study was planned with any more".
    Do: start it again: what was made of the old pictures stays theirs.
    """
    own = shutil.copytree(folder, tmp_path / "pictures")
    spec = content.pin(configs.network(fields(own)).data)
    assert isinstance(content.checked(spec), data.ImageStream)
    assert cv2.imwrite(str(own / "train" / "dark" / "0.png"), np.full((20, 20, 3), 255, np.uint8))
    with pytest.raises(ValueError, match="is not what the study was planned with any more"):
        content.checked(spec)


def test_crops_are_the_same_however_they_are_spelled(folder):
    """A size that is the default, or is said first, makes no other data; another one does."""
    spelled = [{"scale": (0.2, 1.0)}, {"size": 224, "scale": (0.2, 1.0)}, {"scale": (0.2, 1.0), "size": 32}]
    specs = [Data(name=str(folder), split="train", options=options) for options in spelled]
    one, same, other = (content.content_of(content.load(spec), spec) for spec in specs)
    assert one == same != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment": common.call("crop_flip", padding=0)}, "random crops, flipped .* no `augment`"),
        ({"crops": {"scales": (0.1, 1)}}, r"no options \['scales'\]; it has \['scale', 'size'\]"),
        ({"crops": {"scale": (1.0, 0.1)}}, "in order"),
        ({"crops": {"size": 2}}, "too small"),
        ({"start": {"kind": "Pretrained", "model": common.call("cifar_vgg11"), "file": "gone"}}, "gone"),
    ],
)
def test_mistakes_are_named(folder, change, message):
    with pytest.raises(Mistakes, match=message) as caught:
        configs.network(fields(folder, **change))
    assert len(caught.value.lines) == 1


class TestFineTuning:
    @pytest.fixture
    def weights(self, tmp_path):
        """A net for three classes in a file, as `models.convert` writes it."""
        net = models.build("cifar_vgg11", 3, **SMALL)
        draw = lambda leaf: np.random.default_rng(leaf.size).random(leaf.shape, np.float32)  # noqa: E731
        variables = jax.tree.map(draw, models.abstract_variables(net))
        return variables, str(models.save(variables, tmp_path / "net.safetensors"))

    def start(self, path):
        return {"kind": "Pretrained", "model": common.call("cifar_vgg11", **SMALL), "file": path}

    def test_all_but_another_last_layer_is_the_file(self, folder, weights, tmp_path):
        stored, path = weights
        spec = configs.network(fields(folder, start=self.start(path)))
        net = networks.module_of(spec, 2)
        fresh = net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
        started = networks.started(resolve.Context(Store(tmp_path)), spec, net, fresh)
        head = started["params"].pop("classifier")
        chex.assert_trees_all_equal(head, fresh["params"]["classifier"])
        assert stored["params"].pop("classifier")["bias"].shape == (3,)
        chex.assert_trees_all_equal(started, stored)

    def test_a_last_layer_that_fits_is_kept(self, weights):
        stored, path = weights
        net = models.build("cifar_vgg11", 3, **SMALL)
        found = models.pretrained(net, models.read_tensors(path), fresh=stored)
        chex.assert_trees_all_equal(found, stored)

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("cifar_vgg11", {"width": 5, "blocks": (1, 1)}, "does not fit"),
            ("cifar_resnet18", {"width": 4, "blocks": (1, 1)}, "missing"),
        ],
    )
    def test_files_that_do_not_fit_are_refused_before_training(
        self, folder, weights, model, options, message
    ):
        with pytest.raises(Mistakes, match=message):
            configs.network(fields(folder, model, options, start=self.start(weights[1])))
