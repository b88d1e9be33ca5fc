from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from transferjax.metrics.spectrum import top_eigenvalues, trace_plus_plus
from transferjax.metrics.weights import weight_matvec, weight_trace

KEY = jax.random.key(0)


def apply(params, images, activation=jax.nn.gelu):
    """A small convolutional net; with a smooth activation, its Hessian has a residual."""
    x = jax.lax.conv_general_dilated(
        images, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return activation(x).mean((1, 2)) @ params["head"]


@pytest.fixture
def problem(batch, x64):
    images, labels = batch(8, 3)
    keys = jax.random.split(KEY)
    params = {
        "conv": 3 * jax.random.normal(keys[0], (3, 3, 2, 4)),
        "head": jax.random.normal(keys[1], (4, 3)),
    }
    return params, images, labels


def written_out(apply, params, images, labels):
    """Hessian and Gauss-Newton matrix."""
    flat, unravel = ravel_pytree(params)

    def logits(w):
        return apply(unravel(w), images)

    hessian = jax.hessian(lambda w: -jax.nn.log_softmax(logits(w))[jnp.arange(8), labels].mean())(flat)
    jacobian, p = jax.jacrev(logits)(flat), jax.nn.softmax(logits(flat))
    middle = jnp.einsum("bk,kl->bkl", p, jnp.eye(3)) - p[:, :, None] * p[:, None, :]
    return {"hessian": hessian, "gauss_newton": jnp.einsum("bki,bkl,blj->ij", jacobian, middle, jacobian) / 8}


@pytest.fixture
def exact(problem):
    return written_out(apply, *problem)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_products_equal_the_matrix(kind, chunk, problem, exact):
    matrix = weight_matvec(apply, *problem, kind, chunk=chunk)
    assert matrix.size == 84
    written = jax.lax.map(matrix.product, jnp.eye(84))
    np.testing.assert_allclose(written, exact[kind], atol=1e-12)
    flat, unravel = ravel_pytree(problem[0])
    confidence = lambda w: jax.nn.softmax(apply(unravel(w), problem[1])).max(-1).mean()  # noqa: E731
    np.testing.assert_allclose(matrix.start, jax.grad(confidence)(flat), atol=1e-12)


def test_eigenvalues_and_trace(problem, exact):
    product, size, start = weight_matvec(apply, *problem)
    values = jnp.linalg.eigvalsh(exact["hessian"])
    expected = values[jnp.argsort(-jnp.abs(values))[:3]]
    found = top_eigenvalues(KEY, product, size, 3, steps=84, tol=1e-9, dtype=jnp.float64)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8)
    for first in (start, jnp.zeros(size)):
        found = top_eigenvalues(KEY, product, size, start=first, steps=84, tol=1e-9, dtype=jnp.float64)
        np.testing.assert_allclose(found.values, expected[:1], rtol=1e-8)
    estimate = trace_plus_plus(KEY, product, size, 81, jnp.float64)
    assert abs(estimate.value - values.sum()) < 4 * estimate.error
    estimate = trace_plus_plus(KEY, product, size, 84, jnp.float64)  # as many products as rows
    np.testing.assert_allclose(estimate.value, values.sum(), rtol=1e-10)


def test_devices_share_the_data(problem, exact):
    params, images, labels = problem

    def top(images, labels):
        product, size, start = weight_matvec(
            apply, params, images, labels, "gauss_newton", axis_name="devices"
        )
        return top_eigenvalues(KEY, product, size, start=start, steps=84, tol=1e-9, dtype=jnp.float64).values

    share = lambda array: array.reshape(4, 2, *array.shape[1:])  # noqa: E731
    mapped = jax.pmap(top, "devices", devices=jax.devices()[:4])
    found = mapped(share(images), share(labels))
    expected = jnp.linalg.eigvalsh(exact["gauss_newton"])[-1]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-8)


@pytest.mark.parametrize("chunk", [None, 1])
def test_the_exact_trace(chunk, problem, exact):
    """Without labels: the Gauss-Newton part's for every net, the Hessian's for a net of ReLUs."""
    params, images, labels = problem
    found = weight_trace(apply, params, images, "gauss_newton", chunk=chunk)
    np.testing.assert_allclose(found, jnp.trace(exact["gauss_newton"]), rtol=1e-12)
    assert abs(found / jnp.trace(exact["hessian"]) - 1) > 1e-3

    relu = partial(apply, activation=jax.nn.relu)
    matrices = written_out(relu, params, images, labels)
    assert jnp.abs(matrices["hessian"] - matrices["gauss_newton"]).max() > 1e-3  # only the diagonals agree
    found = weight_trace(relu, params, images, chunk=chunk)
    np.testing.assert_allclose(found, jnp.trace(matrices["hessian"]), rtol=1e-10)


def test_the_exact_trace_over_devices(problem):
    params, images, _ = problem
    mapped = jax.pmap(
        lambda images: weight_trace(apply, params, images, "gauss_newton", axis_name="devices"),
        "devices",
        devices=jax.devices()[:4],
    )
    found = mapped(images.reshape(4, 2, *images.shape[1:]))
    np.testing.assert_allclose(found, weight_trace(apply, params, images, "gauss_newton"), rtol=1e-12)


@pytest.mark.parametrize(
    "curved",
    [apply, lambda params, images: apply(params, images, jax.nn.relu) @ params["head"][:3]],
    ids=["gelu", "a weight used twice"],
)
def test_no_exact_trace_of_a_curved_hessian(curved, problem):
    params, images, _ = problem
    with pytest.raises(ValueError, match="piecewise linear in every weight array by itself"):
        weight_trace(curved, params, images)


def test_bad_arguments(problem):
    with pytest.raises(ValueError, match="kind must be one of"):
        weight_matvec(apply, *problem, "fisher")
    for chunk in (0, 3):
        with pytest.raises(ValueError, match=f"chunk must divide the 8 examples; got {chunk}"):
            weight_matvec(apply, *problem, chunk=chunk)
    with pytest.raises(ValueError, match=r"chunk must be at least 1 .* got 0"):
        weight_trace(apply, *problem[:2], "gauss_newton", chunk=0)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_vectors_may_be_of_another_precision_than_weights(problem, dtype):
    """The matrix's functions work in float32 at least, whatever the weights are."""
    params, images, labels = problem
    given = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    matrix = weight_matvec(apply, given, images.astype(dtype), labels)
    found = top_eigenvalues(KEY, matrix.product, matrix.size, k=1, start=matrix.start).values
    assert found.dtype == jnp.promote_types(dtype, jnp.float32)
    assert trace_plus_plus(KEY, matrix.product, matrix.size, 6).value.dtype == jnp.float32
    exact = weight_matvec(apply, params, images, labels)
    expected = top_eigenvalues(KEY, exact.product, exact.size, k=1, dtype=jnp.float64).values
    np.testing.assert_allclose(found, expected, rtol=0.1 if dtype == jnp.bfloat16 else 1e-2)
