"""Models from elsewhere: any JAX function, which is a full `Predict`, and PyTorch modules.

A PyTorch module has no gradient here: it is a target, for evaluation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from transferjax.host import RowsFn, host_call
from transferjax.typing import Array, Predict, PyTree


def from_callable(function: Callable[..., Array], variables: PyTree = None) -> Predict:
    """A `Predict` from any JAX function of images `[B, H, W, C]` in [0, 1] that returns logits `[B, K]`.

    Args:
        function: `(images) -> logits`, or `(variables, images) -> logits` if variables are given: weights
            that are passed are arguments of the compiled program, weights that are closed over are constants
            in it.
        variables: a pytree of weights.
    """
    if variables is None:
        return jax.tree_util.Partial(function)
    return jax.tree_util.Partial(function, variables)


def torch_target(module: Any, num_classes: int, device: str = "cpu") -> Predict:
    """A `Predict` without gradient around a PyTorch module that takes NCHW images in [0, 1].

    It works inside `jit` (as a call of the host), and raises a TypeError where a gradient is asked for.
    Images are cast to the type of the module's parameters, logits to float32.

    Args:
        module: a `torch.nn.Module`; put into evaluation mode. Its normalization must lie inside. It returns
            a tensor, or what holds one: `logits` of that name, or the only `[B, K]` of a tuple or dictionary.
        num_classes: K, the width of the logits.
        device: where PyTorch computes.

    Raises:
        ValueError: when it is called or traced, if no logits `[B, K]` come out.
    """
    import torch

    module = module.to(device).eval()
    weights = (*module.parameters(), *module.buffers())
    dtype = next((w.dtype for w in weights if w.is_floating_point()), torch.float32)

    def on_host(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            output = module(x.to(device, dtype))
        return _logits(output, (len(images), num_classes)).float().cpu().numpy()

    return without_gradient(on_host, num_classes, "a torch_target", on_host)


def without_gradient(
    function: RowsFn, num_classes: int, name: str, rehearse: Callable[[np.ndarray], object] | None = None
) -> Predict:
    """A `Predict` that calls the host, inside `jit` too; a TypeError where a gradient is asked for.

    Args:
        function: images `[B, H, W, C]`, NumPy -> logits `[B, num_classes]`, float32; see `host_call`.
        num_classes: K.
        name: what the error calls it.
        rehearse: called with a few black images when a program is traced, so that a mistake shows there, and
            not as the trace of a running program.
    """

    @jax.custom_jvp
    def predict(images: Array) -> Array:
        if rehearse is not None and isinstance(images, jax.core.Tracer):
            rehearse(np.zeros((min(2, images.shape[0]), *images.shape[1:]), np.float32))
        return host_call(function, images, num_classes)

    @predict.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        raise TypeError(f"{name} has no gradient: attack a surrogate, and evaluate here")

    return jax.tree_util.Partial(predict)


def _logits(output: Any, shape: tuple[int, int]) -> Any:
    """The tensor of logits in what a PyTorch module returned."""
    output = getattr(output, "logits", output)
    output = output.get("logits", output) if isinstance(output, Mapping) else output
    if isinstance(output, tuple | list):
        output = dict(enumerate(output))
    parts = output if isinstance(output, Mapping) else {type(output).__name__: output}
    fitting = [part for part in parts.values() if getattr(part, "shape", None) == shape]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{name} {list(getattr(part, 'shape', '?'))}" for name, part in parts.items())
    raise ValueError(
        f"expected logits {list(shape)}, [images, num_classes]; the module gave {found}: check num_classes, "
        "or wrap the module in one that returns its logits alone"
    )
