"""The norm against float64, where naive squares underflow or overflow, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.norms import norm, unit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 5, 2))


@pytest.mark.parametrize("scale", [1e-33, 1e-25, 1.0, 1e30])
@pytest.mark.parametrize("axis", [None, -1, (1, 2, 3)])
def test_any_size_in_float32(scale, axis):
    x = jnp.asarray(scale * X, jnp.float32)
    flat = X.reshape(3, -1) if axis == (1, 2, 3) else X.ravel() if axis is None else X
    expected = np.linalg.norm(flat, axis=-1)
    np.testing.assert_allclose(norm(x, axis) / scale, expected, rtol=1e-6)
    kept = 1 if axis is None else np.expand_dims(expected, axis)
    np.testing.assert_allclose(unit(x, axis), X / (expected if axis is None else kept), rtol=1e-5)


def test_the_keepdims_of_images():
    assert norm(jnp.ones((2, 3, 3, 1)), (1, 2, 3), keepdims=True).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    """As many ones as an ImageNet image has pixels: their sum is beyond float16."""
    ones = jnp.ones((2, 224, 224, 3), dtype)
    length = norm(ones, (1, 2, 3))
    assert length.dtype == unit(ones, (1, 2, 3)).dtype == dtype
    np.testing.assert_allclose(length.astype(float), 388, rtol=1e-2)
    np.testing.assert_allclose(unit(60000 * ones, (1, 2, 3)).astype(float), 1 / 388, rtol=1e-2)


def test_a_tree_is_one_vector():
    tree = {"a": jnp.asarray(1e-25 * X[0], jnp.float32), "b": [jnp.asarray(1e-25 * X[1], jnp.bfloat16)]}
    expected = np.linalg.norm(X[:2])
    np.testing.assert_allclose(1e25 * norm(tree), expected, rtol=1e-3)
    along = unit(tree)
    np.testing.assert_allclose(along["a"], X[0] / expected, rtol=1e-2)
    assert along["b"][0].dtype == jnp.bfloat16


def test_derivatives_up_to_the_second(x64):
    x = jnp.asarray(X[0])
    np.testing.assert_allclose(jax.grad(norm)(x), X[0] / np.linalg.norm(X[0]), rtol=1e-12)
    v, u, n = X[1], X[0] / np.linalg.norm(X[0]), np.linalg.norm(X[0])
    projected = (v - u * (u * v).sum()) / n
    for function in (jax.grad(norm), unit):
        np.testing.assert_allclose(jax.jvp(function, (x,), (jnp.asarray(v),))[1], projected, rtol=1e-10)


def test_derivatives_are_zero_at_zero():
    zero, along = jnp.zeros((2, 3)), jnp.ones((2, 3))
    hessian_product = jax.jvp(jax.grad(lambda x: norm(x, -1).sum()), (zero,), (along,))
    np.testing.assert_array_equal(hessian_product, np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(jax.jvp(lambda x: unit(x, -1), (zero,), (along,)), np.zeros((2, 2, 3)))


def test_what_is_not_finite_is_seen():
    assert norm(jnp.array([1.0, jnp.inf])) == jnp.inf
    assert jnp.isnan(norm(jnp.array([1.0, jnp.nan])))
