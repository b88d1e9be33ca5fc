"""Transformations of blocks against slow and certain versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft

from transferjax.attacks import blockwise
from transferjax.attacks.blockwise import STRUCTURES, kept_blocks, scaled_blocks, structures
from transferjax.random import fold_in

SHAPE = (24, 10, 12, 3)  # no square: rows are not columns


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), SHAPE)


@pytest.fixture
def keys():
    return fold_in(jax.random.key(1), jnp.arange(SHAPE[0]))


def alone(name, keys, x, **options):
    return np.asarray(jax.jit(structures(operations=(name,), **options))(keys, x, 0))


def test_one_block_is_the_whole_image(x, keys):
    image = np.asarray(x)
    np.testing.assert_array_equal(alone("flip_rows", keys, x, blocks=1), image[:, ::-1])
    np.testing.assert_array_equal(alone("flip_columns", keys, x, blocks=1), image[:, :, ::-1])
    np.testing.assert_array_equal(alone("half_turn", keys, x, blocks=1), image[:, ::-1, ::-1])
    for name, axis in (("roll_rows", 1), ("roll_columns", 2)):
        rolled = alone(name, keys, x, blocks=1)
        steps = [
            [s for s in range(SHAPE[axis]) if np.array_equal(np.roll(a, s, axis - 1), b)]
            for a, b in zip(image, rolled, strict=True)
        ]
        assert all(len(s) == 1 for s in steps)
        assert len({s[0] for s in steps}) > 4


@pytest.mark.parametrize("name", ["flip_rows", "flip_columns", "half_turn"])
def test_flips_of_blocks_are_their_own_inverse_and_stay_inside(name, keys, x):
    """The same key cuts the same blocks: what moved comes back, and the blocks are not the whole image."""
    once = alone(name, keys, x)
    np.testing.assert_array_equal(alone(name, keys, jnp.asarray(once)), x)
    whole = alone(name, keys, x, blocks=1)
    assert np.mean([np.array_equal(a, b) for a, b in zip(once, whole, strict=True)]) < 0.1


def test_rolls_move_pixels_within_their_line(keys, x):
    for name, axis in (("roll_rows", 1), ("roll_columns", 2)):
        y = alone(name, keys, x)
        np.testing.assert_array_equal(np.sort(y, axis), np.sort(np.asarray(x), axis))


def test_a_block_resized_and_back_is_torchs(keys, x):
    torch = pytest.importorskip("torch")
    image = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(image, size=(9, 10), mode="bilinear", align_corners=False)
    back = torch.nn.functional.interpolate(small, size=SHAPE[1:3], mode="bilinear", align_corners=False)
    y = alone("resize", keys, x, blocks=1)
    np.testing.assert_allclose(y, back.permute(0, 2, 3, 1), atol=1e-5)


def test_low_pass_drops_the_highest_frequencies(keys, x):
    """Of 10 rows the last 4 coefficients, of 12 columns the last 4."""
    spectrum = fft.dctn(np.asarray(x), axes=(1, 2), norm="ortho")
    spectrum[:, 6:] = 0
    spectrum[:, :, 8:] = 0
    expected = fft.idctn(spectrum, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(alone("low_pass", keys, x, blocks=1), expected, atol=1e-5)
    flat = jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)  # every block's mean survives
    np.testing.assert_allclose(alone("low_pass", keys, flat), flat, atol=1e-5)


def test_blocks_fade_rustle_and_lose_channels(keys, x):
    ratio = alone("scale", keys, x) / np.asarray(x)
    assert ratio.min() >= 0
    assert ratio.max() <= 1 + 1e-6
    assert all(len(np.unique(np.round(r, 3))) in range(2, 10) for r in ratio)  # nine blocks, nine factors
    rustled = alone("noise", keys, x, radius=0.05)
    assert 0.04 < np.abs(rustled - x).max() <= 0.05 + 1e-6
    assert rustled.min() >= 0
    assert rustled.max() <= 1
    share = alone("drop_channels", keys, jnp.ones_like(x))
    assert set(np.round(np.unique(share), 4)) == {0.0, np.float32(1.1111)}
    assert abs(share.mean() - 1) < 0.05


def test_all_operations_occur_and_each_image_has_its_own(keys, x):
    """Two images with one key are treated alike, with two keys not."""
    same = structures()(keys[jnp.zeros(2, int)], x[jnp.zeros(2, int)], 0)
    np.testing.assert_array_equal(same[0], same[1])
    other = structures()(keys[:2], x[jnp.zeros(2, int)], 0)
    assert np.abs(other[0] - other[1]).max() > 0.01
    assert len(set(STRUCTURES)) == 10


def test_lines_are_cut_into_pieces_that_are_not_empty():
    for seed in range(20):
        strips = blockwise.cut(jax.random.key(seed), 7, 3)
        numbers, lengths = np.unique(strips.number, return_counts=True)
        assert list(numbers) == [0, 1, 2]
        np.testing.assert_array_equal(strips.length, lengths[np.asarray(strips.number)])
        np.testing.assert_array_equal(strips.start, np.searchsorted(strips.number, strips.number))
    with pytest.raises(ValueError, match="2 pixels cannot be cut into 3 blocks"):
        blockwise.cut(jax.random.key(0), 2, 3)


def test_blocks_that_are_not_resized_stay(keys, x):
    np.testing.assert_allclose(scaled_blocks(prob=0.0)(keys, x, 0), x, atol=1e-6)
    np.testing.assert_allclose(scaled_blocks(rate=1.0)(keys, x, 0), x, atol=1e-6)
    assert np.abs(scaled_blocks()(keys, x, 0) - x).mean() > 0.05


def test_a_strip_made_larger_is_torchs_and_a_smaller_one_lies_on_black():
    torch = pytest.importorskip("torch")
    line = jax.random.uniform(jax.random.key(2), (8,))
    whole = jnp.float32(0), jnp.float32(8)
    larger = blockwise._rescaled(8, *whole, jnp.float32(2.0), jnp.float32(0.0)) @ line
    image = torch.tensor(np.asarray(line))[None, None]
    expected = torch.nn.functional.interpolate(image, size=16, mode="linear", align_corners=False)
    np.testing.assert_allclose(larger, expected[0, 0, :8], atol=1e-6)
    smaller = blockwise._rescaled(8, *whole, jnp.float32(0.5), jnp.float32(1.0))
    np.testing.assert_allclose(smaller.sum(1), [0] * 4 + [1] * 4, atol=1e-6)  # at its end
    kernel = np.array([3, 3, 1]) / 7  # a triangle twice as wide, cut at the border
    np.testing.assert_allclose(smaller[4, :3], kernel, atol=1e-6)


def test_one_block_is_kept_on_the_mean_colour(keys, x):
    y = np.asarray(jax.jit(kept_blocks(2))(keys, x, 0))
    same = (y == np.asarray(x)).all(-1)
    assert set(same.sum((1, 2))) == {30}  # a quarter of 10 x 12
    mean = np.broadcast_to(np.asarray(x).mean((1, 2), keepdims=True), y.shape)
    np.testing.assert_allclose(y[~same], mean[~same], atol=1e-6)
    assert len({tuple(np.argwhere(s)[0]) for s in same}) == 4
