"""Weights from PyTorch state dicts and back."""

import jax
import numpy as np
import pytest

from transferjax import models


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
    jax.tree.map(np.testing.assert_array_equal, found, variables)
