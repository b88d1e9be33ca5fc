"""Curvature in input space: the spectrum of `∇²_x ℓ(f(x), y)`, image by image.

The cross-entropy's Hessian in the logits is `A = diag(p) - p pᵀ = V Vᵀ` with V of K-1 columns. Where the
model f is piecewise linear in x, the chain rule leaves nothing else: `H = Jᵀ A J`, positive semi-definite, of
rank at most K-1 and independent of the label. Its nonzero eigenvalues are those of `(VᵀJ)(VᵀJ)ᵀ`: K-1
pullbacks of one forward pass and no iteration at all; for the largest alone a few of them will do
(`leading_eigenvalue`). Other nets add a residual `Σ_k (p - y)_k ∇²f_k`, and need Lanczos.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from transferjax.checks import check_examples, check_images, check_pullbacks
from transferjax.losses import cross_entropy
from transferjax.metrics.class_space import (
    class_matvec,
    exact_eigenvalues,
    leading_eigenvalue,
    linearized,
    softmax_factor,
)
from transferjax.metrics.lanczos import Matvec, check_effort, lanczos_eigenvalues, power_eigenvalue
from transferjax.models import is_piecewise_linear
from transferjax.norms import norm, unit
from transferjax.typing import Array, Predict

METHODS = ("auto", "leading", "exact", "class_lanczos", "lanczos", "power")
PARTS = ("hessian", "gauss_newton", "residual")

EXACT_CLASSES = 16
LEADING_CLASSES = 64
"""`auto` takes the method of the fewest passes through the net.

`exact` takes K, one for each class, and `leading` about eight, whatever K: as much time at 8 classes (batch
64) or 12 (one image, whose pullbacks `exact` makes all at once), 2.5 times less at 30. Below twice its
passes, half the compile time and no tolerance are worth more: up to `EXACT_CLASSES`. But `leading` finds one
eigenvalue, and decomposes K x K matrices at every step: for several, `exact` goes on up to
`LEADING_CLASSES`. Beyond, Lanczos in class space takes two passes a step and 10 to 30 steps, and needs
neither such matrices nor K image-sized rows.
"""


def gauss_newton_matvec(predict: Predict, images: Array) -> Matvec:
    """Products `v -> JᵀV VᵀJ v` with flat images `[B, N]`."""
    factor, push, pull = linearized(predict, images)
    return lambda v: pull(jnp.einsum("bki,bli,bl->bk", factor, factor, push(v)))


def _second_derivative(value: Callable[[Array], Array], images: Array) -> Matvec:
    """Products with the Hessian of a scalar function; its forward pass and gradient are made once.

    One product is the pullback of the gradient (reverse over reverse). Forward over reverse would be the
    textbook's choice, but inside a loop XLA compiles it to naive convolutions on CPUs.
    """
    _, pullback = jax.vjp(jax.grad(value), images)
    return lambda v: pullback(v.reshape(images.shape))[0].reshape(v.shape)


def hessian_matvec(predict: Predict, images: Array, labels: Array) -> Matvec:
    """Exact products `v -> H v` of flat images `[B, N]` with each image's Hessian of the cross-entropy."""
    return _second_derivative(lambda x: cross_entropy(predict(x), labels).sum(), images)


def residual_matvec(predict: Predict, images: Array, labels: Array) -> Matvec:
    """Products with `R = Σ_k (p - y)_k ∇²f_k`, what the Hessian adds to its Gauss-Newton part."""
    weights = jax.grad(lambda z: cross_entropy(z, labels).sum())(predict(images))
    return _second_derivative(lambda x: (weights * predict(x)).sum(), images)


def _start(count: int, size: int, dtype: jnp.dtype) -> Array:
    """One start vector for every image, so that an image's result does not depend on its place."""
    return jnp.broadcast_to(jax.random.normal(jax.random.key(0), (size,), dtype), (count, size))


def _choose(predict: Predict, images: Array, k: int, method: str, part: str) -> str:
    """The method that `auto` stands for, and whether the asked one applies."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; got {method!r}")
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}; got {part!r}")
    if method in ("lanczos", "power"):
        return method
    factored = part == "gauss_newton" or (part == "hessian" and bool(is_piecewise_linear(predict, images)))
    if method == "auto":
        if not factored:
            return "lanczos"
        classes = jax.eval_shape(predict, images).shape[-1]
        if classes > LEADING_CLASSES:
            return "class_lanczos"
        return "leading" if k == 1 and classes > EXACT_CLASSES else "exact"
    if not factored:
        raise ValueError(
            f"method={method!r} needs a model that is piecewise linear in its images (convolution, ReLU, "
            "pooling, batch normalization in evaluation mode), and this one is not known to be, or "
            "part='gauss_newton'; use method='lanczos'"
        )
    return method


def _matvec(predict: Predict, images: Array, labels: Array, part: str) -> Matvec:
    if part == "gauss_newton":
        return gauss_newton_matvec(predict, images)
    return (residual_matvec if part == "residual" else hessian_matvec)(predict, images, labels)


def input_hessian_eigenvalues(
    predict: Predict,
    images: Array,
    labels: Array,
    k: int = 1,
    method: str = "auto",
    *,
    part: str = "hessian",
    chunk: int | None = None,
    steps: int = 64,
    tol: float = 1e-3,
) -> Array:
    """The k eigenvalues of largest magnitude of each image's input Hessian of the cross-entropy.

    `H_i = ∇²_x ℓ(f(x_i), y_i) = JᵀAJ + R`; the mean of the largest |λ| over a data set is the paper's model
    smoothness, the least upper bound the constant of its Theorem 1.

    Args:
        predict: the model, in evaluation mode (no example may see another).
        images: `[B, H, W, C]` in [0, 1], in which the derivatives are taken.
        labels: classes `[B]`. They do not matter where the model is piecewise linear.
        k: how many eigenvalues, a multiple one as often as it occurs.
        method: for piecewise-linear models and the Gauss-Newton part, `"exact"` (K-1 pullbacks), `"leading"`
            (k = 1, as few pullbacks and tangents as each image needs) or `"class_lanczos"` (Lanczos on that
            K-1 x K-1 matrix without writing it out); for every model `"lanczos"` on Hessian-vector products,
            and `"power"` (k = 1, for comparison). `"auto"` is the one of fewest passes where the model is
            piecewise linear: `"exact"` for few classes, `"leading"` for more of them and k = 1,
            `"class_lanczos"` for many (`EXACT_CLASSES`, `LEADING_CLASSES`); and else `"lanczos"`.
        part: `"hessian"`, its `"gauss_newton"` part JᵀAJ or its `"residual"` R (zero if piecewise linear).
        chunk: exact: how many of the K-1 pullbacks run at once; None for what is fastest. Bounds memory.
        steps: all but exact: the most products per image.
        tol: all but exact: an image stops when its estimated relative error is this.

    Returns:
        Signed eigenvalues `[B, k]`, largest magnitude first, in float32 at least.

    Raises:
        ValueError: an unknown method or part, a k, chunk, steps or tol out of range, or a method that needs a
            piecewise-linear model for one that is not.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Definition 1. The official code
    runs SciPy's `eigsh(k=1, which="LA")` on double-backpropagation products, one image at a time, each
    product with a forward pass of its own.
    """
    check_examples(images, labels, empty=True)
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    count, size = len(images), math.prod(images.shape[1:])
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to {size} (the pixels of an image); got {k}")
    check_pullbacks(chunk)
    check_effort(steps, tol)
    if not count:
        return jnp.zeros((0, k), images.dtype)
    method = _choose(predict, images, k, method, part)
    if method in ("leading", "power") and k != 1:
        raise ValueError(f"method={method!r} finds one eigenvalue; got k={k}: use method='auto' or 'lanczos'")
    found = _eigenvalues(predict, images, labels, k, method, part, chunk, steps, tol)
    # The derivative of a rectifier at NaN is 0: a net may have no curvature at such an image.
    return jnp.where(jnp.isnan(images).any((1, 2, 3))[:, None], jnp.nan, found)


def _eigenvalues(
    predict: Predict,
    images: Array,
    labels: Array,
    k: int,
    method: str,
    part: str,
    chunk: int | None,
    steps: int,
    tol: float,
) -> Array:
    """Those of one method, which applies."""
    count, size = len(images), math.prod(images.shape[1:])
    if method == "leading":
        return leading_eigenvalue(predict, images, steps, tol)[:, None]
    if method == "exact":
        return exact_eigenvalues(predict, images, k, chunk)
    if method == "class_lanczos":
        matvec, start = class_matvec(predict, images)
        rank = start.shape[1]
        # A tenth of anything: a guess may lie where the largest is not.
        anything = _start(count, rank, images.dtype)
        start = unit(start, -1) + 0.1 * unit(anything, -1) if k == 1 else anything
        found = lanczos_eigenvalues(matvec, start, min(k, rank), max(steps, k), tol)
        return jnp.pad(found.values, ((0, 0), (0, max(0, k - rank))))
    matvec, start = _matvec(predict, images, labels, part), _start(count, size, images.dtype)
    if method == "power":
        return power_eigenvalue(matvec, start, steps, tol).values
    return lanczos_eigenvalues(matvec, start, k, max(steps, k), tol).values


def input_hessian_trace(
    predict: Predict, images: Array, part: str = "hessian", *, chunk: int | None = None
) -> Array:
    """The trace of each image's input Hessian of the cross-entropy, exactly, `[B]`; labels do not matter.

    `tr JᵀAJ = ‖VᵀJ‖²_F` with `A = V Vᵀ`: K-1 pullbacks of one forward pass. As `JᵀAJ` is positive
    semi-definite, this is `Σ_i |H_ii|` too.

    Args:
        predict: the model, in evaluation mode.
        images: `[B, H, W, C]` in [0, 1].
        part: `"hessian"`, or `"gauss_newton"` for any net's Gauss-Newton part.
        chunk: how many of the K-1 pullbacks run at once; None for all. Bounds memory.

    Raises:
        ValueError: an unknown part, or the Hessian of a net that is not known to be piecewise linear.
    """
    check_images(images)
    return trace_anywhere(predict, images, part, chunk)


def trace_anywhere(predict: Predict, images: Array, part: str, chunk: int | None) -> Array:
    """`input_hessian_trace` of images that may lie beyond [0, 1], as theorems' do."""
    if part not in ("hessian", "gauss_newton"):
        raise ValueError(f"part must be hessian or gauss_newton; got {part!r}")
    check_pullbacks(chunk)
    if part == "hessian" and not is_piecewise_linear(predict, images):
        raise ValueError(
            "the exact trace of the Hessian needs a model that is piecewise linear in its images "
            "(convolution, ReLU, pooling, batch normalization in evaluation mode), and this one is not known "
            "to be; use part='gauss_newton'"
        )
    logits, pullback = jax.vjp(predict, images)
    cotangents = jnp.moveaxis(softmax_factor(logits), -1, 0)
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))  # noqa: E731
    sizes = jax.lax.map(
        lambda v: norm(wide(pullback(v)[0]), (1, 2, 3)), cotangents, batch_size=chunk or len(cotangents)
    )
    return norm(sizes, 0) ** 2
