"""Rules against optax, against a NumPy transcription of their papers' equations, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferjax.chain import chain, initial_memory
from transferjax.losses import cross_entropy
from transferjax.training import rules
from transferjax.typing import Batch

RNG = np.random.default_rng(1)
N = 6
HESSIAN = (lambda a: a @ a.T + np.eye(N))(RNG.normal(size=(N, N)))
CENTER = RNG.normal(size=N)
W = RNG.normal(size=N)


def loss(w):
    """A quadratic with a quartic term, so that curvature depends on the place."""
    d = w - CENTER
    return 0.5 * d @ HESSIAN @ d + 0.25 * jnp.sum(d**4)


def numpy_gradient(w):
    d = w - CENTER
    return HESSIAN @ d + d**3


def grad_fn(params, memory):
    value, grads = jax.value_and_grad(lambda p: loss(p["w"]))(params)
    count = memory["batch_stats"] + 1
    return (value, memory | {"batch_stats": count, "metrics": value}), grads


def call(rule, w=W, memory=None):
    memory = {"batch_stats": jnp.zeros(())} if memory is None else memory
    (value, memory), grads = rule(grad_fn)({"w": jnp.asarray(w)}, memory)
    return value, memory, np.asarray(grads["w"])


def unit(g):
    return g / np.linalg.norm(g)


pytestmark = pytest.mark.usefixtures("x64")


def test_sam_is_the_gradient_at_the_perturbed_weights():
    g = numpy_gradient(W)
    value, _, grads = call(rules.sam(0.3))
    np.testing.assert_allclose(grads, numpy_gradient(W + 0.3 * unit(g)), rtol=1e-10)
    assert value == pytest.approx(float(loss(W)), 1e-12)


def test_sam_agrees_with_optax():
    gradient = jax.grad(loss)
    opt = optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.3)), opaque_mode=True
    )
    params, state = jnp.asarray(W), opt.init(jnp.asarray(W))
    ours = jnp.asarray(W)
    for _ in range(4):
        updates, state = opt.update(gradient(params), state, params, grad_fn=lambda w, _: gradient(w))
        params = optax.apply_updates(params, updates)
        ours = ours - 0.1 * call(rules.sam(0.3), ours)[2]
    np.testing.assert_allclose(ours, params, rtol=1e-10)


def test_asam_scales_the_neighbourhood_by_the_weights():
    g, t = numpy_gradient(W), np.abs(W)
    perturbed = W + 0.3 * t**2 * g / np.linalg.norm(t * g)
    np.testing.assert_allclose(call(rules.asam(0.3))[2], numpy_gradient(perturbed), rtol=1e-10)


def test_asam_does_not_scale_biases():
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}
    seen = []

    def linear(p, memory):
        seen.append(p)
        return (jnp.zeros(()), memory), {"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}

    rules.asam(1.0)(linear)(params, {})
    norm = np.sqrt(2.0**2 + 1)
    np.testing.assert_allclose(seen[1]["kernel"], 2 + 4 / norm)
    np.testing.assert_allclose(seen[1]["bias"], 2 + 1 / norm)


@pytest.mark.parametrize("adaptive", [False, True])
def test_gsam_adds_the_orthogonal_part(adaptive):
    g, t = numpy_gradient(W), np.abs(W) if adaptive else np.ones(N)
    p = numpy_gradient(W + 0.3 * t**2 * g / np.linalg.norm(t * g))
    expected = p - 0.4 * (g - (g @ p) / (p @ p) * p)
    rule = rules.agsam(0.3, 0.4) if adaptive else rules.gsam(0.3, 0.4)
    np.testing.assert_allclose(call(rule)[2], expected, rtol=1e-10)


def test_look_sam_over_five_steps():
    rule, lr, w, v = rules.look_sam(0.3, alpha=0.7, every=3), 0.05, W.copy(), None
    memory, ours = {"batch_stats": jnp.zeros(())}, W.copy()
    for step in range(5):
        g = numpy_gradient(w)
        if step % 3 == 0:
            s = numpy_gradient(w + 0.3 * unit(g))
            v = s - (s @ unit(g)) * unit(g)
        else:
            s = g + 0.7 * np.linalg.norm(g) / np.linalg.norm(v) * v
        w = w - lr * s
        _, memory, grads = call(rule, ours, memory)
        ours = ours - lr * grads
    np.testing.assert_allclose(ours, w, rtol=1e-9)
    assert memory["batch_stats"] == 5 + 2  # two of the five steps made a second pass


def test_msam_is_the_official_optimizer():
    """Its code keeps the weights where gradients are taken, and moves from there and back to there."""
    rate, rho, decay = 0.05, 0.3, 0.8
    rule, ours = rules.msam(rho, decay=decay), W.copy()
    memory = initial_memory(rule(grad_fn), {"w": jnp.asarray(W)}, {"batch_stats": jnp.zeros(())})
    there, buffer, inverse = W.copy(), np.zeros(N), 0.0
    for _ in range(4):
        value, memory, _ = call(rule, ours, memory)
        assert value == pytest.approx(float(loss(there)), 1e-12)
        there = there + rho * inverse * buffer
        np.testing.assert_allclose(ours, there, rtol=1e-10)
        buffer = decay * buffer + numpy_gradient(there - rho * inverse * buffer)
        np.testing.assert_allclose(memory["msam"]["w"], buffer, rtol=1e-10)
        inverse = 1 / np.linalg.norm(buffer)
        there = there - rate * buffer - rho * inverse * buffer
        ours = ours - rate * memory["msam"]["w"]
    assert memory["batch_stats"] == 4  # one gradient a step


IMAGES, TARGETS = RNG.normal(size=(10, 4)), np.eye(3)[RNG.integers(0, 3, 10)]


def classify(params, memory, keys, batch):
    """Cross-entropy of a linear classifier of two arrays."""

    def value(params):
        logits = batch.images @ params["kernel"] + params["bias"]
        return cross_entropy(logits, batch.targets).mean()

    value, grads = jax.value_and_grad(value)(params)
    return (value, memory | {"batch_stats": memory["batch_stats"] + 1, "metrics": value}), grads


def numpy_classify(params, chosen):
    """The losses `[B]`, and the gradient of the mean of the chosen ones."""
    logits = IMAGES @ params["kernel"] + params["bias"]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    error = (p - TARGETS)[chosen] / len(chosen)
    return -np.log(p[TARGETS == 1]), {"kernel": IMAGES[chosen].T @ error, "bias": error.sum(0)}


@pytest.mark.parametrize("gamma", [0.04, 0.5, 1.0])
def test_esam_climbs_with_some_arrays_and_looks_at_the_examples_that_grew_most(gamma):
    everyone, data = np.arange(10), (jax.random.split(jax.random.key(0), 10), Batch(IMAGES, TARGETS))
    params = {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)}
    fn = jax.jit(rules.esam(0.3, beta=0.5, gamma=gamma)(classify))
    memory = initial_memory(fn, params, {"batch_stats": jnp.zeros(())}, *data)
    drawn = set()
    for step in range(4):
        before, g = numpy_classify(params, everyone)
        names = sorted(params)  # as leaves are ordered
        taken = jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), step), 0.5, (2,))
        m = dict(zip(names, np.asarray(taken, float), strict=True))
        size = np.sqrt(sum((m[n] * g[n] ** 2).sum() for n in names))
        far = {n: params[n] + (0.6 * m[n] * g[n] / size if size else 0) for n in names}
        after = numpy_classify(far, everyone)[0]
        most = np.argsort(before - after, kind="stable")[: max(1, round(gamma * 10))]
        (value, memory), grads = fn(params, memory, *data)
        assert value == memory["metrics"] == pytest.approx(before.mean(), 1e-12)
        for n, expected in numpy_classify(far, most)[1].items():
            np.testing.assert_allclose(grads[n], expected, rtol=1e-9, atol=1e-12)
        drawn.add(tuple(m.values()))
    assert len(drawn) > 1
    assert memory["batch_stats"] == 8  # the first gradient's and the last one's


def test_er_is_the_gradient_of_the_regularized_loss():
    regularized = lambda w: loss(w) + 0.5 * 0.2 * jnp.sum(jax.grad(loss)(w) ** 2)  # noqa: E731
    grads = call(rules.er(0.2))[2]
    for i in range(N):
        e = 1e-5 * np.eye(N)[i]
        numeric = (regularized(W + e) - regularized(W - e)) / 2e-5
        assert grads[i] == pytest.approx(float(numeric), rel=1e-6)


def test_gnp_is_the_gradient_of_the_penalty():
    """`λ H ĝ` besides g, in the limit; SAM where λ = ρ; and, far from it, the two gradients' combination."""
    g = numpy_gradient(W)
    norm = lambda w: jnp.linalg.norm(jax.grad(loss)(w))  # noqa: E731
    np.testing.assert_allclose(call(rules.gnp(0.4, 1e-6))[2], g + 0.4 * jax.grad(norm)(W), rtol=1e-4)
    np.testing.assert_allclose(call(rules.gnp(0.3, 0.3))[2], call(rules.sam(0.3))[2], rtol=1e-10)
    ahead = numpy_gradient(W + 0.1 * unit(g))
    np.testing.assert_allclose(call(rules.gnp(1.0))[2], g + 10 * (ahead - g), rtol=1e-10)


def test_rules_nest_the_outermost_first():
    g = lambda w: call(rules.er(0.2), w)[2]  # noqa: E731
    np.testing.assert_allclose(
        call(chain(rules.sam(0.3), rules.er(0.2)))[2], g(W + 0.3 * unit(g(W))), rtol=1e-10
    )
    np.testing.assert_array_equal(call(chain())[2], call(lambda fn: fn)[2])


ALL = {
    "sam": rules.sam(0.3),
    "asam": rules.asam(0.3),
    "gsam": rules.gsam(0.3, 0.4),
    "agsam": rules.agsam(0.3, 0.4),
    "look_sam": rules.look_sam(0.3),
    "msam": rules.msam(0.3),
    "gnp": rules.gnp(0.4),
    "er": rules.er(0.2),
    "sam&er": chain(rules.sam(0.3), rules.er(0.2)),
    "er&sam": chain(rules.er(0.2), rules.sam(0.3)),
}


@pytest.mark.parametrize("name", ALL)
def test_a_zero_gradient_stays_zero(name):
    np.testing.assert_array_equal(call(ALL[name], CENTER)[2], np.zeros(N))


@pytest.mark.parametrize("name", ALL)
def test_metrics_are_those_of_the_weights_themselves(name):
    assert call(ALL[name])[1]["metrics"] == pytest.approx(float(loss(W)), 1e-12)


@pytest.mark.parametrize("name", ALL)
def test_compiled_equals_eager_and_memory_keeps_its_form(name):
    """Over three steps, so that what a rule remembers takes part; one compilation serves all."""
    fn, w = ALL[name](grad_fn), {"w": jnp.asarray(W)}
    eager = memory = initial_memory(fn, w, {"batch_stats": jnp.zeros(())})
    compiled = jax.jit(fn)
    for _ in range(3):
        (_, eager), expected = fn(w, eager)
        (_, memory), grads = compiled(w, memory)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), (eager, expected), (memory, grads)
        )
        w = {"w": w["w"] - 0.05 * grads["w"]}
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(("policy", "passes"), [("both", 2), ("first", 1)])
def test_batch_statistics_policy(policy, passes):
    for make in (
        rules.sam,
        rules.asam,
        lambda rho, batch_stats: rules.gnp(0.1, rho, batch_stats=batch_stats),
        lambda rho, batch_stats: rules.gsam(rho, 0.1, batch_stats=batch_stats),
    ):
        assert call(make(0.3, batch_stats=policy))[1]["batch_stats"] == passes


def test_initial_memory_is_zeros_for_what_rules_add_and_keeps_what_is_given():
    given = {"batch_stats": jnp.full((), 3.0)}
    fn = rules.look_sam(0.3)(grad_fn)
    memory = initial_memory(fn, {"w": jnp.asarray(W)}, given)
    assert memory["batch_stats"] == 3
    assert set(memory) == {"batch_stats", "metrics", "look_sam"}
    np.testing.assert_array_equal(memory["look_sam"]["direction"]["w"], np.zeros(N))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="rho=0"):
        rules.sam(0)
    for make in (rules.sam, rules.er, lambda text: rules.gsam(0.1, text), lambda text: rules.gnp(0.1, text)):
        with pytest.raises(ValueError, match=r"(rho|alpha|weight) must be a number; got '0.3'"):
            make("0.3")
    with pytest.raises(ValueError, match="batch_stats='second'"):
        rules.sam(0.1, batch_stats="second")
    with pytest.raises(ValueError, match="every=0"):
        rules.look_sam(0.1, every=0)
    with pytest.raises(ValueError, match="decay=1: expected a share"):
        rules.msam(0.1, decay=1)
    for name in ("beta", "gamma"):
        with pytest.raises(ValueError, match=f"{name}=0: expected a share above 0"):
            rules.esam(0.1, **{name: 0})
