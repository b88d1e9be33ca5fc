import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from transferjax import losses
from transferjax.metrics import input_gradient
from transferjax.metrics.flatness import (
    expected_gradient_norm,
    gradient_norm,
    loss_surface,
    random_directions,
)

KEY = jax.random.key(0)


def square(weight, images):
    """One 'logit': the weighted squared norm of the image."""
    return weight * (images**2).sum((1, 2, 3))[:, None]


def value(logits, _):
    return logits[:, 0]


IMAGES = jax.random.uniform(KEY, (3, 4, 4, 2), minval=0.3, maxval=0.7)
LABELS = jnp.zeros(3, int)
BOWL = Partial(square, jnp.float32(2.0))


def test_gradient_norm():
    expected = 4 * jnp.linalg.norm(IMAGES.reshape(3, -1), axis=-1)
    np.testing.assert_allclose(gradient_norm(BOWL, IMAGES, LABELS, value), expected, rtol=1e-5)


def test_expected_gradient_norm_of_a_bowl():
    """Around the origin, E‖4u‖ of uniform u is near 4 √(N r²/3)."""
    found = expected_gradient_norm(KEY, BOWL, 0 * IMAGES, LABELS, 0.1, samples=400, loss=value)
    np.testing.assert_allclose(found, 4 * np.sqrt(32 * 0.01 / 3), rtol=0.02)
    exact = expected_gradient_norm(KEY, BOWL, IMAGES, LABELS, 0.0, samples=2, loss=value)
    np.testing.assert_allclose(exact, gradient_norm(BOWL, IMAGES, LABELS, value), rtol=1e-5)


def test_neighbours_belong_to_their_image(mlp, batch):
    images, labels = batch()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(6))
    whole = expected_gradient_norm(KEY, mlp(), images, labels, 0.1, samples=3)
    part = expected_gradient_norm(keys[2:4], mlp(), images[2:4], labels[2:4], 0.1, samples=3)
    np.testing.assert_allclose(part, whole[2:4], rtol=1e-5)


def test_directions():
    down, across = (d.reshape(3, -1) for d in random_directions(KEY, IMAGES))
    for product, expected in ((down * down, 1), (across * across, 1), (down * across, 0)):
        np.testing.assert_allclose(product.sum(-1), expected, atol=1e-5)
    raw = jnp.stack(random_directions(KEY, jnp.zeros((4, 32, 32, 3)), "raw"))
    np.testing.assert_allclose(raw.std(), 1, rtol=0.02)
    uniform = jnp.stack(random_directions(KEY, jnp.zeros((4, 32, 32, 3)), "uniform"))
    assert ((uniform >= 0) & (uniform < 1)).all()
    np.testing.assert_allclose((uniform.mean(), uniform.var()), (1 / 2, 1 / 12), rtol=0.02)
    assert (uniform[0] != uniform[1]).any()
    with pytest.raises(ValueError, match="kind must be one of"):
        random_directions(KEY, IMAGES, "filter")


def test_surface_of_a_bowl():
    grid = jnp.linspace(-0.2, 0.2, 5)
    directions = random_directions(KEY, IMAGES)
    found = loss_surface(BOWL, IMAGES, LABELS, directions, grid, clamp=False, loss=value)
    assert found.shape == (3, 5, 5)
    dot = [(IMAGES * d).sum((1, 2, 3))[:, None, None] for d in directions]
    a, b = grid[:, None], grid[None, :]
    center = (IMAGES**2).sum((1, 2, 3))[:, None, None]
    np.testing.assert_allclose(found, 2 * (center + 2 * a * dot[0] + 2 * b * dot[1] + a**2 + b**2), rtol=1e-5)


def test_clamping_bends_the_surface_only_at_the_edge_of_the_box(mlp, batch):
    images, labels = batch()
    grid = jnp.array([-3.0, 0.0, 3.0])
    directions = random_directions(KEY, images)
    free, clamped = (loss_surface(mlp(), images, labels, directions, grid, clamp=c) for c in (False, True))
    np.testing.assert_allclose(free[:, 1, 1], clamped[:, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(clamped[:, 1, 1], losses.cross_entropy(mlp()(images), labels), rtol=1e-5)
    assert (jnp.abs(free - clamped)[:, 0, 0] > 1e-3).any()


def test_the_slope_of_the_surface_is_the_gradient(mlp, batch, x64):
    images, labels = batch()
    directions = random_directions(KEY, images)
    step = 1e-5
    surface = loss_surface(mlp(), images, labels, directions, jnp.array([-step, step]), clamp=False)
    slope = (surface[:, 1].mean(-1) - surface[:, 0].mean(-1)) / (2 * step)
    expected = (input_gradient(mlp(), images, labels) * directions[0]).sum((1, 2, 3))
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
