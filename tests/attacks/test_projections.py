"""The budget: nearest points by a slow and certain method, hypothesis for the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transferjax.attacks import projections

PROJECTIONS = {
    "linf": projections.linf,
    "l2": projections.l2,
    "l2_nearest": projections.l2_nearest,
}
every = pytest.mark.parametrize("name", PROJECTIONS)
seeds = st.integers(0, 2**32 - 1)
budgets = st.sampled_from([0.0, 1 / 255, 8 / 255, 0.5, 1.0, 3.0])
spreads = st.sampled_from([0.0, 1e-6, 0.1, 1.0, 100.0])


def draw(seed, spread, batch=3):
    rng = np.random.default_rng(seed)
    x0 = rng.integers(0, 256, (batch, 4, 4, 3)) / 255
    x0[0] = np.round(x0[0])  # every pixel of one image on the border of [0, 1]
    return jnp.asarray(x0 + spread * rng.standard_normal(x0.shape), jnp.float32), jnp.asarray(x0, jnp.float32)


def length(name, d):
    d = np.asarray(d, np.float64).reshape(len(d), -1)
    return np.abs(d).max(-1) if name == "linf" else np.linalg.norm(d, axis=-1)


@functools.cache
def jitted(name, eps):
    return jax.jit(PROJECTIONS[name](eps))


@every
@settings(deadline=None, max_examples=25)
@given(seed=seeds, eps=budgets, spread=spreads)
def test_projection_laws(name, seed, eps, spread):
    x, x0 = draw(seed, spread)
    project = jitted(name, eps)
    y = project(x, x0)
    assert y.dtype == x.dtype
    assert np.all((y >= 0) & (y <= 1))
    assert np.all(length(name, y - x0) <= eps * (1 + 1e-5) + 1e-6)
    np.testing.assert_allclose(project(y, x0), y, atol=2e-6)
    inside = (length(name, x - x0) <= eps) & np.all((x >= 0) & (x <= 1), (1, 2, 3))
    np.testing.assert_allclose(y[inside], x[inside], atol=2e-6)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, eps=st.sampled_from([0.1, 0.5, 1.0, 3.0]), spread=st.sampled_from([0.1, 1.0, 10.0]))
def test_l2_nearest_is_nearest(seed, eps, spread):
    """Bisection on the multiplier, and no feasible point of many is nearer."""
    with jax.enable_x64(True):
        x, x0 = (np.asarray(a, np.float64) for a in draw(seed, spread))
        y = np.asarray(projections.l2_nearest(eps)(jnp.asarray(x), jnp.asarray(x0)))
        usual = np.asarray(projections.l2(eps)(jnp.asarray(x), jnp.asarray(x0)))
    for of_x, of_x0, of_y in zip(x, x0, y, strict=True):
        low, high = 0.0, 1.0
        for _ in range(100):
            t = (low + high) / 2
            feasible = np.linalg.norm(np.clip(of_x0 + t * (of_x - of_x0), 0, 1) - of_x0) <= eps
            low, high = (t, high) if feasible else (low, t)
        t = 1.0 if np.linalg.norm(np.clip(of_x, 0, 1) - of_x0) <= eps else low
        np.testing.assert_allclose(of_y, np.clip(of_x0 + t * (of_x - of_x0), 0, 1), atol=1e-9)
    distance = np.linalg.norm((y - x).reshape(len(x), -1), axis=-1)
    assert np.all(distance <= np.linalg.norm((usual - x).reshape(len(x), -1), axis=-1) + 1e-9)


def test_l2_nearest_solves_its_variational_inequality(x64):
    """`⟨x - y, z - y⟩ ≤ 0` for every feasible z: the definition of the nearest point of a convex set."""
    x, x0 = (jnp.asarray(a, jnp.float64) for a in draw(0, 0.3))
    y = projections.l2_nearest(0.5)(x, x0)
    for seed in range(50):
        z = projections.l2(0.5)(x0 + jax.random.normal(jax.random.key(seed), x0.shape), x0)
        assert np.all(jnp.sum((x - y) * (z - y), (1, 2, 3)) <= 1e-9)


@pytest.mark.parametrize("norm", projections.NORMS)
@settings(deadline=None, max_examples=25)
@given(seed=seeds, eps=st.sampled_from([1 / 255, 8 / 255, 0.5, 1.0, 3.0]), stored=st.booleans())
def test_eight_bit_stays_in_the_ball(norm, seed, eps, stored):
    x, x0 = draw(seed, 0.2)
    if not stored:
        x0 = jnp.clip(x0 + 0.0013, 0, 1)  # a clean image that no PNG holds
    y = projections.eight_bit(norm, eps)(projections.ball(norm, eps)(x, x0), x0)
    assert np.all((y >= 0) & (y <= 1))
    assert np.all(length(norm, y - x0) <= eps + 1e-6)
    on_levels = np.abs(y * 255 - np.round(y * 255)) < 1e-3
    assert np.all(on_levels | (np.abs(y - x0) < 1e-7))
    assert not stored or np.all(on_levels)


def test_eight_bit_keeps_a_full_budget():
    """8/255 in floating point is no multiple of 1/255, but the eighth level must not be lost."""
    x0 = jnp.arange(256, dtype=jnp.float32).reshape(1, 16, 16, 1) / 255
    for sign in (-1, 1):
        x = projections.linf(8 / 255)(x0 + sign, x0)
        levels = jnp.round(255 * projections.eight_bit("linf", 8 / 255)(x, x0)).ravel()
        np.testing.assert_array_equal(levels, np.clip(np.arange(256) + 8 * sign, 0, 255))


@pytest.mark.parametrize("norm", projections.NORMS)
def test_random_start_is_uniform_in_the_ball(norm):
    """In n dimensions `r = ‖d‖ / eps` has `P(r < s) = sⁿ` (L2); a pixel is uniform in [-1, 1] (L∞)."""
    x0 = jnp.full((2000, 2, 1, 2), 0.5)
    keys = jax.random.split(jax.random.key(0), 2000)
    d = (projections.uniform(norm, 0.25)(keys, x0) - x0).reshape(2000, -1) / 0.25
    u = jnp.linalg.norm(d, axis=-1) ** 4 if norm == "l2" else (d[:, 0] + 1) / 2
    distance = jnp.abs(jnp.sort(u) - (jnp.arange(2000) + 0.5) / 2000).max()
    assert distance < 1.63 / np.sqrt(2000)  # Kolmogorov–Smirnov at 1 %
    assert abs(float(d.mean())) < 0.05


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm must be one of linf, l2; got 'l1'"):
        projections.ball("l1", 0.1)


def test_a_random_start_in_half_precision_has_a_length():
    """Squares of as many normal draws as an ImageNet image has pixels add up to more than float16 holds."""
    zero = jnp.zeros((1, 224, 224, 3), jnp.float16)
    noise = projections.uniform("l2", 2.0)(jax.random.split(jax.random.key(0), 1), zero)
    assert noise.dtype == jnp.float16
    assert 1.9 < np.linalg.norm(np.asarray(noise, float)) < 2.1


@settings(deadline=None, max_examples=60)
@given(seeds, st.sampled_from([1 / 255, 8 / 255, 0.5]), st.sampled_from(["bfloat16", "float16"]))
@example(303, 0.5, "bfloat16")  # farther by less than float32 tells one distance from the other
def test_rounding_to_half_precision_goes_inwards(seed, eps, dtype):
    """No pixel ends farther from its clean one than it was, nor farther than one step of its dtype from x."""
    x, clean = draw(seed, eps)
    clean = clean.astype(dtype)
    x = jnp.clip(x, 0, 1)
    rounded = projections.inwards(x, clean)
    assert rounded.dtype == clean.dtype
    wide = [np.asarray(a, np.float64) for a in (rounded, x, clean)]
    assert np.all(np.abs(wide[0] - wide[2]) <= np.abs(wide[1] - wide[2]))
    step = float(jnp.finfo(dtype).eps) * np.maximum(wide[1], float(jnp.finfo(dtype).tiny))
    assert np.all(np.abs(wide[0] - wide[1]) <= step)


def test_what_has_the_dtype_already_stays_as_it_is():
    """Not a bit of a float32 image changes."""
    x, clean = draw(0, 0.1)
    assert projections.inwards(x, clean) is x
