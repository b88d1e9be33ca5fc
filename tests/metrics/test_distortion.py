"""SSIM against its definition, window by window in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import metrics


def direct(x, y, width=11):
    """One image, `[H, W, C]`: every window by itself."""
    at = np.arange(width) - width // 2
    line = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for channel in range(x.shape[-1]):
        for i in range(x.shape[0] - width + 1):
            for j in range(x.shape[1] - width + 1):
                a, b = (z[i : i + width, j : j + width, channel] for z in (x, y))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                both = (window * (a - ma) * (b - mb)).sum()
                high = (2 * ma * mb + 1e-4) * (2 * both + 9e-4)
                found.append(high / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(found)


@pytest.mark.parametrize(("shape", "width"), [((16, 14, 3), 11), ((11, 11, 1), 11), ((8, 8, 1), 7)])
def test_ssim_is_its_definition(shape, width):
    draw = np.random.default_rng(0)
    x = draw.uniform(size=(3, *shape))
    y = np.clip(x + draw.normal(scale=0.1, size=x.shape), 0, 1)
    expected = [direct(a, b, width) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(metrics.ssim(jnp.asarray(x), jnp.asarray(y)), expected, rtol=2e-4)


def test_equal_images_are_alike_and_noise_is_not():
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 12, 12, 3)), jnp.float32)
    np.testing.assert_allclose(metrics.ssim(x, x), 1, atol=1e-6)
    little, much = (metrics.ssim(x, jnp.clip(x + s, 0, 1)) for s in (0.02, 0.2))
    assert (much < little).all()
    assert (little < 1).all()


def test_l2_is_the_length_of_the_perturbation():
    x = jnp.full((2, 4, 4, 3), 0.5)
    np.testing.assert_allclose(metrics.l2_distance(x, x + 0.1), 0.1 * np.sqrt(48), rtol=1e-5)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"must be like images, \(1, 8, 9, 3\); got \(1, 8, 8, 3\)"):
        metrics.ssim(jnp.zeros((1, 8, 9, 3)), jnp.zeros((1, 8, 8, 3)))
