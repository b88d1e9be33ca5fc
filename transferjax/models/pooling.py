"""Pooling over windows, with derivatives that are fast on CPU.

There XLA sends a maximum's gradient back window by window. A loop over the places of a window, each a
strided slice of the whole batch, is elementwise and fused; the cotangent comes from memory, or each place
would compute anew what leads to it. Milliseconds of the gradient behind some elementwise functions, two
cores, float32:

    images             window, stride   maximum, XLA's and ours   mean, XLA's and ours
    64 x 32² x 24           2, 2              19.0     5.7             3.5    3.4
    32 x 32² x 64           2, 2              22.1     5.9             3.1    3.8
    32 x 32² x 64           3, 2              77.7    10.4            15.0    3.7
    8 x 112² x 64           3, 2             215.3    44.7            49.1   10.7
    8 x 28² x 192           3, 1              48.1    14.0             9.1    8.0
"""

import functools
import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transferjax.devices import runs_on_cpu
from transferjax.models.conv import moved_p
from transferjax.typing import Array

Pads = tuple[tuple[int, int], tuple[int, int]]


def max_pool(x: Array, size: int, stride: int | None = None, padding: int = 0, ceil: bool = False) -> Array:
    """The maximum over `size` x `size` windows; padding never wins. `ceil`: the last window may stick out.

    The gradient goes to the first maximum of a window, as in PyTorch.

    Raises:
        ValueError: an image smaller than the window.
    """
    _check_window("max_pool", x, size, padding)
    stride = stride or size
    rest = [-(n + 2 * padding - size) % stride if ceil else 0 for n in x.shape[1:3]]
    height, width = ((padding, padding + r) for r in rest)
    if runs_on_cpu():
        return _pulled_back_once(_maximum(x, size, stride, (height, width)))
    return nn.max_pool(x, (size, size), (stride, stride), (height, width))


def avg_pool(
    x: Array, size: int, stride: int | None = None, padding: int = 0, count_pad: bool = True
) -> Array:
    """The mean over `size` x `size` windows, padding counted or not.

    Raises:
        ValueError: an image smaller than the window.
    """
    _check_window("avg_pool", x, size, padding)
    stride, pads = stride or size, ((padding, padding), (padding, padding))
    if not runs_on_cpu():
        return nn.avg_pool(x, (size, size), (stride, stride), pads, count_pad)
    total = functools.partial(_total, size=size, stride=stride, pads=pads)
    counts = size**2 if count_pad else total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))
    return _pulled_back_once(total(x)) / counts


def global_pool(x: Array) -> Array:
    """`[B, H, W, C]` -> the mean over space `[B, C]`."""
    return x.mean((1, 2))


def _check_window(what: str, x: Array, size: int, padding: int) -> None:
    if min(x.shape[1:3]) + 2 * padding < size:
        raise ValueError(
            f"{what} of {size} x {size} reached features of {x.shape[1]} x {x.shape[2]}: "
            "the images are too small for this net; give larger images or fewer stages"
        )


def _places(x: Array, size: int, stride: int, pads: Pads, fill: float) -> Iterator[Array]:
    """For each place of a window what lies there in every window: `size²` times `[B, H', W', C]`."""
    x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    last = [(n - size) // stride * stride + 1 for n in x.shape[1:3]]
    for top in range(size):
        for left in range(size):
            yield x[:, top : top + last[0] : stride, left : left + last[1] : stride]


@jax.custom_jvp
def _pulled_back_once(y: Array) -> Array:
    """y. Its cotangent goes back through memory: every place of a window would compute it anew."""
    return y


@_pulled_back_once.defjvp
def _pulled_back_once_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], moved_p.bind(tangents[0], order=(0, 1, 2, 3))


def _total(x: Array, size: int, stride: int, pads: Pads) -> Array:
    return functools.reduce(jnp.add, _places(x, size, stride, pads, 0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _maximum(x: Array, size: int, stride: int, pads: Pads) -> Array:
    return functools.reduce(jnp.maximum, _places(x, size, stride, pads, -math.inf))


@_maximum.defjvp
def _maximum_jvp(
    size: int, stride: int, pads: Pads, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    value = _maximum(*primals, size, stride, pads)
    first = jnp.zeros(value.shape, np.min_scalar_type(size**2))
    places = list(enumerate(_places(*primals, size, stride, pads, -math.inf)))
    for place, found in reversed(places):
        first = jnp.where(found == value, place, first)
    moved = enumerate(_places(*tangents, size, stride, pads, 0))
    return value, functools.reduce(jnp.add, (jnp.where(first == place, part, 0) for place, part in moved))
