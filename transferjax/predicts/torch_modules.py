"""PyTorch modules as predicts: logits and their gradient, computed by PyTorch on the host."""

import math
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from transferjax.extras import require
from transferjax.host import host_call
from transferjax.typing import Array, Predict


def from_torch_module(module: Any, num_classes: int | None = None, device: Any = None) -> Predict:
    """A `Predict` around a PyTorch module that takes NCHW images in [0, 1]: a target, and a surrogate too.

    Works inside `jit`, `vmap`, `scan` and `craft`. Its gradient, `Jᵀ v`, is PyTorch's, with one more forward
    pass; so is the gradient of that, which curvature takes: a product with the input Hessian is a forward
    pass, a backward pass and the backward pass of that. There is no third derivative, and none in forward
    mode (`jax.jvp`): the Gauss-Newton part of `metrics.input_hessian_eigenvalues` needs a net in JAX. Images
    are cast to the type of the module's parameters; logits and gradients are float32. What the module wants
    to see of an image says a `Preprocessing` around it.

    Args:
        module: a `torch.nn.Module`; put into evaluation mode, and asked at every call whether it still is. It
            returns a tensor, or what holds one: `logits` of that name, or the only `[B, K]` of a tuple or
            dictionary.
        num_classes: K, the width of the logits; found by running the module once if None.
        device: where PyTorch computes; where the parameters are, if None.

    Raises:
        ValueError: a module that is partly in training mode, or is again; when it is called or traced, if no
            logits `[B, K]` come out, or if they do not depend on the images in a way that PyTorch can see.
        TypeError: where a third derivative is asked for, or a second one of what PyTorch has but one of.
    """
    require("torch", "PyTorch modules")
    return jax.tree_util.Partial(_differentiable(_Host(module, num_classes, device)))


def _differentiable(host: "_Host") -> Predict:
    """`host.logits`, with the derivatives that it has."""

    @jax.custom_vjp
    def predict(images: Array) -> Array:
        return host_call(host.logits, images, host.width(images))

    @jax.custom_vjp
    def pullback(images: Array, cotangents: Array) -> Array:
        return host_call(host.pullback, (images, cotangents), images.shape[1:])

    @jax.custom_jvp
    def second(images: Array, cotangents: Array, directions: Array) -> Array:
        columns = math.prod(images.shape[1:]) + cotangents.shape[-1]
        return host_call(host.second, (images, cotangents, directions), columns)

    @second.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        raise TypeError(
            "a PyTorch module has first and second derivatives alone: a third one needs a net in JAX, such "
            "as models.from_torch of its weights, where the zoo has its architecture"
        )

    def pulled(images: Array, cotangents: Array) -> tuple[Array, tuple[Array, Array]]:
        host.check_second(images)
        return pullback(images, cotangents), (images, cotangents)

    def back(given: tuple[Array, Array], directions: Array) -> tuple[Array, Array]:
        images, cotangents = given
        both = second(images, cotangents, directions)
        size = math.prod(images.shape[1:])
        of_images = both[:, :size].reshape(images.shape)
        return of_images.astype(images.dtype), both[:, size:].astype(cotangents.dtype)

    pullback.defvjp(pulled, back)

    def forward(images: Array) -> tuple[Array, Array]:
        host.check_gradient(images)
        return predict(images), images

    predict.defvjp(forward, lambda images, ct: (pullback(images, ct).astype(images.dtype),))
    return predict


class _Host:
    """The module, as functions of NumPy arrays."""

    def __init__(self, module: Any, num_classes: int | None, device: Any) -> None:
        import torch

        modes = {part.training for part in module.modules()}
        if modes == {True, False} and not module.training:
            raise ValueError(
                f"parts of the module are in training mode: {_training(module)}; call .eval() on all of it"
            )
        self.module = module.eval() if device is None else module.to(device).eval()
        weights = (*module.parameters(), *module.buffers())
        floats = [w for w in weights if w.is_floating_point()]
        self.dtype = floats[0].dtype if floats else torch.float32
        self.device = device or (weights[0].device if weights else "cpu")
        self.num_classes = num_classes
        self.widths: dict[tuple[int, ...], int] = {}
        self.lock = threading.Lock()  # JAX's devices are threads, and a module is none's

    def width(self, images: Array) -> int:
        """K; a mistake shows here, when a program is traced, and not as the trace of one that runs."""
        shape = images.shape[1:]
        if shape not in self.widths:
            count = min(2, images.shape[0])
            self.widths[shape] = self.logits(np.zeros((count, *shape), np.float32)).shape[-1]
        return self.widths[shape]

    def check_gradient(self, images: Array) -> None:
        """Raises where the logits do not hang on the images."""
        self.pullback(np.zeros((1, *images.shape[1:]), np.float32), None)

    def check_second(self, images: Array) -> None:
        """Raises where PyTorch has no derivative of the gradient."""
        x = np.zeros((1, *images.shape[1:]), np.float32)
        try:
            self.second(x, np.ones((1, self.width(images)), np.float32), x)
        except (RuntimeError, NotImplementedError) as error:
            said = " ".join(str(error).split())[:200]
            raise TypeError(
                f"PyTorch has no second derivative of {type(self.module).__name__}: {said}"
            ) from error

    def logits(self, images: np.ndarray) -> np.ndarray:
        import torch

        with self.lock, torch.no_grad():
            return self._run(self._tensor(images)).cpu().numpy()

    def pullback(self, images: np.ndarray, cotangents: np.ndarray | None) -> np.ndarray:
        import torch

        with self.lock, torch.enable_grad():
            x = self._tensor(images).requires_grad_()
            logits = self._run(x)
            if not logits.requires_grad:
                raise ValueError(
                    "the module's logits have no gradient with respect to its images (no_grad, detach or "
                    "NumPy inside): it can be a target, and no surrogate"
                )
            ct = torch.ones_like(logits) if cotangents is None else self._plain(cotangents)
            [gradient] = torch.autograd.grad(logits, x, ct)
        return np.ascontiguousarray(gradient.float().cpu().numpy().transpose(0, 2, 3, 1))

    def second(self, images: np.ndarray, cotangents: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """`[B, H W C + K]`: the derivatives of `<directions, Jᵀ cotangents>` by images and cotangents."""
        import torch

        with self.lock, torch.enable_grad(), _twice_differentiable():
            x, ct = self._tensor(images).requires_grad_(), self._plain(cotangents).requires_grad_()
            [gradient] = torch.autograd.grad(self._run(x), x, ct, create_graph=True)
            _check_graph(gradient)
            along = self._tensor(directions)
            both = torch.autograd.grad(gradient, (x, ct), along, allow_unused=True, materialize_grads=True)
        by_image, by_cotangent = (part.detach().float().cpu().numpy() for part in both)
        return np.concatenate([by_image.transpose(0, 2, 3, 1).reshape(len(images), -1), by_cotangent], 1)

    def _plain(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.array(array, np.float32)).to(self.device)

    def _tensor(self, images: np.ndarray) -> Any:
        return self._plain(images.transpose(0, 3, 1, 2)).to(self.dtype)

    def _run(self, x: Any) -> Any:
        """float32 logits `[B, K]`."""
        if training := _training(self.module):
            raise ValueError(
                f"the module is in training mode again: {training}; call .eval() after whatever trained it"
            )
        return find_logits(self.module(x), len(x), self.num_classes).float()


def _twice_differentiable() -> Any:
    """Attention by its formula: PyTorch's faster ones have a first derivative alone."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def _check_graph(gradient: Any) -> None:
    """Raises for an operation that has no derivative; PyTorch, asked for some inputs, would go around it."""
    seen, waiting = set(), [gradient.grad_fn]
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == "Error":
            raise RuntimeError("an operation in it is marked as once_differentiable")
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [other for other, _ in node.next_functions]


def _training(module: Any) -> str:
    names = [f"{name or 'all of it'} ({type(part).__name__})" for name, part in module.named_modules()
             if part.training]  # fmt: skip
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def find_logits(output: Any, count: int, num_classes: int | None) -> Any:
    """The tensor of logits `[count, num_classes]` in what a PyTorch module returned.

    Raises:
        ValueError: none, or several.
    """
    output = getattr(output, "logits", output)
    output = output.get("logits", output) if isinstance(output, Mapping) else output
    if isinstance(output, tuple | list):
        output = dict(enumerate(output))
    parts = output if isinstance(output, Mapping) else {type(output).__name__: output}

    def fits(shape: Any) -> bool:
        return (
            shape is not None and len(shape) == 2 and (shape[0], shape[1]) == (count, num_classes or shape[1])
        )

    fitting = [part for part in parts.values() if fits(getattr(part, "shape", None))]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{name} {list(getattr(part, 'shape', '?'))}" for name, part in parts.items())
    raise ValueError(
        f"expected logits {[count, num_classes or 'K']}, [images, num_classes]; the module gave {found}: "
        "check num_classes, or wrap the module in one that returns its logits alone"
    )
