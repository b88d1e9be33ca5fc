"""Gradients of the loss with respect to the images."""

import jax
import jax.numpy as jnp

from transferjax.checks import check_examples
from transferjax.losses import cross_entropy
from transferjax.typing import Array, Loss, Predict


def input_gradient(predict: Predict, images: Array, labels: Array, loss: Loss = cross_entropy) -> Array:
    """Gradient of each image's loss w.r.t. the image, `∇_x ℓ(f(x_i), y_i)`, `[B, H, W, C]`."""
    check_examples(images, labels, soft=True, empty=True)
    return gradient_at(predict, images, labels, loss)


def gradient_at(predict: Predict, images: Array, labels: Array, loss: Loss) -> Array:
    """The same at any point, inside of [0, 1] or not."""
    return jax.grad(lambda x: loss(asked(predict, x), labels).sum())(images)


def asked(predict: Predict, images: Array) -> Array:
    """Logits `[B, K]`; of no images none, whether or not predict can take an empty batch."""
    if len(images):
        return predict(images)
    logits = jax.eval_shape(predict, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))
    return jnp.zeros((0, *logits.shape[1:]), logits.dtype)
