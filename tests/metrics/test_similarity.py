import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from transferjax import losses
from transferjax.metrics import cosine_similarity, gradient_similarity, input_gradient, similarity_matrix


def test_equals_the_cosine_of_autodiff_gradients(mlp, batch, x64):
    a, b = mlp(0), mlp(1)
    images, labels = batch()

    def gradient(predict):
        return jax.grad(lambda x: losses.cross_entropy(predict(x), labels).sum())(images).reshape(6, -1)

    ga, gb = gradient(a), gradient(b)
    expected = (ga * gb).sum(-1) / jnp.linalg.norm(ga, axis=-1) / jnp.linalg.norm(gb, axis=-1)
    np.testing.assert_allclose(jax.jit(gradient_similarity)(a, b, images, labels), expected, rtol=1e-10)
    soft = jax.nn.one_hot(labels, 5, dtype=float)
    np.testing.assert_allclose(gradient_similarity(a, b, images, soft), expected, rtol=1e-10)
    by_logit = gradient_similarity(a, b, images, labels, losses.logit)
    assert not np.allclose(by_logit, expected, atol=1e-3)


def test_a_model_agrees_with_itself_even_where_it_is_sure(mlp, batch):
    """In float32 the textbook gradient of a sure prediction is rounding noise or zero."""
    predict = mlp(0, scale=200.0)
    images, _ = batch()
    labels = predict(images).argmax(-1)
    probability = jax.nn.softmax(predict(images)).max(-1)
    assert (probability == 1).any()
    gradients = input_gradient(predict, images, labels)
    assert (jnp.abs(gradients).max((1, 2, 3)) > 0).all()
    np.testing.assert_allclose(gradient_similarity(predict, predict, images, labels), 1, rtol=1e-5)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (predict, images))
        exact = np.asarray(input_gradient(*wide, labels))
    scale = np.abs(exact).max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(gradients / scale, exact / scale, atol=1e-3)


def test_zero_gradients_and_tiny_gradients():
    zero, one = jnp.zeros((2, 3, 3, 1)), jnp.ones((2, 3, 3, 1))
    np.testing.assert_array_equal(cosine_similarity(zero, one), 0)
    np.testing.assert_allclose(cosine_similarity(1e-30 * one, -1e-25 * one), -1, rtol=1e-6)
    constant = Partial(lambda bias, x: jnp.zeros((x.shape[0], 3)) + bias, jnp.arange(3.0))
    similarity = gradient_similarity(constant, constant, one, jnp.array([0, 1]))
    np.testing.assert_array_equal(similarity, 0)


def test_matrix_equals_the_pairs(mlp, batch, x64):
    models = [mlp(0), mlp(1), mlp(2, activation=jax.nn.gelu)]
    images, labels = batch()
    matrix = similarity_matrix(models, images, labels)
    assert matrix.shape == (3, 3, 6)
    np.testing.assert_allclose(matrix, matrix.swapaxes(0, 1), rtol=1e-12)
    for i, j in ((0, 0), (0, 1), (1, 2)):
        pair = gradient_similarity(models[i], models[j], images, labels)
        np.testing.assert_allclose(matrix[i, j], pair, rtol=1e-10)
    rectangle = similarity_matrix(models[:1], images, labels, models[1:])
    np.testing.assert_allclose(rectangle, matrix[:1, 1:], rtol=1e-10)


def test_every_gradient_is_computed_once(batch):
    calls = []

    def counted(weight, images):
        calls.append(weight)
        return images.reshape(len(images), -1)[:, :5] * weight

    models = [Partial(counted, w) for w in (1.0, 2.0, 3.0, 4.0)]
    similarity_matrix(models, *batch())
    assert len(calls) == 4


def test_shapes_must_match():
    with pytest.raises(ValueError, match="one shape"):
        cosine_similarity(jnp.ones((2, 3)), jnp.ones((2, 4)))
