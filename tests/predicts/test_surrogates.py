"""Other gradients, same nets: logits must not change, gradients must, in the way that was promised."""

from itertools import count

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, defences, models
from transferjax.attacks.catalogue import targeted
from transferjax.attacks.catalogue.targeted import _crop
from transferjax.models import regnet
from transferjax.models.layers import Branch, Layers
from transferjax.models.mobile import Stage
from transferjax.models.resnet import BasicBlock, Bottleneck
from transferjax.predicts import backprop, surrogates
from transferjax.predicts.modules import tapped, with_features


@pytest.fixture(scope="module")
def resnet():
    module = models.build("cifar_resnet18", blocks=(1, 1), width=4)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return models.predictor(module, variables)


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))


def gradient(predict, x):
    return jax.grad(lambda x: predict(x)[:, 0].sum())(x)


def test_skip_gradient_keeps_the_logits_and_scales_the_branches(resnet, x):
    """Two blocks, each 1 + γ B: the gradient is a polynomial of degree two in γ, plain at 1."""
    values = {}
    for decay in (0.0, 0.5, 1.0, 2.0):
        predict = surrogates.skip_gradient(resnet, decay)
        np.testing.assert_allclose(predict(x), resnet(x), rtol=1e-5, atol=1e-6)
        values[decay] = np.asarray(gradient(predict, x), np.float64)
    np.testing.assert_allclose(values[1.0], gradient(resnet, x), atol=1e-6)
    # Lagrange through 0, 1, 2 gives the value at 0.5.
    expected = 0.375 * values[0.0] + 0.75 * values[1.0] - 0.125 * values[2.0]
    np.testing.assert_allclose(values[0.5], expected, atol=1e-6)
    assert np.abs(values[0.0] - values[1.0]).max() > 1e-3


def test_skip_gradient_recompiles_for_new_settings_only(resnet, x):
    jitted = jax.jit(lambda predict, x: gradient(predict, x))
    jitted(surrogates.skip_gradient(resnet, 0.5), x)
    jitted(surrogates.skip_gradient(resnet, 0.5), x)
    assert jitted._cache_size() == 1
    jitted(surrogates.skip_gradient(resnet, 0.6), x)
    assert jitted._cache_size() == 2


WITHOUT_SKIPS = (
    "vgg",
    "googlenet",
    "cifar_vgg",
    "cifar_inception",
    "inception_v",
    "hgd_inception_v",
    "shufflenet",
    "squeezenet",
)
ONE_OF_EACH = {type(models.build(name)): name for name in reversed(models.ZOO)}.values()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_net_of_the_zoo_marks_its_branches(name):
    """Traced only: those with skip connections take it, the others are refused."""
    module = models.build(name)
    x = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    run = lambda v, x: surrogates.skip_gradient(jax.tree_util.Partial(module.apply, v))(x)  # noqa: E731
    if name.startswith(WITHOUT_SKIPS):
        with pytest.raises(ValueError, match="this net has no residual branch"):
            jax.eval_shape(run, variables, x)
    else:
        assert jax.eval_shape(run, variables, x).shape == (1, module.num_classes)


BLOCKS = {
    "cifar_wideresnet28_10": {"width": 16, "blocks": 1},
    "cifar_densenet121": {"growth": 4, "blocks": (1, 2)},
    "cifar_vit_small": {"image_size": 8, "patch": 4, "depth": 1, "width": 8, "heads": 2, "hidden": 16},
    "regnetx_032": {"widths": (4,), "blocks": (2,), "group": 2},
    "mobilenetv2_100": {"stages": (Stage(2, 3, 1, 2, 8),), "last": 8},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_skip_gradient_of_other_families(name, x):
    """The logits stay, the gradient is the plain one at 1 and another at 0.5, between those at 0 and 1."""
    module = models.build(name, **BLOCKS[name])
    predict = models.predictor(module, jax.jit(module.init)(jax.random.key(0), x))
    slopes = {d: gradient(surrogates.skip_gradient(predict, d), x) for d in (0.5, 1.0)}
    np.testing.assert_allclose(surrogates.skip_gradient(predict)(x), predict(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes[1.0], gradient(predict, x), rtol=1e-4, atol=1e-7)
    assert np.abs(slopes[0.5] - slopes[1.0]).max() > 1e-3 * np.abs(slopes[1.0]).max()


def test_blocks_without_a_skip_connection_keep_their_gradient(x):
    """An inverted residual that changes the shape adds nothing: there is nothing to decay."""
    module = models.build("mobilenetv2_100", stages=(Stage(1, 3, 2, 2, 8), Stage(2, 3, 1, 2, 8)), last=8)
    predict = models.predictor(module, jax.jit(module.init)(jax.random.key(0), x))
    marks = []

    def note(module, y):
        if isinstance(module, Branch):
            marks.append(module.parent.name)
        return y

    tapped(predict, x, note)
    assert marks == ["blocks.1.0", "blocks.1.1"]


def two_layers(weights, x):
    first, second = weights
    return jax.nn.relu(x.reshape(len(x), -1) @ first) @ second


def test_linear_backprop_is_the_linear_nets_gradient():
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((12, 8), (8, 10)))
    predict = jax.tree_util.Partial(two_layers, (first, second))
    x = jnp.asarray(rng.random((2, 2, 2, 3)), jnp.float32)
    linear = backprop.linear_backprop(predict)
    np.testing.assert_allclose(linear(x), predict(x), rtol=1e-6)
    expected = np.broadcast_to(first @ second[:, 0], (2, 12))
    np.testing.assert_allclose(gradient(linear, x).reshape(2, -1), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="no ReLU with a number from 1 on, but 1 in all"):
        backprop.linear_backprop(predict, first=1)(x)


UNITS = {
    "BasicBlock": (BasicBlock(Layers(), 4, 1, "shortcut"), 2),
    "Bottleneck": (Bottleneck(Layers(), 4, 1, "shortcut"), 3),
    "RegNet": (regnet.Block(Layers(), 4, 1, group=2, squeeze=0.0), 3),
}


@pytest.mark.parametrize(("module", "relus"), UNITS.values(), ids=UNITS)
def test_linear_backprop_of_a_residual_unit(module, relus, x, monkeypatch):
    """Skip connection plus the branch without its ReLUs, as long as the branch with them."""
    predict = jax.tree_util.Partial(module.apply, module.init(jax.random.key(0), x))
    slope = lambda predict: jax.grad(lambda x: predict(x).sum())(x)  # noqa: E731
    linear = slope(backprop.linear_backprop(predict))
    skip = slope(surrogates.skip_gradient(predict, 0.0))
    plain, relu, seen = slope(predict) - skip, nn.relu, count(1)
    length = lambda g: jnp.sqrt((g**2).sum((1, 2, 3), keepdims=True))  # noqa: E731

    def linear_but_the_last(y):
        return relu(y) if next(seen) == relus else y + jax.lax.stop_gradient(relu(-y))

    monkeypatch.setattr(nn, "relu", linear_but_the_last)
    branch = slope(predict) - skip
    np.testing.assert_allclose(linear, skip + branch * length(plain) / length(branch), atol=1e-5)
    assert float(jnp.abs(linear - skip - plain).max()) > 1e-2


def test_linear_backprop_of_a_resnet(resnet, x):
    """Of the four ReLUs outside of branches none counts; inside of `jit` it is the same."""
    linear = backprop.linear_backprop(resnet, first=1)
    np.testing.assert_allclose(linear(x), resnet(x), rtol=1e-5, atol=1e-6)
    assert np.abs(gradient(linear, x) - gradient(resnet, x)).max() > 1e-3
    jitted = jax.tree_util.Partial(jax.jit(lambda predict, x: predict(x)), resnet)
    np.testing.assert_allclose(
        gradient(linear, x), jax.jit(gradient)(backprop.linear_backprop(jitted, 1), x), atol=1e-6
    )
    with pytest.raises(ValueError, match="no ReLU with a number from 2 on, but 2 in all"):
        backprop.linear_backprop(resnet, 2)(x)


def test_ghost_skips_scale_the_skip_connections(resnet, x):
    """No erosion is the net itself; otherwise the draws differ between examples, and repeat with the key."""
    np.testing.assert_allclose(
        surrogates.ghost_skips(resnet, jax.random.key(0), 0.0)(x), resnet(x), atol=1e-6
    )
    ghost = surrogates.ghost_skips(resnet, jax.random.key(0), 0.22)
    same = jnp.broadcast_to(x[:1], x.shape)
    logits = np.asarray(ghost(same))
    assert np.abs(logits[0] - logits[1]).max() > 1e-4
    np.testing.assert_array_equal(logits, ghost(same))
    assert np.abs(logits - surrogates.ghost_skips(resnet, jax.random.key(1), 0.22)(same)).max() > 1e-4


def test_ghost_skips_are_exact(resnet, x, monkeypatch):
    """Against a net whose shortcut is multiplied by hand, all by the same λ."""
    from transferjax.models import resnet as source

    scaled = source._shortcut
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape=(), *_, **__: jnp.full(shape, 0.75))
    ghost = surrogates.ghost_skips(resnet, jax.random.key(0), 0.4)(x)
    monkeypatch.setattr(source, "_shortcut", lambda *arguments: 1.2 * scaled(*arguments))
    np.testing.assert_allclose(ghost, resnet(x), rtol=1e-5, atol=1e-6)


class Averaged(nn.Module):
    """Linear: a convolution, its mean over places, and a layer on that."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Conv(4, (3, 3), use_bias=False)(x).mean((1, 2)))


def test_ghost_dropout_keeps_the_mean_and_has_its_rates_variance():
    """Of a linear net `b + Σ w y`: mean and variance `Σ (w y)² r / (1 - r)`, as of so many draws."""
    image, rate, count = jax.random.uniform(jax.random.key(2), (1, 5, 5, 3)), 0.1, 4000
    variables = Averaged().init(jax.random.key(0), image)
    predict = models.predictor(Averaged(), variables)
    ghost = surrogates.ghost_dropout(predict, jax.random.key(0), rate)
    logits = np.asarray(jax.jit(lambda ghost, x: ghost(x))(ghost, jnp.broadcast_to(image, (count, 5, 5, 3))))
    kernel = variables["params"]["Conv_0"]["kernel"]
    y = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    terms = np.asarray(y[0, ..., None] * variables["params"]["head"]["kernel"]).reshape(-1, 3) / 25
    variance = (terms**2).sum(0) * rate / (1 - rate)
    error = 4 * np.sqrt(variance / count)
    assert (np.abs(logits.mean(0) - np.asarray(predict(image)[0])) < error).all()
    np.testing.assert_allclose(logits.var(0), variance, rtol=4 * (2 / count) ** 0.5)


def test_weight_scaling_scales_the_kernels_of_convolutions():
    """Of a convolution and a linear layer `V p W x`, whose bias stays; the same tree, so one compilation."""

    images = jax.random.uniform(jax.random.key(2), (2, 5, 5, 3))
    predict = models.predictor(Averaged(), Averaged().init(jax.random.key(0), images))
    bias = predict(jnp.zeros_like(images))
    scaled = surrogates.weight_scaling(predict, 0.5)
    np.testing.assert_allclose(scaled(images) - bias, 0.5 * (predict(images) - bias), rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(scaled) == jax.tree.structure(predict)
    with pytest.raises(ValueError, match="this net has no convolution"):
        surrogates.weight_scaling(jax.tree_util.Partial(lambda w, x: x @ w, jnp.ones((3, 3))))


def test_attacks_take_them_all(resnet, x):
    """Inside the jitted loop: fresh draws at every step, batch-size invariant."""
    labels, key = jnp.arange(3), jax.random.split(jax.random.key(0), 3)
    for predict in (
        surrogates.skip_gradient(resnet),
        backprop.linear_backprop(resnet, 1),
        surrogates.ghost_skips(resnet, jax.random.key(0)),
        (resnet, surrogates.ghost_dropout(resnet, jax.random.key(0))),
    ):
        attack = jax.jit(attacks.mi_fgsm(8 / 255, 3))
        whole = attack(key, predict, x, labels)
        np.testing.assert_allclose(attack(key[1:], predict, x[1:], labels[1:]), whole[1:], atol=1e-6)
        assert float(jnp.abs(whole - x).max()) <= 8 / 255 + 1e-6


@pytest.mark.parametrize(
    "method", [surrogates.skip_gradient, lambda predict: surrogates.ghost_skips(predict, jax.random.key(0))]
)
def test_nets_without_the_part_are_refused(method, x):
    with pytest.raises(ValueError, match="this net has no"):
        method(jax.tree_util.Partial(two_layers, (jnp.ones((192, 4)), jnp.ones((4, 3)))))(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: backprop.linear_backprop(net, 1, 0), "first 1, last 0: expected 0 <= first <= last"),
        (lambda net: backprop.linear_backprop(net, -1), "first -1, last None"),
        (lambda net: surrogates.ghost_skips(net, jax.random.key(0), 1.0), r"radius 1.0: expected .*\[0, 1\)"),
        (lambda net: surrogates.ghost_dropout(net, jax.random.key(0), 1.5), r"rate 1.5: expected .*\[0, 1\)"),
        (lambda net: defences.random_affine(net, jax.random.key(0), 0), "samples 0: expected at least 1"),
        (lambda net: defences.feature_distillation(net, 0), "low 0, high 30: expected steps of at least 1"),
    ],
)
def test_settings_out_of_range(make, message, resnet):
    with pytest.raises(ValueError, match=message):
        make(resnet)


def test_features_by_path(resnet, x):
    logits, features = with_features(resnet, "layer1.0", x)
    np.testing.assert_allclose(logits, resnet(x), atol=1e-6)
    assert features.shape == (3, 8, 8, 4)
    np.testing.assert_array_equal(with_features(resnet, "", x)[1], resnet(x))
    with pytest.raises(ValueError, match="no module of this net has a path that ends in 'layer9'"):
        with_features(resnet, "layer9", x)


def test_a_crop_is_a_part_made_as_large_as_the_image():
    ramp = jnp.broadcast_to(jnp.arange(40.0)[:, None, None], (40, 40, 1))
    areas, forms = [], []
    for seed in range(30):
        key = jax.random.key(seed)
        rows, columns = (np.asarray(_crop(key, x, 0.1, 0.4))[..., 0] for x in (ramp, ramp.swapaxes(0, 1)))
        down, across = np.median(np.diff(rows[:, 20])), np.median(np.diff(columns[20]))
        areas.append(down * across)
        forms.append(across / down)
        assert 0 <= rows.min() < rows.max() <= 39
        assert rows.max() - rows.min() <= 40 * down
    assert 0.1 <= min(areas) + 1e-5 < 0.15 < 0.35 < max(areas) <= 0.4 + 1e-5
    assert 3 / 4 <= min(forms) + 1e-5 < 0.85 < 1.2 < max(forms) <= 4 / 3 + 1e-5


def test_self_universality_by_hand(resnet, x):
    """Its first step goes down the mean of both cross-entropies, less the cosine: δ on image and crop."""
    targets, key, weight = jnp.array([4, 5, 6]), jax.random.key(0), 5.0
    crops = []

    def crop(key, image, low, high):
        assert (low, high) == (0.1, 0.1)
        crops.append(image.shape)
        return image[::-1] * 0.5  # any other image

    def objective(delta):
        seen = [with_features(resnet, "layer1.0", part + delta) for part in (x, x[:, ::-1] * 0.5)]
        losses = [-jax.nn.log_softmax(logits)[jnp.arange(3), targets] for logits, _ in seen]
        a, b = (features.reshape(3, -1) for _, features in seen)
        alike = (a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)
        return ((losses[0] + losses[1]) / 2 - weight * alike).sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targeted, "_crop", crop)
        attack = attacks.self_universality(16 / 255, 1, layer="layer1.0", weight=weight)
        step = attack(key, resnet, x, targets) - x
    assert crops
    expected = jnp.clip(x - jnp.sign(jax.grad(objective)(jnp.zeros_like(x))) * 2 / 255, 0, 1) - x
    assert np.mean(np.abs(step - expected) < 1e-6) > 0.999


def test_self_universality_reaches_the_target(resnet, x):
    targets = jnp.array([1, 2, 3])
    attack = attacks.self_universality(16 / 255, 5, layer="layer1.0")
    y = jax.jit(attack)(jax.random.key(0), resnet, x, targets)
    logp = lambda x: jax.nn.log_softmax(resnet(x))[jnp.arange(3), targets].mean()  # noqa: E731
    assert logp(y) > logp(x)
