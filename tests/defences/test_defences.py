"""Defences: the transformation itself against an independent one, gradients, certificates."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from transferjax import attacks, defences
from transferjax.defences.lossy import LUMINANCE, jpeg_round_trip, quality_table, quantize_blocks
from transferjax.defences.smoothing import ABSTAIN
from transferjax.losses import cross_entropy
from transferjax.random import fold_in


def natural(count=4, size=(40, 30), seed=0):
    """Smooth random images with some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 5, 4, 3)).astype(np.float32)
    images = np.stack([cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(images + 0.03 * rng.standard_normal(images.shape), 0, 1).astype(np.float32)


def flatten(x):
    return x.reshape(len(x), -1)


IDENTITY = jax.tree_util.Partial(flatten)


def opencv_jpeg(image, quality):
    pixels = np.round(image * 255).astype(np.uint8)[..., ::-1]
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    return cv2.imdecode(cv2.imencode(".jpg", pixels, options)[1], cv2.IMREAD_COLOR)[..., ::-1] / 255


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_libjpegs(quality):
    """Up to its integer arithmetic, which rounds some coefficients differently; no block divides the size."""
    x = natural()
    ours = np.asarray(jpeg_round_trip(jnp.asarray(x), quality))
    theirs = np.stack([opencv_jpeg(image, quality) for image in x])
    difference = np.abs(ours - theirs) * 255
    assert np.mean(difference <= 1.01) > 0.7
    assert difference.mean() < 0.25 * np.abs(theirs - x).mean() * 255


def test_quality_tables():
    np.testing.assert_array_equal(quality_table(LUMINANCE, 50), LUMINANCE)
    assert quality_table(LUMINANCE, 100).max() == 1
    assert quality_table(LUMINANCE, 1).max() == 255


def test_blocks_are_quantized_by_opencvs_dct():
    block = (natural(1, (8, 8))[..., 0] * 255).astype(np.float32)
    expected = cv2.idct(np.round(cv2.dct(block[0] - 128) / LUMINANCE).astype(np.float32) * LUMINANCE) + 128
    np.testing.assert_allclose(quantize_blocks(jnp.asarray(block), LUMINANCE)[0], expected, atol=1e-2)


def test_bit_depth():
    x = jnp.linspace(0, 1, 64).reshape(1, 8, 8, 1)
    y = np.asarray(defences.bit_depth(IDENTITY, 2)(x))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    np.testing.assert_allclose(
        defences.bit_depth(IDENTITY, 8)(jnp.round(x * 255) / 255),
        flatten(jnp.round(x * 255) / 255),
        atol=1e-6,
    )


def test_feature_distillation_keeps_the_image_roughly():
    x = jnp.asarray(natural())
    y = defences.feature_distillation(IDENTITY)(x).reshape(x.shape)
    error = float(jnp.abs(x - y).mean()) * 255
    assert 0.5 < error < 10


def test_feature_distillation_is_opencvs_dct_with_two_steps():
    block = natural(1, (8, 8))[0].astype(np.float32)
    steps = np.where(np.add.outer(np.arange(8) >= 4, np.arange(8) >= 4), 50, 10).astype(np.float32)
    expected = [
        cv2.idct(np.round(cv2.dct(255 * block[..., c] - 128) / steps).astype(np.float32) * steps) + 128
        for c in range(3)
    ]
    found = defences.feature_distillation(IDENTITY, low=10, high=50)(jnp.asarray(block)[None])
    np.testing.assert_allclose(
        255 * found.reshape(8, 8, 3), np.clip(np.stack(expected, -1), 0, 255), atol=2e-2
    )


@pytest.mark.parametrize(
    "defence",
    [defences.bit_depth, defences.jpeg, defences.feature_distillation],
    ids=lambda defence: defence.__name__,
)
def test_lossy_defences_pass_gradients_straight_through(defence):
    x = jnp.asarray(natural(2, (16, 16)))
    weights = jax.random.normal(jax.random.key(0), (768,))
    gradient = jax.grad(lambda x: (defence(IDENTITY)(x) @ weights).sum())(x)
    np.testing.assert_allclose(flatten(gradient), np.broadcast_to(weights, (2, 768)), rtol=1e-5)


def test_resize_and_pad_shows_the_whole_image():
    """Of white images: a white square of the image's size up to the canvas's, elsewhere black."""
    x = jnp.ones((32, 10, 10, 1))
    sizes = []

    def look(x):
        sizes.append(x.shape)
        return x.reshape(len(x), -1)

    defended = defences.resize_and_pad(jax.tree_util.Partial(look), jax.random.key(0), 1.3)
    y = np.asarray(defended(x)).reshape(sizes[0])
    assert sizes[0] == (32, 13, 13, 1)
    sides = np.sqrt(y.sum((1, 2, 3)))
    assert set(np.round(sides)) == {10, 11, 12}
    np.testing.assert_array_equal(defended(x), y.reshape(32, -1))
    back = defences.resize_and_pad(IDENTITY, jax.random.key(0), 1.3, resize_back=True)
    assert back(x).shape == (32, 100)


def test_random_affine_without_movement_is_the_net():
    x = jnp.asarray(natural(3, (8, 8)))
    predict = jax.tree_util.Partial(
        lambda w, x: flatten(x) @ w, jax.random.normal(jax.random.key(0), (192, 5))
    )
    still = defences.random_affine(predict, jax.random.key(0), 2, angle=0, shear=0, shift=0, zoom=0)
    np.testing.assert_allclose(still(x), jax.nn.log_softmax(predict(x)), atol=1e-4)
    moving = defences.random_affine(predict, jax.random.key(0), 2)
    assert np.abs(moving(x) - jax.nn.log_softmax(predict(x))).max() > 1e-2


def test_rotation_turns_around_the_middle():
    """A quarter turn of a square image is numpy's."""
    from transferjax.defences.randomized import _RandomAffine

    x = jax.random.uniform(jax.random.key(0), (5, 5, 2))
    quarter = _RandomAffine(1, 90.0, 0.0, 0.0, 0.0)

    class Ones:
        @staticmethod
        def uniform(*_, **__):
            return jnp.ones(5)

    import transferjax.defences.randomized as module

    original = module.jax.random.uniform
    try:
        module.jax.random.uniform = Ones.uniform
        turned = quarter.warp(jax.random.key(0), x)
    finally:
        module.jax.random.uniform = original
    candidates = [np.rot90(x, 1), np.rot90(x, -1)]
    assert min(np.abs(turned - c).max() for c in candidates) < 1e-5


def halfspace(x):
    """Class 1 where the first pixel exceeds ½."""
    first = x[:, 0, 0, 0]
    return jnp.stack([0.5 - first, first - 0.5], -1)


def test_certificates_of_a_half_space():
    """A linear classifier's smoothed radius is its distance to the plane; the bound lies below and close."""
    x = jnp.zeros((3, 2, 2, 1)).at[:, 0, 0, 0].set(jnp.array([0.5, 0.6, 1.0]))
    keys = fold_in(jax.random.key(0), jnp.arange(3))
    made = defences.certify(jax.tree_util.Partial(halfspace), keys, x, sigma=0.25, samples=4000)
    assert made.classes[0] == ABSTAIN
    assert made.radii[0] == 0
    np.testing.assert_array_equal(made.classes[1:], 1)
    distance = np.array([0.1, 0.5])
    assert np.all(made.radii[1:] <= distance)
    low = stats.beta.ppf(0.001, 4000 * stats.norm.cdf(0.1 / 0.25), 4000 * stats.norm.sf(0.1 / 0.25))
    assert made.radii[1] == pytest.approx(0.25 * stats.norm.ppf(low), abs=0.02)


def test_smoothing_averages_probabilities():
    """Of `softmax((x - ½)/τ)` with τ → 0 under noise σ: `Φ((x - ½)/σ)`."""
    predict = jax.tree_util.Partial(lambda x: 1000 * halfspace(x))
    x = jnp.zeros((2, 2, 2, 1)).at[:, 0, 0, 0].set(jnp.array([0.6, 0.4]))
    p = np.exp(defences.smoothed(predict, jax.random.key(0), 0.25, 2000)(x))[:, 1]
    np.testing.assert_allclose(p, stats.norm.cdf([0.4, -0.4]), atol=0.04)


@jax.jit
def loss(predict, x, labels):
    return cross_entropy(predict(x), labels).mean()


def test_defended_nets_are_attacked_like_any(tiny_defended):
    predict, x, labels = tiny_defended
    for defended in (
        defences.jpeg(predict),
        defences.resize_and_pad(predict, jax.random.key(0), resize_back=True),
        defences.smoothed(predict, jax.random.key(0), 0.05, 2),
    ):
        attack = jax.jit(attacks.mi_fgsm(16 / 255, 2))
        y = attack(jax.random.key(1), defended, x, labels)
        assert loss(defended, y, labels) > loss(defended, x, labels)
        keys = fold_in(jax.random.key(1), jnp.arange(len(x)))
        np.testing.assert_allclose(attack(keys[1:], defended, x[1:], labels[1:]), y[1:], atol=1e-5)


@pytest.fixture
def tiny_defended():
    weights = jax.random.normal(jax.random.key(0), (768, 10)) / 10
    predict = jax.tree_util.Partial(lambda w, x: flatten(x) @ w, weights)
    x = jnp.asarray(natural(3, (16, 16)))
    return predict, x, predict(x).argmax(-1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: defences.bit_depth(IDENTITY, 0), "bits must lie in 1 … 8; got 0"),
        (lambda: defences.jpeg(IDENTITY, 101), "quality must lie in 1 … 100; got 101"),
        (lambda: defences.resize_and_pad(IDENTITY, jax.random.key(0), 1.0), "rate must be above 1"),
        (lambda: defences.jpeg(IDENTITY)(jnp.zeros((1, 8, 8, 1))), "for RGB images; got 1 channels"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
