import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from transferjax.losses import cross_entropy
from transferjax.metrics import input_gradient
from transferjax.metrics.bound import jacobian_norm, transfer_loss_bound, transferability_bound
from transferjax.norms import norm


def linear(weights, images):
    return images.reshape(len(images), -1) @ weights


def smoothness(weights):
    """Of a linear softmax model: the Hessian is W A Wᵀ, and A's largest eigenvalue is at most 1/2."""
    return jnp.linalg.norm(weights, 2) ** 2 / 2


def problem(seed, noise, eps, scale):
    """Two linear models, `noise` apart, and images attacked along F's gradient; no clipping."""
    keys = jax.random.split(jax.random.key(seed), 3)
    weights = scale * jax.random.normal(keys[0], (8, 3))
    other = weights + noise * jax.random.normal(keys[1], weights.shape)
    images = jax.random.uniform(keys[2], (40, 2, 2, 2))
    f, g = Partial(linear, weights), Partial(linear, other)
    labels = f(images).argmax(-1)
    gradient = input_gradient(f, images, labels)
    step = gradient / jnp.linalg.norm(gradient.reshape(40, -1), axis=-1)[:, None, None, None]
    return f, g, images, images + eps * step, labels, smoothness(weights), smoothness(other)


compiled = jax.jit(transferability_bound)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999), noise=st.floats(0, 0.5), eps=st.floats(0.01, 2.0), scale=st.floats(0.05, 2.0)
)
def test_the_bound_holds(seed, noise, eps, scale):
    found = compiled(*problem(seed, noise, eps, scale))
    assert found.value <= found.transfer + 1e-5
    assert jnp.isfinite(found.value) | (found.value == -jnp.inf)
    assert found.vacuous == (found.value <= 0)
    if found.alpha < 1:  # an image that fools F gains no less than c_F, and no more than its length
        assert found.c_f <= found.eps * (1 + 1e-3)


def test_terms(x64):
    f, g, images, adversarial, labels, smooth_f, smooth_g = problem(0, 0.1, 0.5, 1.0)
    found = transferability_bound(f, g, images, adversarial, labels, smooth_f, smooth_g)
    np.testing.assert_allclose(found.eps, 0.5)
    assert found.risk_f == 0
    np.testing.assert_allclose(found.risk_g, (g(images).argmax(-1) != labels).mean())
    np.testing.assert_allclose(found.alpha, (f(adversarial).argmax(-1) == labels).mean())
    root = jnp.sqrt(2 - 2 * found.similarity)
    expected = (
        (1 - found.alpha)
        - (found.risk_f + found.risk_g)
        - (0.5 * (1 + found.alpha) - found.c_f * (1 - found.alpha)) / (0.5 - found.c_g)
        - 0.5 * (1 - found.alpha) / (0.5 - found.c_g) * root
    )
    np.testing.assert_allclose(found.value, jnp.where(found.c_g < 0.5, expected, -jnp.inf))


def test_the_least_loss_is_that_of_another_class(x64):
    """With y' = y among them, an image that G still knows would pass for one that certainly fools it."""
    weights = jnp.zeros((4, 3)).at[0].set(jnp.array([2.0, 0.0, -1.0]))
    images = jnp.zeros((2, 2, 2, 1)).at[:, 0, 0, 0].set(jnp.array([1.0, 0.5]))
    model, labels = Partial(linear, weights), jnp.array([0, 0])
    found = transferability_bound(model, model, images, 0.9 * images, labels, 0.0, 0.0)
    logits = model(0.9 * images)
    others = jax.nn.logsumexp(logits, -1) - logits[:, 1]
    gain = others + jax.nn.log_softmax(model(images))[:, 0]
    slopes = jnp.linalg.norm(input_gradient(model, images, labels).reshape(2, -1), axis=-1)
    np.testing.assert_allclose(found.c_f, (gain / slopes).min())
    np.testing.assert_allclose(found.c_g, (gain / slopes).max())


def test_a_bound_that_says_something(x64):
    """F is fooled just so, G was right just so: nearly all that F gains would have been enough for G."""

    def one_sided(weight, bias, images):
        return jnp.stack([jnp.zeros(len(images)), weight * images[:, 0, 0, 0] + bias], -1)

    f, g = Partial(one_sided, 0.5, -0.499), Partial(one_sided, 0.5, -1e-3)
    images = jnp.zeros((10, 2, 2, 2))
    adversarial = images.at[:, 0, 0, 0].set(1.0)
    sigma = 0.5**2 / 4  # p (1 - p) w², at most
    found = transferability_bound(f, g, images, adversarial, jnp.zeros(10, int), sigma, sigma)
    assert found.transfer == 1
    assert 0.9 < found.value <= 1
    assert not found.vacuous
    same = transferability_bound(f, f, images, adversarial, jnp.zeros(10, int), sigma, sigma)
    assert same.vacuous


def test_one_net_and_one_image_at_a_time():
    """A cosine of 1 and a rounding more is no NaN."""
    f, _, images, adversarial, labels, sigma, _ = problem(3, 0.0, 0.5, 1.0)
    for i in range(12):
        one = slice(i, i + 1)
        found = compiled(f, f, images[one], adversarial[one], labels[one], sigma, sigma)
        assert not jnp.isnan(found.value)
        assert found.similarity <= 1
        assert found.vacuous


def test_proposition_1(mlp, batch, x64):
    for scale in (0.1, 1.0, 10.0):
        predict, (images, labels) = mlp(scale=scale), batch()
        flat = images.reshape(len(images), -1)
        jacobian = jax.vmap(jax.jacrev(lambda x, p=predict: p(x.reshape(1, 4, 4, 2))[0]))(flat)
        found = jacobian_norm(predict, images, chunk=2)
        np.testing.assert_allclose(found, jnp.linalg.norm(jacobian, axis=(1, 2)), rtol=1e-10)
        error = jax.nn.softmax(predict(images)) - jax.nn.one_hot(labels, 5)
        gradient = jnp.linalg.norm(input_gradient(predict, images, labels).reshape(6, -1), axis=-1)
        assert (gradient <= jnp.linalg.norm(error, axis=-1) * found * (1 + 1e-12)).all()
        assert (gradient <= 2**0.5 * found).all()


def test_tpas_components_are_its_equation(mlp, batch, full_hessians, x64):
    images, labels = batch()
    adversarial = images + 0.05 * jnp.sign(jnp.sin(100 * images))
    surrogate, target = mlp(0, scale=4.0), mlp(1)
    found = transfer_loss_bound(surrogate, target, images, adversarial, labels, c=0.25, chunk=2)
    losses = {
        (name, where): cross_entropy(net(x), labels)
        for name, net in (("F", surrogate), ("G", target))
        for where, x in (("x", images), ("x'", adversarial))
    }
    slope = input_gradient(target, images, labels) - input_gradient(surrogate, images, labels)
    size = norm(adversarial - images, (1, 2, 3)) ** 2
    diagonal = jnp.diagonal(full_hessians(surrogate, adversarial, labels), axis1=1, axis2=2)
    steep = norm(jax.grad(lambda x: cross_entropy(surrogate(x), labels).sum())(adversarial), (1, 2, 3)) ** 2
    expected = (
        (losses["G", "x'"] - losses["F", "x'"]) ** 2,
        losses["F", "x'"] ** 2,
        losses["G", "x'"] ** 2,
        (losses["G", "x"] - losses["F", "x"]) ** 2 + 0.25 * size * norm(slope, (1, 2, 3)) ** 2,
        1.25 * size * steep,
        2 * size * jnp.abs(diagonal).sum(-1),
    )
    for value, name, right in zip(found, found._fields, expected, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-8, err_msg=name)
    np.testing.assert_allclose(found.bound, sum(expected[3:]), rtol=1e-8)


def test_tpas_components_of_equal_nets_and_images_vanish_where_they_must(mlp, batch):
    images, labels = batch()
    found = transfer_loss_bound(mlp(), mlp(), images, images, labels)
    for name in ("transfer_loss", "model_difference", "first_order", "second_order"):
        np.testing.assert_array_equal(getattr(found, name), 0, err_msg=name)
    with pytest.raises(ValueError, match=r"c must lie in \[0, 1\]; got 2"):
        transfer_loss_bound(mlp(), mlp(), images, images, labels, c=2)
    with pytest.raises(ValueError, match="images must be like images"):
        transfer_loss_bound(mlp(), mlp(), images, images[:2], labels)
