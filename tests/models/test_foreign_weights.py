"""Weights that others saved: their names, their axes, their padding."""

import json
import re
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import models
from transferjax.models.layers import Layers
from transferjax.models.mobile import EFFICIENTNET_B0, EFFICIENTNET_LITE, scaled
from transferjax.models.weights.convert import main

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = {"width": 4, "blocks": (1, 2)}


@pytest.fixture(scope="module")
def weights():
    """Of a small ResNet in PyTorch's layout, every number another one."""
    net = models.build("cifar_resnet18", 5, **SMALL)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    return models.to_torch(jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(np.float32), shapes))


def loaded(state_dict, **more):
    return models.from_torch("cifar_resnet18", state_dict, **more, **SMALL)


def same(a, b):
    chex.assert_trees_all_equal(a, b)


def renamed(name):
    return "encoder." + name.replace("layer", "stage_").replace("conv", "cnv").replace("bn", "nrm").replace(
        "linear", "fc_out"
    )


class TestNames:
    def test_a_mapping_of_layers_or_of_tensors(self, weights):
        theirs = {name.replace("conv1.", "first."): value for name, value in weights.items()}
        names = {
            name.replace("conv1.", "first.")[:-7]: name[:-7] for name in weights if "conv1.weight" in name
        }
        same(loaded(theirs, names=names), loaded(weights))
        tensors = {f"{old}.weight": f"{new}.weight" for old, new in names.items()}
        same(loaded(theirs, names=tensors), loaded(weights))

    def test_the_failed_import_proposes_one_that_works(self, weights):
        theirs = {renamed(name): value for name, value in weights.items()}
        with pytest.raises(ValueError, match="does not fit CifarResNet") as error:
            loaded(theirs)
        assert "check the accuracy with them: layers of one shape may be exchanged" in str(error.value)
        [line] = [line for line in str(error.value).splitlines() if "these names fit" in line]
        names = eval(line.partition("names=")[2].rstrip(")"))
        same(loaded(theirs, names=names), loaded(weights))

    def test_there_is_none_for_another_net(self, weights):
        theirs = {renamed(name): value for name, value in weights.items() if "layer2" not in name}
        with pytest.raises(ValueError, match="does not fit") as error:
            loaded(theirs)
        assert "these names fit" not in str(error.value)
        headline = str(error.value).partition("\n")[0]
        assert headline.endswith("unexpected): is it of another architecture?")

    def test_convert_takes_the_mapping_from_a_file(self, weights, tmp_path):
        theirs = {name.replace("conv1.", "first."): value for name, value in weights.items()}
        np.savez(tmp_path / "net.npz", **theirs)
        names = {
            name.replace("conv1.", "first.")[:-7]: name[:-7] for name in weights if "conv1.weight" in name
        }
        (tmp_path / "names.json").write_text(json.dumps(names))
        options = [f"--option={name}={value}" for name, value in SMALL.items()]
        flags = ["--model=cifar_resnet18", f"--names={tmp_path}/names.json", *options]
        main([f"{tmp_path}/net.npz", f"{tmp_path}/ours.npz", *flags])
        same(models.load("cifar_resnet18", tmp_path / "ours.npz", **SMALL), loaded(weights))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ({"nothing": "conv1"}, r"names has \['nothing'\], which no tensor and no layer is called"),
            ({"linear": "conv1"}, "names has a second tensor for conv1.weight: linear.weight"),
        ],
    )
    def test_mistakes(self, weights, names, message):
        with pytest.raises(ValueError, match=message):
            loaded(weights, names=names)


KERAS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
FLAX = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def in_layout(weights, leaves, separator, prefix=lambda leaf: ""):
    """As Keras or Flax write them: kernels HWIO and IO, and their names."""
    found = {}
    for name, value in weights.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf == "weight" and value.ndim > 1:
            new, value = "kernel", value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        else:
            new = leaf if leaf == "bias" and f"{layer}.running_mean" not in weights else leaves[leaf]
        found[f"{prefix(new)}{layer}{separator}{new}"] = value
    return found


class TestLayouts:
    def test_keras(self, weights):
        arrays = in_layout(weights, KERAS, "/")
        same(loaded(arrays), loaded(weights))
        same(loaded({f"{name}:0": value for name, value in arrays.items()}), loaded(weights))

    def test_keras_in_a_file(self, weights, tmp_path):
        """Names with slashes, under that of the model, as the lines of `docs/faq.md` write them."""
        arrays = {f"net/{name}": value for name, value in in_layout(weights, KERAS, "/").items()}
        np.savez(tmp_path / "net.npz", **arrays)
        with pytest.warns(UserWarning, match="the prefix 'net.' was taken off"):
            same(loaded(models.read_tensors(tmp_path / "net.npz")), loaded(weights))

    def test_keras_in_hdf5(self, weights, tmp_path):
        """The lines of `docs/faq.md` run, on what Keras' `model.save("net.h5")` writes."""
        h5py = pytest.importorskip("h5py")
        faq = (Path(__file__).parents[2] / "docs" / "faq.md").read_text()
        [lines] = re.findall(r"```\n(with h5py.*?)```", faq, re.DOTALL)
        with h5py.File(tmp_path / "net.h5", "w") as file:
            for name, value in in_layout(weights, KERAS, "/").items():
                layer = file.require_group(f"model_weights/{name.rpartition('/')[0].replace('/', '_')}")
                layer[name] = value
                layer.attrs["weight_names"] = [*layer.attrs.get("weight_names", ()), name]
        exec(lines.replace('"net.', f'"{tmp_path}/net.'), {"h5py": h5py, "np": np})
        same(loaded(models.read_tensors(tmp_path / "net.npz")), loaded(weights))

    def test_flax(self, weights):
        collection = lambda leaf: "batch_stats/" if leaf in ("mean", "var") else "params/"  # noqa: E731
        same(loaded(in_layout(weights, FLAX, "/", collection)), loaded(weights))

    def test_hwio_under_pytorchs_names_is_said(self, weights):
        arrays = {
            name: value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0)) if value.ndim > 1 else value
            for name, value in weights.items()
        }
        with pytest.warns(UserWarning, match="its kernels were read as HWIO"):
            found = loaded(arrays)
        same(found, loaded(weights))

    def test_depthwise_kernels(self):
        shapes = json.loads((GOLDEN / "mobilenetv2_100.state_dict.json").read_text())
        rng = np.random.default_rng(0)
        weights = {k: rng.random(shape).astype(np.float32) for k, shape in shapes.items()}
        arrays = in_layout(weights, KERAS, "/")
        for name in [name for name in arrays if "conv_dw" in name]:
            arrays[name.replace("kernel", "depthwise_kernel")] = arrays.pop(name).swapaxes(2, 3)
        same(models.from_torch("mobilenetv2_100", arrays), models.from_torch("mobilenetv2_100", weights))

    def test_a_gamma_of_pytorch_stays_one(self):
        shapes = json.loads((GOLDEN / "convnext_tiny.state_dict.json").read_text())
        assert any(name.endswith(".gamma") for name in shapes)
        models.from_torch("convnext_tiny", {k: np.zeros(shape, np.float32) for k, shape in shapes.items()})


class TestOptions:
    @pytest.mark.parametrize("size", [8, 9])
    def test_same_padding_is_tensorflows(self, size):
        """The window starts `total // 2` before the image: one less on the left where the total is odd."""
        x = jnp.arange(size * size, dtype=jnp.float32).reshape(1, size, size, 1)
        conv = Layers(padding="SAME").conv(1, 3, 2, name="conv")
        y = conv.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)
        total = max(2 * (-(-size // 2) - 1) + 3 - size, 0)
        low = total // 2
        padded = np.pad(x[0, :, :, 0], (low, total - low))
        expected = [
            [padded[i : i + 3, j : j + 3].sum() for j in range(0, size, 2)] for i in range(0, size, 2)
        ]
        np.testing.assert_allclose(y[0, :, :, 0], expected)

    def test_a_padding_that_is_none(self):
        net = models.build("cifar_resnet18", padding="same", **SMALL)
        with pytest.raises(ValueError, match="padding must be one of half, SAME; got 'same'"):
            jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    def test_eps_is_that_of_batch_normalization(self, weights):
        x = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 3)), jnp.float32)
        exact, rough = (models.build("cifar_resnet18", 5, eps=eps, **SMALL) for eps in (1e-5, 1.0))
        variables = loaded(weights)
        assert not np.allclose(exact.apply(variables, x), rough.apply(variables, x), rtol=0.05)
        shifted = {k: v + 1.0 - 1e-5 if k.endswith("running_var") else v for k, v in weights.items()}
        np.testing.assert_allclose(exact.apply(loaded(shifted), x), rough.apply(variables, x), rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "widths", "repeats"),
    [
        (0, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
        (2, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
        (4, (24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1)),
    ],
)
def test_efficientnet_lite_scales(size, widths, repeats):
    stages = scaled(EFFICIENTNET_B0, *EFFICIENTNET_LITE[size])
    assert tuple(stage.features for stage in stages) == widths
    assert tuple(stage.repeats for stage in stages) == repeats


def test_whose_batch_normalization_it_is():
    """You see: "the names are torchvision's, whose batch normalization has eps=0.001, and this net's has …".
    Do: name the net as that library does.
    """
    net = models.build("mobilenet_v3_small")
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    tensors = models.to_torch(jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes))
    theirs = dict(tensors)
    theirs["features.0.0.weight"] = theirs.pop("conv_stem.weight")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.from_torch("mobilenet_v3_small", tensors)  # what we wrote
        models.from_torch("mobilenet_v3_small", theirs)
        models.from_torch("mobilenetv3_small_100", tensors)
    with pytest.warns(UserWarning, match=r"torchvision's, whose .* eps=0\.001, and this net's has 1e-05"):
        models.from_torch("mobilenetv3_small_100", theirs)
