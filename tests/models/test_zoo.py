"""Laws that hold for every net: names, shapes, counts, round trips, input sizes, training mode."""

import json
from math import prod
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from transferjax import models

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = {f.name.removesuffix(".state_dict.json"): f for f in GOLDEN.glob("*.state_dict.json")}
ONE_OF_EACH_CLASS = list({type(models.build(name)): name for name in reversed(models.ZOO)}.values())
TINY = {
    "cifar_resnet18": {"width": 4, "blocks": (1, 1)},
    "cifar_wideresnet28_10": {"width": 4, "blocks": 1},
    "cifar_vgg16": {"width": 4, "blocks": (1, 1, 1)},
    "cifar_densenet121": {"growth": 4, "blocks": (1, 2)},
    "cifar_vit_small": {"image_size": 8, "patch": 4, "depth": 1, "width": 8, "heads": 2, "hidden": 16},
}
FIXED = {
    "vgg11_bn": 256,
    "swin_tiny_patch4_window7_224": 448,
    "cifar_vit_small": 32,
    "pit_ti_224": 224,
    "visformer_tiny": 224,
}
CURVED = {
    "cifar_vit_small",
    "convnext_tiny",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "mobilenetv3_small_100",
    "pit_ti_224",
    "regnety_032",
    "swin_tiny_patch4_window7_224",
    "visformer_tiny",
}


def logits_of(module, size):
    """The shape and dtype of the logits; computes nothing."""
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)


FOREIGN = {name for name in FILES if "." in name}  # of a library with names of its own


ALONE = {"attacks_tiny", "denoiser_tiny", "diffusion_tiny"}  # of no net in the zoo


@pytest.mark.parametrize("name", sorted(FILES.keys() - FOREIGN - ALONE))
def test_tensors_and_their_number_are_the_references(name):
    reference = {key: tuple(shape) for key, shape in json.loads(FILES[name].read_text()).items()}
    variables = models.abstract_variables(models.build(name))
    ours = models.to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables))
    assert {key: value.shape for key, value in ours.items()} == reference
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(prod(shape) for key, shape in reference.items() if not key.endswith(statistics))
    assert sum(prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_foreign_tensors_are_ours_by_other_names(name):
    """Each of ours is one of theirs; auxiliary heads, and tables that follow from sizes, are not ours."""
    reference = {key: tuple(shape) for key, shape in json.loads(FILES[name].read_text()).items()}
    module = models.build(name.rpartition(".")[2])
    shapes = models.abstract_variables(module)
    ours = models.to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))
    named = {key: module.canonical(key.removeprefix("net.")) for key in reference}
    unused = {key for key, own in named.items() if own is None}
    assert all("aux" in key.lower() or "relative_position_index" in key for key in unused)
    sizes = lambda shape: [n for n in shape if n > 1]  # noqa: E731
    theirs = {own: sizes(reference[key]) for key, own in named.items() if own}
    assert len(theirs) == len(reference) - len(unused)
    assert theirs.keys() == ours.keys()
    wrong = [key for key, value in ours.items() if prod(sizes(value.shape)) != prod(theirs[key])]
    assert not wrong


@pytest.mark.parametrize(
    "name",
    [n if n in ONE_OF_EACH_CLASS else pytest.param(n, marks=pytest.mark.slow) for n in models.ZOO],
)
def test_round_trip(name):
    module = models.build(
        name, **({"width": 4} if name.startswith("vgg") else {})
    )  # else 140 million weights
    counting = lambda leaf: np.arange(prod(leaf.shape), dtype=np.float32).reshape(leaf.shape)  # noqa: E731
    variables = jax.tree.map(counting, models.abstract_variables(module))
    again = models.from_torch(module, models.to_torch(variables))
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    chex.assert_trees_all_equal(again, variables)


@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS)
def test_classes_channels_precision_and_size_are_free(name):
    module = models.build(name, num_classes=7, dtype=jnp.bfloat16)
    size = FIXED.get(name, 64 if "cifar" in name else 160)
    images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x), images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_positions_are_for_one_size():
    with pytest.raises(ValueError, match=r"learned positions for 32 x 32 images, got 64 x 64.*image_size=64"):
        logits_of(models.build("cifar_vit_small"), 64)
    assert logits_of(models.build("cifar_vit_small", image_size=64), 64).shape == (2, 10)


@pytest.mark.parametrize("name", sorted({*ONE_OF_EACH_CLASS, *CURVED}))
def test_piecewise_linearity(name):
    assert models.is_piecewise_linear(models.build(name)) is (name not in CURVED)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vgg16_bn", 96, "features of 7 x 7, got 3 x 3"),
        ("cifar_vgg16", 16, "max_pool of 2 x 2 reached features of 1 x 1"),
        ("cifar_densenet121", 4, "avg_pool of 2 x 2 reached features of 1 x 1"),
        ("inception_v3", 48, "too small for this net"),
        ("swin_tiny_patch4_window7_224", 200, "multiple of 224"),
    ],
)
def test_images_that_are_too_small(name, size, message):
    with pytest.raises(ValueError, match=message):
        logits_of(models.build(name), size)


@pytest.mark.parametrize("name", TINY)
def test_tiny_variants_learn_from_grayscale_digits(name, variables_of):
    """One step down the gradient in training mode lowers the loss, and every layer takes part."""
    module = models.build(name, num_classes=3, **TINY[name])
    rng = np.random.default_rng(0)
    images, labels = jnp.asarray(rng.random((6, 8, 8, 1), np.float32)), jnp.arange(6) % 3
    variables = variables_of(module, channels=1)

    @jax.jit
    def loss_and_gradient(params, key):
        def loss(params):
            logits, stats = models.train_apply(module, {**variables, "params": params}, images, key=key)
            return -jax.nn.log_softmax(logits)[jnp.arange(6), labels].mean(), stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    key = jax.random.key(0)
    (before, stats), gradient = loss_and_gradient(variables["params"], key)
    moved = jax.tree.map(lambda p, g: p - 0.02 * g, variables["params"], gradient)
    assert loss_and_gradient(moved, key)[0][0] < before
    assert jax.tree.structure(stats) == jax.tree.structure(variables.get("batch_stats", {}))
    norms = {"/".join(path): float(jnp.abs(g).max()) for path, g in flatten_dict(gradient).items()}
    assert [path for path, norm in norms.items() if not norm > 0 and not path.endswith("bias")] == []


def test_dropout_needs_a_key(variables_of):
    module = models.build("cifar_vit_small", **TINY["cifar_vit_small"], dropout=0.3)
    images, variables = jnp.ones((2, 8, 8, 3)), variables_of(module)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda: models.train_apply(module, variables, images))
    apply = jax.jit(lambda seed: models.train_apply(module, variables, images, key=jax.random.key(seed))[0])
    np.testing.assert_array_equal(apply(0), apply(0))
    assert not np.allclose(apply(0), apply(1))


def test_a_new_head_keeps_the_rest(variables_of):
    module = models.build("cifar_resnet18", width=4, blocks=(1, 1))
    variables = variables_of(module, channels=1)
    new, replaced = models.replace_head(module, variables, 5, jax.random.key(1))
    assert jax.eval_shape(new.apply, replaced, jnp.zeros((1, 8, 8, 1))).shape == (1, 5)
    assert replaced["params"]["linear"]["kernel"].shape == (8, 5)
    old, kept = flatten_dict(variables), flatten_dict(replaced)
    assert all(kept[path] is leaf for path, leaf in old.items() if "linear" not in path)


def test_a_narrow_inception_keeps_the_layers_that_are_left():
    net = models.build("cifar_inceptionv3", width=0.125, blocks=(1, 1, 1))
    shapes = jax.tree.map(
        lambda leaf: leaf.shape,
        jax.eval_shape(lambda x: net.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))["params"],
    )
    assert shapes["Conv2d_1a_3x3"]["conv"]["kernel"] == (3, 3, 3, 4)
    named = {name.split(".")[0] for name in shapes}
    assert {name for name in named if name.startswith("Mixed")} == {
        *("Mixed_5b", "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7b")
    }
