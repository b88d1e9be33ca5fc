"""Nets that are sure of themselves: float32 through every entrance against closed forms in float64.

The net is linear, with biases that set the margin of the label, so `∇x CE = Σ_k (T p_k - t_k) w_k` with
`T = Σ_k t_k`. As `Σ_k (T p_k - t_k) (w_k - w_y)` over the other classes it loses no digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from transferjax import attacks, defences, losses, metrics
from transferjax.attacks import ensembles
from transferjax.metrics import bound, flatness, weights
from transferjax.metrics.curvature import residual_matvec
from transferjax.training import penalties, rules
from transferjax.training.objective import objective
from transferjax.typing import Batch

MARGINS = pytest.mark.parametrize("margin", [5, 20, 50, 80])
COUNT, SHAPE, CLASSES = 3, (6, 6, 2), 5
KEY = jax.random.key(0)


def affine(parameters, x):
    return x.reshape(len(x), -1) @ parameters[0] + parameters[1]


class Net:
    """The net in float32; its errors `T p - t` and its gradients in float64."""

    def __init__(self, margin, classes=CLASSES):
        rng = np.random.default_rng(margin)
        self.labels = np.array([1, 0, 3]) % classes
        self.truth = np.eye(classes)[self.labels]
        self.images = jnp.asarray(rng.random((COUNT, *SHAPE)), jnp.float32)
        self.kernel = rng.normal(size=(np.prod(SHAPE), classes)).astype(np.float32)
        without = np.asarray(self.images, float).reshape(COUNT, -1) @ self.kernel
        wanted = np.where(self.truth, 0, -margin - 2 * rng.random((COUNT, classes)))
        bias = (wanted - without).astype(np.float32)
        self.logits = without + bias
        self.parameters = [jnp.asarray(self.kernel), jnp.asarray(bias)]
        self.predict = Partial(affine, self.parameters)

    def errors(self, targets=None):
        targets = self.truth if targets is None else targets
        p = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        p *= targets.sum(-1, keepdims=True) / p.sum(-1, keepdims=True)
        off = np.where(self.truth, 0, p - targets)
        return np.where(self.truth, -off.sum(-1, keepdims=True), off)

    def gradients(self, targets=None):
        return (self.errors(targets) @ self.kernel.T.astype(float)).reshape(COUNT, *SHAPE)

    def norms(self):
        return np.linalg.norm(self.gradients().reshape(COUNT, -1), axis=-1)

    def step(self, attack, predict=None):
        return np.asarray(attack(KEY, predict or self.predict, self.images, self.labels) - self.images)


def assert_parallel(found, exact):
    scale = lambda a: np.asarray(a, float) / np.abs(np.asarray(a, float)).max((1, 2, 3), keepdims=True)  # noqa: E731
    np.testing.assert_allclose(scale(found), scale(exact), atol=1e-3)


def anywhere(x, x0):
    """A projection on everything."""
    return x


@MARGINS
@pytest.mark.parametrize("classes", [2, CLASSES])
def test_signs_of_fgsm(margin, classes):
    net = Net(margin, classes)
    exact = net.gradients()
    clear = np.abs(exact) > 1e-4 * np.abs(exact).max()
    step = net.step(attacks.fgsm(0.1, project=anywhere))
    np.testing.assert_array_equal(np.sign(step)[clear], np.sign(exact)[clear])


@MARGINS
def test_gradients_for_every_kind_of_target(margin):
    net = Net(margin)
    mixed = 0.7 * net.truth + 0.3 * np.roll(net.truth, 1, -1)
    for targets in (net.truth, mixed, 3 * net.truth, 0.9 * net.truth + 0.1 / CLASSES):
        found = metrics.input_gradient(net.predict, net.images, jnp.asarray(targets, jnp.float32))
        np.testing.assert_allclose(found, net.gradients(targets), rtol=1e-2, atol=1e-4 * np.abs(found).max())
    found = metrics.input_gradient(net.predict, net.images, net.labels)
    np.testing.assert_allclose(found, net.gradients(), rtol=1e-2, atol=1e-4 * np.abs(found).max())


@MARGINS
def test_second_derivatives_of_the_loss(margin):
    """`diag p - p pᵀ` whatever the labels."""
    logits = jnp.array([0.0, -margin, -margin - 1.0])
    p = np.exp(np.asarray(logits, float))
    p /= p.sum()
    expected = -np.outer(p, p)
    expected[np.diag_indices(3)] = p * [p[1] + p[2], p[0] + p[2], p[0] + p[1]]
    hessian = jax.jit(jax.hessian(lambda z, t: losses.cross_entropy(z[None], t)[0]))
    for targets in (jnp.array([0]), jnp.array([2]), jnp.array([[1.0, 0, 0]]), jnp.array([[0.5, 0.5, 0]])):
        np.testing.assert_allclose(hessian(logits, targets), expected, rtol=1e-4, atol=1e-40)


@pytest.mark.parametrize("margin", [50, 80])
@pytest.mark.parametrize("project", [None, anywhere])
def test_l2_steps_of_pgd_have_full_length(margin, project):
    net = Net(margin)
    step = net.step(attacks.pgd(0.01, 1, step_size=0.01, norm="l2", random_start=False, project=project))
    np.testing.assert_allclose(np.linalg.norm(step.reshape(COUNT, -1), axis=-1), 0.01, rtol=0.05)
    if project is anywhere:
        assert_parallel(step, net.gradients())


@MARGINS
def test_gradient_norms(margin):
    net = Net(margin)
    np.testing.assert_allclose(
        flatness.gradient_norm(net.predict, net.images, net.labels), net.norms(), rtol=1e-3
    )


def test_gradient_norm_at_a_margin_of_fifty():
    """The net `z = (50 + x_0, 0)` at `x = 0` and its like: `p ‖w‖` with `p = 1 / (1 + e^50)`."""
    kernel, bias = jnp.zeros((4, 2)).at[0].set(jnp.array([10.0, -6.6])), jnp.array([50.0, 0])
    found = flatness.gradient_norm(Partial(affine, [kernel, bias]), jnp.zeros((1, 2, 2, 1)), jnp.array([0]))
    np.testing.assert_allclose(found, 16.6 * np.exp(-50), rtol=1e-5)  # 3.2e-21


def forward(variables, keys, images):
    return affine(variables["params"], images), {}


@MARGINS
def test_training_gradients(margin):
    """Of the mean loss w.r.t. the kernel and the biases of each image."""
    net = Net(margin)
    batch = Batch(net.images, jnp.asarray(net.truth, jnp.float32))
    grad_fn = jax.value_and_grad(objective(forward), has_aux=True)
    _, grads = grad_fn(net.parameters, {"batch_stats": {}}, KEY, batch)
    exact = np.asarray(net.images, float).reshape(COUNT, -1).T @ net.errors() / COUNT
    np.testing.assert_allclose(grads[0], exact, rtol=1e-2, atol=1e-3 * np.abs(exact).max())
    np.testing.assert_allclose(grads[1], net.errors() / COUNT, rtol=1e-3)


@pytest.mark.parametrize("size", [1e-21, 1.0, 1e30])
def test_rules_take_full_steps_whatever_the_size_of_the_gradient(size):
    """SAM's family around `g(w) = size · (1, w_1, w_1 + 1)`, against the same equations for size 1."""
    params = {"kernel": jnp.array([0.5, -2.0]), "bias": jnp.array([3.0])}

    def grad_fn(w, memory):
        a, b = w["kernel"][0], w["bias"]
        grads = {"kernel": jnp.stack([1 + 0 * a, a]), "bias": a + b * 0 + 1}
        return (jnp.zeros(()), memory), jax.tree.map(lambda g: size * g, grads)

    def unscaled(w, memory):
        aux, grads = grad_fn(w, memory)
        return aux, jax.tree.map(lambda g: g / size, grads)

    for rule in (
        rules.sam(0.5),
        rules.asam(0.5),
        rules.gsam(0.5, 0.4),
        rules.agsam(0.5, 0.4),
        rules.look_sam(0.5),
    ):
        memory, other = {}, {}
        for _ in range(2):  # LookSAM's second step reuses what it remembers
            (_, memory), grads = rule(grad_fn)(params, memory)
            (_, other), expected = rule(unscaled)(params, other)
            for found, right in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(found / size, right, rtol=1e-5, atol=1e-6)
            assert np.abs(np.asarray(grads["kernel"][1] / size - params["kernel"][0])) > 1e-2


@pytest.mark.parametrize("margin", [5, 50, 80])
def test_input_gradient_penalty(margin):
    """Values and derivatives: of two classes `‖g‖ = p ‖w_1 - w_0‖`, and `∂p/∂b_other = p (1 - p)`."""
    net = Net(margin, 2)
    targets = jnp.asarray(net.truth, jnp.float32)
    for scaling, expected in (
        ("paper", net.norms().mean()),
        ("official", np.linalg.norm(net.norms()) / COUNT),
    ):
        penalty = penalties.input_gradient(1.0, scaling=scaling)

        def value(parameters, penalty=penalty):
            logits, pullback = jax.vjp(lambda x: affine(parameters, x), net.images)
            return penalty(KEY, logits, targets, lambda v: pullback(v)[0])

        found, (_, bias) = jax.value_and_grad(value)(net.parameters)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        if scaling == "paper":
            np.testing.assert_allclose((bias * (1 - net.truth)).sum(-1), net.norms() / COUNT, rtol=2e-2)


@MARGINS
def test_ensembles_and_defences_keep_the_direction(margin):
    net = Net(margin)
    step = lambda predict: net.step(  # noqa: E731
        attacks.pgd(1.0, 1, step_size=1.0, norm="l2", random_start=False, project=anywhere), predict
    )
    for predict in (
        ensembles.mean_probabilities(net.predict, net.predict),
        ensembles.mean_logits(net.predict, net.predict),
        (net.predict, net.predict),
        defences.smoothed(net.predict, KEY, sigma=1e-7, samples=3),
    ):
        assert_parallel(step(predict), net.gradients())
    still = defences.random_affine(net.predict, KEY, 2, angle=0.0, shear=0.0, shift=0.0, zoom=0.0)
    assert_parallel(step(still), net.gradients())


@MARGINS
def test_curvature_of_a_sure_net(margin):
    """Of two classes `p (1 - p) ‖w_1 - w_0‖²` in images; Gauss-Newton products of many in weights."""
    net = Net(margin, 2)
    between = np.linalg.norm((net.kernel[:, 1] - net.kernel[:, 0]).astype(float))
    p = net.norms() / between
    for method in ("exact", "class_lanczos", "lanczos", "leading"):
        found = metrics.input_hessian_eigenvalues(net.predict, net.images, net.labels, 1, method)
        np.testing.assert_allclose(found[:, 0], p * (1 - p) * between**2, rtol=1e-3, err_msg=method)
    assert not np.asarray(residual_matvec(net.predict, net.images, net.labels)(jnp.ones((COUNT, 72)))).any()
    biases = Net(margin)
    only_biases = lambda bias, x: affine([biases.parameters[0], bias], x)  # noqa: E731
    one = slice(0, 1)
    product, size, start = weights.weight_matvec(
        only_biases, biases.parameters[1][one], biases.images[one], biases.labels[one], "gauss_newton"
    )
    errors, label = biases.errors()[0], biases.labels[0]
    q = np.where(np.arange(size) == label, 1 + errors[label], errors)
    exact = -np.outer(q, q)
    exact[np.diag_indices(size)] = 0
    exact[np.diag_indices(size)] = -exact.sum(-1)
    found = np.stack([product(v) for v in jnp.eye(size)])
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-40)
    np.testing.assert_allclose(start, exact[label], rtol=1e-3)


@MARGINS
def test_least_loss_of_the_bound(margin):
    """`c_F = min_i (min_{y' ≠ y} ℓ(x', y') - ℓ(x, y)) / ‖∇ℓ‖` with x' = x: the margin over the gradient."""
    net = Net(margin)
    found = bound.transferability_bound(net.predict, net.predict, *[net.images] * 2, net.labels, 0.0, 0.0)
    label = net.logits[net.truth == 1]
    gains = (label - np.where(net.truth, -np.inf, net.logits).max(-1)) / net.norms()
    np.testing.assert_allclose([found.c_f, found.c_g], [gains.min(), gains.max()], rtol=1e-4)
