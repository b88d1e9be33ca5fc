"""Losses against hand computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import losses

LOGITS = jnp.array([[2.0, -1.0, 0.5, 0.0], [0.0, 3.0, 1.0, -2.0]])
LABELS = jnp.array([0, 2])


def test_cross_entropy_of_classes_and_of_probabilities():
    z = np.asarray(LOGITS, np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS), -log_p[[0, 1], [0, 2]], rtol=1e-6)
    soft = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(
        losses.cross_entropy(LOGITS, jnp.array(soft)), -(soft * log_p).sum(-1), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.logit, [-2.0, -1.0]),
        (losses.margin, [0.5 - 2.0, 3.0 - 1.0]),
        (losses.dlr, [-1.5 / (2.0 - 0.0), 2.0 / (3.0 - 0.0)]),
    ],
)
def test_hard_label_losses(loss, expected):
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-6)
    np.testing.assert_allclose(loss(LOGITS, losses.one_hot(LABELS, 4)), expected, rtol=1e-6)


def test_margin_and_dlr_are_positive_exactly_where_the_prediction_is_wrong():
    logits = jnp.array(np.random.default_rng(0).normal(size=(200, 5)))
    labels = jnp.arange(200) % 5
    wrong = np.asarray(logits.argmax(-1) != labels)
    for loss in (losses.margin, losses.dlr):
        np.testing.assert_array_equal(np.asarray(loss(logits, labels)) > 0, wrong)


def test_dlr_is_invariant_to_shift_and_scale():
    np.testing.assert_allclose(losses.dlr(3 * LOGITS + 7, LABELS), losses.dlr(LOGITS, LABELS), rtol=1e-5)


def test_dlr_of_two_classes_is_refused():
    with pytest.raises(ValueError, match="at least 3 classes"):
        losses.dlr(LOGITS[:, :2], LABELS)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_cross_entropy_at_the_edges(dtype):
    """One class, ties, a class that is ruled out; half precision is summed in single."""
    assert losses.cross_entropy(jnp.ones((2, 1), dtype), jnp.array([0, 0])).tolist() == [0, 0]
    tied = jnp.array([[3, 3, -jnp.inf]], dtype)
    for targets in (jnp.array([1]), jnp.array([[0, 1, 0]], dtype)):
        value, gradient = jax.value_and_grad(lambda z, t=targets: losses.cross_entropy(z, t)[0])(tied)
        assert value == pytest.approx(np.log(2), 1e-6)
        assert gradient.tolist() == [[0.5, -0.5, 0]]
        assert (value.dtype, gradient.dtype) == (jnp.float32, dtype)
