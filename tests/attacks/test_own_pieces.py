"""Pieces of one's own that are wrong: each error names the piece and what was expected of it."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, data, models
from transferjax.attacks import ascend, projections, updates
from transferjax.attacks.rules import average

EPS = 32 / 255


@pytest.fixture
def predict():
    return jax.tree_util.Partial(lambda w, x: x.mean((1, 2)) @ w, jnp.eye(3))


X = jnp.linspace(0, 1, 4 * 6 * 6 * 3).reshape(4, 6, 6, 3)
LABELS = jnp.array([0, 1, 2, 0])


def behind(radius):
    def rule(grad_fn):
        def looked(x, memory, keys, labels):
            return grad_fn(x - radius, memory, keys, labels)

        return looked

    return rule


def forgets(grad_fn):
    def changed(x, memory, keys, labels):
        (value, _), grads = grad_fn(x, memory, keys, labels)
        return value, grads

    return changed


def shrinks(grad_fn):
    def changed(x, memory, keys, labels):
        aux, grads = grad_fn(x, memory, keys, labels)
        return aux, grads[:, :2]

    return changed


def crops(share):
    return lambda keys, x, number: x * share


def drops(keys, x, number):
    return x[:2]


def attack(**options):
    return ascend(updates.steepest("linf", EPS), projections.linf(EPS), steps=1, **options)


WRONG = {
    "not called": ({"rules": (behind,)}, r"rule test_own_pieces.behind must be .* is it a factory, to be"),
    "no memory": ({"rules": (forgets,)}, r"rule test_own_pieces.forgets must return \(\(values, memory\), "),
    "another shape": ({"rules": (shrinks,)}, r"shrinks must return a gradient of shape \(4, 6, 6, 3\).*4, 2"),
    "a factory": ({"rules": (average(crops),)}, r"transformation test_own_pieces.crops must be \(keys, x, "),
    "fewer images": ({"rules": (average(drops),)}, r"drops must return as many images as .*got \(2, 6, 6"),
    "loss per class": ({"loss": lambda z, y: z}, r"one value per example, shape \(4,\); got shape \(4, 3\)"),
    "mean loss": ({"loss": lambda z, y: z.mean()}, r"one value per example, shape \(4,\); got shape \(\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_piece_returns(case, predict):
    options, message = WRONG[case]
    for run in (attack(**options), jax.jit(attack(**options))):
        with pytest.raises((ValueError, TypeError), match=message):
            run(jax.random.key(0), predict, X, LABELS)


def test_rules_are_a_tuple(predict):
    for make in (
        lambda rules: attacks.mi_fgsm(EPS, inner_rules=rules),
        lambda rules: attack(member_rules=rules),
    ):
        with pytest.raises(ValueError, match=r"_rules must be a tuple of rules, \(rule,\) for one; got <fun"):
            make(behind(0.1))


def test_a_rule_may_remember(predict):
    def counting(grad_fn):
        def counted(x, memory, keys, labels):
            seen = memory.get("counting", jnp.zeros((), jnp.int32))
            (values, memory), grads = grad_fn(x, memory, keys, labels)
            return (values, memory | {"counting": seen + 1}), grads

        return counted

    moved = attacks.bim(EPS, 2, outer_rules=(counting,))(jax.random.key(0), predict, X, LABELS)
    np.testing.assert_array_equal(moved, attacks.bim(EPS, 2)(jax.random.key(0), predict, X, LABELS))


@pytest.mark.parametrize("make", [attacks.mi_fgsm, attacks.noise, attacks.square, attacks.fab])
def test_labels_are_of_classes_that_the_model_has(make, predict):
    with pytest.raises(ValueError, match=re.escape("labels must lie in 0 … 2; these lie in 0 … 9")):
        make(EPS)(jax.random.key(0), predict, X, LABELS.at[1].set(9))


def test_arguments_in_another_order(predict):
    with pytest.raises(
        TypeError, match=r"key comes first, fgsm\(key, predict, images, labels\); got Partial"
    ):
        attacks.fgsm(EPS)(predict, jax.random.key(0), X, LABELS)


def test_what_has_to_be_made_a_predict_first(predict):
    """Modules and tensors of PyTorch (known by where their types are), a Flax module without weights."""
    module = type("Module", (), {"__module__": "torch.nn.modules.module"})
    net = type("ResNet", (module,), {"__module__": "mine"})()
    tensor = type("Tensor", (), {"__module__": "torch", "shape": X.shape, "dtype": "torch.float32"})()
    for what, images, said in (
        (net, X, r"module of PyTorch: predicts.from_torch_module\(module\)"),
        (nn.Dense(3), X, r"Flax module without weights: models.predictor\(module, variables\)"),
        (predict, tensor, r"tensor of PyTorch: images.permute\(0, 2, 3, 1\).numpy\(\)"),
    ):
        with pytest.raises(TypeError, match=said):
            attacks.fgsm(EPS)(jax.random.key(0), what, images, LABELS)
    with pytest.raises(
        TypeError, match=r"made with a budget.*attack = attacks.pgd\(8 / 255\), then attack\("
    ):
        attacks.pgd(predict, eps=EPS)
    with pytest.raises(ValueError, match=r"ensemble must be a function.*got 'logits'"):
        attacks.bim(EPS, ensemble="logits")


def test_an_option_of_words_where_a_number_is_meant():
    @attacks.recipe
    def mine(eps, portion=0.9):
        return attacks.fgsm(portion * eps)

    with pytest.raises(ValueError, match=r"portion must be a number, as its default 0\.9 is; got 'a'"):
        mine(EPS, portion="a")


def test_images_of_other_channels():
    net = models.build("cifar_vgg11", 3, width=2, blocks=(1,))
    grey = models.predictor(net, jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 6, 6, 1))))
    message = r"does not fit images of shape \(4, 6, 6, 3\), whose last axis has the channels"
    with pytest.raises(ValueError, match=message):
        jax.jit(attacks.fgsm(EPS))(jax.random.key(0), grey, X, LABELS)


IMAGES = data.Dataset(np.full((10, 6, 6, 3), 99, np.uint8), np.arange(10) % 3, num_classes=3)


def lost(key, predict, images, labels):
    return images.at[:, 0].set(jnp.where(labels[:, None, None] == 1, jnp.nan, 0.4))


def far(key, predict, images, labels):
    return images + 3 * EPS


def small(key, predict, images, labels):
    return images[:, :3]


@pytest.mark.parametrize("format", ["npy", "png"])
def test_nan_is_no_black_image(format, predict, tmp_path):
    with pytest.raises(ValueError, match="lost ends in NaN for 3 of 10 images"):
        attacks.craft(lost, predict, IMAGES, tmp_path, eps=EPS, format=format)
    assert not list(tmp_path.rglob("*.png"))
    with pytest.raises(FileNotFoundError):
        attacks.Crafted.load(tmp_path)


def test_who_leaves_the_ball_is_warned(predict):
    message = r"far leaves the ball: 10 of 10 .* up to 0\.3765 .* eps=0\.1255 \(linf\)"
    with pytest.warns(UserWarning, match=message):
        made = attacks.craft(far, predict, IMAGES, eps=EPS)
    assert np.abs(made.images.astype(int) - IMAGES.images).max() == 32
    assert repr(made).startswith("Crafted(10 images, 6 x 6 x 3, by test_own_pieces.far")


def test_another_shape(predict):
    with pytest.raises(
        ValueError, match=r"small must return images of the shape it was given, \(.*6, 3\); got"
    ):
        attacks.craft(small, predict, IMAGES, eps=EPS)
