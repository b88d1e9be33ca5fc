"""Where a net looks: activations inside Flax nets, and Grad-CAM maps from them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.checks import check_images, check_labels
from transferjax.typing import Array, Predict

Interceptor = Callable[..., Any]


def _tap(change: Callable[[str, Array], Array]) -> Interceptor:
    """Passes every module's output through `change(path, output)`."""

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output = call(*args, **kwargs)
        if context.method_name != "__call__" or not isinstance(output, jax.Array):
            return output
        return change("/".join(context.module.path), output)

    return intercept


def layers(predict: Predict, images: Array) -> dict[str, tuple[int, ...]]:
    """The net's modules by path, in order of evaluation, with the shapes of their outputs."""
    check_images(images)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str, output: Array) -> Array:
        shapes[path] = output.shape
        return output

    with nn.intercept_methods(_tap(note)):
        jax.eval_shape(lambda x: predict(x), images)
    return shapes


def _shape_of(predict: Predict, images: Array, layer: str | None) -> tuple[str, tuple[int, ...]]:
    """The layer and its output's shape; without a name the last one with a map of more than one pixel."""
    shapes = layers(predict, images)
    if layer is None:
        layer = [path for path, shape in shapes.items() if len(shape) == 4 and shape[1] * shape[2] > 1][-1]
    if layer not in shapes:
        raise ValueError(f"unknown layer {layer!r}: expected one of {list(shapes)} (of a Flax net)")
    return layer, shapes[layer]


def _shifted(predict: Predict, images: Array, layer: str, shift: Array | float) -> tuple[Array, Array]:
    """The logits if `shift` is added to a layer's output, and that output."""
    found: list[Array] = []

    def change(path: str, output: Array) -> Array:
        if path != layer:
            return output
        found.append(output + shift)
        return found[-1]

    with nn.intercept_methods(_tap(change)):
        logits = predict(images)
    return logits, found[-1]


def activations(predict: Predict, images: Array, layer: str | None = None) -> Array:
    """The output `[B, …]` of one layer, by its path (see `layers`); of the last map if None."""
    layer, _ = _shape_of(predict, images, layer)
    return _shifted(predict, images, layer, 0.0)[1]


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
    layer, shape = _shape_of(predict, images, layer)
    check_labels(classes, len(images), name="classes")
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} has outputs of shape {shape}, not maps [B, h, w, c]")

    def score(shift: Array) -> tuple[Array, Array]:
        logits, maps = _shifted(predict, images, layer, shift)
        return jnp.take_along_axis(logits, classes[:, None], -1).sum(), maps

    gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros(shape, images.dtype))
    weights = gradient.mean((1, 2), keepdims=True)
    cam = jax.nn.relu((weights * maps).sum(-1))
    cam = jax.image.resize(cam, images.shape[:3], "bilinear")
    largest = cam.max((1, 2), keepdims=True)
    return cam / jnp.where(largest > 0, largest, 1)
