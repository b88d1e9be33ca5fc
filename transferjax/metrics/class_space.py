"""The Gauss-Newton matrix `Jᵀ (diag p - p pᵀ) J` of an image, seen from its K-1 class directions.

With `diag(p) - p pᵀ = V Vᵀ` its nonzero eigenvalues are those of the K-1 x K-1 matrix `M = (VᵀJ)(VᵀJ)ᵀ`. A
pullback of the net turns a direction u into `JᵀVu`; pullbacks of several directions give the block of M that
belongs to them, and one tangent more gives M times any vector in their span.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.devices import runs_on_cpu
from transferjax.metrics.lanczos import Matvec, normalize, orthogonalize, ritz_error
from transferjax.norms import norm
from transferjax.typing import Array, Predict

CACHED = 2**18
"""Entries of images that go through a network at once and leave its feature maps in a CPU's cache: 85 images
of CIFAR-10. All nine pullbacks of a batch of 16 together take up to a quarter longer than a few at a time."""


def softmax_factor(logits: Array) -> Array:
    """V `[B, K, K-1]` with `V Vᵀ = diag(p) - p pᵀ`, to full relative precision even for sure predictions.

    With `s = √p`, `diag(p) - p pᵀ = diag(s) (I - s sᵀ) diag(s)`; the projector's range is spanned by the
    columns, all but the j-th, of the Householder reflection `I - v vᵀ / (1 + s_j)`, `v = s + e_j`. The
    largest s_j makes every entry free of cancellation.
    """
    classes = logits.shape[-1]
    root = jnp.exp(jax.nn.log_softmax(logits) / 2)
    pivot = root.argmax(-1)
    at_pivot = jax.nn.one_hot(pivot, classes, dtype=root.dtype)
    columns = (pivot[:, None] + 1 + jnp.arange(classes - 1)) % classes
    scaled = jnp.take_along_axis(root, columns, -1) / (1 + root.max(-1, keepdims=True))
    chosen = jax.nn.one_hot(columns, classes, dtype=root.dtype, axis=1)
    return root[..., None] * (chosen - (root + at_pivot)[..., None] * scaled[:, None, :])


def _scaled(factor: Array) -> tuple[Array, Array]:
    """V with a largest entry of one, so that no square underflows, and what its eigenvalues lack, `[B]`."""
    largest = jnp.abs(factor).max((1, 2), keepdims=True, initial=0)
    return factor / jnp.where(largest > 0, largest, 1), largest.ravel() ** 2


def _largest_divisor(number: int, most: int) -> int:
    """Of those up to `most`; at least 1."""
    return next(n for n in range(max(1, min(most, number)), 0, -1) if number % n == 0)


def _fast_chunk(pullbacks: int, images: Array) -> int:
    """All at once, or on CPUs the most that divide them and stay in the cache."""
    return _largest_divisor(pullbacks, CACHED // max(1, images.size)) if runs_on_cpu() else pullbacks


def exact_eigenvalues(predict: Predict, images: Array, k: int, chunk: int | None) -> Array:
    """Eigenvalues of `(VᵀJ)(VᵀJ)ᵀ`, written out from K - 1 pullbacks of one forward pass."""
    logits, pullback = jax.vjp(predict, images)
    factor, scale = _scaled(softmax_factor(logits))
    cotangents = jnp.moveaxis(factor, -1, 0)
    chunk = chunk or _fast_chunk(len(cotangents), images)
    rows = jax.lax.map(lambda v: pullback(v)[0], cotangents, batch_size=chunk)
    rows = rows.reshape(*rows.shape[:2], -1)
    values = jnp.linalg.eigvalsh(jnp.einsum("ibn,jbn->bij", rows, rows))[:, ::-1]
    return scale[:, None] * jnp.pad(values, ((0, 0), (0, max(0, k - values.shape[1]))))[:, :k]


def linearized(predict: Predict, images: Array) -> tuple[Array, Matvec, Matvec]:
    """V, `d x -> J d x` and `d z -> Jᵀ d z` for flat images; the forward pass is made once."""
    logits, push = jax.linearize(predict, images)
    pull = jax.linear_transpose(push, images)
    flat = (images.shape[0], -1)
    return (
        softmax_factor(logits),
        lambda v: push(v.reshape(images.shape)),
        lambda c: pull(c)[0].reshape(flat),
    )


def class_matvec(predict: Predict, images: Array) -> tuple[Matvec, Array]:
    """Products `u -> VᵀJ JᵀV u` with vectors `[B, K-1]`: the Gauss-Newton matrix's nonzero spectrum.

    And where to start: the leading eigenvector of `VᵀV`, which the Jacobian turns a little; 16 steps of power
    iteration, without the model.
    """
    factor, push, pull = linearized(predict, images)
    scaled, _ = _scaled(factor)
    start = scaled[jnp.arange(len(scaled)), jnp.abs(scaled).sum(-1).argmax(-1)]
    for _ in range(16):
        start = jnp.einsum("bki,bkj,bj->bi", scaled, scaled, start)
        largest = jnp.abs(start).max(-1, keepdims=True)
        start = start / jnp.where(largest > 0, largest, 1)
    return lambda u: jnp.einsum("bki,bk->bi", factor, push(pull(jnp.einsum("bki,bi->bk", factor, u)))), start


_FIRST = 2
"""Directions that are known before any pass. With one, more images need further products; with three, few
need fewer."""

_TOGETHER = (2**16, 2**20)
"""Entries of the images that are worked on at once, on CPUs and elsewhere: 21 of CIFAR-10, or 341. Fewer make
poor use of a core, more wait longer for the hardest of them."""

_FAR = 1e30
"""The largest ratio of bounds of an image that has begun."""

_MARGIN = 2
"""How much larger than the gains that were seen those of other directions may be. With 1 as many passes are
needed on a trained ResNet-18, and on random nets of 12 classes 8 images in 1000 are taken for done too early,
with 2 it is 2 (Lanczos with its own estimate: 30)."""


class _Span(NamedTuple):
    """Class directions that have been pulled back; those that are not there yet are zero."""

    directions: Array  # u_i, orthonormal: [B, m, K-1]
    rows: Array  # JᵀV u_i: [B, m, N]
    tested: Array  # vectors u whose product M u lies in the span, as coordinates: [B, m, m]


class _Bounds(NamedTuple):
    """What a span says of the largest eigenvalue."""

    lower: Array  # its largest Ritz value: [B]
    gap: Array  # from there to the next: [B]
    upper: Array  # [B]
    ritz: Array  # the Ritz vector's coordinates: [B, m]
    spare: Array  # the leading direction outside the span: [B, K-1]

    def within(self, tol: float) -> Array:
        return self.upper <= (1 + tol) * self.lower


def _bounds(known: Array, span: _Span) -> _Bounds:
    """Ritz value and upper bound of the largest eigenvalue.

    In image space `H = S + E`, S from the directions in the span, E from the others, and `E w = 0` for the
    images `w = JᵀVu` of the tested vectors. So `λ_1(H) ≤ λ_1(S + ‖E‖ (I - P))` with the projector P on them.
    ‖E‖ is at most the norm of `VᵀWWᵀV` on the other directions times their largest gain
    `‖JᵀVu‖² / ‖WᵀVu‖²`; the largest gain in the span, with a margin, stands for that: the one estimate here.
    """
    values, vectors = jnp.linalg.eigh(jnp.einsum("bmn,bln->bml", span.rows, span.rows))
    values = jnp.maximum(values, 0)
    inside = jnp.einsum("bfi,bmi->bmf", known, span.directions)
    outside = known - jnp.einsum("bmf,bmi->bfi", inside, span.directions)
    sizes, others = jnp.linalg.eigh(jnp.einsum("bfi,bfj->bij", outside, outside))
    norms = jnp.vecdot(inside, inside)
    gains = jnp.vecdot(span.rows, span.rows) / jnp.where(norms > 0, norms, 1)
    rest = _MARGIN * gains.max(-1) * jnp.maximum(sizes[:, -1], 0)
    images = jnp.sqrt(values)[:, :, None] * jnp.einsum("bmi,btm->bit", vectors, span.tested)
    basis = jnp.linalg.qr(images)[0] * (images != 0).any(1)[:, None]
    identity = jnp.eye(values.shape[1], dtype=values.dtype)
    unknown = identity - jnp.einsum("bit,bjt->bij", basis, basis)
    bound = identity * values[:, None] + rest[:, None, None] * unknown
    upper = jnp.maximum(jnp.linalg.eigvalsh(bound)[:, -1], rest)
    gap = values[:, -1] - jnp.maximum(rest, values[:, -2] if values.shape[1] > 1 else 0)
    return _Bounds(values[:, -1], gap, upper, vectors[:, :, -1], others[:, :, -1])


def last_layer_root(predict: Predict, classes: int) -> Array:
    """R with `RᵀR = WWᵀ`, W the weights `[K, F]` of the last layer: the only leaf that is a kernel `[F, K]`.

    The identity where there is none or more than one: what is built on it is slower then, not wrong.
    """
    kernels = [leaf for leaf in jax.tree.leaves(predict) if jnp.ndim(leaf) == 2 and leaf.shape[1] == classes]
    return jnp.linalg.qr(kernels[0], "r") if len(kernels) == 1 else jnp.eye(classes)


class _ClassSpace:
    """The linearized net of a batch of images, with its V scaled to a largest entry of one."""

    def __init__(self, predict: Predict, images: Array, root: Array):
        factor, self.push, self.pull = linearized(predict, images)
        self.factor, self.scale = _scaled(factor)
        self.known = jnp.einsum("fk,bki->bfi", root, self.factor)
        vectors = jnp.linalg.eigh(jnp.einsum("bfi,bfj->bij", self.known, self.known))[1]
        self.leading = vectors[:, :, ::-1][:, :, :_FIRST]

    def residual(self, span: _Span, bounds: _Bounds) -> tuple[Array, Array]:
        """The Ritz vector's, as the next direction, and how far its value may be off: one tangent."""
        every = jnp.int32(span.rows.shape[1])
        image = jnp.einsum("bm,bmn->bn", bounds.ritz, span.rows)
        product = jnp.einsum("bki,bk->bi", self.factor, self.push(image))
        residual, _ = orthogonalize(product, span.directions, every)
        size = norm(residual, -1)
        noise = 8 * jnp.finfo(product.dtype).eps * norm(product, -1)
        direction = jnp.where((size > noise)[:, None], residual, bounds.spare)
        direction, _ = normalize(orthogonalize(direction, span.directions, every)[0])
        return direction, ritz_error(size, bounds.gap)

    def extend(self, span: _Span, bounds: _Bounds, at: Array) -> tuple[_Span, _Bounds]:
        """One direction more, in each image's place `at`, and its pullback.

        First come the leading eigenvectors of `VᵀWWᵀV`, then residuals: in one loop, because every pass that
        is written out is one more to compile.
        """

        def leading(*_: _Span | _Bounds) -> tuple[Array, Array]:
            return self.leading[:, :, at.min()], jnp.full_like(bounds.upper, jnp.inf)

        known, every = at.min() < _FIRST, jnp.arange(len(at))
        direction, error = jax.lax.cond(known, leading, self.residual, span, bounds)
        span = _Span(
            span.directions.at[every, at].set(direction),
            span.rows.at[every, at].set(self.pull(jnp.einsum("bki,bi->bk", self.factor, direction))),
            span.tested.at[every, jnp.maximum(at - _FIRST, 0)].set(jnp.where(known, 0, bounds.ritz)),
        )
        longer = _bounds(self.known, span)
        return span, longer._replace(upper=jnp.minimum(longer.upper, longer.lower + error))


class _Progress(NamedTuple):
    """Of each image."""

    span: _Span
    at: Array  # how many directions it has: [B]
    value: Array  # [B]
    ratio: Array  # of the bounds, upper / lower; infinite before an image began, zero when it is done


def _work(space: _ClassSpace, progress: _Progress, tol: float, alone: Array) -> _Progress:
    """Some images a good way on: while more than two of three have to, or all of them if no others wait.

    One pass more is worth a step for all of them where it saves a third: a step takes two.
    """
    room = progress.span.rows.shape[1]
    begin = jnp.isinf(progress.ratio).any()
    span, at = jax.tree.map(lambda a: jnp.where(begin, 0, a), (progress.span, progress.at))

    def done(bounds: _Bounds, at: Array) -> Array:
        return (bounds.within(tol) & (at > _FIRST)) | (at >= room)

    def going(state: tuple[_Span, _Bounds, Array, Array]) -> Array:
        _, bounds, at, step = state
        left = (~done(bounds, at)).sum()
        return (left > 0) & (alone | (step == 0) | (3 * left > 2 * len(at)))

    def advance(state: tuple[_Span, _Bounds, Array, Array]) -> tuple[_Span, _Bounds, Array, Array]:
        span, bounds, at, step = state
        still = done(bounds, at)
        keep = lambda old, new: jnp.where(still.reshape(-1, *[1] * (new.ndim - 1)), old, new)  # noqa: E731
        longer = space.extend(span, bounds, jnp.minimum(at, room - 1))
        return *jax.tree.map(keep, (span, bounds, at), (*longer, at + 1)), step + 1

    state = span, _bounds(space.known, span), at, jnp.int32(0)
    span, bounds, at, _ = jax.lax.while_loop(going, advance, state)
    ratio = jnp.minimum(bounds.upper / jnp.where(bounds.lower > 0, bounds.lower, 1), _FAR)
    return _Progress(span, at, bounds.lower * space.scale, jnp.where(done(bounds, at), 0, ratio))


def leading_eigenvalue(predict: Predict, images: Array, steps: int, tol: float) -> Array:
    """The largest eigenvalue of each image's `JᵀVVᵀJ`, from as few passes as the image needs.

    Before any pass through the net its last layer W is known, and the rest of it turns the eigenvectors of
    `VᵀWWᵀV` only a little: the leading two are pulled back, and then the residual of the Ritz vector, until
    `_bounds` are within the tolerance. That is five passes for most images. They go through the net some at
    a time, and where few of these are left, they are gathered and go on later, hardest first.

    Args:
        predict: the model; its Hessian is `JᵀVVᵀJ` if it is piecewise linear.
        images: `[B, H, W, C]`.
        steps: the most directions pulled back of an image; K-1 of them give the exact value.
        tol: the relative error with which an image is done.

    Returns:
        Ritz values `[B]`.

    Reference: block Rayleigh-Ritz with residuals as new directions is Davidson's method (J. Comput. Phys. 17,
    1975).
    """
    count, classes = jax.eval_shape(predict, images).shape
    room = min(classes - 1, max(steps, 1))
    root = last_layer_root(predict, classes).astype(images.dtype)
    parts = -(-images.size // _TOGETHER[0 if runs_on_cpu() else 1])
    size = -(-count // min(parts, count))
    empty = lambda *shape: jnp.zeros((count, room, *shape), images.dtype)  # noqa: E731
    nothing = jnp.zeros(count, images.dtype)
    span = _Span(empty(classes - 1), empty(images[0].size), empty(room))

    def step(progress: _Progress) -> _Progress:
        order = jnp.argsort(progress.ratio, descending=True)
        hardest, others = order[:size], order[size:]
        some = jax.tree.map(lambda a: a[hardest], progress)
        space = _ClassSpace(predict, images[hardest], root)
        some = _work(space, some, tol, ~(progress.ratio[others] > 0).any())
        return jax.tree.map(lambda a, b: a.at[hardest].set(b), progress, some)

    start = _Progress(span, jnp.zeros(count, jnp.int32), nothing, nothing + jnp.inf)
    return jax.lax.while_loop(lambda p: (p.ratio > 0).any(), step, start).value
