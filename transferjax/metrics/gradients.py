"""Gradients of the loss with respect to the images."""

import jax

from transferjax.losses import cross_entropy
from transferjax.typing import Array, Loss, Predict


def input_gradient(predict: Predict, images: Array, labels: Array, loss: Loss = cross_entropy) -> Array:
    """Gradient of each image's loss w.r.t. the image, `∇_x ℓ(f(x_i), y_i)`, `[B, H, W, C]`."""
    return jax.grad(lambda x: loss(predict(x), labels).sum())(images)
