"""IR and JR against their definitions, image by image; their gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.losses import cross_entropy
from transferjax.training import penalties
from transferjax.training.objective import objective
from transferjax.typing import Batch

B, H, K = 3, 4, 5
RNG = np.random.default_rng(0)
PARAMS = {"a": RNG.normal(size=(H * H, 8)) / 3, "b": RNG.normal(size=(8, K)) / 2}
IMAGES = RNG.random((B, H, H, 1))
TARGETS = RNG.dirichlet(np.ones(K), B)
KEY = jax.random.key(0)


def net(params, images):
    return jnp.tanh(images.reshape(len(images), -1) @ params["a"]) @ params["b"]


def forward(variables, keys, images):
    del keys
    return net(variables["params"], images), {}


def penalty_value(penalty, params=PARAMS, images=IMAGES, targets=TARGETS):
    images, targets = jnp.asarray(images), jnp.asarray(targets)
    logits, pullback = jax.vjp(lambda x: net(params, x), images)
    return penalty(KEY, logits, targets, lambda v: pullback(v)[0])


def input_gradients():
    """∇x CE of each image alone."""
    one = lambda x, t: cross_entropy(net(PARAMS, x[None]), t[None])[0]  # noqa: E731
    return np.stack(
        [jax.grad(one)(jnp.asarray(x), jnp.asarray(t)) for x, t in zip(IMAGES, TARGETS, strict=True)]
    )


def jacobians():
    one = lambda x: net(PARAMS, x[None])[0]  # noqa: E731
    return np.stack([jax.jacobian(one)(jnp.asarray(x)) for x in IMAGES])


@pytest.mark.usefixtures("x64")
def test_input_gradient_values():
    g = input_gradients()
    paper = 0.7 * np.mean([np.linalg.norm(one) for one in g])
    official = 0.7 * np.linalg.norm(g) / B
    assert penalty_value(penalties.input_gradient(0.7, scaling="paper")) == pytest.approx(paper, 1e-10)
    assert penalty_value(penalties.input_gradient(0.7)) == pytest.approx(official, 1e-10)


@pytest.mark.usefixtures("x64")
def test_exact_jacobian_values():
    norms = np.array([np.linalg.norm(one) for one in jacobians()])
    exact = lambda scaling: penalties.jacobian(0.3, projections=None, scaling=scaling)  # noqa: E731
    assert penalty_value(exact("paper")) == pytest.approx(0.3 * norms.mean(), 1e-10)
    assert penalty_value(exact("official")) == pytest.approx(0.3 * 0.5 * np.mean(norms**2) / B, 1e-10)


@pytest.mark.usefixtures("x64")
def test_projected_jacobian_is_unbiased():
    exact = penalty_value(penalties.jacobian(1.0, projections=None))
    projected = penalties.jacobian(1.0, projections=4000)
    # A squared projection spreads by about its size: 3 images x 4000 draws leave below 1.5 %.
    assert float(penalty_value(projected)) == pytest.approx(float(exact), rel=0.05)
    single = penalties.jacobian(1.0, projections=1)
    assert float(penalty_value(single)) != pytest.approx(float(exact), rel=1e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("exact", [False, True])
def test_score_matching_is_hyvarinens_objective(exact):
    """Of a piecewise linear net, whose log-probability's Hessian is taken by automatic differentiation."""

    def rectified(images):
        return jax.nn.relu(images.reshape(len(images), -1) @ PARAMS["a"]) @ PARAMS["b"]

    def log_p(x, target):
        return target @ jax.nn.log_softmax(rectified(x[None])[0])

    expected = 0.0
    for x, target in zip(jnp.asarray(IMAGES), jnp.asarray(TARGETS), strict=True):
        curvature = jnp.trace(jax.hessian(log_p)(x, target).reshape(x.size, x.size))
        assert curvature < 0
        size = jnp.sum(jax.grad(log_p)(x, target) ** 2)
        expected += 0.6 / B * (size + 2 * curvature / (1 if exact else x.size))
    logits, pullback = jax.vjp(rectified, jnp.asarray(IMAGES))
    penalty = penalties.score_matching(0.6, projections=20_000, exact=exact)
    found = penalty(KEY, logits, jnp.asarray(TARGETS), lambda v: pullback(v)[0])
    assert float(found) == pytest.approx(float(expected), rel=0.02)
    with pytest.raises(ValueError, match="projections=0: expected at least 1"):
        penalties.score_matching(0.1, projections=0)


CASES = {
    "score matching": penalties.score_matching(0.5, projections=2),
    "score matching exact": penalties.score_matching(0.5, exact=True),
    "IR paper": penalties.input_gradient(0.5, scaling="paper"),
    "IR official": penalties.input_gradient(0.5),
    "JR paper exact": penalties.jacobian(0.5, projections=None, scaling="paper"),
    "JR official exact": penalties.jacobian(0.5, projections=None),
    "JR paper projected": penalties.jacobian(0.5, projections=2, scaling="paper"),
    "JR official projected": penalties.jacobian(0.5),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_gradients_against_finite_differences(name):
    value = objective(forward, penalties=(CASES[name],))
    batch = Batch(jnp.asarray(IMAGES), jnp.asarray(TARGETS))
    keys = jax.random.split(KEY, B)
    total = lambda params: value(params, {"batch_stats": {}}, keys, batch)[0]  # noqa: E731
    params = jax.tree.map(jnp.asarray, PARAMS)
    direction = jax.tree.map(lambda w: jnp.asarray(RNG.normal(size=w.shape)), params)
    moved = lambda h: jax.tree.map(lambda w, d: w + h * d, params, direction)  # noqa: E731
    numeric = (total(moved(1e-5)) - total(moved(-1e-5))) / 2e-5
    grads = jax.grad(total)(params)
    exact = sum(
        jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
    )
    assert float(exact) == pytest.approx(float(numeric), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_net_that_ignores_its_input_gives_zero_and_no_nan(name):
    flat = jax.tree.map(jnp.zeros_like, PARAMS)
    value = lambda params: penalty_value(CASES[name], params)  # noqa: E731
    assert value(flat) == 0
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(jax.grad(value)(flat)))


def test_the_penalties_of_a_step_share_one_linearization():
    value = objective(forward, penalties=(penalties.input_gradient(0.5), penalties.jacobian(0.1)))
    batch = Batch(jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TARGETS, jnp.float32))
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), PARAMS)
    jaxpr = jax.make_jaxpr(value)(params, {"batch_stats": {}}, jax.random.split(KEY, B), batch)
    assert str(jaxpr).count(" tanh ") == 1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="scaling='offical'"):
        penalties.input_gradient(0.1, scaling="offical")
    for make in (penalties.input_gradient, penalties.jacobian, penalties.score_matching):
        with pytest.raises(ValueError, match=r"weight=-0.5: expected 0 or more"):
            make(-0.5)
        with pytest.raises(ValueError, match=r"weight must be a number; got '0.3'"):
            make("0.3")
    with pytest.raises(ValueError, match="projections=0"):
        penalties.jacobian(0.1, projections=0)
