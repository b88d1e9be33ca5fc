"""Nets of other libraries of JAX, and any JAX function, as a full `Predict`."""

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from transferjax.models.modes import in_mode
from transferjax.models.predict import predictor
from transferjax.predicts.torch_modules import from_torch_module
from transferjax.typing import Array, Predict, PyTree

torch_target = from_torch_module
"""Its name while a PyTorch module had no gradient here."""


def from_callable(function: Any, variables: PyTree = None, *, batched: bool = True) -> Predict:
    """A `Predict` from what JAX can call on images `[B, H, W, C]` in [0, 1] to get logits `[B, K]`.

    A net with a training mode is put into evaluation mode, whatever mode it is in and however it is told: by
    `train`, `training`, `deterministic`, … of the call, by attributes (NNX, Equinox). The net that was given
    stays as it is. Its arrays are leaves of the predict, as `jit` wants them.

    Args:
        function: `(images) -> logits`; an NNX module; an Equinox module, or another pytree that is callable;
            with `variables` a Linen module, or `(variables, images) -> logits`. Weights that a function
            closes over are constants of the compiled program.
        variables: a pytree of weights; of a Linen module `{"params": …}` and what else it has.
        batched: whether it takes a batch; False for one image at a time, as Equinox's nets do. For images
            `[C, H, W]` put a `Preprocessing(layout="NCHW")` around it.

    Raises:
        TypeError: what cannot be called.
    """
    if getattr(function, "__name__", "") == "apply" and _is("flax.linen", "Module", _owner(function)):
        function = _owner(function)
    if not callable(function):
        raise TypeError(
            f"expected a function or a net; got {type(function).__name__}, which cannot be called"
        )
    if _is("flax.linen", "Module", function):
        if variables is None:
            raise TypeError(f"{type(function).__name__} is a Linen module: give its variables too")
        return one_at_a_time(predictor(function, variables), batched)
    if _is("flax.nnx", "Module", function):
        return one_at_a_time(_from_nnx(function), batched)
    if _is("equinox", "Module", function):
        function = sys.modules["equinox"].nn.inference_mode(function)
    call = _Call.of(function)
    arguments = () if variables is None else (variables,)
    return one_at_a_time(jax.tree_util.Partial(call, call.arrays_of(function), *arguments), batched)


def one_at_a_time(predict: Predict, batched: bool) -> Predict:
    """The predict of batches, of one that takes a single image unless it is `batched` already."""
    return predict if batched else jax.tree_util.Partial(_each, predict)


def _each(predict: Predict, images: Array) -> Array:
    return jax.vmap(predict)(images)


def _owner(method: Any) -> Any:
    return getattr(method, "__self__", None)


def _is(module: str, name: str, value: Any) -> bool:
    """Whether it is of a class of a library; one that was never imported has no objects."""
    found = sys.modules.get(module)
    return found is not None and isinstance(value, getattr(found, name))


def _from_nnx(module: Any) -> Predict:
    from flax import nnx

    graph, state = nnx.split(module)
    return jax.tree_util.Partial(_Nnx(graph), state)


@dataclass(frozen=True)
class _Nnx:
    """What an NNX module is without its arrays; every call has a copy of its own, in evaluation mode."""

    graph: Any

    def __call__(self, state: PyTree, images: Array) -> Array:
        from flax import nnx

        module = nnx.merge(self.graph, state)
        module.eval()
        return module(images, **in_mode(module, train=False))


class _Leaf(NamedTuple):
    """Stands for an array."""


@dataclass(frozen=True)
class _Call:
    """What a callable is without its arrays: all of it, unless it is a pytree."""

    structure: Any
    fixed: tuple[Any, ...]

    @classmethod
    def of(cls, function: Any) -> "_Call":
        leaves, structure = jax.tree.flatten(function)
        if len(leaves) == 1 and leaves[0] is function:
            return cls(None, (function,))
        return cls(structure, tuple(_Leaf() if _is_array(leaf) else leaf for leaf in leaves))

    def arrays_of(self, function: Any) -> list[Array]:
        return [leaf for leaf in jax.tree.leaves(function) if _is_array(leaf)]

    def __call__(self, arrays: list[Array], *inputs: Any) -> Array:
        function, left = self.fixed[0], iter(arrays)
        if self.structure is not None:
            leaves = [next(left) if isinstance(leaf, _Leaf) else leaf for leaf in self.fixed]
            function = jax.tree.unflatten(self.structure, leaves)
        return function(*inputs, **in_mode(function, train=False))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
