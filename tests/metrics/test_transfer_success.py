import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from transferjax.metrics import correct, fooled, round_to_8_bits, transfer_success, transferability


def brightness(thresholds, images):
    """Class = how many thresholds the mean brightness exceeds."""
    level = (images.mean((1, 2, 3))[:, None] > thresholds).sum(-1)
    return -jnp.abs(level[:, None] - jnp.arange(len(thresholds) + 1.0))


PREDICT = Partial(brightness, jnp.array([0.25, 0.5, 0.75]))
CLEAN = jnp.array([0.1, 0.3, 0.6, 0.9])[:, None, None, None] * jnp.ones((4, 2, 2, 1))
LABELS = jnp.array([0, 1, 2, 0])  # the last one is misclassified
ADVERSARIAL = jnp.array([0.3, 0.3, 0.9, 0.8])[:, None, None, None] * jnp.ones((4, 2, 2, 1))  # says 1 1 3 3


def test_rates_over_all_images():
    assert transfer_success(PREDICT, ADVERSARIAL, LABELS) == 0.75
    assert transfer_success(PREDICT, ADVERSARIAL, LABELS, (LABELS + 1) % 4) == 0.5
    np.testing.assert_array_equal(fooled(PREDICT, ADVERSARIAL, LABELS), [True, False, True, True])


def test_rates_over_images_that_were_classified_correctly():
    mask = correct(PREDICT, CLEAN, LABELS)
    np.testing.assert_array_equal(mask, [True, True, True, False])
    assert transfer_success(PREDICT, ADVERSARIAL, LABELS, mask=mask) == pytest.approx(2 / 3)
    assert transfer_success(
        PREDICT, ADVERSARIAL, LABELS, jnp.array([1, 0, 0, 3]), mask=mask
    ) == pytest.approx(1 / 3)
    assert np.isnan(transfer_success(PREDICT, ADVERSARIAL, LABELS, mask=mask & False))


def test_what_transfers_was_right_on_both_before_and_fools_both_after():
    bold = Partial(brightness, jnp.array([0.25, 0.5, 0.95]))  # clean 0 1 2 2; adversarial 1 1 2 2
    found = transferability(PREDICT, bold, CLEAN, ADVERSARIAL, LABELS)
    np.testing.assert_array_equal(found, [True, False, False, False])
    aimed = transferability(PREDICT, bold, CLEAN, ADVERSARIAL, LABELS, jnp.array([2, 1, 2, 2]))
    np.testing.assert_array_equal(
        aimed, [False, True, False, False]
    )  # only the second says its target on both


def test_a_perturbation_below_half_a_grey_level_does_not_survive_rounding():
    base = jnp.full((1, 2, 2, 1), 63 / 255)  # 0.24706, just below the first threshold
    images = base + 0.0035 - 1 / 512
    np.testing.assert_allclose(round_to_8_bits(images), base)
    label = jnp.array([0])
    shifted = Partial(brightness, jnp.array([63 / 255 + 1e-3]))
    assert transfer_success(shifted, images, label) == 1
    assert transfer_success(shifted, images, label, round_8_bits=True) == 0


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"targets must be one class per image, shape \(4,\); got \(3,\)"):
        fooled(PREDICT, ADVERSARIAL, LABELS, jnp.zeros(3, int))
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(4,\)"):
        transfer_success(PREDICT, ADVERSARIAL, LABELS, mask=jnp.ones((2, 2), bool))
