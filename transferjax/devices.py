"""Where code runs: a function of a batch split over this process's devices; whether that is a CPU."""

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


def runs_on_cpu() -> bool:
    """Where the code being traced will run, as far as tracing can tell: the default device or back end.

    The numbers are the same either way; a wrong guess costs time, never correctness. That is why this is not
    `lax.platform_dependent`, whose branches would all be differentiated, and stored, for nothing.
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"
