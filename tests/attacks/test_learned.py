"""Operations whose results are known, and a policy whose update is one line of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attack_rules import SCALE, SHAPE, quadratic, run

from transferjax.attacks import inputs
from transferjax.attacks.learned import (
    CHOICES,
    KINDS,
    Choice,
    operations,
    policy,
    probability,
)
from transferjax.attacks.rules import average
from transferjax.attacks.warps import Operation, operate
from transferjax.chain import chain, initial_memory
from transferjax.random import fold_in

POOL = np.random.default_rng(3).random((4, 8, 8, 2)).astype(np.float32)


@pytest.fixture
def at():
    keys = fold_in(jax.random.key(0), jnp.arange(SHAPE[0]))
    return jax.random.normal(jax.random.key(1), SHAPE), {}, keys, jnp.zeros(SHAPE[0], jnp.int32)


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(2), (8, 8, 2))


def scaled(key, x, number):
    """Operation n: the image times `1 + n`."""
    return x * (1 + number).astype(x.dtype)


def drawn(keys, theta, depth):
    """What the policy draws: categorical, from each image's own key."""
    draw = lambda key, t: jax.random.categorical(key, t, shape=(depth,))  # noqa: E731
    return np.asarray(jax.vmap(draw)(fold_in(keys, 0), jnp.asarray(theta)))


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_policy_is_its_update_in_numpy(at, chunk):
    """Of `L = ½ Σ a y²`, `y = s x` with s the product of the operations' factors: the gradient is `s² a x`.

    Logits begin at zero and are kept; each step's three compositions are drawn from the same ones.
    """
    count, depth, rate, samples = 4, 2, 0.3, 3
    x, _, keys, _ = at
    theta, expected = np.zeros((SHAPE[0], count)), []
    for step in range(3):
        grads, better = 0, 0
        for n in range(samples):
            own = fold_in(fold_in(fold_in(keys, step), n), 1)  # of `average`: the sample's, and inside of it
            chosen = drawn(own, theta.astype(np.float32), depth)
            s = (1 + chosen).prod(-1)
            p = softmax(theta)
            loss = 0.5 * s**2 * np.asarray((SCALE * x**2).sum((1, 2, 3)))
            hits = np.eye(count)[chosen].sum(1)
            product = np.take_along_axis(p, chosen, -1).prod(-1)
            better = better + (loss * product)[:, None] * (hits - depth * p)
            grads = grads + (s**2)[:, None, None, None] * np.asarray(SCALE * x)
        theta = theta + rate * better / samples
        expected.append(grads / samples)
    rule = chain(
        average(lambda keys, x, _: x, samples, chunk=chunk),
        policy(scaled, count, depth, rate),
    )
    found, _, memory = run(rule, at, steps=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(memory["policy"], theta, rtol=1e-4, atol=1e-6)
    assert np.abs(theta).max() > 0.5


def test_the_policy_learns_what_raises_the_loss(at):
    """The last operation makes the image largest: after some steps it is what most images draw."""
    grad_fn = policy(scaled, 3, 1, 0.005)(quadratic)
    x, memory, keys, labels = at
    memory = initial_memory(grad_fn, *at)
    step = jax.jit(lambda memory, number: grad_fn(x, memory, fold_in(keys, number), labels)[0][1])
    for number in range(200):
        memory = step(memory, number)
    assert set(np.asarray(memory["policy"]).argmax(-1)) == {2}


def test_probabilities_multiply():
    theta = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    np.testing.assert_allclose(probability(theta, jnp.array([[0, 1], [2, 2]])), [0.125, 0.49], rtol=1e-6)


def test_the_operations_are_those_of_the_paper():
    """Ten kinds of nine or ten, and the identity."""
    counts = {kind: sum(choice.kind == kind for choice in CHOICES) for kind in KINDS}
    assert counts.pop("angle") == 11
    assert set(counts.values()) == {9, 10}
    assert len(CHOICES) == 98
    assert set(KINDS[:5]) <= set(Operation._fields)
    assert CHOICES[0] == Choice("angle", (0.0,))


def kind_of(name, at=0):
    return [i for i, choice in enumerate(CHOICES) if choice.kind == name][at]


def draws(number, x, count=40, pool=POOL):
    one = jax.jit(operations(pool, 0.0))
    return np.stack([one(jax.random.key(seed), x, jnp.int32(number)) for seed in range(count)])


def test_halves_and_the_identity(x):
    """The fourth of the scales: x, x/2, x/4 and x/8, one of them for each draw."""
    np.testing.assert_allclose(draws(0, x, 2), np.stack([x, x]), atol=1e-6)
    ratios = draws(kind_of("scale", 3), x).sum((1, 2, 3)) / float(x.sum())
    assert {round(float(np.log2(1 / r)), 3) for r in ratios} == {0.0, 1.0, 2.0, 3.0}


def test_masks_hide_one_block(x):
    """Of 2 x 2 blocks of an image of 8 x 8: 16 places, any of the four blocks; of 3 x 3, 4 to 9."""
    hidden = draws(kind_of("mask", 0), x) == 0
    assert set(hidden.sum((1, 2, 3))) == {16 * 2}
    assert len({h.tobytes() for h in hidden}) == 4
    three = next(i for i, c in enumerate(CHOICES) if c == Choice("mask", (3.0,)))
    assert set((draws(three, x) == 0).sum((1, 2, 3))) <= {2 * n for n in (4, 6, 9)}


def test_values_are_dropped_and_the_others_stay(x):
    y = draws(kind_of("drop", 0), x, 20)
    np.testing.assert_array_equal(np.where(y == 0, 0, x), y)
    assert 0.05 < (y == 0).mean() < 0.15


def test_blocks_are_shuffled(x):
    """No value is lost; strips in one direction, blocks within."""
    y = draws(kind_of("shuffle", 0), x, 10)
    values = np.sort(np.asarray(x).ravel())
    for image in y:
        np.testing.assert_allclose(np.sort(image.ravel()), values, atol=1e-5)
    assert len({image.tobytes() for image in y}) > 5


def test_a_traced_number_of_blocks_is_that_number():
    """With room for twelve, lines of 24 are cut in three: where a shuffled ramp jumps is between strips."""
    ramp = jnp.broadcast_to(jnp.arange(24.0)[:, None, None], (24, 24, 1))
    cut = jax.jit(lambda key: inputs.shuffled_blocks(key, ramp, jnp.float32(3), 12))
    seen = set()
    for seed in range(20):
        line = np.asarray(cut(jax.random.key(seed)))[:, 0, 0]
        np.testing.assert_allclose(np.sort(line), np.arange(24), atol=1e-4)
        seen.add(int((np.abs(np.diff(line) - 1) > 0.5).sum()))
    assert seen == {0, 1, 2}


def test_images_are_mixed_in_and_halved(x):
    """`(x + 0.2 x') / 2ⁿ`, n below three, x' of the pool."""
    found = set()
    for y in draws(kind_of("admix", 0), x, 30):
        near = [
            (i, n)
            for i in range(len(POOL))
            for n in range(3)
            if np.allclose(y, (x + 0.2 * POOL[i]) / 2**n, atol=1e-5)
        ]
        assert len(near) == 1
        found.update(near)
    assert len(found) > 6


def test_a_spectrum_without_noise_keeps_the_energy_in_its_range(x):
    """Coefficients times `1 ± 0.1`: the image moves by at most that share of its length."""
    y = draws(kind_of("spectrum", 0), x, 10)
    ratio = np.linalg.norm((y - x).reshape(10, -1), axis=-1) / np.linalg.norm(np.asarray(x))
    assert np.all((ratio > 0.02) & (ratio < 0.1))


def test_zoom_and_shift(x):
    """A zoom by two shows the middle; a way of one pixel is a roll with black behind."""
    key, image = jax.random.key(0), np.asarray(x)
    down = np.zeros_like(image)
    down[1:, 1:] = image[:-1, :-1]
    np.testing.assert_allclose(operate(key, x, Operation(shift=1.0)), down, atol=1e-5)
    ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (8, 8, 1))
    zoomed = operate(key, ramp, Operation(zoom=2.0))[..., 0]
    np.testing.assert_allclose(zoomed[:, 3], 3.5 + (np.arange(8) - 3.5) / 2, atol=1e-5)


def test_a_composition_is_pulled_back(at):
    """The gradient of `½ Σ a T(x)²` with respect to x, by finite differences in double precision."""
    with jax.enable_x64(True):
        x, keys = jnp.asarray(at[0][:1], jnp.float64), at[2][:1]
        pool = np.random.default_rng(3).random((2, *SHAPE[1:]))
        rule = policy(operations(pool, 0.05), len(CHOICES))(quadratic)
        at_once = jax.jit(lambda x, keys: rule(x, {}, keys, None))
        for seed in range(6):
            own = fold_in(keys, seed)
            value = lambda x: at_once(x, own)[0][0].sum()  # noqa: B023, E731
            d = jax.random.normal(jax.random.key(seed), x.shape, jnp.float64)
            slope = (value(x + 1e-6 * d) - value(x - 1e-6 * d)) / 2e-6
            np.testing.assert_allclose((at_once(x, own)[1] * d).sum(), slope, rtol=1e-5)


def test_a_pool_is_images():
    with pytest.raises(ValueError, match="pool"):
        operations(np.full((1, 8, 8, 3), 200.0), 0.1)
