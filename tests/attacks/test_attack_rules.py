"""Rules on quadratics, where every gradient is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.attacks import inputs, rules, updates
from transferjax.attacks.rules import average, mix, probe, uniform_noise
from transferjax.chain import chain, initial_memory
from transferjax.random import fold_in

SHAPE = (3, 4, 4, 2)
SCALE = jnp.linspace(0.5, 2.0, 32).reshape(SHAPE[1:])


def quadratic(x, memory, keys, labels):
    """`L = ½ Σ a x²`, so `g = a x` and the Hessian is diag(a)."""
    return (0.5 * (SCALE * x**2).sum((1, 2, 3)), memory), SCALE * x


@pytest.fixture
def at():
    keys = fold_in(jax.random.key(0), jnp.arange(SHAPE[0]))
    return jax.random.normal(jax.random.key(1), SHAPE), {}, keys, jnp.zeros(SHAPE[0], jnp.int32)


def run(rule, at, steps=1):
    """The rule's gradients of several calls at the same point, memory carried on."""
    grad_fn = rule(quadratic)
    x, memory, keys, labels = at
    memory = initial_memory(grad_fn, *at)
    results = []
    for step in range(steps):
        (values, memory), grads = grad_fn(x, memory, fold_in(keys, step), labels)
        results.append(grads)
    return results, values, memory


def unit(g):
    return g / jnp.abs(g).mean((1, 2, 3), keepdims=True)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_average_pulls_back(at, chunk):
    """`T_n(x) = x / 2ⁿ` has Jacobian `2⁻ⁿ`: the mean of `4⁻ⁿ a x`, in chunks of any size."""
    (grads,), values, _ = run(average(inputs.halve, 4, chunk=chunk), at)
    factor = sum(4.0**-n for n in range(4)) / 4
    np.testing.assert_allclose(grads, factor * SCALE * at[0], rtol=1e-5)
    np.testing.assert_allclose(values, factor * quadratic(*at)[0][0], rtol=1e-5)


def test_average_without_pull_back(at):
    (grads,), _, _ = run(average(inputs.halve, 4, pull_back=False), at)
    np.testing.assert_allclose(grads, sum(2.0**-n for n in range(4)) / 4 * SCALE * at[0], rtol=1e-5)


def test_outwards_is_the_gradient_of_the_length(at):
    x, _, keys, labels = at
    clean = x.at[1:].add(0.1 * jax.random.normal(jax.random.key(2), x[1:].shape))
    grads = rules.outwards(0.3)(quadratic)(x, {"clean": clean}, keys, labels)[1]
    for i in (1, 2):
        own = jax.grad(
            lambda y, i=i: (0.5 * SCALE * y**2).sum() + 0.3 * jnp.sqrt(((y - clean[i]) ** 2).sum())
        )
        np.testing.assert_allclose(grads[i], own(x[i]), rtol=1e-5)
    np.testing.assert_allclose(grads[0], SCALE * x[0], rtol=1e-6)  # at the clean image itself


def test_neighbours_are_uniform_and_differ(at):
    """The mean gradient of N uniform neighbours is `a (x + mean u)`, with variance `r² / 3N`."""
    (grads,), _, _ = run(average(uniform_noise(0.3), 400), at)
    mean = grads / SCALE - at[0]
    assert abs(float(mean.std()) / (0.3 / np.sqrt(3 * 400)) - 1) < 0.25
    assert np.unique(np.asarray(mean)).size > mean.size // 2


def test_neighbours_are_uniform_in_the_l2_ball():
    """Of a uniform draw from a ball of radius r in n dimensions, `(‖u‖ / r)ⁿ` is uniform in [0, 1]."""
    x, keys = jnp.zeros((500, 2, 2, 1)), fold_in(jax.random.key(0), jnp.arange(500))
    u = np.asarray(uniform_noise(0.3, "l2")(keys, x, 0)).reshape(500, -1)
    shares = np.sort((np.linalg.norm(u, axis=-1) / 0.3) ** 4)
    assert np.abs(shares - np.linspace(0, 1, 500)).max() < 0.08
    assert np.abs(u.mean(0)).max() < 0.02


def test_an_exact_probe_is_the_finite_difference_of_a_quadratic(at):
    """Where the Hessian is constant, both are one."""
    (difference,), _, _ = run(probe(0.3, 0.4, 0.6), at)
    (product,), _, _ = run(probe(0.3, 0.4, 0.6, exact=True), at)
    np.testing.assert_allclose(product, difference, rtol=1e-5, atol=1e-6)


def test_the_exact_penalty_is_the_derivative_of_the_gradients_norm(at, x64):
    """`L - λ ‖∇L‖₂` of a quartic by finite differences; the finite difference of gradients is near."""
    x, memory, keys, labels = jax.tree.map(lambda a: jnp.asarray(a, float), at[0]), *at[1:]
    loss = lambda x: (SCALE * x**4).sum((1, 2, 3))  # noqa: E731

    def quartic(x, memory, keys, labels):
        return (loss(x), memory), 4 * SCALE * x**3

    def penalized(x):
        return loss(x) - 0.7 * jnp.sqrt(((4 * SCALE * x**3) ** 2).sum((1, 2, 3)))

    direction = jnp.cos(jnp.arange(x.size, dtype=float)).reshape(x.shape)
    step = 1e-6 * direction
    slope = (penalized(x + step) - penalized(x - step)) / 2e-6
    gradient = probe(-0.7, 0, 1, "l2", exact=True)(quartic)(x, memory, keys, labels)[1]
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), slope, rtol=1e-6)
    radius = 1e-5  # `g - λ (g(x + r ĝ) - g) / r`
    near = probe(radius, 1 + 0.7 / radius, -0.7 / radius, "l2")(quartic)(x, memory, keys, labels)[1]
    np.testing.assert_allclose(near, gradient, rtol=1e-3, atol=1e-3)


def test_lookahead_and_enhanced_momentum_go_lengths_in_l2(at):
    """The second call looks at `x + step ĝ` with ĝ of length one."""
    ahead = SCALE * at[0] / jnp.sqrt(((SCALE * at[0]) ** 2).sum((1, 2, 3), keepdims=True))
    (_, second), _, _ = run(rules.lookahead(1.0, 0.1, "l2"), at, steps=2)
    np.testing.assert_allclose(second, SCALE * (at[0] + 0.1 * ahead), rtol=1e-5, atol=1e-6)
    seen = []

    def watched(x, memory, keys, labels):
        jax.debug.callback(lambda x: seen.append(x), x)
        return quadratic(x, memory, keys, labels)

    x, memory, keys, labels = at
    grad_fn = rules.enhanced_momentum(0.1, 2, 7.0, "l2")(watched)
    (_, memory), _ = grad_fn(x, initial_memory(grad_fn, *at), keys, labels)
    grad_fn(x, memory, keys, labels)
    jax.effects_barrier()
    np.testing.assert_allclose(np.linalg.norm((seen[-1] - x).reshape(3, -1), axis=-1), 0.7, rtol=1e-5)


def test_counters_survive_averages(at):
    """A rule inside an average leaves the memory it would leave alone."""

    def counting(grad_fn):
        def counted(x, memory, keys, labels):
            (values, memory), grads = grad_fn(x, memory, keys, labels)
            step = memory.get("count", jnp.zeros((), jnp.int32))
            return (values, memory | {"count": step + 1}), grads

        return counted

    _, _, memory = run(chain(average(inputs.halve, 4, chunk=2), counting), at, steps=3)
    assert memory["count"] == 3
    assert memory["count"].dtype == jnp.int32


@pytest.mark.parametrize(("samples", "chunk"), [(3, 2), (0, 1), (2, 0)])
def test_chunk_must_divide(samples, chunk):
    with pytest.raises(ValueError, match=f"chunk={chunk}, samples={samples}"):
        average(inputs.halve, samples, chunk=chunk)
    with pytest.raises(ValueError, match=f"chunk={chunk}, samples={samples}"):  # before any image is seen
        rules.enhanced_momentum(0.1, samples, 7.0, chunk=chunk)


def test_probe_sees_the_hessian(at):
    """On a quadratic `[g(x + k ĝ) - g(x)] / k = H ĝ` exactly, for every direction."""
    g = SCALE * at[0]
    directions = {
        "mean_abs": unit(g),
        "sign": jnp.sign(g),
        "l2": g / jnp.sqrt((g**2).sum((1, 2, 3), keepdims=True)),
    }
    for name, direction in directions.items():
        (grads,), _, _ = run(probe(0.1, -10.0, 10.0, name), at)
        np.testing.assert_allclose(grads, SCALE * direction, rtol=1e-3, atol=1e-4)


def test_mix(at):
    double = mix(0.25, 2.0, average(inputs.halve, 1))
    np.testing.assert_allclose(run(double, at)[0][0], 2.25 * SCALE * at[0], rtol=1e-6)


def test_variance_tuning_remembers(at):
    """The first call returns g; the second adds the neighbours' mean minus g of the first."""
    rule = rules.variance_tuning(0.5, 3)
    (first, second), _, _ = run(rule, at, steps=2)
    np.testing.assert_allclose(first, SCALE * at[0], rtol=1e-6)
    _, _, memory = run(rule, at, steps=1)
    np.testing.assert_allclose(second, first + memory["variance_tuning"], rtol=1e-5)
    assert float(jnp.abs(memory["variance_tuning"]).max()) > 0.01


def test_variance_is_the_neighbours_mean_less_the_gradient(at):
    """Of `a x³ / 3` with neighbours from `U(-r, r)`: a r² / 3, as sure as so many neighbours make it."""
    radius, count = 1.5, 4000
    x, _, keys, labels = at
    rule = rules.variance_tuning(radius, count, chunk=500)
    grad_fn = rule(lambda x, memory, *_: (((SCALE * x**3 / 3).sum((1, 2, 3)), memory), SCALE * x**2))
    (_, memory), first = grad_fn(x, {}, keys, labels)
    _, second = grad_fn(x, memory, keys, labels)
    np.testing.assert_allclose(first, SCALE * x**2, rtol=1e-5)
    error = SCALE * jnp.sqrt(4 * x**2 * radius**2 / 3 + 4 * radius**4 / 45) / count**0.5
    assert (jnp.abs(second - first - SCALE * radius**2 / 3) < 5 * error).all()
    assert (5 * error < SCALE * radius**2 / 3).mean() > 0.9  # a mean of the other sign would show


def test_integrated_gradients_add_up_to_the_difference(at):
    """Of a quadratic half of the way's gradient times the way is `L(x) - L(b)`: completeness, exactly."""
    x = at[0]
    (grads,), _, _ = run(rules.integrated(lambda keys, x, _: 0.25 * x, position=0.5), at)
    difference = 0.5 * (SCALE * x**2 * (1 - 0.25**2)).sum((1, 2, 3))
    np.testing.assert_allclose(grads.sum((1, 2, 3)), difference, rtol=1e-5)


def test_lookahead_is_nesterov(at):
    (first, second), _, memory = run(rules.lookahead(0.9, 0.1), at, steps=2)
    x = at[0]
    np.testing.assert_allclose(first, SCALE * x, rtol=1e-6)
    np.testing.assert_allclose(second, SCALE * (x + 0.09 * unit(SCALE * x)), rtol=1e-5)
    np.testing.assert_allclose(memory["lookahead"], 0.9 * unit(first) + unit(second), rtol=1e-5)


def test_relevance_weighs_by_the_cosine(at):
    """Without a neighbourhood the mean is g itself: cosine one, gradient g."""
    np.testing.assert_allclose(run(rules.relevance(0.0, 2), at)[0][0], SCALE * at[0], rtol=1e-5)


def test_relevance_mixes_both_gradients_by_their_cosine(at):
    """Of g = a x and a neighbourhood that is x + 1 alone: `s g + (1 - s) a (x + 1)`."""

    def beside(grad_fn):
        return lambda x, *more: grad_fn(x + 1, *more)

    g, other = np.asarray(SCALE * at[0]), np.asarray(SCALE * (at[0] + 1))
    s = (g * other).sum((1, 2, 3)) / np.linalg.norm(g.reshape(3, -1), axis=1)
    s = (s / np.linalg.norm(other.reshape(3, -1), axis=1))[:, None, None, None]
    assert np.abs(s - 0.5).min() > 0.05
    np.testing.assert_allclose(run(rules.relevant_to(beside), at)[0][0], s * g + (1 - s) * other, rtol=1e-4)


def test_reverse_perturbation_goes_down():
    """From any start in the ball, enough sign descent of `½ a x²` ends at the point nearest 0."""
    x = jnp.full(SHAPE, 0.5)
    keys = fold_in(jax.random.key(0), jnp.arange(SHAPE[0]))
    at = x, {}, keys, jnp.zeros(SHAPE[0], jnp.int32)
    grads, _, memory = run(rules.reverse_perturbation(0.1, 0.05, 5, late_start=1), at, steps=2)
    np.testing.assert_allclose(grads[0], SCALE * x, rtol=1e-6)  # still the plain gradient
    np.testing.assert_allclose(grads[1], SCALE * (x - 0.1), rtol=1e-5)
    assert memory["reverse_perturbation"] == 2


def test_smoothing_is_the_gaussian_convolution(at):
    """Against the dense two-dimensional kernel that the papers write down."""
    taps = np.asarray(updates.gaussian_kernel(5, 1.0))
    x = np.asarray(at[0])
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = sum(taps[i] * taps[j] * padded[:, i : i + 4, j : j + 4] for i in range(5) for j in range(5))
    result = rules.through(updates.smooth(5, 1.0))(lambda *inputs: ((0, {}), inputs[0]))(*at)[1]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_shrink_on_flip():
    update = updates.shrink_on_flip(0.5)
    state = update.init(jnp.zeros(3))
    signs = [jnp.array([1.0, 1.0, 0.0]), jnp.array([2.0, -3.0, 0.0]), jnp.array([1.0, 5.0, 0.0])]
    steps = []
    for u in signs:
        step, state = update.update(u, state)
        steps.append(np.asarray(step))
    np.testing.assert_allclose(steps, [[1, 1, 0], [1, -0.5, 0], [1, 0.25, 0]])


def test_shrink_on_flip_steps_along_the_gradient_in_l2():
    update = updates.shrink_on_flip(0.5, "l2")
    u = jnp.array([3.0, -4.0]).reshape(1, 1, 2, 1)
    first, state = update.update(u, update.init(u))
    second, _ = update.update(u * jnp.array([1.0, -1.0]).reshape(1, 1, 2, 1), state)
    np.testing.assert_allclose(first.ravel(), [0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(second.ravel(), [0.6, 0.4], rtol=1e-6)


def test_patch_wise_spreads_what_overshoots():
    """One amplified pixel, four times the budget: its eight neighbours follow, it does not."""
    u = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    update = updates.patch_wise(0.1, 0.1, beta=4.0, gamma=0.05)
    step, _ = update.update(u, update.init(u))
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 0.05
    expected[2, 2] = 0.4
    np.testing.assert_allclose(step[0, :, :, 0], expected, atol=1e-7)
    usual, _ = updates.patch_wise(0.1, 0.1, beta=4.0).update(u, update.init(u))
    np.testing.assert_allclose(usual[0, 1, 1, 0], 0.4)  # as far as the amplified step
