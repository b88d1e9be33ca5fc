"""Where a net looks: activations inside Flax nets, and Grad-CAM maps from them."""

import jax
import jax.numpy as jnp

from transferjax.checks import check_images, check_labels
from transferjax.losses import of_class
from transferjax.predicts.modules import layers, with_features
from transferjax.typing import Array, Predict


def _last_map(predict: Predict, images: Array) -> str:
    """The last layer with a map of more than one pixel."""
    shapes = layers(predict, images)
    maps = [path for path, shape in shapes.items() if len(shape) == 4 and shape[1] * shape[2] > 1]
    if not maps:
        raise ValueError(f"no layer has a map [B, h, w, c] of more than one pixel; the layers are {shapes}")
    return maps[-1]


def activations(predict: Predict, images: Array, layer: str | None = None) -> Array:
    """The output `[B, …]` of one layer, by its path (see `layers`); of the last map if None.

    Raises:
        ValueError: an unknown layer, or none where no layer has a map.
    """
    check_images(images)
    return with_features(predict, layer or _last_map(predict, images), images)[1]


def grad_cam(predict: Predict, images: Array, classes: Array, layer: str | None = None) -> Array:
    """Grad-CAM: which places of a layer's map speak for a class, `[B, H, W]` in [0, 1], at the images' size.

    `L = ReLU(Σ_c α_c A_c)` with `α_c = mean_{ij} ∂z_y / ∂A_cij`, each image's map divided by its maximum.

    Args:
        predict: a predictor of a Flax net.
        images: `[B, H, W, C]` in [0, 1].
        classes: y, `[B]`: the label, or what the net says.
        layer: a path of `layers`; the last one with a map of more than one pixel if None.

    Raises:
        ValueError: an unknown layer, or one without a map.

    Reference: Selvaraju et al., "Grad-CAM", ICCV 2017, eqs. 1 and 2.
    """
    check_images(images)
    layer = layer or _last_map(predict, images)
    logits, found = jax.eval_shape(lambda x: with_features(predict, layer, x), images)
    check_labels(classes, len(images), logits.shape[-1], "classes")
    shape = found.shape
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} has outputs of shape {shape}, not maps [B, h, w, c]")

    def score(shift: Array) -> tuple[Array, Array]:
        logits, maps = with_features(predict, layer, images, shift)
        return of_class(logits, classes).sum(), maps

    gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros(shape, images.dtype))
    weights = gradient.mean((1, 2), keepdims=True)
    cam = jax.nn.relu((weights * maps).sum(-1))
    cam = jax.image.resize(cam, images.shape[:3], "bilinear")
    largest = cam.max((1, 2), keepdims=True)
    return cam / jnp.where(largest > 0, largest, 1)
