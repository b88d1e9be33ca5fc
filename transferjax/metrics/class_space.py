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
"""Directions to begin with. With one, more images need further products; with three, few need fewer."""

_PARTS = 8
"""Images that need more than the others are gathered, an eighth of the batch at a time."""

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


def _widened(span: _Span, bounds: _Bounds, room: int) -> tuple[_Span, _Bounds]:
    """With room for more directions."""
    more = (0, room - span.rows.shape[1])
    directions, rows = (jnp.pad(a, ((0, 0), more, (0, 0))) for a in (span.directions, span.rows))
    tested, ritz = jnp.pad(span.tested, ((0, 0), more, more)), jnp.pad(bounds.ritz, ((0, 0), more))
    return _Span(directions, rows, tested), bounds._replace(ritz=ritz)


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

    def __init__(self, predict: Predict, images: Array):
        factor, self.push, self.pull = linearized(predict, images)
        self.factor, self.scale = _scaled(factor)
        self.known = jnp.einsum("fk,bki->bfi", last_layer_root(predict, factor.shape[1]), self.factor)

    def pulled(self, direction: Array) -> Array:
        return self.pull(jnp.einsum("bki,bi->bk", self.factor, direction))

    def begin(self, count: int, chunk: int) -> _Span:
        """The leading eigenvectors of `VᵀWWᵀV`."""
        vectors = jnp.linalg.eigh(jnp.einsum("bfi,bfj->bij", self.known, self.known))[1]
        directions = jnp.moveaxis(vectors[:, :, ::-1][:, :, :count], 2, 0)
        rows = jax.lax.map(self.pulled, directions, batch_size=chunk)
        tested = jnp.zeros_like(rows, shape=(rows.shape[1], count, count))
        return _Span(directions.swapaxes(0, 1), rows.swapaxes(0, 1), tested)

    def extend(self, span: _Span, bounds: _Bounds, at: Array) -> tuple[_Span, _Bounds]:
        """The residual of the Ritz vector is the next direction: one tangent, one pullback."""
        every = jnp.int32(span.rows.shape[1])
        image = jnp.einsum("bm,bmn->bn", bounds.ritz, span.rows)
        product = jnp.einsum("bki,bk->bi", self.factor, self.push(image))
        residual, _ = orthogonalize(product, span.directions, every)
        size = norm(residual, -1)
        noise = 8 * jnp.finfo(product.dtype).eps * norm(product, -1)
        direction = jnp.where((size > noise)[:, None], residual, bounds.spare)
        direction, _ = normalize(orthogonalize(direction, span.directions, every)[0])
        span = _Span(
            span.directions.at[:, at].set(direction),
            span.rows.at[:, at].set(self.pulled(direction)),
            span.tested.at[:, at - _FIRST].set(bounds.ritz),
        )
        longer = _bounds(self.known, span)
        upper = jnp.minimum(longer.upper, longer.lower + ritz_error(size, bounds.gap))
        return span, longer._replace(upper=upper)

    def finish(self, span: _Span, bounds: _Bounds, room: int, tol: float) -> Array:
        """Largest eigenvalues from spans of at most `room` directions; images that are done stay there."""
        at = span.rows.shape[1]

        def advance(state: tuple[_Span, _Bounds, Array]) -> tuple[_Span, _Bounds, Array]:
            span, bounds, at = state
            done = bounds.within(tol)
            keep = lambda old, new: jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), old, new)  # noqa: E731
            return *jax.tree.map(keep, (span, bounds), self.extend(span, bounds, at)), at + 1

        def going(state: tuple[_Span, _Bounds, Array]) -> Array:
            return (state[2] < room) & ~state[1].within(tol).all()

        state = (*_widened(span, bounds, room), jnp.int32(at))
        return jax.lax.while_loop(going, advance, state)[1].lower * self.scale


def leading_eigenvalue(predict: Predict, images: Array, steps: int, tol: float) -> Array:
    """The largest eigenvalue of each image's `JᵀVVᵀJ`, from as few passes as the image needs.

    Before any pass through the net its last layer W is known, and the rest of it turns the eigenvectors of
    `VᵀWWᵀV` only a little: the leading two are pulled back, both at once, and then the residual of the Ritz
    vector, until `_bounds` are within the tolerance. That is five passes for most images. After these, the
    others are gathered and go on in smaller batches, hardest first.

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
    space = _ClassSpace(predict, images)
    count, _, rank = space.factor.shape
    room = min(rank, max(steps, 1))
    first = min(_FIRST, room)
    span = space.begin(first, _fast_chunk(first, images))
    bounds = _bounds(space.known, span)
    if room == first:
        return bounds.lower * space.scale
    span, bounds = space.extend(*_widened(span, bounds, first + 1), jnp.int32(first))
    done = bounds.within(tol)
    ratio = bounds.upper / jnp.where(bounds.lower > 0, bounds.lower, 1)
    hardest = jnp.argsort(jnp.where(done, -1, ratio), descending=True)
    size = -(-count // _PARTS)

    def finish(part: Array, values: Array) -> Array:
        chosen = jax.lax.dynamic_slice_in_dim(hardest, part * size, size)
        some_span, some_bounds = jax.tree.map(lambda a: a[chosen], (span, bounds))
        found = _ClassSpace(predict, images[chosen]).finish(some_span, some_bounds, room, tol)
        return values.at[chosen].set(found)

    return jax.lax.fori_loop(0, (jnp.sum(~done) + size - 1) // size, finish, bounds.lower * space.scale)
