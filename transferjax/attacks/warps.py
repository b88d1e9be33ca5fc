"""Images bent, turned and laid elsewhere: differentiable in the image and in how far it is bent."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.inputs import sample_inside
from transferjax.attacks.rules import InputTransform
from transferjax.typing import Array, Key


def _bending(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The kernel `d² log d²` of thin plates between points `[n, 2]` and `[m, 2]`."""
    squared = ((a[:, None] - b) ** 2).sum(-1)
    return squared * np.log(np.where(squared > 0, squared, 1))


@cache
def thin_plate(height: int, width: int, mesh: int) -> np.ndarray:
    """`[H, W, mesh²]`: how far each pixel goes where one control point goes by one, the others staying.

    Control points are a regular mesh on `[-1, 1]²`, whose corners are the middles of the image's corners.
    Of all maps through given control points this one bends the least; it is linear in where they go.
    """
    line = lambda count: np.linspace(-1, 1, count)  # noqa: E731
    grid = lambda h, w: np.stack(np.meshgrid(line(h), line(w), indexing="ij"), -1).reshape(-1, 2)  # noqa: E731
    points, pixels = grid(mesh, mesh), grid(height, width)
    affine = lambda at: np.concatenate([np.ones((len(at), 1)), at], 1)  # noqa: E731
    system = np.block([[_bending(points, points), affine(points)], [affine(points).T, np.zeros((3, 3))]])
    terms = np.concatenate([_bending(pixels, points), affine(pixels)], 1)
    return np.linalg.solve(system.T, terms.T)[: mesh**2].T.reshape(height, width, mesh**2)


def _exact(x: Array) -> jnp.dtype:
    """The type of coordinates in images of that type."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _sampled(x: Array, row: Array, column: Array) -> Array:
    """Bilinear values of one image `[H, W, C]` at real coordinates, 0 outside of it."""
    return sample_inside(x, row, column, jnp.zeros((), int), jnp.asarray(x.shape[0]))


def warp(x: Array, shifts: Array) -> Array:
    """Images `[B, H, W, C]` whose control points look elsewhere: bilinear, 0 outside of the image.

    Args:
        x: images.
        shifts: `[B, mesh, mesh, 2]`, by how much rows and columns differ from the control points', in units
            of half the image.
    """
    height, width = x.shape[1:3]
    basis = jnp.asarray(thin_plate(height, width, shifts.shape[1]), _exact(x))

    def one(x: Array, shift: Array) -> Array:
        by = jnp.einsum("hwm,md->hwd", basis, shift.reshape(-1, 2).astype(basis.dtype))
        row = jnp.arange(height)[:, None] + by[..., 0] * (height - 1) / 2
        column = jnp.arange(width) + by[..., 1] * (width - 1) / 2
        return _sampled(x, row, column)

    return jax.vmap(one)(x, shifts)


def shifts(side: int, radius: float) -> InputTransform:
    """The n-th of `side²` regular translations by up to `radius` of half the image; bilinear, black outside.

    Reference: Fang et al. (ANDA), CVPR 2024.
    """
    line = np.linspace(-radius, radius, side) if side > 1 else np.zeros(1)
    steps = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)

    def transform(_: Key, x: Array, number: Array | int) -> Array:
        height, width = x.shape[1:3]
        by = jnp.asarray(steps, _exact(x))[number] * jnp.array([height, width]) / 2
        row, column = jnp.arange(height)[:, None] + by[0], jnp.arange(width) + by[1]
        return jax.vmap(lambda x: _sampled(x, row, column))(x)

    return transform


class Operation(NamedTuple):
    """What is done to an image; the defaults leave it as it is.

    A turn of `angle` degrees, counter-clockwise; flips (-1) of rows and columns; a roll of rows or columns
    by a random length (1); a division by `scale`; shrinking to a random size from `1 / rate` on, laid
    somewhere; an enlargement by `zoom` around the middle; a way of `shift` pixels down and right.
    """

    angle: float | Array = 0.0
    rows: float | Array = 1.0
    columns: float | Array = 1.0
    roll_rows: float | Array = 0.0
    roll_columns: float | Array = 0.0
    scale: float | Array = 1.0
    rate: float | Array = 1.0
    zoom: float | Array = 1.0
    shift: float | Array = 0.0


OPERATIONS = (
    Operation(),
    *(Operation(rows=-1.0), Operation(columns=-1.0), Operation(roll_rows=1.0), Operation(roll_columns=1.0)),
    *(Operation(angle=a) for a in (5.0, -5.0, 15.0, -15.0, 45.0, -45.0, 90.0, -90.0, 180.0)),
    *(Operation(scale=float(s)) for s in range(2, 9)),
    *(Operation(rate=r) for r in (1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7, 2.9)),
)
"""Those that `compositions` are made of, the identity first."""


def operate(key: Key, x: Array, operation: Operation) -> Array:
    """One image `[H, W, C]` after an operation, whose entries may be traced; bilinear, black outside."""
    shrink, *sides = jax.random.split(key, 3)
    share = jax.random.uniform(shrink, (), _exact(x), minval=1 / operation.rate, maxval=1.0)
    share = jnp.where(operation.rate == 1, 1, share)
    at = []
    rolls, flips = (operation.roll_rows, operation.roll_columns), (operation.rows, operation.columns)
    for side, size, roll, flip in zip(sides, x.shape[:2], rolls, flips, strict=True):
        u = jax.random.uniform(side, (), _exact(x))
        place = jnp.where(roll == 1, (jnp.arange(size) - jnp.floor(u * size)) % size, jnp.arange(size))
        place = (place + 0.5 - u * (1 - share) * size) / share - 0.5
        at.append(flip * (place - (size - 1) / 2 - operation.shift) / operation.zoom)
    cos, sin = jnp.cos(jnp.deg2rad(operation.angle)), jnp.sin(jnp.deg2rad(operation.angle))
    down, across = at[0][:, None], at[1]
    row = cos * down + sin * across + (x.shape[0] - 1) / 2
    column = cos * across - sin * down + (x.shape[1] - 1) / 2
    return (_sampled(x, row, column) / operation.scale).astype(x.dtype)


def compositions(depths: Sequence[int] = (2, 3, 4)) -> InputTransform:
    """As many random `OPERATIONS` one after the other as one of the depths says, all as likely.

    Reference: Guo et al., CVPR 2025.
    """
    table = np.array(OPERATIONS, np.float32)

    def one(key: Key, x: Array) -> Array:
        of_depth, which, draws = jax.random.split(key, 3)
        depth = jax.random.choice(of_depth, jnp.array(depths))
        chosen = jax.random.randint(which, (max(depths),), 0, len(table))
        chosen = jnp.where(jnp.arange(max(depths)) < depth, chosen, 0)
        rows = jnp.asarray(table, _exact(x))[chosen]

        def step(x: Array, each: tuple[Key, Array]) -> tuple[Array, None]:
            return operate(each[0], x, Operation(*each[1])), None

        return jax.lax.scan(step, x, (jax.random.split(draws, max(depths)), rows))[0]

    return lambda keys, x, _: jax.vmap(one)(keys, x)


def either(operations: Sequence[tuple[float, Operation]]) -> InputTransform:
    """One of several operations with its odds; an angle is the largest, in either direction."""
    odds, table = (np.array(part, np.float32) for part in zip(*operations, strict=True))

    def one(key: Key, x: Array) -> Array:
        which, turn, draw = jax.random.split(key, 3)
        chosen = jnp.asarray(table, _exact(x))[jax.random.choice(which, len(odds), p=odds / odds.sum())]
        operation = Operation(*chosen)
        angle = operation.angle * jax.random.uniform(turn, (), _exact(x), -1, 1)
        return operate(draw, x, operation._replace(angle=angle))

    return lambda keys, x, _: jax.vmap(one)(keys, x)
