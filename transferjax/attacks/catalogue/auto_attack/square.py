"""Square: random search over squares, without gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.catalogue.auto_attack.loop import is_fooled, logits_of, pick, until_fooled
from transferjax.attacks.recipe import recipe
from transferjax.losses import margin
from transferjax.norms import unit
from transferjax.random import fold_in, per_example
from transferjax.typing import Array, Attack, Key, Predict

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of ten thousand, after which the area of the squares is halved."""


def square_sizes(queries: int, share: float, height: int, width: int, smallest: int, odd: bool) -> np.ndarray:
    """The side of the square at each query: `√(p h w)`, p halving along the schedule."""
    place = (np.arange(queries) / queries * 10000).astype(int)
    p = share / 2.0 ** np.searchsorted(HALVINGS, place, side="left")
    sides = np.maximum(np.round(np.sqrt(p * height * width)).astype(int), smallest)
    sides = sides + (1 - sides % 2) if odd else sides
    return np.minimum(sides, min(height, width))


def _place(key: Key, side: Array, size: int) -> Array:
    """Where a square of that side begins; the official code never reaches the last row or column."""
    return jax.random.randint(key, (), 0, jnp.maximum(size - side, 1))


def _window(key: Key, side: Array, height: int, width: int) -> tuple[Array, tuple[Array, Array]]:
    """A random square as a mask `[H, W, 1]`, and its corner."""
    vertical, horizontal = jax.random.split(key)
    top, left = _place(vertical, side, height), _place(horizontal, side, width)
    rows, columns = jnp.arange(height) - top, jnp.arange(width) - left
    inside = lambda at: (at >= 0) & (at < side)  # noqa: E731
    return (inside(rows)[:, None] & inside(columns))[..., None], (top, left)


def _hill(height: int, width: int) -> np.ndarray:
    """Rectangles around the middle, the n-th from inside weighing 1/n²."""
    hill, middle = np.zeros((height, width)), (height // 2 + 1, width // 2 + 1)
    for n in range(max(middle)):
        top, left = middle[0] - 1 - n, middle[1] - 1 - n
        rows = slice(max(top, 0), min(top + 2 * n + 1, height))
        columns = slice(max(left, 0), min(left + 2 * n + 1, width))
        hill[rows, columns] += 1 / (n + 1) ** 2
    return hill / np.linalg.norm(hill)


def hills(side: int) -> np.ndarray:
    """The pattern η of the L2 attack `[side, side]`: a hill above a valley, of length one."""
    half = side // 2
    pattern = np.concatenate([_hill(half, side), -_hill(side - half, side)]) if half else np.ones((1, 1))
    return pattern / np.linalg.norm(pattern)


def _signs(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return jax.random.rademacher(key, shape, dtype)


class Search(NamedTuple):
    """A random search over one image `[H, W, C]`; both draw from a key."""

    start: Callable[[Key, Array], Array]  # (key, clean image) -> first point
    propose: Callable[[Key, Array, Array, Array], Array]  # (key, x, clean image, query) -> next point


def _linf(eps: float, sides: np.ndarray, height: int, width: int, channels: int) -> Search:
    """Stripes first, then squares of one colour in `{-2 eps, 2 eps}³`, clipped to the ball."""
    schedule = jnp.asarray(sides)

    def start(key: Key, clean: Array) -> Array:
        return jnp.clip(clean + eps * _signs(key, (1, width, channels), clean.dtype), 0, 1)

    def propose(key: Key, x: Array, clean: Array, query: Array) -> Array:
        where, colour = jax.random.split(key)
        mask, _ = _window(where, schedule[query], height, width)
        y = x + mask * 2 * eps * _signs(colour, (1, 1, channels), x.dtype)
        return jnp.clip(jnp.clip(y, clean - eps, clean + eps), 0, 1)

    return Search(start, propose)


def _grid(key: Key, side: int, height: int, width: int, channels: int) -> Array:
    """Patterns of the given side, each turned or not, of one sign per channel, tiled over the image."""
    turn, colour = jax.random.split(key)
    down, across = height // side, width // side
    pattern = jnp.asarray(hills(side), jnp.float32)
    turned = jax.random.bernoulli(turn, shape=(down, across, 1, 1))
    tiles = jnp.where(turned, pattern, pattern.T)[..., None] * _signs(colour, (down, across, 1, 1, channels))
    tiles = tiles.transpose(0, 2, 1, 3, 4).reshape(down * side, across * side, channels)
    spare = [(size - n * side) for size, n in ((height, down), (width, across))]
    return jnp.pad(tiles, [*((n // 2, n - n // 2) for n in spare), (0, 0)])


def _l2(eps: float, sides: np.ndarray, height: int, width: int, channels: int) -> Search:
    """A grid of patterns first; then the budget of one window moves to another, with a pattern on top."""
    distinct, index = np.unique(sides, return_inverse=True)
    patterns = np.zeros((len(distinct), height, width), np.float32)
    for canvas, side in zip(patterns, distinct, strict=True):
        canvas[:side, :side] = hills(int(side))
    table, schedule = jnp.asarray(patterns), jnp.asarray(index)
    side_of = jnp.asarray(distinct)

    def fill(clean: Array, delta: Array) -> Array:
        """Spends the whole budget along delta."""
        return jnp.clip(clean + eps * unit(delta), 0, 1).astype(clean.dtype)

    def start(key: Key, clean: Array) -> Array:
        return fill(clean, _grid(key, max(height // 5, 1), height, width, channels))

    def propose(key: Key, x: Array, clean: Array, query: Array) -> Array:
        to, away, turn, colour = jax.random.split(key, 4)
        side, delta = side_of[schedule[query]], x - clean
        new, (top, left) = _window(to, side, height, width)
        old, _ = _window(away, side, height, width)
        pattern = table[schedule[query]]
        if height == width:
            pattern = jnp.where(jax.random.bernoulli(turn), pattern, pattern.T)
        pattern = jnp.roll(jnp.roll(pattern, top, 0), left, 1)[..., None] * _signs(colour, (1, 1, channels))
        pattern = unit(pattern + unit(delta * new, (0, 1)), (0, 1))
        free = jnp.maximum(eps**2 - jnp.sum(delta**2), 0) / channels
        freed = jnp.sum((delta * (new | old)) ** 2)
        pattern = pattern * jnp.sqrt(free + freed)
        return fill(clean, jnp.where(new, pattern, jnp.where(old, 0, delta)))

    return Search(start, propose)


def _run(search: Search, queries: int) -> Callable[[Key, Predict, Array, Array], tuple[Array, Array]]:
    """One run of the random search: keeps what raises the margin of the other classes."""

    def attack(keys: Key, predict: Predict, images: Array, labels: Array) -> tuple[Array, Array]:
        def loss(x: Array, number: Array | int) -> Array:
            return margin(logits_of(predict, fold_in(keys, number), x), labels)

        def unfinished(state: tuple[Array, Array, Array]) -> Array:
            return (state[0] < queries) & ~jnp.all(state[2] > 0)

        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            number, x, best = state
            draw = fold_in(fold_in(keys, number + 1), 1)
            y = jax.vmap(search.propose, (0, 0, 0, None))(draw, x, images, number)
            value = loss(y, number + 1)
            better = (value > best) & (best <= 0)  # who is fooled stays
            return number + 1, pick(better, y, x), jnp.where(better, value, best)

        x = jax.vmap(search.start)(fold_in(keys, 0), images)
        first = jnp.zeros((), jnp.int32), x, loss(x, 0)
        _, x, best = jax.lax.while_loop(unfinished, step, first)
        return x, best > 0

    return attack


@recipe(alone=True)
def square(
    eps: float, queries: int = 5000, *, norm: str = "linf", restarts: int = 1, p: float = 0.8
) -> Attack:
    """Square attack: random search on the margin, `queries` forward passes and no gradient.

    Images that the net gets wrong already are returned as they are.

    Args:
        p: share of the image that the first squares cover; it halves along the schedule.

    Reference: Andriushchenko et al., "Square Attack", ECCV 2020, algorithms 1 to 3; here every image has
    squares of its own.
    """

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        keys = per_example(key, len(images))
        _, height, width, channels = images.shape
        search, smallest, odd = (_l2, 3, True) if norm == "l2" else (_linf, 1, False)
        sides = square_sizes(queries, p, height, width, smallest, odd)
        one_run = _run(search(eps, sides, height, width, channels), queries)
        fooled = is_fooled(predict, keys, images, labels)

        def attempt(number: Array) -> tuple[Array, Array]:
            return one_run(fold_in(keys, number), predict, images, labels)

        return until_fooled(images, fooled, attempt, restarts)[0]

    return attack
