"""Input transformations `(keys, x, number of the sample) -> x`, for `gradients.average`.

Each image has a draw of its own (the torch libraries draw once for a batch), so an image's attack does not
depend on its neighbours. All shapes are fixed: resizing is a product with a random matrix, shuffling a
gather.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.projections import uniform
from transferjax.attacks.rules import InputTransform
from transferjax.checks import check_images
from transferjax.random import fold_in, sample
from transferjax.typing import Array, Key


def in_turn(*transforms: InputTransform) -> InputTransform:
    """One transformation after the other, the first one first; each draws from keys of its own."""

    def transform(keys: Key, x: Array, number: Array | int) -> Array:
        for place, one in enumerate(transforms):
            x = one(fold_in(keys, place), x, number)
        return x

    return transform


def noise_of_radii(radii: Sequence[float | Array], norm: str = "linf") -> InputTransform:
    """`x + r u` with u uniform in the norm's unit ball and r one of the radii, as likely as the others."""
    draw = uniform(norm, 1.0)

    def transform(keys: Key, x: Array, _: Array | int) -> Array:
        chosen = sample(jax.random.randint, fold_in(keys, 0), (), 0, len(radii))
        radius = jnp.stack([jnp.asarray(r, x.dtype) for r in radii])[chosen]
        return x + radius[:, None, None, None] * draw(fold_in(keys, 1), jnp.zeros_like(x))

    return transform


def halve(_: Key, x: Array, number: Array | int) -> Array:
    """`x / 2ⁿ`, the n-th copy of the scale-invariant method.

    Reference: Lin et al., ICLR 2020.
    """
    return x * jnp.exp2(-jnp.asarray(number, x.dtype))


def bilinear_taps(place: Array, size: Array | int, to: Array | int) -> tuple[Array, Array, Array]:
    """Bilinear resizing from `size` to `to` pixels: the two sources of a place, and the second's weight."""
    source = jnp.maximum((place + 0.5) * size / to - 0.5, 0)
    low = jnp.minimum(jnp.floor(source), size - 1).astype(jnp.int32)
    return low, jnp.minimum(low + 1, size - 1), source - low


def _resize_matrix(size: int, to: Array | int, canvas: int, offset: Array | int) -> Array:
    """`[canvas, size]`: bilinear resizing from `size` to `to` pixels, laid on a black canvas at `offset`."""
    place = jnp.arange(canvas) - offset
    low, high, weight = bilinear_taps(place, size, to)
    weight = weight[:, None]
    matrix = (1 - weight) * jax.nn.one_hot(low, size) + weight * jax.nn.one_hot(high, size)
    return jnp.where(((place >= 0) & (place < to))[:, None], matrix, 0)


Size = tuple[int, int]
AnySize = tuple[int | Array, int | Array]


def on_canvas(key: Key, x: Array, low: AnySize, canvas: Size, back: Size | None = None) -> Array:
    """One image `[H, W, C]`, resized to a random size and laid at a random place on a black canvas.

    Args:
        key: one key.
        low: the smallest (height, width), which may be traced; sizes lie between it and the canvas, which is
            excluded.
        canvas: (height, width).
        back: what to resize the canvas to; None leaves it.
    """
    scale, *sides = jax.random.split(key, 3)
    u = jax.random.uniform(scale)  # one draw for both sides keeps the proportions
    matrices = []
    for axis, side in enumerate(sides):
        to = low[axis] + jnp.floor(u * jnp.maximum(canvas[axis] - low[axis], 1)).astype(jnp.int32)
        offset = jax.random.randint(side, (), 0, jnp.maximum(canvas[axis] - to, 1))
        matrix = _resize_matrix(x.shape[axis], to, canvas[axis], offset)
        if back is not None:
            matrix = _resize_matrix(canvas[axis], back[axis], back[axis], 0) @ matrix
        matrices.append(matrix.astype(x.dtype))
    return jnp.einsum("ih,hwc,jw->ijc", matrices[0], x, matrices[1])


def diversity(
    rate: float | tuple[float, float] = 0.9, prob: float = 0.5, *, resize_back: bool = False
) -> InputTransform:
    """With probability `prob`: resize to a random size and lay it at a random place on a black canvas.

    Args:
        rate: sizes lie between `rate · size` and `size`; above 1, between `size` and `rate · size`. Of two
            numbers, one between them is drawn for each image and step; the canvas then is always brought
            back to the image's own size, on which an image that a rate r enlarges is at least 1/r of it.
        prob: of transforming an image at all.
        resize_back: return to the image's own size; a rate above 1 needs it.

    Reference: Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity", CVPR
    2019. The official code of the S&P 2024 paper draws rates from 0.75 to 1.5 and leaves large canvases.
    """
    if isinstance(rate, tuple):
        return _of_random_rate(*rate, prob)
    if rate > 1 and not resize_back:
        raise ValueError(f"rate={rate} enlarges the image; fixed shapes need resize_back=True")

    small, large = sorted((1.0, rate))

    def one(key: Key, x: Array) -> Array:
        on, draw = jax.random.split(key)
        size = x.shape[0], x.shape[1]
        low, canvas = ((math.floor(size[0] * s), math.floor(size[1] * s)) for s in (small, large))
        back = size if resize_back else None
        return jnp.where(jax.random.bernoulli(on, prob), on_canvas(draw, x, low, canvas, back), x)

    return lambda keys, x, _: jax.vmap(one)(keys, x)


def _of_random_rate(low: float, high: float, prob: float) -> InputTransform:
    """`diversity` with a rate that is drawn anew; all on a canvas of the image's own size."""
    if not low < high:
        raise ValueError(f"rate={(low, high)}: expected the smaller number first")

    def one(key: Key, x: Array) -> Array:
        on, draw, of = jax.random.split(key, 3)
        rate = jax.random.uniform(of, minval=low, maxval=high)
        size = x.shape[0], x.shape[1]
        share = jnp.minimum(rate, 1 / rate)
        smallest = tuple(jnp.floor(side * share).astype(jnp.int32) for side in size)
        shrunk = on_canvas(draw, x, (smallest[0], smallest[1]), size)
        return jnp.where(jax.random.bernoulli(on, prob), shrunk, x)

    return lambda keys, x, _: jax.vmap(one)(keys, x)


def admix(pool: Array, ratio: float = 0.2) -> InputTransform:
    """`x + ratio · x'`, x' a random image of the pool.

    Args:
        pool: images `[P, H, W, C]` in [0, 1], of other classes; from the data set, not the batch, so that an
            attack does not depend on who shares the batch.
        ratio: η.

    Reference: Wang et al., "Admix", ICCV 2021; their code mixes with images of the same batch.
    """
    check_images(pool, "pool")

    def transform(keys: Key, x: Array, _: Array | int) -> Array:
        chosen = sample(jax.random.randint, keys, (), 0, len(pool))
        return x + ratio * jnp.asarray(pool, x.dtype)[chosen]

    return transform


def lower_ends(regions: int = 2) -> InputTransform:
    """Every value lowered to the end of its region; a channel's range is cut at `regions - 1` random values.

    Reference: Ren et al. (MuMoDIG), AAAI 2025.
    """
    if regions < 1:
        raise ValueError(f"regions={regions}: expected at least 1")

    def transform(keys: Key, x: Array, _: Array | int) -> Array:
        least, most = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
        shares = sample(jax.random.uniform, keys, (regions - 1, 1, 1, x.shape[-1]), x.dtype)
        end = jnp.broadcast_to(least, x.shape)
        for number in range(regions - 1):
            value = least + shares[:, number] * (most - least)
            end = jnp.where(x >= value, jnp.maximum(end, value), end)
        return end

    return transform


def dct_matrix(size: int) -> np.ndarray:
    """The orthonormal DCT-II `[size, size]`: `D @ x` are the coefficients, `D.T @ c` the signal."""
    k, n = np.mgrid[:size, :size]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    matrix[0] /= np.sqrt(2)
    return matrix


def spectrum(sigma: float, rho: float = 0.5, norm: str = "linf") -> InputTransform:
    """`IDCT(DCT(x + sigma · n) · m)`, n normal and m uniform in `[1 - rho, 1 + rho]`: other nets' spectra.

    `sigma` is the noise of a pixel, or for norm="l2" the (root mean square) length of the noise of an image.

    Reference: Long et al., "Frequency Domain Model Augmentation for Adversarial Attack", ECCV 2022.
    """

    def transform(keys: Key, x: Array, _: Array | int) -> Array:
        noise = sample(jax.random.normal, fold_in(keys, 0), x.shape[1:], x.dtype)
        noise = noise / math.sqrt(math.prod(x.shape[1:])) if norm == "l2" else noise
        mask = sample(jax.random.uniform, fold_in(keys, 1), x.shape[1:], x.dtype, 1 - rho, 1 + rho)
        rows, columns = (jnp.asarray(dct_matrix(size), x.dtype) for size in x.shape[1:3])
        coefficients = jnp.einsum("ih,bhwc,jw->bijc", rows, x + sigma * noise, columns)
        return jnp.einsum("ih,bijc,jw->bhwc", rows, coefficients * mask, columns)

    return transform


def _shuffle_line(key: Key, size: int, blocks: int | Array, most: int) -> tuple[Array, Array, Array]:
    """Cuts a line at random and shuffles the pieces; those beyond the first `blocks` of `most` are empty.

    Returns, for every place `[size]`: the piece that lies there and its source; and the cuts `[most + 1]`.
    """
    lengths, order = jax.random.split(key)
    drawn = jax.random.uniform(lengths, (most,), minval=1e-3)
    share = jnp.cumsum(jnp.where(jnp.arange(most) < blocks, drawn, 0))
    cuts = jnp.concatenate([jnp.zeros(1), jnp.round(share / share[-1] * size)])
    order = jnp.argsort(jax.random.uniform(order, (most,)))
    ends = jnp.cumsum(jnp.diff(cuts)[order])
    place = jnp.arange(size)
    rank = jnp.minimum(jnp.searchsorted(ends, place, side="right"), most - 1)
    piece = order[rank]
    return piece, cuts[piece] + place - (ends - jnp.diff(cuts)[order])[rank], cuts


def sample_inside(x: Array, row: Array, column: Array, top: Array, bottom: Array) -> Array:
    """Bilinear values of `x [H, W, C]` at real coordinates; 0 outside rows `[top, bottom)` or the image."""
    value, low = jnp.zeros((*row.shape, x.shape[-1]), x.dtype), (jnp.floor(row), jnp.floor(column))
    share = row - low[0], column - low[1]  # no remainders: a compiled program may round their floor elsewhere
    for r, wr in ((low[0], 1 - share[0]), (low[0] + 1, share[0])):
        for c, wc in ((low[1], 1 - share[1]), (low[1] + 1, share[1])):
            inside = (r >= top) & (r < bottom) & (c >= 0) & (c < x.shape[1])
            at = jnp.clip(r, 0, x.shape[0] - 1).astype(int), jnp.clip(c, 0, x.shape[1] - 1).astype(int)
            value += jnp.where(inside, wr * wc, 0).astype(x.dtype)[..., None] * x[at]
    return value


def either_way(key: Key, x: Array, by_rows: Callable[[Key, Array], Array]) -> Array:
    """One image `[H, W, C]` as it is, or its transpose, each half of the time; transposed back."""
    axis, key = jax.random.split(key)
    upright = jax.random.bernoulli(axis)
    if x.shape[0] == x.shape[1]:  # turn the image instead of doing it twice
        turned = by_rows(key, jnp.where(upright, x, x.swapaxes(0, 1)))
        return jnp.where(upright, turned, turned.swapaxes(0, 1))
    return jnp.where(upright, by_rows(key, x), by_rows(key, x.swapaxes(0, 1)).swapaxes(0, 1))


def shuffled_blocks(
    key: Key, x: Array, blocks: int | Array, most: int, max_angle: float | Array = 0.0
) -> Array:
    """One image `[H, W, C]` after `block_shuffle`; `blocks` may be traced, there are at most `most`."""

    def strips_of_rows(key: Key, x: Array) -> Array:
        outer, inner, turn = jax.random.split(key, 3)
        height, width = x.shape[:2]
        strip, row, cuts = _shuffle_line(outer, height, blocks, most)
        line = lambda key: _shuffle_line(key, width, blocks, most)[1]  # noqa: E731
        within = jax.vmap(line)(jax.random.split(inner, most))
        column = within[strip]  # every strip shuffles its columns in its own way
        angle = jnp.deg2rad(jax.random.uniform(turn, (most,), minval=-max_angle, maxval=max_angle))[strip]
        top, bottom = cuts[strip], cuts[strip + 1]
        middle_row, middle_column = (top + bottom - 1) / 2, (width - 1) / 2
        dr, dc = (row - middle_row)[:, None], column - middle_column
        cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
        at_row = middle_row[:, None] + cos * dr - sin * dc
        at_column = middle_column + sin * dr + cos * dc
        return sample_inside(x, at_row, at_column, top[:, None], bottom[:, None])

    return either_way(key, x, strips_of_rows)


def block_shuffle(blocks: int = 3, max_angle: float = 24.0) -> InputTransform:
    """Cut the image in strips, shuffle them, rotate each, and shuffle the blocks within each.

    Args:
        blocks: strips per image, and blocks per strip.
        max_angle: of the rotations, uniform in both directions, in degrees.

    Reference: Wang et al., "Boosting Adversarial Transferability by Block Shuffle and Rotation", CVPR 2024.
    """
    one = lambda key, x: shuffled_blocks(key, x, blocks, blocks, max_angle)  # noqa: E731
    return lambda keys, x, _: jax.vmap(one)(keys, x)
