"""Curvature of the training loss in weight space, without the matrix: products for `metrics.spectrum`.

product, size, start = weight_matvec(apply, params, images, labels)
top_eigenvalues(key, product, size, start=start), spectral_measure(key, product, size), trace(…)

The trace of a ReLU net needs neither products nor probes: `weight_trace`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from transferjax.checks import check_images, check_labels, check_pullbacks
from transferjax.losses import cross_entropy
from transferjax.metrics.class_space import softmax_factor
from transferjax.metrics.spectrum import Product
from transferjax.models import is_piecewise_multilinear
from transferjax.norms import norm
from transferjax.typing import Array, PyTree

Apply = Callable[[PyTree, Array], Array]
"""(params, images `[B, H, W, C]`) -> logits `[B, K]`, batch statistics frozen."""

KINDS = ("hessian", "gauss_newton")


class WeightMatrix(NamedTuple):
    """A symmetric matrix over the flattened weights: products, its number of rows, and where Lanczos starts.

    The start is the gradient of the mean confidence, `∇_w (1/n) Σ_i max_k p_ik = (1/n) Σ_i J_iᵀ A_i e_top`:
    each image's part of it leans towards the leading eigenvector of its `J_iᵀ A_i J_i`.
    """

    product: Product
    size: int
    start: Array


def _hessian(logits: Callable[[Array], Array], weights: Array, labels: Array) -> Product:
    """Forward over reverse, a tenth faster here than reverse over reverse."""
    return jax.linearize(jax.grad(lambda w: cross_entropy(logits(w), labels).mean()), weights)[1]


def _gauss_newton(logits: Callable[[Array], Array], weights: Array, labels: Array) -> Product:
    values, push = jax.linearize(logits, weights)
    pull = jax.linear_transpose(push, weights)
    p = jax.nn.softmax(values)

    def product(v: Array) -> Array:
        # A 1 = 0: with the largest logit's tangent at zero, nothing cancels where the net is sure.
        tangent = push(v)
        tangent = tangent - jnp.take_along_axis(tangent, values.argmax(-1, keepdims=True), -1)
        return pull(p * (tangent - (p * tangent).sum(-1, keepdims=True)) / len(p))[0]

    return product


def _check(kind: str, images: Array) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}; got {kind!r}")
    # `apply` may take pixels of 0 … 255, or features, instead of images.
    if jnp.issubdtype(images.dtype, jnp.floating) and images.ndim > 2:
        check_images(images)


def weight_matvec(
    apply: Apply,
    params: PyTree,
    images: Array,
    labels: Array,
    kind: str = "hessian",
    *,
    chunk: int | None = None,
    axis_name: str | None = None,
) -> WeightMatrix:
    """The Hessian of the mean cross-entropy `(1/n) Σ_i ℓ(f(w, x_i), y_i)`, or its Gauss-Newton part.

    `H = (1/n) Σ_i J_iᵀ A_i J_i + (1/n) Σ_i Σ_k (p - y)_ik ∇²f_ik`; Gauss-Newton is the first sum, for the
    cross-entropy the Fisher matrix.

    Args:
        apply: `(params, images) -> logits`, in evaluation mode.
        params: the weights, a pytree of float arrays.
        images, labels: the data set `[n, H, W, C]`, `[n]`, or this device's share of it.
        kind: `"hessian"` or `"gauss_newton"`.
        chunk: examples at a time. None keeps the forward pass of the whole data set, and every product reuses
            it; a chunk makes each product repeat it, for data that do not fit. Must divide n.
        axis_name: the mapped axis of devices that hold equal shares of the data.

    Raises:
        ValueError: an unknown kind, or a chunk that does not divide the data.
    """
    _check(kind, images)
    check_labels(labels, len(images), jax.eval_shape(apply, params, images).shape[-1])
    if chunk is not None and (chunk < 1 or len(images) % chunk):
        raise ValueError(f"chunk must divide the {len(images)} examples; got {chunk}")
    weights, unravel = ravel_pytree(params)
    make = _hessian if kind == "hessian" else _gauss_newton

    def of(images: Array, labels: Array) -> Product:
        return make(lambda w: apply(unravel(w), images), weights, labels)

    def start_of(images: Array, labels: Array) -> Array:
        def confidence(w: Array) -> Array:
            logits = apply(unravel(w), images)
            return jnp.exp(-cross_entropy(logits, logits.argmax(-1))).mean()

        return jax.grad(confidence)(weights)

    if chunk is None:
        start, product = start_of(images, labels), of(images, labels)
    else:
        chunks = jax.tree.map(lambda a: a.reshape(-1, chunk, *a.shape[1:]), (images, labels))

        def mean_over_chunks(value: Callable[[Array, Array], Array]) -> Array:
            add = lambda total, part: (total + value(*part), None)  # noqa: E731
            total, _ = jax.lax.scan(add, jnp.zeros_like(weights), chunks)
            return total / (len(images) // chunk)

        start = mean_over_chunks(start_of)
        product = lambda v: mean_over_chunks(lambda *part: of(*part)(v))  # noqa: E731

    def in_its_type(v: Array) -> Array:
        """Vectors may be of another precision than weights: float32 with those of bfloat16, say."""
        return product(v.astype(weights.dtype)).astype(v.dtype)

    if axis_name is None:
        return WeightMatrix(in_its_type, weights.size, start)
    everywhere = partial(jax.lax.pmean, axis_name=axis_name)
    return WeightMatrix(lambda v: everywhere(in_its_type(v)), weights.size, everywhere(start))


def weight_trace(
    apply: Apply,
    params: PyTree,
    images: Array,
    kind: str = "hessian",
    *,
    chunk: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """The trace of the mean cross-entropy's Hessian, exactly; it does not depend on the labels.

    `tr H = (1/n) Σ_i ‖V_iᵀ J_i‖²_F` with `V_i V_iᵀ = diag(p_i) - p_i p_iᵀ`: the Gauss-Newton part's trace,
    and all of H's, because the residual's diagonal `Σ_k (p - y)_k ∂²f_k/∂w_j²` is zero where the logits are
    piecewise linear in every weight array by itself. It costs K-1 pullbacks for each image, 2K - 1 forward
    passes; Hutchinson's estimate costs 6 for each probe, and its relative error is about `√(2 / probes)`
    where one eigenvalue leads.

    Args:
        apply: `(params, images) -> logits`, in evaluation mode.
        params: the weights, a pytree of float arrays.
        images: the data set `[n, H, W, C]`, or this device's share of it.
        kind: `"hessian"`, or `"gauss_newton"` for any net's Gauss-Newton part.
        chunk: how many of an image's K-1 pullbacks run at once, each with gradients as large as the weights;
            None for all.
        axis_name: the mapped axis of devices that hold equal shares of the data.

    Raises:
        ValueError: an unknown kind, a chunk below 1, or the Hessian of a net that is not known to be
            piecewise linear in every weight array.
    """
    _check(kind, images)
    check_pullbacks(chunk)
    if kind == "hessian" and not is_piecewise_multilinear(apply, params, images):
        raise ValueError(
            "the exact trace of the Hessian needs a model that is piecewise linear in every weight array by "
            "itself (convolution, ReLU, pooling, batch normalization in evaluation mode, no shared weights), "
            "and this one is not known to be; use kind='gauss_newton', or `trace` of `weight_matvec`"
        )

    def of(image: Array) -> Array:
        logits, pullback = jax.vjp(lambda p: apply(p, image[None]), params)
        cotangents = jnp.moveaxis(softmax_factor(logits), -1, 0)
        square = lambda v: norm(pullback(v)[0]) ** 2  # noqa: E731
        return jax.lax.map(square, cotangents, batch_size=chunk or len(cotangents)).sum()

    mean = jax.lax.map(of, images).mean()
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)
