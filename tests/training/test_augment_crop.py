"""crop_flip against NumPy slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.random import per_example, sample
from transferjax.training.augment import crop_flip
from transferjax.typing import Batch


def images(count, height=7, width=5, channels=3):
    return np.random.default_rng(0).random((count, height, width, channels), np.float32)


def windows(image, padding, flip):
    """Every image that crop_flip may return, by brute force."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for dy in range(2 * padding + 1):
        for dx in range(2 * padding + 1):
            crop = padded[dy : dy + height, dx : dx + width]
            yield (dy, dx, 0), crop
            if flip:
                yield (dy, dx, 1), crop[:, ::-1]


def apply(transform, key, x):
    targets = jnp.eye(4)[jnp.arange(len(x)) % 4]
    batch = jax.jit(lambda key, batch: transform(key, batch, None))(key, Batch(jnp.asarray(x), targets))
    np.testing.assert_array_equal(batch.targets, targets)
    return np.asarray(batch.images)


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (2, True)])
def test_equals_the_window_that_the_key_draws(padding, flip):
    x, key = images(64), jax.random.key(3)
    out = apply(crop_flip(padding, flip), key, x)
    bounds = np.array([2 * padding + 1, 2 * padding + 1, 1 + flip])
    draws = np.asarray(sample(jax.random.randint, per_example(key, len(x)), (3,), 0, bounds))
    for image, got, draw in zip(x, out, draws, strict=True):
        np.testing.assert_array_equal(got, dict(windows(image, padding, flip))[tuple(draw)])


def test_every_window_is_equally_likely():
    x = images(1, 4, 4, 1)
    out = apply(crop_flip(1), jax.random.key(0), np.repeat(x, 3600, 0))
    counts = [int((out == crop).all((1, 2, 3)).sum()) for _, crop in windows(x[0], 1, True)]
    assert sum(counts) == 3600
    # 18 windows, 200 expected of each: chi-square with 17 degrees of freedom, 99.9 % quantile 40.8
    assert sum((count - 200) ** 2 / 200 for count in counts) < 40.8


def test_does_not_depend_on_the_batch():
    x, key = images(6), jax.random.key(1)
    keys = per_example(key, 6)
    whole = apply(crop_flip(), key, x)
    np.testing.assert_array_equal(whole, apply(crop_flip(), keys, x))
    np.testing.assert_array_equal(whole[4:], apply(crop_flip(), keys[4:], x[4:]))


def test_keeps_the_type_and_refuses_negative_padding():
    assert apply(crop_flip(), jax.random.key(0), np.zeros((2, 8, 8, 1), np.uint8)).dtype == np.uint8
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        crop_flip(-1)


def test_alternate_flips_show_each_image_both_ways():
    x, key = images(40), jax.random.key(2)
    indices = jnp.arange(40, dtype=jnp.int32) * 7

    def epoch(number, order=slice(None)):
        batch = Batch(jnp.asarray(x), jnp.eye(40), indices, jnp.full(40, number, jnp.int32))
        batch = jax.tree.map(lambda a: a[order], batch)
        out = crop_flip(0, alternate=True)(jax.random.fold_in(key, number), batch, None)
        return np.asarray(out.images), (np.asarray(out.images) == x[order]).all((1, 2, 3))

    (first, straight), (second, turned) = epoch(0), epoch(1)
    np.testing.assert_array_equal(straight, ~turned)
    np.testing.assert_array_equal(first, np.where(straight[:, None, None, None], x, x[:, :, ::-1]))
    np.testing.assert_array_equal(second, first[:, :, ::-1])
    np.testing.assert_array_equal(epoch(2)[0], first)
    assert 10 < straight.sum() < 30, "which way comes first is drawn"
    np.testing.assert_array_equal(
        epoch(1, slice(None, None, -1))[0], second[::-1]
    )  # the example's, not the place's


def test_alternate_flips_want_to_know_which_examples():
    batch = Batch(jnp.asarray(images(2)), jnp.eye(2))
    with pytest.raises(ValueError, match="needs a Batch with `indices` and `epoch`"):
        crop_flip(alternate=True)(jax.random.key(0), batch, None)
    with pytest.raises(ValueError, match="flip=False"):
        crop_flip(flip=False, alternate=True)
