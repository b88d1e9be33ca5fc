"""Input transformations against slow and certain versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft

from transferjax.attacks import inputs
from transferjax.random import fold_in

KEYS = 64


@pytest.fixture
def x():
    return jax.random.uniform(jax.random.key(0), (KEYS, 8, 8, 3))


@pytest.fixture
def keys():
    return fold_in(jax.random.key(1), jnp.arange(KEYS))


@pytest.mark.parametrize(("size", "to"), [(8, 5), (8, 8), (8, 11), (5, 8)])
def test_resizing_is_torchs_bilinear(size, to):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((size, size)).astype(np.float32)
    matrix = np.asarray(inputs._resize_matrix(size, to, to, 0))
    expected = torch.nn.functional.interpolate(
        torch.tensor(image)[None, None], size=(to, to), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected[0, 0], atol=1e-6)


def test_diversity_resizes_and_pads(x, keys):
    """Of a white image: a white square of 6 or 7 pixels (8 is excluded, as in torch) on black, anywhere."""
    white = jnp.ones_like(x)
    y = np.asarray(jax.jit(inputs.diversity(0.75, prob=1.0))(keys, white, 0))
    sides = np.sqrt(y[..., 0].sum((1, 2)))
    np.testing.assert_allclose(sides, np.round(sides), atol=1e-3)
    assert set(np.round(sides)) == {6, 7}
    assert len({tuple(np.argwhere(image[..., 0] > 0.5)[0]) for image in y}) > 3


def test_diversity_changes_some_images(x, keys):
    y = jax.jit(inputs.diversity(0.75, prob=0.3))(keys, x, 0)
    changed = np.mean([not np.allclose(a, b) for a, b in zip(x, y, strict=True)])
    assert 0.1 < changed < 0.5


def test_diversity_of_a_random_rate_shrinks_to_anything_that_a_rate_allows(x, keys):
    """Rates from 0.75 to 1.5: a white square of 5 to 7 of 8 pixels, 2/3 being the least share."""
    y = np.asarray(jax.jit(inputs.diversity((0.75, 1.5), prob=1.0))(keys, jnp.ones_like(x), 0))
    assert y.shape == x.shape
    assert set(np.round(np.sqrt(y[..., 0].sum((1, 2))))) == {5, 6, 7}
    with pytest.raises(ValueError, match=r"rate=\(1\.5, 0\.75\): expected the smaller"):
        inputs.diversity((1.5, 0.75))


def test_diversity_back_keeps_the_size(x, keys):
    y = inputs.diversity(1.5, prob=1.0, resize_back=True)(keys, x, 0)
    assert y.shape == x.shape
    with pytest.raises(ValueError, match=r"rate=1\.5 enlarges the image"):
        inputs.diversity(1.5)


def test_dct_is_scipys(x):
    matrix = inputs.dct_matrix(8)
    image = np.asarray(x[0, ..., 0])
    np.testing.assert_allclose(matrix @ image @ matrix.T, fft.dctn(image, norm="ortho"), atol=1e-6)


def test_spectrum(x, keys):
    """Without noise and mask nothing changes; the mask alone scales every coefficient by up to rho."""
    np.testing.assert_allclose(inputs.spectrum(0.0, 0.0)(keys, x, 0), x, atol=1e-5)
    y = np.asarray(inputs.spectrum(0.0, 0.5)(keys, x, 0))
    ratio = fft.dctn(y, axes=(1, 2)) / fft.dctn(np.asarray(x), axes=(1, 2))
    assert ratio.min() > 0.5 - 1e-2
    assert ratio.max() < 1.5 + 1e-2
    assert abs(np.median(ratio) - 1) < 0.05


def test_admix_adds_one_of_the_pool(x, keys):
    pool = np.random.default_rng(0).random((3, 8, 8, 3)).astype(np.float32)
    mixed = (np.asarray(inputs.admix(pool, 0.2)(keys, x, 0)) - np.asarray(x)) / 0.2
    distance = np.abs(mixed[:, None] - pool).max((2, 3, 4))
    assert np.all(distance.min(1) < 1e-5)
    assert set(distance.argmin(1)) == {0, 1, 2}


def test_values_go_down_to_the_ends_of_their_regions(x, keys):
    """One region ends at the channel's least value; of two the other one's end is anywhere in its range."""
    least = np.asarray(x).min((1, 2), keepdims=True)
    np.testing.assert_array_equal(inputs.lower_ends(1)(keys, x, 0), np.broadcast_to(least, x.shape))
    ends = np.asarray(inputs.lower_ends(3)(keys, x, 0))
    assert np.all(ends <= x)
    for image, low, values in zip(np.asarray(x), ends, least, strict=True):
        for channel in range(3):
            found = np.unique(low[..., channel])
            assert found[0] == values[0, 0, channel]
            assert 2 <= len(found) <= 3
            above = found[np.searchsorted(found, image[..., channel], side="right") - 1]
            np.testing.assert_array_equal(low[..., channel], above)  # the nearest end below
    with pytest.raises(ValueError, match="regions=0"):
        inputs.lower_ends(0)


def test_shuffling_without_rotation_is_a_permutation(x, keys):
    """Every pixel is there once, elsewhere; and neighbours mostly stay neighbours."""
    y = np.asarray(jax.jit(inputs.block_shuffle(3, max_angle=0.0))(keys, x, 0))
    for before, after in zip(np.asarray(x), y, strict=True):
        np.testing.assert_allclose(
            np.sort(before.reshape(-1, 3), axis=0), np.sort(after.reshape(-1, 3), axis=0)
        )
    assert np.mean([np.allclose(a, b) for a, b in zip(x, y, strict=True)]) < 0.3


def test_shuffling_cuts_rows_or_columns(keys):
    """The outer strips run along one axis or the other, about equally often, squares or not."""
    for shape in ((KEYS, 9, 9, 1), (KEYS, 9, 6, 1)):
        rows = jnp.broadcast_to(jnp.arange(9.0)[None, :, None, None], shape)
        y = np.asarray(jax.jit(inputs.block_shuffle(3, max_angle=0.0))(keys, rows, 0))
        whole_rows = np.mean([np.all(image == image[:, :1]) for image in y])
        assert 0.25 < whole_rows < 0.8


def test_rotation_keeps_the_middle_and_darkens_corners(x, keys):
    one_block = np.asarray(jax.jit(inputs.block_shuffle(1, max_angle=45.0))(keys, jnp.ones_like(x), 0))
    np.testing.assert_allclose(one_block[:, 3:5, 3:5], 1, atol=1e-5)
    assert one_block[:, 0, 0].mean() < 0.8
