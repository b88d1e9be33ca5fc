from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from transferjax import models
from transferjax.metrics import input_hessian_eigenvalues, input_hessian_trace
from transferjax.metrics.class_space import last_layer_root, softmax_factor
from transferjax.predicts.foreign import from_callable

compiled = jax.jit(input_hessian_eigenvalues, static_argnames=("k", "method", "part", "chunk", "steps"))
K = 6  # two more than the rank of a piecewise-linear net's Hessian with five classes


def eigenvalues(predict, images, labels, method="auto", tol=1e-8, **options):
    """Always the same k and tolerance, so that tests share compilations."""
    return compiled(predict, images, labels, options.pop("k", K), method, tol=tol, **options)


def by_magnitude(matrices):
    values = jnp.linalg.eigvalsh(matrices)
    order = jnp.argsort(-jnp.abs(values), axis=-1)
    return jnp.take_along_axis(values, order, -1)[:, :K]


@pytest.mark.parametrize("method", ["exact", "class_lanczos", "lanczos"])
def test_relu_net_against_the_full_hessian(method, mlp, batch, full_hessians, x64):
    predict, (images, labels) = mlp(), batch()
    expected = by_magnitude(full_hessians(predict, images, labels))
    found = eigenvalues(predict, images, labels, method)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(found[:, 4:], 0, atol=1e-14)


def test_the_trace_is_that_of_the_full_hessian_and_the_sum_of_all_eigenvalues(mlp, batch, full_hessians, x64):
    predict, (images, labels) = mlp(scale=20.0), batch()  # sure predictions: no square may underflow
    full = full_hessians(predict, images, labels)
    found = input_hessian_trace(predict, images)
    np.testing.assert_allclose(found, jnp.trace(full, axis1=1, axis2=2), rtol=1e-8)
    np.testing.assert_allclose(input_hessian_trace(predict, images, chunk=3), found, rtol=1e-12)
    np.testing.assert_allclose(eigenvalues(predict, images, labels, "exact").sum(-1), found, rtol=1e-8)
    smooth = mlp(activation=jax.nn.gelu)
    with pytest.raises(ValueError, match=r"piecewise linear.*part='gauss_newton'"):
        input_hessian_trace(smooth, images)
    part = eigenvalues(smooth, images, labels, "exact", part="gauss_newton").sum(-1)
    np.testing.assert_allclose(input_hessian_trace(smooth, images, "gauss_newton"), part, rtol=1e-8)


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.softplus])
def test_smooth_net_against_the_full_hessian(activation, mlp, batch, full_hessians, x64):
    predict, (images, labels) = mlp(activation=activation), batch()
    expected = by_magnitude(full_hessians(predict, images, labels))
    np.testing.assert_allclose(eigenvalues(predict, images, labels), expected, rtol=1e-8)


def test_parts_of_a_smooth_net_against_the_full_ones(mlp, batch, full_hessians, x64):
    predict, (images, labels) = mlp(activation=jax.nn.gelu), batch()
    flat = images.reshape(len(images), -1)
    jacobian = jax.vmap(jax.jacrev(lambda x: predict(x.reshape(1, *images.shape[1:]))[0]))(flat)
    p = jax.nn.softmax(predict(images))
    middle = jnp.einsum("bk,kl->bkl", p, jnp.eye(5)) - p[:, :, None] * p[:, None, :]
    gauss_newton = jnp.einsum("bki,bkl,blj->bij", jacobian, middle, jacobian)
    residual = full_hessians(predict, images, labels) - gauss_newton
    for part, matrix, methods in (
        ("gauss_newton", gauss_newton, ("exact", "class_lanczos", "lanczos")),
        ("residual", residual, ("auto",)),
    ):
        expected = by_magnitude(matrix)
        for method in methods:
            found = eigenvalues(predict, images, labels, method, part=part)
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-14)
    leading = eigenvalues(predict, images, labels, "leading", k=1, part="gauss_newton", tol=0.0)
    np.testing.assert_allclose(leading, by_magnitude(gauss_newton)[:, :1], rtol=1e-8)


def test_many_classes_take_lanczos_in_class_space(mlp, batch, x64):
    predict, (images, labels) = mlp(classes=200), batch(3, 200)
    assert "while" in str(jax.make_jaxpr(eigenvalues)(predict, images, labels))
    exact = eigenvalues(predict, images, labels, "exact", chunk=50)
    np.testing.assert_allclose(eigenvalues(predict, images, labels), exact, rtol=1e-9)


@pytest.mark.parametrize(
    ("classes", "k", "method"),
    [
        (16, 1, "exact"),
        (17, 1, "leading"),
        (64, 1, "leading"),
        (65, 1, "class_lanczos"),
        (64, 2, "exact"),
        (65, 2, "class_lanczos"),
    ],
)
def test_auto_takes_the_method_of_fewest_passes(classes, k, method, mlp, batch):
    predict, (images, labels) = mlp(classes=classes), batch(2, classes)
    chosen, named = (
        str(jax.make_jaxpr(partial(eigenvalues, k=k, method=m, tol=1e-3))(predict, images, labels))
        for m in ("auto", method)
    )
    assert chosen == named


def test_quadratic_logits_have_a_known_hessian(x64):
    """Two classes with logits (xᵀQx/2, 0): H = (p - 1) Q + p (1 - p) Qx xᵀQ for label 0."""
    matrix = jax.random.normal(jax.random.key(0), (6, 6))
    matrix = matrix + matrix.T

    def predict(quadratic, images):
        x = images.reshape(images.shape[0], -1)
        return jnp.stack([((x @ quadratic) * x).sum(-1) / 2, jnp.zeros(x.shape[0])], -1)

    images = jax.random.uniform(jax.random.key(1), (3, 2, 3, 1), float)
    x = images.reshape(3, 6)
    p = jax.nn.sigmoid(((x @ matrix) * x).sum(-1) / 2)[:, None, None]
    qx = x @ matrix
    hessian = (p - 1) * matrix + p * (1 - p) * qx[:, :, None] * qx[:, None, :]
    expected = by_magnitude(hessian)
    found = eigenvalues(Partial(predict, matrix), images, jnp.zeros(3, int), tol=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_softmax_factor(scale, x64):
    logits = scale * jax.random.normal(jax.random.key(0), (5, 7))
    p = jax.nn.softmax(logits)
    factor = softmax_factor(logits)
    assert factor.shape == (5, 7, 6)
    expected = jnp.einsum("bk,kl->bkl", p, jnp.eye(7)) - p[:, :, None] * p[:, None, :]
    np.testing.assert_allclose(factor @ factor.swapaxes(1, 2), expected, atol=1e-15)


@pytest.mark.parametrize("method", ["exact", "leading"])
def test_float32_is_accurate_for_sure_predictions(method, mlp, batch):
    """1 - p is far below float32's resolution here; the factor keeps its relative precision."""
    predict, (images, labels) = mlp(scale=200.0), batch()
    single = eigenvalues(predict, images, labels, method, k=1)[:, 0]
    with jax.enable_x64(True):
        predict, images = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (predict, images))
        double = np.asarray(eigenvalues(predict, images, labels, "exact", k=1)[:, 0])
    assert 1e-30 < double.min() < 1e-6 * double.max()
    np.testing.assert_allclose(single, double, rtol=1e-3)


def test_label_independence_and_psd(mlp, batch, x64):
    predict, (images, labels) = mlp(), batch()
    for method in ("exact", "lanczos"):
        found = eigenvalues(predict, images, labels, method)
        other = eigenvalues(predict, images, 0 * labels, method)
        np.testing.assert_allclose(found, other, rtol=1e-7, atol=1e-14)
        assert (found[:, :4] > 0).all()


@pytest.mark.parametrize(("method", "k"), [("exact", K), ("lanczos", K), ("leading", 1)])
def test_an_image_does_not_depend_on_its_batch(method, k, mlp, batch, x64):
    predict, (images, labels) = mlp(), batch()
    tol = {"leading": 1e-3}.get(method, 1e-8)
    whole = eigenvalues(predict, images, labels, method, k=k, tol=tol)
    part = eigenvalues(predict, images[2:4], labels[2:4], method, k=k, tol=tol)
    np.testing.assert_allclose(part, whole[2:4], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("cached", [0, 2**30])
def test_chunks_do_not_matter(cached, mlp, batch, x64, monkeypatch):
    monkeypatch.setattr("transferjax.metrics.class_space.CACHED", cached)
    predict, (images, labels) = mlp(), batch()
    chosen = input_hessian_eigenvalues(predict, images, labels, K, "exact")
    np.testing.assert_allclose(
        chosen, eigenvalues(predict, images, labels, "exact", chunk=3), rtol=1e-9, atol=1e-14
    )


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_leading_is_exact_with_every_direction(classes, mlp, batch, x64):
    """Rank 1 and 2 need no residual; with tol=0 the others go on to the last direction."""
    predict, (images, labels) = mlp(classes=classes), batch(9, classes)
    exact = eigenvalues(predict, images, labels, "exact", k=1)
    found = eigenvalues(predict, images, labels, "leading", k=1, tol=0.0)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize(("classes", "scale"), [(12, 1.0), (40, 5.0)])
def test_leading_is_within_the_tolerance(classes, scale, mlp, batch):
    """A Ritz value, so never above; with the last layer known or not. The bounds rest on one estimate."""
    images, labels = batch(64, classes)
    predict = mlp(classes=classes, scale=scale)
    hidden = Partial(lambda images: predict(images))  # whose weights nobody sees
    exact = eigenvalues(predict, images, labels, "exact", k=1)
    for net in (predict, hidden):
        for tol in (1e-2, 1e-4):
            error = 1 - eigenvalues(net, images, labels, "leading", k=1, tol=tol) / exact
            assert error.min() > -1e-5
            assert (error <= tol).mean() > 0.98
            assert (error > tol / 1000).any()  # it did stop early


def test_the_last_layer_is_found_where_it_can_be_told(mlp, x64):
    predict = mlp(classes=12)
    kernel = predict.args[0][-1][0]
    root = last_layer_root(predict, 12)
    np.testing.assert_allclose(root.T @ root, kernel.T @ kernel, rtol=1e-12, atol=1e-12)
    two, none = (mlp(classes=16), 16), (predict, 7)  # the hidden layer before has 16 units as well
    for net, classes in (two, none):
        np.testing.assert_array_equal(last_layer_root(net, classes), np.eye(classes))


def test_leading_stops_after_so_many_directions(mlp, batch, x64):
    predict, (images, labels) = mlp(classes=12), batch(9, 12)
    exact = eigenvalues(predict, images, labels, "exact", k=1)
    found = [eigenvalues(predict, images, labels, "leading", k=1, steps=s, tol=0.0) for s in (1, 3, 6, 11)]
    errors = [float((1 - values / exact).max()) for values in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-12


def test_leading_of_a_certain_prediction_is_zero(mlp, batch):
    """The probabilities of the others underflow, there is no curvature and nothing is divided by it."""
    images, labels = batch()
    np.testing.assert_array_equal(eigenvalues(mlp(scale=1e4), images, labels, "leading", k=1), 0)


def test_power_iteration_finds_the_top_one(mlp, batch, x64):
    predict, (images, labels) = mlp(), batch()
    expected = eigenvalues(predict, images, labels)[:, :1]
    found = eigenvalues(predict, images, labels, "power", k=1, steps=400)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "method", "k"),
    [
        ("cifar_resnet18", "exact", 3),
        ("cifar_resnet18", "leading", 1),
        ("cifar_resnet18", "lanczos", 3),
        ("cifar_resnet50", "exact", 3),
    ],
)
def test_reference_nets(name, method, k, golden):
    weights, images, reference = golden(name)
    predict = models.predictor(models.build(name), models.from_torch(name, weights))
    found = eigenvalues(predict, jnp.asarray(images), jnp.array([3, 7]), method, k=k, tol=1e-3)
    np.testing.assert_allclose(found, reference["input_hessian_top3"][:, :k], rtol=1e-3)


FAMILIES = {
    "cifar_resnet18": {"width": 4, "blocks": (1, 1)},
    "cifar_resnet50": {"width": 2, "blocks": (1, 1)},
    "cifar_vgg16": {"width": 4, "blocks": (1, 1)},
    "cifar_densenet121": {"growth": 4, "blocks": (1, 1)},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_equals_lanczos_on_every_family(name, x64):
    """Also: positive, and the same for other labels, which Lanczos knows nothing of."""
    module = models.build(name, 4, **FAMILIES[name])
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), float)

    @jax.jit
    def both(images):
        predict = models.predictor(module, module.init(jax.random.key(1), images))
        exact = input_hessian_eigenvalues(predict, images, jnp.array([0, 1]), 3, "exact")
        lanczos = input_hessian_eigenvalues(predict, images, jnp.array([2, 3]), 3, "lanczos", tol=1e-8)
        return exact, lanczos

    exact, lanczos = both(images)
    assert (exact > 0).all()
    np.testing.assert_allclose(lanczos, exact, rtol=1e-6)


def test_five_eigenvalues_of_a_softplus_net_are_within_the_tolerance(mlp, batch, full_hessians):
    predict, (images, labels) = mlp(activation=jax.nn.softplus), batch(64)
    expected = by_magnitude(full_hessians(predict, images, labels))[:, :5]
    found = eigenvalues(predict, images, labels, "lanczos", k=5, tol=1e-3)
    np.testing.assert_allclose(jnp.abs(found), jnp.abs(expected), rtol=1e-3)


@pytest.mark.parametrize("method", ["auto", "lanczos"])
def test_a_uniform_prediction_has_equal_eigenvalues(method):
    """With orthonormal weights `H = W (I - 1 1ᵀ / K) Wᵀ / K`: 1 / K, K - 1 times."""
    kernel = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (128, 100)))[0]
    predict = Partial(lambda kernel, x: x.reshape(len(x), -1) @ kernel, kernel)
    images = jnp.zeros((2, 8, 8, 2))
    found = eigenvalues(predict, images, jnp.zeros(2, int), method, k=3, tol=1e-3)
    np.testing.assert_allclose(found, 0.01, rtol=1e-4)


def test_bad_arguments(mlp, batch):
    images, labels = batch()
    smooth = mlp(activation=jax.nn.silu)
    with pytest.raises(ValueError, match="needs a model that is piecewise linear"):
        input_hessian_eigenvalues(smooth, images, labels, method="exact")
    with pytest.raises(ValueError, match="method must be one of"):
        input_hessian_eigenvalues(smooth, images, labels, method="arnoldi")
    with pytest.raises(ValueError, match="part must be one of"):
        input_hessian_eigenvalues(smooth, images, labels, part="fisher")
    with pytest.raises(ValueError, match="k must be from 1 to 32"):
        input_hessian_eigenvalues(smooth, images, labels, k=33)
    with pytest.raises(ValueError, match=r"chunk must be at least 1 .* got 0"):
        input_hessian_eigenvalues(smooth, images, labels, chunk=0)
    for options, message in (
        ({"steps": 0}, "steps must"),
        ({"tol": -1.0}, "tol must"),
        ({"tol": float("nan")}, "tol must"),
    ):
        with pytest.raises(ValueError, match=message):
            input_hessian_eigenvalues(mlp(), images, labels, **options)
    for net, method in ((smooth, "power"), (mlp(), "leading")):
        with pytest.raises(ValueError, match=f"method='{method}' finds one eigenvalue; got k=2"):
            input_hessian_eigenvalues(net, images, labels, k=2, method=method)


@pytest.mark.parametrize("method", ["exact", "leading", "class_lanczos", "lanczos", "power"])
def test_images_of_half_precision(method, mlp, batch):
    """Whose eigenvalues are found in float32: LAPACK has no other."""
    images, labels = batch()
    half = images.astype(jnp.bfloat16)
    found = input_hessian_eigenvalues(mlp(), half, labels, method=method)
    assert found.dtype == jnp.float32
    wide = input_hessian_eigenvalues(mlp(), half.astype(jnp.float32), labels, method=method)
    np.testing.assert_array_equal(found, wide)


def test_a_guess_in_an_invariant_subspace_finds_the_largest_all_the_same():
    """70 classes with rows of weights that are orthogonal, and of which the guess sees the shortest alone."""
    count = 70
    weights = jnp.eye(count, 10 * 10).at[0].multiply(0.1)
    predict = from_callable(lambda w, x: x.reshape(len(x), -1) @ w.T, weights)
    image = jnp.zeros((1, 10, 10, 1))
    found = [
        float(input_hessian_eigenvalues(predict, image, jnp.array([0]), method=method)[0, 0]) * count
        for method in ("auto", "exact")
    ]
    np.testing.assert_allclose(found, 1, rtol=1e-2)


def test_traces_of_half_precision_are_summed_in_float32():
    weights = jnp.linspace(-1, 1, 3 * 12).reshape(3, 12).astype(jnp.bfloat16)
    predict = from_callable(lambda w, x: x.reshape(len(x), -1) @ w.T, weights)
    found = input_hessian_trace(predict, jnp.zeros((1, 2, 2, 3), jnp.bfloat16))
    assert found.dtype == jnp.float32
    w = np.asarray(weights, np.float64)
    np.testing.assert_allclose(found[0], np.trace(w.T @ (np.eye(3) / 3 - 1 / 9) @ w), rtol=2e-2)


@pytest.mark.parametrize("method", ["leading", "exact", "class_lanczos", "lanczos", "power"])
def test_an_image_that_is_not_a_number_has_no_curvature(method, mlp, batch):
    """Not zero, though the derivative of every rectifier is zero there; the other images keep theirs."""
    predict, (images, labels) = mlp(), batch()
    found = eigenvalues(predict, images.at[1].set(jnp.nan), labels, method, k=1)
    assert np.isnan(found[:, 0]).tolist() == [i == 1 for i in range(len(images))]
    rest = eigenvalues(predict, images, labels, method, k=1)
    np.testing.assert_allclose(np.delete(found, 1, 0), np.delete(rest, 1, 0), rtol=1e-4)
