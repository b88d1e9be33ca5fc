"""3 x 3 convolutions of stride 1 with fewer multiplications: Winograd's F(4 x 4, 3 x 3).

A tile of 4 x 4 outputs needs 6 x 6 inputs. In the transform of Cook and Toom the convolution of a tile is an
entrywise product, which over channels makes 36 matrix products where the direct sum makes 144:

    y   = Aᵀ [(G w Gᵀ) * (Bᵀ x B)] A         a tile of y, from a tile of x and the kernel w
    w's cotangent = Gᵀ [Σ (Bᵀ x B) * (A ȳ Aᵀ)] G    the sum over tiles, of the same transforms

With the points 0, ±1/√2, ±√2 and ∞ float32 errs by about 2e-6 of the largest output; with the usual 0, ±1,
±2, ∞ by five times as much.

Reference: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016); for the points
Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
Networks" (2020).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import polynomial

from transferjax.typing import Array

TILE, TAPS, SPAN = 4, 3, 6
_POINTS = (0, 2**-0.5, -(2**-0.5), 2**0.5, -(2**0.5))  # and infinity


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bᵀ `[6, 6]`, G `[6, 3]` and Aᵀ `[4, 6]`, rows of Bᵀ scaled by powers of two."""
    a = np.array(_POINTS)
    bt, g, at = np.zeros((SPAN, SPAN)), np.zeros((SPAN, TAPS)), np.zeros((TILE, SPAN))
    for j, point in enumerate(a):
        others = np.delete(a, j)
        at[:, j], g[j] = point ** np.arange(TILE), point ** np.arange(TAPS) / np.prod(point - others)
        bt[j, : SPAN - 1] = polynomial.polyfromroots(others)
    at[-1, -1] = g[-1, -1] = 1
    bt[-1] = polynomial.polyfromroots(a)
    scale = 2.0 ** np.round(np.log2(np.abs(bt).max(1, keepdims=True)))
    return bt / scale, g * scale, at


_BT, _G, _AT = _matrices()


def _apply(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """`matrix @ parts`, written out: zeros cost nothing."""
    rows = []
    for row in matrix:
        first, *rest = [float(c) * part for c, part in zip(row, parts, strict=True) if abs(c) > 1e-12]
        rows.append(sum(rest, first))
    return rows


def _both(matrix: np.ndarray, grid: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """`matrix @ grid @ matrixᵀ` of a grid of arrays."""
    columns = [_apply(matrix, column) for column in zip(*grid, strict=True)]
    return [_apply(matrix, row) for row in zip(*columns, strict=True)]


def _strided(x: Array, axis: int, count: int) -> list[Array]:
    """Entry k of every tile, for each k below `count`."""
    last = TILE * ((x.shape[axis] - count) // TILE)
    return [lax.slice_in_dim(x, k, k + last + 1, TILE, axis) for k in range(count)]


def _tiles(x: Array, matrix: np.ndarray) -> list[list[Array]]:
    """`matrix @ tile @ matrixᵀ` of all tiles of x `[B, H, W, C]`: a grid of `[tiles, C]`."""
    count = matrix.shape[1]
    rows = lax.optimization_barrier(tuple(_apply(matrix, _strided(x, 1, count))))
    return [[v.reshape(-1, v.shape[-1]) for v in _apply(matrix, _strided(row, 2, count))] for row in rows]


def forward(x: Array, w: Array) -> Array:
    """The convolution of x `[B, H + 2, W + 2, I]`, padded, and w `[3, 3, I, O]`; 4 divides H and W."""
    batch, (height, width) = x.shape[0], (n - 2 for n in x.shape[1:3])
    kernel = _both(_G, [[w[i, j] for j in range(TAPS)] for i in range(TAPS)])
    images = _tiles(x, _BT)
    products = [[images[i][j] @ kernel[i][j] for j in range(SPAN)] for i in range(SPAN)]
    shape = batch, height // TILE, width // TILE, w.shape[-1]
    out = [[z.reshape(shape) for z in row] for row in _both(_AT, products)]
    return jnp.stack([jnp.stack(row, 3) for row in out], 2).reshape(batch, height, width, -1)


def kernel_gradient(x: Array, ct: Array) -> Array:
    """The cotangent `[3, 3, I, O]` of w, from x `[B, H + 2, W + 2, I]`, padded, and ȳ `[B, H, W, O]`."""
    images, outputs = _tiles(x, _BT), _tiles(ct, _AT.T)
    products = [[images[i][j].T @ outputs[i][j] for j in range(SPAN)] for i in range(SPAN)]
    return jnp.stack([jnp.stack(row) for row in _both(_G.T, products)])
