"""Rules with several points on quadratics, where every gradient is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attack_rules import SCALE, SHAPE, quadratic, run, unit

from transferjax.attacks import inputs, rules
from transferjax.attacks.rules import average
from transferjax.attacks.samplers import (
    constrained_warps,
    inverted_points,
    paced_patch_out,
    patch_out,
    resisting,
)
from transferjax.random import fold_in


@pytest.fixture
def at():
    keys = fold_in(jax.random.key(0), jnp.arange(SHAPE[0]))
    return jax.random.normal(jax.random.key(1), SHAPE), {}, keys, jnp.zeros(SHAPE[0], jnp.int32)


def test_points_go_along_what_they_remember(at):
    """Without a neighbourhood all points are one: `p₁ = ĝ(x)`, then `p₂ = ĝ(x + ξ p₁) - 0.9 p₁`."""
    (first, second, third), _, memory = run(inverted_points(0.0, 0.1, 2), at, steps=3)
    x = at[0]
    np.testing.assert_allclose(first, SCALE * x, rtol=1e-6)
    p = unit(SCALE * x)
    np.testing.assert_allclose(second, SCALE * (x + 0.1 * p), rtol=1e-5)
    p = unit(second) - 0.9 * p
    np.testing.assert_allclose(third, SCALE * (x + 0.1 * p), rtol=1e-5, atol=1e-6)
    assert memory["inverted_points"].shape == (2, *SHAPE)


def test_points_are_apart_and_chunks_change_nothing(at):
    one, _, memory = run(inverted_points(0.3, 0.1, 4), at, steps=2)
    two, _, _ = run(inverted_points(0.3, 0.1, 4, chunk=2), at, steps=2)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-5, atol=1e-6)
    points = np.asarray(memory["inverted_points"])
    assert np.abs(points[0] - points[1]).max() > 0.01
    with pytest.raises(ValueError, match="chunk=3, samples=4"):
        inverted_points(0.3, 0.1, 4, chunk=3)


def test_a_transformation_resists_by_a_step_down(at):
    """Of shifts `x + θ` of a quadratic: `θ' = -ρ a x`, and the gradient there is `a (x - ρ a x)`."""
    still = lambda keys, x: jnp.zeros_like(x)  # noqa: E731
    (grads,), _, _ = run(resisting(still, jnp.add, 0.05), at)
    np.testing.assert_allclose(grads, SCALE * (at[0] - 0.05 * SCALE * at[0]), rtol=1e-5)


def test_warps_that_cannot_bend_are_the_image(at):
    """Without noise and step; with them, the warp is no identity."""
    (grads,), _, _ = run(constrained_warps(2, beta=0.0, rho=0.0), at)
    np.testing.assert_allclose(grads, SCALE * at[0], rtol=1e-4, atol=1e-5)
    (bent,), _, _ = run(constrained_warps(2, beta=0.5, rho=0.0), at)
    assert np.abs(bent - grads).max() > 0.05
    with pytest.raises(ValueError, match="mesh=2: expected at least 3"):
        constrained_warps(2, mesh=2)


def test_weighted_means(at):
    """Gradients `a x / 2ⁿ` at `x / 2ⁿ`, weighing 1, 1/2 and 1/4; and equal ones where all are as like x."""
    x = at[0]
    size = lambda x, y: jnp.abs(y).sum((1, 2, 3)) / jnp.abs(x).sum((1, 2, 3))  # noqa: E731
    (grads,), _, _ = run(average(inputs.halve, 3, pull_back=False, weight=size), at)
    np.testing.assert_allclose(grads, (1 + 1 / 4 + 1 / 16) / (1 + 1 / 2 + 1 / 4) * SCALE * x, rtol=1e-5)
    (alike,), _, _ = run(average(inputs.halve, 3, weight=rules.likeness), at)
    (plain,), _, _ = run(average(inputs.halve, 3), at)
    np.testing.assert_allclose(alike, plain, rtol=1e-5)
    turned = jnp.stack([x[0], -x[0], jnp.zeros_like(x[0])])
    np.testing.assert_allclose(rules.likeness(x[:1].repeat(3, 0), turned), np.exp([1, -1, 0]), rtol=1e-5)


def test_transformations_in_turn(at):
    """First doubled, then one more: `2 x + 1`, and its Jacobian 2."""
    double, more = (lambda _, x, __: 2 * x), (lambda _, x, __: x + 1)
    (grads,), _, _ = run(average(inputs.in_turn(double, more)), at)
    np.testing.assert_allclose(grads, 2 * SCALE * (2 * at[0] + 1), rtol=1e-5)


def test_neighbours_of_several_radii():
    keys, x = fold_in(jax.random.key(0), jnp.arange(300)), jnp.zeros((300, 4, 4, 1))
    far = np.abs(inputs.noise_of_radii((0.1, 0.4))(keys, x, 0)).max((1, 2, 3))
    assert 0.3 < np.mean(far < 0.1) < 0.7
    assert far.max() <= 0.4


def test_a_share_of_the_patches_is_left(at):
    """Outside of the chosen patches the gradient is 0, inside the quadratic's; and there are so many."""
    x, _, keys, labels = at
    clean = 0.5 * x
    (_, memory), grads = patch_out(2, 0.75)(quadratic)(x, {"clean": clean}, keys, labels)
    there = np.asarray(grads != 0).all(-1)
    np.testing.assert_allclose(grads, np.where(there[..., None], SCALE * x, 0), rtol=1e-6)
    assert set(there.sum((1, 2))) == {12}  # three patches of four, of 2 x 2 pixels
    np.testing.assert_array_equal(there, there[:, ::2, ::2].repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(memory["clean"], clean)
    grads = patch_out(3, 0.25)(quadratic)(x, {"clean": clean}, keys, labels)[1]
    sizes = set(np.asarray(grads != 0).all(-1).sum((1, 2)))
    assert sizes <= {9, 3, 1}  # a patch of 3 x 3, or what the border leaves of it
    with pytest.raises(ValueError, match="at least 1 pixel; got patch=0"):
        patch_out(0, 0.5)
    with pytest.raises(ValueError, match=r"a share in \(0, 1\]; got share=0"):
        patch_out(2, 0)


def test_patches_are_left_at_their_own_pace():
    """At step t of 4 with probability `0.9 - (0.9 - share) t / 4`, each patch with a share of its own."""
    count, share = 2000, jnp.array([[0.1, 0.9], [0.5, 0.3]])
    x, keys = jnp.ones((count, 4, 4, 2)), fold_in(jax.random.key(0), jnp.arange(count))
    memory = {"clean": jnp.zeros_like(x)}
    rule = paced_patch_out(4, jnp.broadcast_to(share, (count, 2, 2)), 2, prob=0.9)(quadratic)
    for step in range(1, 7):  # beyond the last step the pace stays
        (_, memory), grads = rule(x, memory, fold_in(keys, step), None)
        left = np.asarray(grads != 0)[:, ::2, ::2, 0].mean(0)
        np.testing.assert_allclose(left, 0.9 - (0.9 - share) * min(step, 4) / 4, atol=0.04)
    assert memory["paced_patch_out"] == 6
    whole = paced_patch_out(1, 1.0, 2)(quadratic)(x, memory, keys, None)[1]
    np.testing.assert_allclose(whole, SCALE * x)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        paced_patch_out(0)
    with pytest.raises(ValueError, match=r"or shares \[B, rows, columns\]; got \(2,\)"):
        paced_patch_out(2, jnp.array([0.1, 0.2]))
