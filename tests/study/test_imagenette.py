"""Large images through the experiments: the config of ImageNette, streams of crops, fine-tuning."""

import cv2
import jax
import numpy as np
import pandas as pd
import pytest

from configs import imagenette
from configs.methods import method
from experiments import build, train
from transferjax import data, models

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


@pytest.fixture
def config(folder):
    """The small variant on these pictures, two steps of eight."""
    c = imagenette.get_config("cpu")
    with c.unlocked():
        c.data.name, c.data.options = str(folder), {"size": 16}
        c.surrogate = {"model": "cifar_vgg11", "options": SMALL, "weights": ""}
        c.training.epochs, c.training.warmup_epochs, c.training.batch_size = 1, 0.0, 8
        c.attack.images = c.measure.smoothness_images = c.measure.similarity_images = 4
    return c


class TestConfig:
    def test_the_paper_fine_tunes_large_nets_and_attacks_500_images(self):
        c = imagenette.get_config()
        assert c.is_locked
        assert c.methods["CO_5"] == (("transforms", "cutout", {"size": 160}),)
        assert c.methods["SAM"] == method("SAM_1", "imagenette")
        assert (c.attack.options.steps, c.attack.images, c.attack.eps_255) == (50, 500, (4, 8, 16))
        networks = [*build.targets(c), *build.surrogates(c)]
        assert {n.weights for n in networks} >= {
            "weights/resnet50.safetensors",
            "weights/vgg16_bn.safetensors",
        }
        for network in {n.model: n for n in networks}.values():
            assert build.module(network, 10).num_classes == 10

    def test_the_small_variant_trains_one_network_from_scratch(self):
        c = imagenette.get_config("cpu")
        (network,) = build.surrogates(c)
        assert (build.targets(c), network.weights, c.data.options.size) == ([], "", 96)
        with pytest.raises(ValueError, match="unknown variant 'gpu'"):
            imagenette.get_config("gpu")


def test_a_folder_is_trained_on_as_random_crops(config, tmp_path):
    build.validate(config)
    stream, test = build.source(config), build.dataset(config, "test")
    assert isinstance(stream, data.ImageStream)
    assert isinstance(test, data.Dataset)
    assert (len(stream), stream.class_names, stream.image_shape) == (16, ("bright", "dark"), test.image_shape)
    train.train_all(config, tmp_path)
    (network,) = build.surrogates(config)
    history = pd.read_csv(train.network_directory(tmp_path, network) / "metrics.csv")
    assert history["step"].tolist() == [2]
    assert np.isfinite(history).all(axis=None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "training.augment",
            {"padding": 0, "flip": True},
            "random crops, flipped .* training.augment.flip=False",
        ),
        ("training.augment", {"paddin": 1}, "paddin"),
        ("data.crops", {"scales": (0.1, 1)}, r"no options \['scales'\]; it has \['scale', 'size'\]"),
        ("data.crops", {"scale": (1, 0.1)}, "in order"),
        ("data.options", {"size": 2}, "too small"),
        ("surrogate.weights", "gone.safetensors", "no weights at gone.safetensors"),
    ],
)
def test_mistakes_are_named(config, field, value, message):
    parent, name = field.split(".")
    with config.unlocked():
        config[parent][name] = value
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build.validate(config)


class TestFineTuning:
    @pytest.fixture
    def weights(self, tmp_path):
        """A net for three classes in a file, as `models.convert` writes it."""
        net = models.build("cifar_vgg11", 3, **SMALL)
        draw = lambda leaf: np.random.default_rng(leaf.size).random(leaf.shape, np.float32)  # noqa: E731
        variables = jax.tree.map(draw, models.abstract_variables(net))
        return variables, models.save(variables, tmp_path / "net.safetensors")

    def test_all_but_another_last_layer_is_the_file(self, config, weights):
        stored, path = weights
        with config.unlocked():
            config.surrogate.weights = str(path)
        build.validate(config)
        (network,) = build.surrogates(config)
        trainer = train.make_trainer(config, network, build.source(config), build.dataset(config, "test"))
        started = trainer.init(network.seed).variables
        head = started["params"].pop("classifier")
        fresh = build.initializer(build.module(network, 2), (16, 16, 3))(network.seed)["params"]["classifier"]
        jax.tree.map(np.testing.assert_array_equal, head, fresh)
        assert stored["params"].pop("classifier")["bias"].shape == (3,)
        jax.tree.map(np.testing.assert_array_equal, started, stored)

    def test_a_last_layer_that_fits_is_kept(self, weights):
        stored, path = weights
        net = models.build("cifar_vgg11", 3, **SMALL)
        found = models.pretrained(net, models.read_tensors(path), fresh=stored)
        jax.tree.map(np.testing.assert_array_equal, found, stored)

    def test_nets_from_other_files_are_not_trained_together(self, config):
        with config.unlocked():
            config.targets = {n: {"model": "cifar_vgg11", "weights": w} for n, w in (("A", "a"), ("B", "b"))}
        a, b = build.targets(config)
        assert (a.weights, b.weights) == ("a", "b")
        assert a.options != b.options

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"options": {"width": 5, "blocks": (1, 1)}}, "ST cannot start from .*does not fit"),
            ({"model": "cifar_resnet18"}, "ST cannot start from .*missing"),
        ],
    )
    def test_files_that_do_not_fit_are_refused_before_training(self, config, weights, entry, message):
        with config.unlocked():
            config.surrogate.weights = str(weights[1])
            config.surrogate.update(entry)
        with pytest.raises(ValueError, match=f"(?s){message}"):
            build.validate(config)
