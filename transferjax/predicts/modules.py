"""The modules of a Flax net, looked at and changed while it is traced: how anything here selects layers.

A layer is named by the path of its module, or by the end of it: `layer3.0` is a ResNet's first block of the
third stage, `layer3.0/conv1` the convolution in it (see `layers`). Nothing copies a net.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from transferjax.checks import check_images
from transferjax.models.layers import MARKS
from transferjax.typing import Array, Predict

Change = Callable[[nn.Module, Array], Array]
"""(a module, its input or output) -> what takes its place."""


def _unchanged(module: nn.Module, value: Array) -> Array:
    return value


def tapped(predict: Predict, x: Array, after: Change = _unchanged, before: Change = _unchanged) -> Array:
    """`predict(x)`, every module's output replaced by `after` of it, and its first input by `before`.

    Outputs that are no arrays stay as they are. A predict without Flax modules is just called.
    """

    def interceptor(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        output = call(before(module, args[0]), *args[1:], **kwargs) if args else call(**kwargs)
        return after(module, output) if isinstance(output, jax.Array) else output

    with nn.intercept_methods(interceptor):
        return predict(x)


def path_of(module: nn.Module) -> str:
    """Where a module stands in its net, such as `layer3.0/conv1`; the net itself has the empty path."""
    return "/".join(module.path)


def layers(predict: Predict, images: Array) -> dict[str, tuple[int, ...]]:
    """The net's modules by path, in order of evaluation, with the shapes of their outputs."""
    check_images(images)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, output: Array) -> Array:
        if not isinstance(module, MARKS):
            shapes[path_of(module)] = output.shape
        return output

    jax.eval_shape(lambda x: tapped(predict, x, note), images)
    return shapes


def at_layer(
    predict: Predict, layer: str, x: Array, change: Callable[[Array], Array] = lambda output: output
) -> tuple[Array, Array]:
    """The logits, and a layer's output, both after a change of the latter.

    Args:
        predict: of a Flax net.
        layer: a path of `layers`, or the end of one; the first that is evaluated, if several end in it. "" is
            the net itself.
        x: images `[B, H, W, C]`.
        change: what takes the place of the layer's output.

    Raises:
        ValueError: no such layer.
    """
    found: list[Array] = []

    def changed(module: nn.Module, output: Array) -> Array:
        path = path_of(module)
        if found or not (path.endswith(layer) if layer else path == "") or isinstance(module, MARKS):
            return output
        found.append(change(output))
        return found[0]

    logits = tapped(predict, x, changed)
    if not found:
        known = list(layers(predict, x))
        raise ValueError(f"no module of this net has a path that ends in {layer!r}; it has {known}")
    return logits, found[0]


def with_features(predict: Predict, layer: str, x: Array, shift: Array | float = 0.0) -> tuple[Array, Array]:
    """The logits and a layer's output, to which `shift` is added; see `at_layer`."""
    return at_layer(predict, layer, x, lambda output: output + shift)
