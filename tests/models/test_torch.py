"""Weights from PyTorch state dicts and back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.attacked import BACKGROUND_FIRST
from transferjax import models
from transferjax.models.inception import to_half
from transferjax.models.weights.formats import unwrap


@pytest.fixture
def module():
    return models.build("cifar_resnet18", width=4, blocks=(1, 1), num_classes=3)


@pytest.fixture
def state_dict(module):
    rng = np.random.default_rng(0)
    shapes = models.abstract_variables(module)
    values = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
    return models.to_torch(values)


def test_names_and_layouts_are_pytorchs(state_dict):
    shapes = {name: value.shape for name, value in state_dict.items()}
    assert shapes["conv1.weight"] == (4, 3, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (8, 4, 3, 3)
    assert shapes["layer2.0.shortcut.1.running_var"] == (8,)
    assert shapes["layer2.0.shortcut.1.num_batches_tracked"] == ()
    assert shapes["linear.weight"] == (3, 8)


def test_the_number_of_classes_comes_from_the_weights(state_dict):
    variables = models.from_torch("cifar_resnet18", state_dict, width=4, blocks=(1, 1))
    assert variables["params"]["linear"]["kernel"].shape == (8, 3)


def test_grayscale_nets_are_recognized(module):
    shapes = models.abstract_variables(module, channels=1)
    weights = models.to_torch(jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes))
    assert models.from_torch(module, weights)["params"]["conv1"]["kernel"].shape == (3, 3, 1, 4)


def test_what_does_not_fit_is_listed(module, state_dict):
    del state_dict["layer1.0.bn2.bias"]
    state_dict["layer1.0.conv2.weight"] = np.zeros((8, 4, 3, 3), np.float32)
    state_dict["fc.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="does not fit CifarResNet") as error:
        models.from_torch(module, state_dict)
    assert "missing layer1.0.bn2.bias" in str(error.value)
    assert "unexpected fc.bias" in str(error.value)
    assert "layer1.0.conv2.weight has shape (8, 4, 3, 3), expected (4, 4, 3, 3)" in str(error.value)


def test_two_tensors_for_one_name():
    module = models.build("densenet121", blocks=(1, 1), growth=4)
    names = (
        "features.denseblock1.denselayer1.norm.1.weight",
        "features.denseblock1.denselayer1.norm1.weight",
    )
    with pytest.raises(ValueError, match=r"norm1\.weight is a second tensor for .*norm1\.weight"):
        models.from_torch(module, dict.fromkeys(names, np.ones(8, np.float32)))


@pytest.mark.parametrize(
    ("model", "theirs", "ours"),
    [
        ("mobilenetv2_100", "features.0.0.weight", "conv_stem.weight"),
        ("mobilenetv2_100", "features.0.1.running_var", "bn1.running_var"),
        ("mobilenetv2_100", "features.1.conv.0.0.weight", "blocks.0.0.conv_dw.weight"),
        ("mobilenetv2_100", "features.1.conv.1.weight", "blocks.0.0.conv_pw.weight"),
        ("mobilenetv2_100", "features.1.conv.2.bias", "blocks.0.0.bn2.bias"),
        ("mobilenetv2_100", "features.3.conv.0.0.weight", "blocks.1.1.conv_pw.weight"),
        ("mobilenetv2_100", "features.3.conv.1.1.bias", "blocks.1.1.bn2.bias"),
        ("mobilenetv2_100", "features.3.conv.2.weight", "blocks.1.1.conv_pwl.weight"),
        ("mobilenetv2_100", "features.17.conv.3.weight", "blocks.6.0.bn3.weight"),
        ("mobilenetv2_100", "features.18.1.weight", "bn2.weight"),
        ("mobilenetv2_100", "classifier.1.bias", "classifier.bias"),
        ("mobilenetv2_100", "blocks.1.1.bn2.bias", "blocks.1.1.bn2.bias"),
        ("vgg16_bn", "classifier.3.weight", "pre_logits.fc2.weight"),
        ("vgg16_bn", "classifier.6.bias", "head.fc.bias"),
        ("vit_base_patch32_224", "encoder.layers.encoder_layer_7.ln_2.bias", "blocks.7.norm2.bias"),
        (
            "vit_base_patch32_224",
            "encoder.layers.encoder_layer_7.self_attention.in_proj_weight",
            "blocks.7.attn.qkv.weight",
        ),
        ("vit_base_patch32_224", "encoder.layers.encoder_layer_0.mlp.3.bias", "blocks.0.mlp.fc2.bias"),
        (
            "densenet121",
            "features.denseblock1.denselayer2.conv.1.weight",
            "features.denseblock1.denselayer2.conv1.weight",
        ),
        ("inception_v3", "AuxLogits.fc.bias", None),
        ("googlenet", "aux2.fc1.weight", None),
        ("googlenet", "inception4b.branch4.1.bn.bias", "inception4b.branch4.1.bn.bias"),
        ("efficientnet_b0", "features.2.1.block.2.fc1.weight", "blocks.1.1.se.conv_reduce.weight"),
        ("efficientnet_b0", "features.8.1.running_var", "bn2.running_var"),
        ("mnasnet1_0", "layers.6.weight", "blocks.0.0.conv_pw.weight"),
        ("mnasnet1_0", "layers.13.0.layers.7.bias", "blocks.6.0.bn3.bias"),
        ("mobilenet_v3_small", "features.4.block.2.fc2.bias", "blocks.2.0.se.conv_expand.bias"),
        ("mobilenet_v3_small", "features.12.1.weight", "blocks.5.0.bn1.weight"),
        ("mobilenet_v3_small", "classifier.0.weight", "conv_head.weight"),
        ("regnet_x_16gf", "trunk_output.block3.block3-12.f.b.1.bias", "s3.b13.conv2.bn.bias"),
        ("regnety_032", "trunk_output.block1.block1-0.f.se.fc2.weight", "s1.b1.se.fc2.weight"),
        ("convnext_tiny", "features.5.8.layer_scale", "stages.2.blocks.8.gamma"),
        ("convnext_tiny", "features.4.1.weight", "stages.2.downsample.1.weight"),
        ("swin_t", "features.5.3.mlp.3.bias", "layers.2.blocks.3.mlp.fc2.bias"),
        ("swin_t", "features.6.reduction.weight", "layers.3.downsample.reduction.weight"),
        ("swin_t", "features.1.0.attn.relative_position_index", None),
    ],
)
def test_torchvisions_names(model, theirs, ours):
    assert models.build(model).canonical(theirs) == ours


def test_torchvisions_vgg_has_linear_layers_on_flattened_features():
    module = models.build("vgg11_bn", width=2, num_classes=3)
    shapes = models.abstract_variables(module)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
    tensors = models.to_torch(variables)
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
    flat = {}
    for name, value in tensors.items():
        stem, _, kind = name.rpartition(".")
        linear = stem in names and kind == "weight"
        flat[f"{names.get(stem, stem)}.{kind}"] = value.reshape(len(value), -1) if linear else value
    found = models.from_torch("vgg11_bn", flat, width=2)
    chex.assert_trees_all_equal(found, variables)


@pytest.mark.parametrize(("net", "head"), [("inception_v3", "fc"), ("inception_resnet_v2", "classif")])
def test_tensorflows_nets_have_a_class_for_nothing_and_may_have_an_auxiliary_head(net, head):
    """As in TensorFlow's files (timm's have a thousand); `select_classes` takes the first logit away."""
    module = models.build(net, num_classes=1001)
    tensors = {
        name: np.broadcast_to(np.float32(0), value.shape)
        for name, value in models.to_torch(
            jax.tree.map(
                lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), models.abstract_variables(module)
            )
        ).items()
    }
    extra = {"AuxLogits.fc.weight": np.ones((1001, 768), np.float32)} if net == "inception_v3" else {}
    assert module.head == head
    assert models.build_for(net, tensors | extra).num_classes == 1001
    found = models.from_torch(net, tensors | extra)
    assert found["params"][head]["kernel"].shape[-1] == 1001

    def logits(images):
        return jnp.arange(1001.0) * jnp.ones((len(images), 1))

    assert BACKGROUND_FIRST[:2] == (1, 2)
    chosen = models.select_classes(jax.tree_util.Partial(logits), BACKGROUND_FIRST)(jnp.zeros((2, 1)))
    assert chosen.shape == (2, 1000)
    np.testing.assert_array_equal(chosen[0, :3], [1, 2, 3])


def test_checkpoints_of_robustly_trained_resnets(module, state_dict):
    """The library `robustness` (L2 and L∞): the net twice, each behind a layer that normalizes; and SIN's."""
    statistics = {
        "new_mean": np.full((3, 1, 1), 0.5, np.float32),
        "new_std": np.full((3, 1, 1), 0.25, np.float32),
    }
    places = {"module.model.": state_dict, "module.attacker.model.": state_dict}
    places |= {"module.normalizer.": statistics, "module.attacker.normalize.": statistics}
    content = {f"{place}{name}": value for place, part in places.items() for name, value in part.items()}
    saved = {"model": content, "optimizer": {"state": {}, "param_groups": []}, "epoch": 90, "nat_prec1": 0.7}
    with pytest.warns(UserWarning, match=r"normalizer\.new_mean = \[0\.5, 0\.5, 0\.5\]"):
        found = models.from_torch(module, unwrap(saved))
    expected = models.from_torch(module, state_dict)
    chex.assert_trees_all_equal(found, expected)
    parallel = {"epoch": 60, "state_dict": {f"module.{name}": value for name, value in state_dict.items()}}
    chex.assert_trees_all_equal(models.from_torch(module, unwrap(parallel)), expected)


@pytest.mark.parametrize("net", ["inception_v3", "googlenet"])
def test_transform_input_is_another_normalization(net):
    """ImageNet's statistics and `transform_input` are 0.5 and 0.5 without."""
    images = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    mean, std = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    np.testing.assert_allclose(to_half((images - mean) / std), (images - 0.5) / 0.5, atol=1e-6)
    seen = []
    for chosen in (False, True):
        module = models.build(net, transform_input=chosen)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{type(module).__module__}.to_half", lambda x: seen.append(x) or x)
            shapes = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
            jax.eval_shape(module.init, jax.random.key(0), shapes)
        assert bool(seen) is chosen
