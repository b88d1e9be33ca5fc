"""`lax.conv_general_dilated` for nets that run on CPU, where its derivatives inside loops are slow.

primitive   a convolution whose derivatives of every order are fast convolutions
orderings   the rule: which order of its sums is the fastest
winograd    the one that takes fewer multiplications
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from transferjax.devices import runs_on_cpu
from transferjax.models.conv.orderings import NHWC, Pair, extent
from transferjax.models.conv.primitive import conv_p, moved_p
from transferjax.typing import Array

__all__ = ["conv_general_dilated", "conv_p", "moved_p"]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=…)`, with derivatives fast on CPU.

    The same values and derivatives of every order. Groups, other layouts than NHWC/HWIO, results without
    entries and other platforms than CPU go to `lax` unchanged.

    Args:
        lhs: images `[B, H, W, I]`.
        rhs: kernels `[h, w, I, O]`.
        window_strides, padding, …: as in `lax.conv_general_dilated`.

    Returns:
        `[B, H', W', O]`.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    nhwc = lhs.ndim == 4 and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
    spread, dilation = tuple(lhs_dilation or (1, 1)), tuple(rhs_dilation or (1, 1))
    if not nhwc or feature_group_count != 1 or not runs_on_cpu():
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
        )
    strides = tuple(window_strides)
    kernel = [extent(n, d) for n, d in zip(rhs.shape[:2], dilation, strict=True)]
    image = [extent(n, s) for n, s in zip(lhs.shape[1:3], spread, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(image, kernel, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    if any(i + sum(pad) < k for i, pad, k in zip(image, pads, kernel, strict=True)):
        return lax.conv_general_dilated(lhs, rhs, strides, pads, spread, dilation, NHWC, precision=precision)
    if lhs.shape[1:3] == rhs.shape[:2] and spread == dilation == (1, 1) and not any(map(any, pads)):
        # At one place, as in the first linear layer of a VGG: its derivatives are products too.
        return jnp.tensordot(lhs, rhs, ((1, 2, 3), (0, 1, 2)), precision=precision)[:, None, None]
    params = {"strides": strides, "pads": pads, "dilation": dilation, "spread": spread}
    return conv_p.bind(lhs, rhs, **params, precision=precision)
