"""Weights from PyTorch and back: because modules carry PyTorch's names, a walk over the tree.

Flax                          PyTorch
params/…/kernel  HWIO, IO     ….weight  OIHW, OI
params/…/scale                ….weight
batch_stats/…/mean, var       ….running_mean, ….running_var
anything else                 its own name and layout
"""

import functools
import warnings
from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transferjax.models.layers import Net
from transferjax.models.weights.layouts import TO_FLAX, TO_TORCH
from transferjax.models.weights.names import COUNTER, own_tensors, some
from transferjax.models.weights.proposals import propose_names
from transferjax.typing import PyTree

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

Path = tuple[str, ...]


def torch_name(path: Path) -> str:
    """`("params", "layer1.0", "conv1", "kernel")` -> `"layer1.0.conv1.weight"`."""
    _, *modules, leaf = path
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in TO_TORCH[len(shape)]) if path[-1] == "kernel" else tuple(shape)


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


def import_state_dict(module: Net, state_dict: Mapping[str, Any]) -> PyTree:
    """The variables of `module` from a PyTorch state dict; every tensor is used exactly once.

    Warns of a prefix that was taken off the names, of what was left out because it is not the net's, and of
    NaN and infinities.

    Raises:
        ValueError: lists the tensors that are missing, unexpected, or of another shape.
    """
    tensors, rest, notes = own_tensors(module, state_dict)
    stem = tensors.get(f"{module.stem}.weight")
    channels = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    wanted = _abstract_leaves(module, channels)
    shapes = {torch_name(path): _torch_shape(path, leaf.shape) for path, leaf in wanted.items()}
    _check(module, tensors, shapes, rest)
    if broken := [name for name in shapes if not np.isfinite(tensors[name]).all()]:
        notes.append(f"not finite, so whatever trained them diverged: {some(broken)}")
    if notes:
        warnings.warn(f"weights for {type(module).__name__}: {'; '.join(notes)}", stacklevel=3)
    found = {}
    for path, leaf in wanted.items():
        name = torch_name(path)
        value = tensors[name].reshape(shapes[name])
        value = value.transpose(TO_FLAX[value.ndim]) if path[-1] == "kernel" else value
        found[path] = jnp.asarray(value, leaf.dtype)
    return unflatten_dict(found)


LISTED = 6
"""So many tensors of each kind are named where weights do not fit."""


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal, but for dimensions of one (ConvNeXt), or a linear layer where ours is a convolution (VGG)."""
    if len(shape) == 2 and len(wanted) == 4:
        return shape == (wanted[0], prod(wanted[1:]))
    return [n for n in shape if n > 1] == [n for n in wanted if n > 1]


def _problems(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    """What does not fit, in words; empty if all does."""
    missing, unexpected = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    problems = {
        "missing": [f"missing {name} of shape {shapes[name]}" for name in missing],
        "unexpected": [f"unexpected {name} of shape {tensors[name].shape}" for name in unexpected],
        "of another shape": [
            f"{name} has shape {tensors[name].shape}, expected {shape}"
            for name, shape in shapes.items()
            if name in tensors and not _fits(tensors[name].shape, shape)
        ],
    }
    return problems if any(problems.values()) else {}


def _proposal(module: Net, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Names that would fit, as a line of the message."""
    names = propose_names(module, {name: t.shape for name, t in tensors.items()}, shapes)
    if not names:
        return ""
    return (
        f"\n  by shape and order these names fit: from_torch(…, names={names})"
        "\n  check the accuracy with them: layers of one shape may be exchanged"
    )


def _check(
    module: Net, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], rest: list[str]
) -> None:
    if problems := _problems(tensors, shapes):
        problems["unexpected"] += [f"unexpected {name}, which lies elsewhere" for name in rest]
        lines = []
        for kind, found in problems.items():  # some of each: a missing name and its other spelling
            lines += found[:LISTED]
            lines += [f"… and {len(found) - LISTED} more {kind}"] if len(found) > LISTED else []
        proposal = _proposal(module, tensors, shapes)
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in problems.items() if found)
        another = 2 * len(problems["missing"] + problems["of another shape"]) > len(shapes)
        hint = ": is it of another architecture?" if another and not proposal else ""
        raise ValueError(
            f"this state dict does not fit {type(module).__name__}, of whose {len(shapes)} tensors it has "
            f"{len(shapes) - len(problems['missing'])} ({counts}){hint}\n  " + "\n  ".join(lines) + proposal
        )


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
            value = np.ascontiguousarray(value.transpose(TO_TORCH[value.ndim]))
        tensors[torch_name(path)] = value
        if path[-1] == "mean":
            tensors[".".join([*path[1:-1], COUNTER])] = np.zeros((), np.int64)
    return tensors
