"""Arrays of Flax and Keras as PyTorch has them: names, and the axes of kernels.

Flax, Keras                     PyTorch
…/kernel    HWIO, IO            ….weight  OIHW, OI
…/depthwise_kernel  HWCM        ….weight  (CM)1HW
…/gamma, scale                  ….weight
…/beta                          ….bias
…/moving_mean, mean             ….running_mean
…/moving_variance, var          ….running_var
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
"""Axes of a kernel by its rank: HWIO -> OIHW, IO -> OI."""
TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0)}
_KERNELS = ("kernel", "depthwise_kernel")
_NORM = {
    "gamma": "weight",
    "scale": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "mean": "running_mean",
    "moving_variance": "running_var",
    "var": "running_var",
}
_COLLECTIONS = ("params.", "batch_stats.")


def torch_layout(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict; if its layers have kernels, as Flax's and Keras' do, with PyTorch's names and axes."""
    plain = {name: _plain(name) for name in state_dict}
    if not any(name.rpartition(".")[2] in _KERNELS for name in plain.values()):
        return dict(state_dict)
    return dict(_tensor(plain[name], value) for name, value in state_dict.items())


def _plain(name: str) -> str:
    name = name.removesuffix(":0").replace("/", ".")
    for collection in _COLLECTIONS:
        name = name.removeprefix(collection)
    return name


def _tensor(name: str, value: Any) -> tuple[str, np.ndarray]:
    layer, dot, leaf = name.rpartition(".")
    array = np.asarray(value)
    if leaf == "depthwise_kernel" and array.ndim == 4:
        array = array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2])
    elif leaf == "kernel" and array.ndim in TO_TORCH:
        array = array.transpose(TO_TORCH[array.ndim])
    leaf = "weight" if leaf in _KERNELS else _NORM.get(leaf, leaf)
    return f"{layer}{dot}{leaf}", array


def is_hwio(tensors: Mapping[str, Any]) -> bool:
    """Whether kernels under PyTorch's names are HWIO: some are square in front, and none is behind alone."""
    shapes = [np.shape(v) for name, v in tensors.items() if name.endswith("weight") and np.ndim(v) == 4]
    front = [h == w and i != o for h, w, i, o in shapes]
    behind = [h == w and i != o for o, i, h, w in shapes]
    return any(front) and not any(behind)


def transposed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels HWIO and IO under PyTorch's names, with PyTorch's axes."""
    return {
        name: value.transpose(TO_TORCH[value.ndim])
        if name.rpartition(".")[2] == "weight" and value.ndim in TO_TORCH
        else value
        for name, value in tensors.items()
    }


def renamed(state_dict: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The tensors under other names.

    Args:
        names: theirs -> ours, of layers (`a` stands for `a.weight` and `a.bias`) or of tensors.

    Raises:
        ValueError: a name that nothing has, or two tensors for one.
    """
    tensors, used, found = torch_layout(state_dict), set(), {}
    for name, value in tensors.items():
        layer, dot, leaf = name.rpartition(".")
        key = name if name in names else layer if layer in names else None
        used |= {key}
        new = name if key is None else names[name] if key == name else f"{names[layer]}{dot}{leaf}"
        if new in found:
            raise ValueError(f"names has a second tensor for {new}: {name}")
        found[new] = value
    if unused := [name for name in names if name not in used]:
        raise ValueError(f"names has {unused[:5]}, which no tensor and no layer is called")
    return found
