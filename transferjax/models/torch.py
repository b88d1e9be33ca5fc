"""Weights from PyTorch and back: because modules carry PyTorch's names, a walk over the tree.

Flax                          PyTorch
params/…/kernel  HWIO, IO     ….weight  OIHW, OI
params/…/scale                ….weight
batch_stats/…/mean, var       ….running_mean, ….running_var
anything else                 its own name and layout
"""

import functools
from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transferjax.models.layers import Net
from transferjax.typing import PyTree

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # axes of a kernel by its rank
_TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0)}
_COUNTER = "num_batches_tracked"

Path = tuple[str, ...]


def torch_name(path: Path) -> str:
    """`("params", "layer1.0", "conv1", "kernel")` -> `"layer1.0.conv1.weight"`."""
    _, *modules, leaf = path
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)]) if path[-1] == "kernel" else tuple(shape)


@functools.lru_cache  # tracing a large net takes a second
def _abstract_leaves(module: Net, channels: int) -> dict[Path, jax.ShapeDtypeStruct]:
    size = module.image_size
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return flatten_dict(jax.eval_shape(module.init, jax.random.key(0), images))


def abstract_variables(module: Net, channels: int = 3) -> PyTree:
    """The shapes and dtypes of a net's variables, for images with that many channels; computes nothing."""
    return unflatten_dict(_abstract_leaves(module, channels))


def input_channels(module: Net, variables: PyTree) -> int:
    """The number of channels of the images that these variables are for."""
    kernels = {torch_name(path): leaf for path, leaf in flatten_dict(variables).items()}
    return kernels[f"{module.stem}.weight"].shape[-2]


def canonical(module: Net, state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors that a net is made of, by the names it gives them; without counters and auxiliary heads.

    Raises:
        ValueError: two tensors for one name.
    """
    tensors: dict[str, np.ndarray] = {}
    for key, value in state_dict.items():
        name = module.canonical(key)
        if name is None or name.endswith(_COUNTER):
            continue
        if name in tensors:
            raise ValueError(f"{key} is a second tensor for {name} of {type(module).__name__}")
        tensors[name] = np.asarray(value)
    return tensors


def import_state_dict(module: Net, state_dict: Mapping[str, Any]) -> PyTree:
    """The variables of `module` from a PyTorch state dict; every tensor is used exactly once.

    Raises:
        ValueError: lists the tensors that are missing, unexpected, or of another shape.
    """
    tensors = canonical(module, state_dict)
    stem = tensors.get(f"{module.stem}.weight")
    channels = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    wanted = _abstract_leaves(module, channels)
    shapes = {torch_name(path): _torch_shape(path, leaf.shape) for path, leaf in wanted.items()}
    _check(module, tensors, shapes)
    found = {}
    for path, leaf in wanted.items():
        name = torch_name(path)
        value = tensors[name].reshape(shapes[name])
        value = value.transpose(_TO_FLAX[value.ndim]) if path[-1] == "kernel" else value
        found[path] = jnp.asarray(value, leaf.dtype)
    return unflatten_dict(found)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal, or a linear layer on flattened features where the reference has it as a convolution (VGG)."""
    return shape == wanted or (
        len(shape) == 2 and len(wanted) == 4 and shape == (wanted[0], prod(wanted[1:]))
    )


def _check(module: Net, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"missing {name} of shape {shapes[name]}" for name in shapes if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in shapes]
    problems += [
        f"{name} has shape {tensors[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in tensors and not _fits(tensors[name].shape, shape)
    ]
    if problems:
        listed = "\n  ".join(problems[:20])
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"this state dict does not fit {type(module).__name__}:\n  {listed}{more}")


def to_torch(variables: PyTree) -> dict[str, np.ndarray]:
    """A PyTorch state dict of NumPy arrays: the inverse of `from_torch`.

    Args:
        variables: `{"params": …, "batch_stats": …}`.

    Returns:
        name -> array; `load_state_dict({k: torch.from_numpy(v) for k, v in to_torch(variables).items()})`.
    """
    tensors = {}
    for path, leaf in flatten_dict(variables).items():
        value = np.asarray(leaf)
        if path[-1] == "kernel":
            value = np.ascontiguousarray(value.transpose(_TO_TORCH[value.ndim]))
        tensors[torch_name(path)] = value
        if path[-1] == "mean":
            tensors[".".join([*path[1:-1], _COUNTER])] = np.zeros((), np.int64)
    return tensors
