"""Mixup, cutmix, cutout, label smoothing and adversarial training against hand computation."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.random import per_example
from transferjax.training import augment
from transferjax.typing import Batch

B, H, W, K = 64, 10, 12, 4
RNG = np.random.default_rng(0)
# Image i is the constant i + 1 in its own scale, so that a pixel tells where it came from.
IMAGES = np.broadcast_to((np.arange(B)[:, None, None, None] + 1.0) / B, (B, H, W, 1)).astype(np.float32)
TARGETS = np.eye(K, dtype=np.float32)[np.arange(B) % K]
BATCH = Batch(jnp.asarray(IMAGES), jnp.asarray(TARGETS))
KEYS = per_example(jax.random.key(0), B)

Pair = namedtuple("Pair", "images targets")


def apply(transform, batch=BATCH, keys=KEYS, predict=None):
    out = transform(keys, batch, predict)
    return Pair(np.asarray(out.images), np.asarray(out.targets))


def test_mixup_blends_image_and_label_alike():
    images, targets = apply(augment.mixup(1.0))
    assert np.ptp(images, axis=(1, 2, 3)).max() < 1e-6, "the whole image has one weight"
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-5)
    values, own = images[:, 0, 0, 0], IMAGES[:, 0, 0, 0]
    mixed = np.abs(values - own) > 1e-6
    assert mixed.sum() > B * 0.9
    partners = set()
    for i in np.flatnonzero(mixed & (targets[np.arange(B), np.arange(B) % K] < 1 - 1e-6)):
        lam, other = targets[i, i % K], int(np.argmax(np.where(np.arange(K) == i % K, -1, targets[i])))
        partner = (values[i] - lam * own[i]) / (1 - lam) * B - 1
        assert float(partner) == pytest.approx(round(float(partner)), abs=float(2e-2 / (1 - lam)))
        assert round(float(partner)) % K == other
        partners.add(round(float(partner)))
    assert len(partners) > 20, "each example has a partner of its own"


def test_cutmix_replaces_a_box_and_mixes_by_its_area():
    images, targets = apply(augment.cutmix(1.0))
    boxes = 0
    for i in range(B):
        foreign = np.abs(images[i, ..., 0] - IMAGES[i, ..., 0]) > 1e-6
        if not foreign.any():
            continue
        boxes += 1
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "one box"
        (partner,) = np.unique(np.round(images[i][foreign] * B).astype(int)) - 1
        expected = np.zeros(K)
        expected[i % K] += 1 - foreign.mean()
        expected[partner % K] += foreign.mean()
        np.testing.assert_allclose(targets[i], expected, atol=1e-5)
    assert boxes > B / 2


@pytest.mark.parametrize("blend", [augment.mixup, augment.cutmix])
def test_blends_happen_with_the_given_probability_each_round(blend):
    many = per_example(jax.random.key(1), 2000)
    batch = Batch(jnp.tile(BATCH.images, (32, 1, 1, 1))[:2000], jnp.tile(BATCH.targets, (32, 1))[:2000])
    touched = lambda out: np.abs(out.images - np.asarray(batch.images)).max((1, 2, 3)) > 1e-6  # noqa: E731
    always = touched(apply(blend(1.0), batch, many)).mean()
    once = touched(apply(blend(0.3), batch, many)).mean()
    twice = touched(apply(blend(0.3, rounds=2), batch, many)).mean()
    assert once == pytest.approx(0.3 * always, abs=0.03)
    assert twice == pytest.approx(1 - (1 - 0.3 * always) ** 2, abs=0.03)
    np.testing.assert_array_equal(apply(blend(0.0)).images, IMAGES)


def test_mixing_weights_are_uniform_or_beta():
    """The own label's weight where the partner has another class: λ itself."""
    many = per_example(jax.random.key(2), 4000)
    batch = Batch(jnp.zeros((4000, 1, 1, 1)), jnp.tile(BATCH.targets, (63, 1))[:4000])
    own = np.arange(4000) % K
    for alpha, variance in [(1.0, 1 / 12), (0.5, 1 / 8)]:
        targets = apply(augment.mixup(1.0, alpha=alpha), batch, many).targets
        weights = targets[np.arange(4000), own]
        weights = weights[weights < 1 - 1e-6]
        assert weights.mean() == pytest.approx(0.5, abs=0.02)
        assert weights.var() == pytest.approx(variance, rel=0.07)


def test_cutout_clears_a_clipped_square():
    images, targets = apply(augment.cutout(4))
    np.testing.assert_array_equal(targets, TARGETS)
    areas = []
    for image in images[..., 0]:
        hole = image == 0
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)
        assert np.ptp(rows) < 4
        assert np.ptp(columns) < 4
        areas.append(hole.sum())
    assert max(areas) == 16
    assert min(areas) >= 4, "the centre lies in the image: at least a quarter of the square does"


def test_label_smoothing():
    targets = apply(augment.label_smoothing(0.3)).targets
    np.testing.assert_allclose(targets[0], [0.7, 0.1, 0.1, 0.1], rtol=1e-6)
    soft = Batch(BATCH.images, jnp.full((B, K), 1 / K))
    np.testing.assert_allclose(apply(augment.label_smoothing(0.3), soft).targets, 1 / K, rtol=1e-6)


def test_distilled_targets_are_what_the_teacher_says_of_these_images():
    weights = jnp.asarray(RNG.normal(size=(H * W, K)), jnp.float32)
    teacher = jax.tree_util.Partial(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    images, targets = apply(augment.distilled(teacher))
    np.testing.assert_array_equal(images, BATCH.images)
    logits = np.asarray(BATCH.images).reshape(B, -1) @ np.asarray(weights)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(targets, powers / powers.sum(-1, keepdims=True), rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="without a teacher: give the predict"):
        apply(augment.distilled())
    with pytest.raises(ValueError, match=rf"teacher says \({B}, 2\); expected logits like \({B}, {K}\)"):
        apply(augment.distilled(lambda x: x[:, 0, :2, 0]))


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 8 / 255)])
def test_adversarial_images_stay_in_the_ball_and_raise_the_loss(norm, eps):
    weights = jnp.asarray(RNG.normal(size=(H * W, K)), jnp.float32)
    predict = lambda x: jax.nn.relu(x).reshape(len(x), -1) @ weights  # noqa: E731
    batch = Batch(jnp.asarray(RNG.random((B, H, W, 1)), jnp.float32), BATCH.targets)
    images, targets = apply(augment.adversarial(eps, norm=norm, steps=5), batch, predict=predict)
    change = (images - np.asarray(batch.images)).reshape(B, -1)
    size = np.linalg.norm(change, axis=1) if norm == "l2" else np.abs(change).max(1)
    assert size.max() <= eps * (1 + 1e-5)
    assert size.min() > eps / 2
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_array_equal(targets, TARGETS)
    loss = lambda x: -(TARGETS * np.asarray(jax.nn.log_softmax(predict(jnp.asarray(x))))).sum(-1)  # noqa: E731
    assert (loss(images) > loss(batch.images)).all()


def test_a_draw_does_not_depend_on_where_the_batch_is_cut():
    for transform in (augment.cutout(4), augment.label_smoothing(0.1), augment.crop_flip(2)):
        part = apply(transform, Batch(BATCH.images[8:16], BATCH.targets[8:16]), KEYS[8:16])
        np.testing.assert_array_equal(part.images, apply(transform).images[8:16])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.mixup(1.5), "prob=1.5"),
        (lambda: augment.cutmix(0.5, alpha=0), "alpha=0"),
        (lambda: augment.mixup(0.5, rounds=0), "rounds=0"),
        (lambda: augment.cutout(0), "size=0"),
        (lambda: augment.cutout("8"), "size must be a number; got '8'"),
        (lambda: augment.label_smoothing("0.1"), "prob must be a number"),
        (lambda: augment.label_smoothing(-0.1), "prob=-0.1"),
        (lambda: augment.adversarial(8, norm="linf"), "0–255 units"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
