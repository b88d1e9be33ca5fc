"""Defences: the transformation itself against an independent one, gradients, certificates."""

from itertools import product

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from transferjax import attacks, defences
from transferjax.defences import randomized
from transferjax.defences.lossy import LUMINANCE, jpeg_round_trip, quality_table, quantize_blocks
from transferjax.defences.smoothing import ABSTAIN, count_votes
from transferjax.losses import cross_entropy
from transferjax.predicts.stochastic import Stochastic
from transferjax.random import fold_in, sample


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

    hundred = jax.eval_shape(
        defences.resize_and_pad(IDENTITY, jax.random.key(0), 1.1), jnp.ones((1, 100, 50, 1))
    )
    assert hundred.shape == (1, 110 * 55)
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


def affine(x, matrix, shift, **outside):
    """SciPy's: pixel p of a channel is that of x at `middle + matrix (p - middle) + shift`."""
    middle = (np.array(x.shape[:2]) - 1) / 2
    offset = middle - matrix @ middle + shift
    channels = [
        ndimage.affine_transform(np.asarray(x[..., c]), matrix, offset, order=1, **outside)
        for c in range(x.shape[-1])
    ]
    return np.stack(channels, -1)


def turn(degrees, shear=0.0):
    a, b = np.deg2rad([degrees, degrees + shear])
    return np.array([[np.cos(a), -np.sin(b)], [np.sin(a), np.cos(b)]])


@pytest.mark.parametrize("moved", ["angle", "shear", "shift", "zoom", "all"])
def test_random_affine_moves_by_shares_that_are_drawn(moved):
    most = {"angle": 30.0, "shear": 20.0, "shift": 0.2, "zoom": 0.4}
    most = {name: value * (moved in (name, "all")) for name, value in most.items()}
    x, key = jax.random.uniform(jax.random.key(0), (9, 7, 2)), jax.random.key(3)
    u = np.asarray(jax.random.uniform(key, (5,), minval=-1))
    matrix = (1 + most["zoom"] * u[2]) * turn(most["angle"] * u[0], most["shear"] * u[1])
    expected = affine(x, matrix, most["shift"] * u[3:] * [9, 7], mode="nearest")
    found = randomized._RandomAffine(1, **most).warp(key, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - x).max() > 0.1


def test_nips_r3_shears_shifts_enlarges_and_turns_in_this_order():
    """As four steps in SciPy; grey comes in from outside, and the amounts are within the jitter."""
    x, key = jax.random.uniform(jax.random.key(0), (24, 24, 1)), jax.random.key(3)
    amounts = {"angle": 20.0, "shear": 10.0, "shift": 0.1, "zoom": 0.8}
    u = 1 + 0.05 * np.asarray(jax.random.uniform(key, (6,), minval=-1))
    a = np.deg2rad(10 * u[0])
    sheared = np.array([[1, -np.sin(a)], [0, np.cos(a)]])
    steps = [(sheared, 0), (np.eye(2), 0.1 * 24 * u[2:4]), (np.diag(0.8 * u[4:]), 0), (turn(-20 * u[1]), 0)]
    point, middle = np.array([5.0, 14.0]), 11.5
    for matrix, shift in reversed(steps):  # where the pixel comes from: the last step is asked first
        point = matrix @ (point - middle) + middle + shift
    found = randomized._NipsR3(**amounts, jitter=0.05).warp(key, x)
    expected = ndimage.map_coordinates(np.asarray(x[..., 0]), point[:, None], order=1)
    np.testing.assert_allclose(found[5, 14, 0], expected[0], atol=1e-5)
    assert (np.asarray(randomized._NipsR3(0.0, 0.0, 0.5, 1.0, 0.0).warp(key, x))[-1] == 0.5).all()
    still = randomized._NipsR3(0.0, 0.0, 0.0, 1.0, 0.0).warp(key, x)
    np.testing.assert_allclose(still, x, atol=1e-6)


def noisy(keys, x):
    """Logits that are drawn, whatever the images."""
    return jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)


@pytest.mark.parametrize(
    "around",
    [
        lambda net: defences.smoothed(net, jax.random.key(0), 0.1, 300),
        lambda net: defences.random_affine(net, jax.random.key(0), 300),
    ],
)
def test_what_draws_inside_is_averaged_over_too(around):
    """Its own draws are 300, not one: no image's probabilities are those of a single one."""
    net = Stochastic(jax.tree_util.Partial(noisy), jax.random.key(1))
    p = np.exp(around(net)(jnp.zeros((4, 6, 6, 1))))
    mean = np.exp(np.random.default_rng(0).normal(size=(20000, 3)))
    spread = (mean / mean.sum(-1, keepdims=True)).std() / 300**0.5
    assert np.abs(p - 1 / 3).max() < 5 * spread
    votes = count_votes(net, fold_in(jax.random.key(0), jnp.arange(4)), jnp.zeros((4, 6, 6, 1)), 0.1, 300)
    assert (votes > 50).all()


def test_a_net_that_draws_inside_of_one_draws_apart_from_it():
    """From the keys of the noise around it, it would draw that noise again."""
    seen = []

    def look(keys, x):
        seen.append((x, sample(jax.random.normal, keys, x.shape[1:])))
        return x.sum((1, 2))

    net = Stochastic(jax.tree_util.Partial(look), jax.random.key(1))
    with jax.disable_jit():
        defences.smoothed(net, jax.random.key(0), 1.0, 3)(jnp.zeros((2, 2, 2, 1)))
    assert len(seen) == 3
    for around, own in product([x for x, _ in seen], [own for _, own in seen]):
        assert np.abs(around - own).max() > 1e-3


def test_nan_votes_for_no_class():
    """A net of NaNs is certified nowhere, one of NaNs for half of the images in half of them."""
    blind = jax.tree_util.Partial(lambda x: jnp.where(x[:, 0, 0] > 0.5, jnp.nan, jnp.array([1.0, 0, 0])))
    x = jnp.stack([jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))])
    made = defences.certify(blind, jax.random.key(0), x, sigma=0.01, samples=200)
    np.testing.assert_array_equal(made.classes, [0, ABSTAIN])
    assert made.radii[1] == 0


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


def certified(**options):
    return defences.certify(IDENTITY, jax.random.key(0), jnp.zeros((1, 2, 2, 1)), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: defences.bit_depth(IDENTITY, 0), "bits must lie in 1 … 8; got 0"),
        (lambda: defences.jpeg(IDENTITY, 101), "quality must lie in 1 … 100; got 101"),
        (lambda: defences.resize_and_pad(IDENTITY, jax.random.key(0), 1.0), "rate must be above 1"),
        (lambda: defences.smoothed(IDENTITY, jax.random.key(0), -0.1), "sigma -0.1.*at least 0"),
        (lambda: defences.smoothed(IDENTITY, jax.random.key(0), samples=0), "samples 0.*at least 0 and 1"),
        (lambda: certified(sigma=-0.25), "sigma -0.25.*expected sigma above 0"),
        (lambda: certified(alpha=1.0), "alpha 1.0.*alpha between 0 and 1"),
        (lambda: certified(samples=0), "samples 0.*draws of at least 1"),
        (lambda: defences.jpeg(IDENTITY)(jnp.zeros((1, 8, 8, 1))), "for RGB images; got 1 channels"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
