"""Gradients of the loss with respect to the images, accurate where the model is sure of itself."""

import jax
import jax.numpy as jnp

from transferjax.checks import check_examples, check_loss
from transferjax.losses import cross_entropy
from transferjax.typing import Array, Loss, Predict


def confident_cross_entropy(logits: Array, labels: Array) -> Array:
    """Cross-entropy `[B]` written as `softplus(logsumexp_{k≠y} z_k - z_y)`.

    The same function, but its derivatives keep their relative precision when `p_y` rounds to 1: there
    `softmax(z) - onehot(y)` loses all digits in float32, and with them the direction of the gradient.
    Probabilities `[B, K]` as labels fall back to the usual form.
    """
    check_loss(logits.shape, labels, "labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return cross_entropy(logits, labels)
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(truth, -jnp.inf, logits), axis=-1)
    return jax.nn.softplus(others - jnp.where(truth, logits, 0).sum(-1))


def input_gradient(
    predict: Predict, images: Array, labels: Array, loss: Loss = confident_cross_entropy
) -> Array:
    """Gradient of each image's loss w.r.t. the image, `∇_x ℓ(f(x_i), y_i)`, `[B, H, W, C]`."""
    check_examples(images, labels, soft=True)
    return gradient_at(predict, images, labels, loss)


def gradient_at(predict: Predict, images: Array, labels: Array, loss: Loss) -> Array:
    """The same at any point, inside of [0, 1] or not."""
    return jax.grad(lambda x: loss(predict(x), labels).sum())(images)
