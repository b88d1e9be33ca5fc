"""A function of a batch of examples, compiled for one device or split over this process's."""

from collections.abc import Callable
from typing import Any

import jax

from transferjax.typing import PyTree


def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(examples, shared) -> [B, …]`, compiled.

    Args:
        function: pure; each example's result hangs on the example and on what is shared alone.

    Returns:
        The same function; its examples must divide over the devices, if there are several.
    """
    devices = jax.local_device_count()
    if devices == 1:
        return jax.jit(function)
    split = jax.pmap(function, in_axes=(0, None))

    def over_all(examples: PyTree, shared: PyTree) -> PyTree:
        parts = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), examples)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), split(parts, shared))

    return over_all
