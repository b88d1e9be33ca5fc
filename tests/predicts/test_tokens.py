"""Gradients of vision transformers: the same logits, and of the gradient what was promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import models
from transferjax.models import vit
from transferjax.predicts import pna, tgr
from transferjax.predicts.modules import tapped
from transferjax.predicts.tokens import _Tokens, _without_extreme_lines, _without_extremes


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))


@pytest.fixture(scope="module")
def net(x):
    module = vit.ViT(num_classes=5, image_size=8, patch=4, depth=2, width=8, heads=2, hidden=16)
    return models.predictor(module, jax.jit(module.init)(jax.random.key(0), x[:1]))


def gradient(predict, x):
    return jax.grad(lambda x: predict(x)[:, 0].sum())(x)


@pytest.mark.parametrize("wrap", [tgr, pna])
def test_logits_stay_and_gradients_are_each_images_own(wrap, net, x):
    np.testing.assert_allclose(wrap(net)(x), net(x), rtol=1e-6)
    grads = gradient(wrap(net), x)
    assert np.abs(grads - gradient(net, x)).max() > 1e-4
    np.testing.assert_allclose(gradient(wrap(net), x[1:2]), grads[1:2], rtol=1e-4, atol=1e-7)
    assert jax.tree.structure(wrap(net)) == jax.tree.structure(wrap(net))


def test_attention_that_is_not_paid_is_a_constant(net, x, monkeypatch):
    """As if the weights of the attention were given: a softmax through which nothing comes back."""
    found = gradient(pna(net), x)
    softmax = jax.nn.softmax
    np.testing.assert_allclose(gradient(pna(net, 1.0), x), gradient(net, x), rtol=1e-5, atol=1e-7)
    monkeypatch.setattr(vit.jax.nn, "softmax", lambda scores: jax.lax.stop_gradient(softmax(scores)))
    np.testing.assert_allclose(found, gradient(net, x), rtol=1e-5, atol=1e-7)


def test_factors_alone_scale_what_comes_back(net, x):
    """With nothing cut off, a factor of 0 is a constant in the place of what the MLPs give."""
    wrapped = jax.tree_util.Partial(_Tokens(1.0, 1.0, 0.0, False), net)
    constant = lambda module, y: jax.lax.stop_gradient(y) if module.name == "mlp" else y  # noqa: E731
    without = gradient(lambda x: tapped(net, x, constant), x)
    np.testing.assert_allclose(gradient(wrapped, x), without, rtol=1e-5, atol=1e-7)
    assert np.abs(without - gradient(net, x)).max() > 1e-4


def test_extremes_are_cut_off():
    grads = jnp.array([[3.0, -1.0], [0.5, 2.0], [-4.0, 1.0], [1.0, 0.0]])[None]
    expected = [[0, 0], [0.5, 0], [0, 1.0], [1.0, 0.0]]
    np.testing.assert_array_equal(_without_extremes(grads)[0], expected)
    matrix = jnp.arange(16.0).reshape(4, 4).at[1, 2].set(50).at[3, 0].set(-50)
    expected = np.array(matrix)
    expected[[1, 3]] = 0
    expected[:, [2, 0]] = 0
    both = _without_extreme_lines(jnp.stack([matrix, matrix.T])[None])[0]
    np.testing.assert_array_equal(both, np.stack([expected, expected.T]))


@pytest.mark.parametrize("wrap", [tgr, pna])
def test_nets_without_attention_are_refused(wrap):
    module = models.build("cifar_resnet18", blocks=(1, 1), width=4)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    predict = models.predictor(module, jax.tree.map(lambda a: jnp.zeros(a.shape), variables))
    with pytest.raises(ValueError, match="this net has no attention"):
        wrap(predict)(jnp.zeros((1, 8, 8, 3)))
