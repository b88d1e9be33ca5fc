"""Bending and turning, where the result is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks
from transferjax.attacks.warps import (
    OPERATIONS,
    Operation,
    compositions,
    either,
    operate,
    shifts,
    thin_plate,
    warp,
)
from transferjax.random import fold_in

SHAPE = (3, 9, 9, 2)


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), SHAPE)


def test_thin_plates_interpolate_and_bend_no_plane():
    """Each control point goes where it is sent; moves that are affine in the place move everything so."""
    basis = thin_plate(9, 5, 3)
    corners = basis[::4, ::2]
    np.testing.assert_allclose(corners.reshape(9, 9), np.eye(9), atol=1e-9)
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, 3)] * 2, indexing="ij"), -1).reshape(9, 2)
    pixels = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 5), indexing="ij"), -1)
    np.testing.assert_allclose(basis @ points, pixels, atol=1e-9)
    np.testing.assert_allclose(basis.sum(-1), 1, atol=1e-9)


def test_warps_without_a_shift_and_with_one_for_all(x):
    np.testing.assert_allclose(warp(x, jnp.zeros((3, 3, 3, 2))), x, atol=1e-5)
    by_one = jnp.broadcast_to(jnp.array([2 / 8, 0.0]), (3, 3, 3, 2))
    moved = np.asarray(warp(x, by_one))
    np.testing.assert_allclose(moved[:, :-1], x[:, 1:], atol=1e-5)
    np.testing.assert_allclose(moved[:, -1], 0, atol=1e-5)


def test_warps_have_gradients_in_both(x):
    """Against finite differences in double precision, in the image and in the shifts."""
    with jax.enable_x64(True):
        images, shifts = (
            jax.random.uniform(jax.random.key(s), shape, jnp.float64) * scale
            for s, shape, scale in ((0, SHAPE, 1), (1, (3, 3, 3, 2), 0.1))
        )
        weight = jax.random.normal(jax.random.key(2), SHAPE, jnp.float64)
        value = lambda images, shifts: (weight * warp(images, shifts)).sum()  # noqa: E731
        for which, point in enumerate((images, shifts)):
            d = jax.random.normal(jax.random.key(3), point.shape, jnp.float64)
            near = [[images, shifts] for _ in range(2)]
            for pair, t in zip(near, (1e-6, -1e-6), strict=True):
                pair[which] = point + t * d
            slope = (value(*near[0]) - value(*near[1])) / 2e-6
            grads = jax.grad(value, which)(images, shifts)
            np.testing.assert_allclose((grads * d).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Operation(), lambda a: a),
        (Operation(rows=-1.0), lambda a: a[::-1]),
        (Operation(columns=-1.0), lambda a: a[:, ::-1]),
        (Operation(angle=90.0), np.rot90),
        (Operation(angle=-90.0), lambda a: np.rot90(a, -1)),
        (Operation(angle=180.0), lambda a: a[::-1, ::-1]),
        (Operation(scale=4.0), lambda a: a / 4),
    ],
    ids=["nothing", "rows", "columns", "quarter", "back", "half", "scale"],
)
def test_operations_are_numpys(x, operation, expected):
    y = operate(jax.random.key(5), x[0], operation)
    np.testing.assert_allclose(y, expected(np.asarray(x[0])), atol=1e-5)


def test_rolls_and_shrinking(x):
    image = np.asarray(x[0])
    for operation, axis in ((Operation(roll_rows=1.0), 0), (Operation(roll_columns=1.0), 1)):
        seen = set()
        for seed in range(12):
            y = operate(jax.random.key(seed), x[0], operation)
            (step,) = [s for s in range(9) if np.allclose(np.roll(image, s, axis), y, atol=1e-5)]
            seen.add(step)
        assert len(seen) > 3
    white = jnp.ones((24, 24, 1))
    sides = [float(jnp.sqrt(operate(jax.random.key(s), white, Operation(rate=2.0)).sum())) for s in range(30)]
    assert min(sides) < 14.5
    assert min(sides) > 11.5  # half of it at least
    assert max(sides) > 21


def test_compositions_draw_depths_and_operations(x):
    """Depth one of the identity alone changes nothing; the usual ones change each image in its own way."""
    keys = fold_in(jax.random.key(1), jnp.arange(60))
    image = jnp.broadcast_to(x[:1], (60, *SHAPE[1:]))
    y = np.asarray(jax.jit(compositions())(keys, image, 0))
    assert np.all(np.isfinite(y))
    assert np.all((y >= -1e-6) & (y <= 1 + 1e-6))
    assert len({a.tobytes() for a in y}) > 50
    once = np.asarray(jax.jit(compositions((1,)))(keys, image, 0))
    still = np.mean([np.allclose(a, x[0], atol=1e-5) for a in once])
    assert 0 < still < 0.15  # one of 31
    assert len(OPERATIONS) == 31


def test_either_draws_by_odds_and_turns_both_ways(x):
    """A flip three times as often as a turn by anything up to the angle, never the same for all images."""
    keys = fold_in(jax.random.key(1), jnp.arange(80))
    image = jnp.broadcast_to(x[:1], (80, *SHAPE[1:]))
    odds = ((3.0, Operation(rows=-1.0)), (1.0, Operation(angle=45.0)))
    y = np.asarray(jax.jit(either(odds))(keys, image, 0))
    flipped = np.array([np.allclose(a, x[0][::-1], atol=1e-5) for a in y])
    assert 0.6 < flipped.mean() < 0.9
    assert len({a.tobytes() for a in y[~flipped]}) == (~flipped).sum()


def test_a_grid_of_shifts(x):
    """Of 9 the middle one is none; a shift by two pixels of nine is one of 4/9 of half the image."""
    grid = shifts(3, 4 / 9)
    keys = fold_in(jax.random.key(0), jnp.arange(3))
    np.testing.assert_allclose(grid(keys, x, 4), x, atol=1e-6)
    down = np.zeros(SHAPE)
    down[:, :-2] = x[:, 2:]
    np.testing.assert_allclose(grid(keys, x, 7), down, atol=1e-5)
    np.testing.assert_allclose(jax.jit(grid)(keys, x, jnp.int32(1))[:, 2:], x[:, :-2], atol=1e-5)


def test_anda_adds_the_gradients_of_all_steps():
    """Up to a peak at 0.5 and beyond it: the sum of 0.3 and -0.1 still goes up, the second alone down."""
    images = jnp.full((1, 3, 3, 1), 0.35)
    predict = jax.tree_util.Partial(lambda x: -((x - 0.5) ** 2).sum((1, 2, 3))[:, None])
    attack = attacks.anda(0.4, 2, side=1, loss=lambda logits, labels: logits[:, 0])
    np.testing.assert_allclose(attack(jax.random.key(0), predict, images, jnp.array([0])), 0.75, atol=1e-6)
    plain = attacks.bim(0.4, 2, loss=lambda logits, labels: logits[:, 0])
    np.testing.assert_allclose(plain(jax.random.key(0), predict, images, jnp.array([0])), 0.35, atol=1e-6)


def test_gnp_takes_the_gradient_ahead_away():
    """One step on `½ Σ a (x - ½)²`: the signs of `(1 + β) a d - β a (d + r ĝ)`, ĝ = a d / mean|a d|."""
    a = np.linspace(0.5, 2.0, 12).reshape(2, 2, 3)
    d = np.random.default_rng(0).uniform(0.01, 0.1, (1, 2, 2, 3)) * np.array([1, -1, 1])
    predict = jax.tree_util.Partial(
        lambda a, x: (a * (x - 0.5) ** 2).sum((1, 2, 3))[:, None] / 2, jnp.asarray(a)
    )
    loss, key = (lambda logits, labels: logits[:, 0]), jax.random.key(0)
    ahead = a * d / np.abs(a * d).mean()
    for radius, beta in ((0.05, 0.8), (0.2, 0.5)):
        attack = attacks.gnp(0.1, 1, radius=radius, beta=beta, loss=loss)
        moved = attack(key, predict, jnp.asarray(0.5 + d), jnp.array([0])) - 0.5 - d
        expected = np.sign((1 + beta) * a * d - beta * a * (d + radius * ahead))
        assert 0 < (expected == np.sign(d)).mean() < 1
        np.testing.assert_allclose(moved, 0.1 * expected, atol=1e-6)


def test_anda_without_translations():
    """With one translation, by nothing, and a gradient of one sign, I-FGSM."""
    images = jnp.full((1, 3, 3, 1), 0.5)
    predict = jax.tree_util.Partial(lambda x: jnp.stack([x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], -1))
    labels = jnp.array([1])
    bim = attacks.bim(0.3, 3)(jax.random.key(0), predict, images, labels)
    one = attacks.anda(0.3, 3, side=1)(jax.random.key(0), predict, images, labels)
    np.testing.assert_allclose(one, bim, atol=1e-6)
