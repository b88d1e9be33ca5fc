"""Input transformations that treat random blocks of an image each in its own way."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.attacks.inputs import bilinear_taps, either_way
from transferjax.attacks.rules import InputTransform
from transferjax.typing import Array, Key

STRUCTURES = [
    "roll_rows",
    "roll_columns",
    "flip_rows",
    "flip_columns",
    "half_turn",
    "resize",
    "low_pass",
    "scale",
    "noise",
    "drop_channels",
]
"""What a block of `structures` may undergo."""
RESIZED, CUT_OFF, DROPPED = 0.8, 0.4, 0.1  # SIA's: size of the small block, share of frequencies, of channels


class Strips(NamedTuple):
    """Of each place on a line `[size]`: the strip that it lies in, where that begins, and how long it is."""

    number: Array
    start: Array
    length: Array


def cut(key: Key, size: int, count: int) -> Strips:
    """A line cut at `count - 1` different random places.

    Raises:
        ValueError: a line that is shorter than that.
    """
    if size < count:
        raise ValueError(f"an image side of {size} pixels cannot be cut into {count} blocks")
    inner = jax.random.choice(key, size - 1, (count - 1,), replace=False) + 1
    ends = jnp.concatenate([jnp.zeros(1, int), jnp.sort(inner), jnp.full(1, size)]).astype(jnp.int32)
    number = jnp.searchsorted(ends, jnp.arange(size), side="right") - 1
    return Strips(number, ends[number], ends[number + 1] - ends[number])


def _smaller_and_back(strips: Strips) -> Array:
    """`[size, size]`: each strip resized to a `RESIZED` share of itself and back, bilinear."""
    size = len(strips.number)
    short = (RESIZED * strips.length).astype(jnp.int32) + 1
    low, high, weight = bilinear_taps(jnp.arange(size) - strips.start, short, strips.length)
    matrix = jnp.zeros((size, size))
    for place, share in ((low, 1 - weight), (high, weight)):
        first, second, inner = bilinear_taps(place, strips.length, short)
        for source, part in ((first, 1 - inner), (second, inner)):
            matrix += (share * part)[:, None] * jax.nn.one_hot(strips.start + source, size)
    return matrix


def _low_pass(strips: Strips) -> Array:
    """`[size, size]`: each strip without the highest `CUT_OFF` of its DCT-II frequencies."""
    place, length = jnp.arange(len(strips.number)) - strips.start, strips.length
    k = jnp.arange(len(place))
    scale = jnp.where(k == 0, 1, 2) / length[:, None]
    kept = k < (length - (CUT_OFF * length).astype(jnp.int32))[:, None]
    basis = jnp.where(kept, jnp.sqrt(scale), 0) * jnp.cos(
        jnp.pi * k * (2 * place + 1)[:, None] / (2 * length)[:, None]
    )
    same = strips.number[:, None] == strips.number
    return jnp.where(same, basis @ basis.T, 0)


def _moved(strips: Strips, shift: Array, mirrored: Array) -> Array:
    """The source of each place, its strip rolled by a share of its length, or mirrored; shapes broadcast."""
    extra = (1,) * (shift.ndim - 1)
    start, length = (a.reshape(-1, *extra) for a in (strips.start, strips.length))
    place = jnp.arange(len(strips.start)).reshape(-1, *extra) - start
    rolled = (place - (shift * length).astype(jnp.int32)) % length
    return start + jnp.where(mirrored, length - 1 - place, rolled)


def structures(
    blocks: int = 3, radius: float = 16 / 255, operations: Sequence[str] = STRUCTURES
) -> InputTransform:
    """Every block of a random grid undergoes an operation of its own.

    Rolls by up to its side, flips, a half turn; resizing to 0.8 and back, losing the highest 0.4 of its
    frequencies; a factor in [0, 1], uniform noise, a tenth of its channels dropped.

    Args:
        blocks: in each direction.
        radius: of the noise, in pixel units.
        operations: which of `STRUCTURES` there are.

    Reference: Wang et al., "Structure Invariant Transformation for better Adversarial Transferability",
    ICCV 2023, the official code's list.
    """

    def one(key: Key, x: Array) -> Array:
        across, down, which, amount, noise, drop = jax.random.split(key, 6)
        rows, columns = cut(down, x.shape[0], blocks), cut(across, x.shape[1], blocks)
        at = rows.number[:, None], columns.number
        numbers = jnp.array([STRUCTURES.index(name) for name in operations])
        chosen = jax.random.choice(which, numbers, (blocks, blocks))[at]
        share = jax.random.uniform(amount, (blocks, blocks), x.dtype)[at]
        has = lambda *names: jnp.isin(chosen, jnp.array([STRUCTURES.index(n) for n in names]))  # noqa: E731

        row = _moved(rows, jnp.where(has("roll_rows"), share, 0), has("flip_rows", "half_turn"))
        column = _moved(
            columns, jnp.where(has("roll_columns"), share, 0).T, has("flip_columns", "half_turn").T
        ).T
        both = lambda matrix: jnp.einsum(  # noqa: E731
            "ih,hwc,jw->ijc", matrix(rows).astype(x.dtype), x, matrix(columns).astype(x.dtype)
        )
        spread = radius * jax.random.uniform(noise, x.shape, x.dtype, -1, 1)
        kept = jax.random.bernoulli(drop, 1 - DROPPED, (blocks, blocks, x.shape[-1]))[at] / (1 - DROPPED)
        y = x[row, column]
        for name, changed in (
            ("resize", jnp.clip(both(_smaller_and_back), 0, 1)),
            ("low_pass", both(_low_pass)),
            ("scale", share[..., None] * x),
            ("noise", jnp.clip(x + spread, 0, 1)),
            ("drop_channels", kept.astype(x.dtype) * x),
        ):
            y = jnp.where(has(name)[..., None], changed, y)
        return y

    return lambda keys, x, _: jax.vmap(one)(keys, x)


def kept_blocks(blocks: int = 4) -> InputTransform:
    """One random block of the image on the image's own mean colour.

    Args:
        blocks: in each direction, equally large.

    Reference: Zeng et al., "Everywhere Attack", AAAI 2025. The official code draws the blocks of a step
    without replacement, and paints what is hidden in ImageNet's mean.
    """

    def one(key: Key, x: Array) -> Array:
        rows, columns = (
            jnp.arange(size) * blocks // size == jax.random.randint(side, (), 0, blocks)
            for side, size in zip(jax.random.split(key), x.shape[:2], strict=True)
        )
        return jnp.where((rows[:, None] & columns)[..., None], x, x.mean((0, 1)))

    return lambda keys, x, _: jax.vmap(one)(keys, x)


def _rescaled(size: int, start: Array, length: Array, factor: Array, room: Array) -> Array:
    """`[size, size]`: a strip of a line made larger or smaller, antialiased, and cut or laid on black.

    Args:
        size: of the line.
        start, length: of the strip.
        factor: by which it is resized.
        room: where it begins, as a share of what it is shorter, or longer, than before.
    """
    place = jnp.arange(size) - start
    at = (place + 0.5 - room * length * (1 - factor)) / factor - 0.5
    inside = (place >= 0) & (place < length)
    near = jnp.maximum(1 - jnp.abs(at[:, None] - place) / jnp.maximum(1 / factor, 1), 0) * inside
    shown = inside & (at > -0.5) & (at < length - 0.5)
    return jnp.where(shown[:, None], near / jnp.maximum(near.sum(1, keepdims=True), 1e-6), 0)


LEAST = 30 / 224
"""The least share of a side that a block of `scaled_blocks` takes."""


def scaled_blocks(rows: int = 2, columns: int = 3, rate: float = 1.9, prob: float = 0.9) -> InputTransform:
    """A random grid of blocks, each resized by a factor in `[1 / rate, rate]`, and cut or laid on black.

    Args:
        rows, columns: blocks; or the other way round, half of the time.
        rate: the largest factor.
        prob: of resizing a block at all.

    Reference: Liu et al. (S4ST), 2024, the official code.
    """

    def spaced(key: Key, size: int, count: int) -> tuple[Array, Array]:
        """Begins and lengths of random strips, none shorter than `LEAST` of the line."""
        free = jax.random.dirichlet(key, jnp.ones(count)) * (1 - count * LEAST) + LEAST
        ends = jnp.floor(size * jnp.cumsum(free)[:-1])
        ends = jnp.concatenate([jnp.zeros(1), ends, jnp.full(1, size)])
        return ends[:-1], jnp.diff(ends)

    def one(key: Key, x: Array) -> Array:
        down, across, on, of, *rooms = jax.random.split(key, 6)
        factor = jax.random.uniform(of, (rows, columns), minval=1 / rate, maxval=rate)
        factor = jnp.where(jax.random.bernoulli(on, prob, (rows, columns)), factor, 1)
        above, beside = (jax.random.uniform(room, (rows, columns)) for room in rooms)
        grid = jax.vmap(jax.vmap(_rescaled, (None, None, None, 0, 0)), (None, 0, 0, 0, 0))
        vertical = grid(x.shape[0], *spaced(down, x.shape[0], rows), factor, above)
        horizontal = grid(x.shape[1], *spaced(across, x.shape[1], columns), factor.T, beside.T)
        both = (vertical.astype(x.dtype), x, horizontal.astype(x.dtype))
        return jnp.einsum("rcih,hwk,crjw->ijk", *both)

    return lambda keys, x, _: jax.vmap(lambda key, x: either_way(key, x, one))(keys, x)
