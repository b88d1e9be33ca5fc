"""What bounds transfer: the S&P paper's lower bound of its rate, and TPA's upper bound of the lost loss.

The former is by smoothness and similarity, term by term, and often vacuous:
Where F is fooled, smoothness makes the perturbation δ gain at least c_F along F's unit gradient. Unit
gradients that differ by at most `√(2 - 2 S)` carry all but `ε √(2 - 2 S)` of that over to G, and a gain of
c_G there fools G. As no gain exceeds ε, Markov's inequality bounds the share of images that gain less.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.checks import check_examples, check_images, check_like, check_pullbacks
from transferjax.classes import noting
from transferjax.losses import cross_entropy
from transferjax.metrics.curvature import trace_anywhere
from transferjax.metrics.gradients import input_gradient
from transferjax.metrics.similarity import cosine_similarity
from transferjax.norms import norm
from transferjax.typing import Array, Predict


class Bound(NamedTuple):
    """`value = (1-α) - (γ_F+γ_G) - [ε(1+α) - c_F(1-α)]/(ε-c_G) - ε(1-α)√(2-2S)/(ε-c_G)` and its terms.

    A value of 0 or less says nothing: `vacuous`. So does `c_G ≥ ε`, where the value is -∞.
    """

    value: Array
    vacuous: Array
    transfer: Array  # what is bounded: the share that fools both and that both classified correctly before
    alpha: Array  # share of images on which the attack fails on F
    risk_f: Array  # γ_F, natural errors of F
    risk_g: Array
    c_f: Array  # least gain that fooling F implies, in l2 units of the image
    c_g: Array  # gain along G's gradient that certainly fools G
    similarity: Array  # S, the infimum of the gradient similarity
    eps: Array  # the largest l2 norm of a perturbation


def _losses(predict: Predict, images: Array, labels: Array) -> tuple[Array, Array, Array]:
    """The loss of the label, the least loss of any other class, and whether the prediction is right."""
    logits = predict(images)
    others = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    least = cross_entropy(logits, others.argmax(-1))
    return cross_entropy(logits, labels), least, logits.argmax(-1) == labels


def transferability_bound(
    surrogate: Predict,
    target: Predict,
    images: Array,
    adversarial: Array,
    labels: Array,
    smoothness_f: Array | float,
    smoothness_g: Array | float,
) -> Bound:
    """Theorem 1 on a data set: a lower bound of `Pr(F and G are right before, wrong after)`.

    `c_F = min_i [min_{y' ≠ y_i} ℓ_F(x'_i, y') - ℓ_F(x_i, y_i) - σ_F ε²/2] / ‖∇ℓ_F(x_i, y_i)‖₂` and
    `c_G = max_i [min_{y' ≠ y_i} ℓ_G(x'_i, y') - ℓ_G(x_i, y_i) + σ_G ε²/2] / ‖∇ℓ_G(x_i, y_i)‖₂`.

    Args:
        surrogate, target: F and G.
        images, adversarial, labels: the data set `[n, H, W, C]`, twice, and `[n]`.
        smoothness_f, smoothness_g: σ: upper bounds of the largest Hessian eigenvalue between x and x'. The
            largest of `input_hessian_eigenvalues` over the images estimates it; only a true upper bound makes
            the theorem apply.

    Returns:
        The bound and its terms. Expect it to be vacuous: it is for F = G, as then `c_F ≤ c_G`, and the
        infimum over images alone makes it so for real nets. Its terms are what is worth comparing.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Theorem 1, after Yang et al.,
    "TRS", NeurIPS 2021, Theorem 1.
    """
    check_examples(images, labels)
    # The theorem asks for no pixels in [0, 1]; but who is farther away has other units.
    check_like(adversarial, images, "adversarial images", slack=1)
    counts: dict[str, int] = {}
    surrogate, target = noting(surrogate, "surrogate", counts), noting(target, "target", counts)
    loss_f, _, right_f = _losses(surrogate, images, labels)
    loss_g, _, right_g = _losses(target, images, labels)
    _, least_f, still_f = _losses(surrogate, adversarial, labels)
    _, least_g, still_g = _losses(target, adversarial, labels)
    gradient_f, gradient_g = (input_gradient(model, images, labels) for model in (surrogate, target))
    norm_f, norm_g = (norm(gradient, (1, 2, 3)) for gradient in (gradient_f, gradient_g))
    eps = norm(adversarial - images, (1, 2, 3)).max()

    alpha = still_f.mean()
    c_f = ((least_f - loss_f - smoothness_f * eps**2 / 2) / norm_f).min()
    c_g = ((least_g - loss_g + smoothness_g * eps**2 / 2) / norm_g).max()
    similarity = cosine_similarity(gradient_f, gradient_g).min()
    risk_f, risk_g = 1 - right_f.mean(), 1 - right_g.mean()
    missed = eps * (1 + alpha) - c_f * (1 - alpha) + eps * (1 - alpha) * jnp.sqrt(2 - 2 * similarity)
    value = (1 - alpha) - (risk_f + risk_g) - jnp.where(c_g < eps, missed / (eps - c_g), jnp.inf)
    transfer = (right_f & right_g & ~still_f & ~still_g).mean()
    return Bound(value, value <= 0, transfer, alpha, risk_f, risk_g, c_f, c_g, similarity, eps)


class TransferLossBound(NamedTuple):
    """Of each image `[B]`, in squared nats: `transfer_loss` and the three components of what bounds it.

    The theorem is of means over images: `E transfer_loss ≤ E bound` (eq. 3), and so `√E target_loss ≥ √E
    surrogate_loss - √E bound` (eq. 4, by the triangle inequality), which says something only where the bound
    is below the surrogate's loss; `|E surrogate_loss - E bound|`, without roots, is no bound in general.
    """

    transfer_loss: Array  # D(x + δ)², D the target's loss minus the surrogate's
    surrogate_loss: Array  # the squared loss on the surrogate of x + δ
    target_loss: Array
    model_difference: Array  # D(x)² + C ‖δ‖² ‖∇D(x)‖²
    first_order: Array  # (1 + C) ‖δ‖² ‖∇ log F(x + δ)‖²: flatness
    second_order: Array  # 2 ‖δ‖² Σ_i |∂²_i log F(x + δ)|

    @property
    def bound(self) -> Array:
        """K, the sum of the components."""
        return self.model_difference + self.first_order + self.second_order


def transfer_loss_bound(
    surrogate: Predict,
    target: Predict,
    images: Array,
    adversarial: Array,
    labels: Array,
    *,
    c: float = 1.0,
    part: str = "hessian",
    chunk: int | None = None,
) -> TransferLossBound:
    """TPA's Theorem 3.1 for a pair of networks, image by image.

    `E D(x+δ)² ≤ E[D(x)² + C‖δ‖²‖∇D(x)‖²] + (1+C) E[‖δ‖²‖∇log F(x+δ)‖²] + 2 E[‖δ‖² Σ_i |∇²log F(x+δ)_ii|]`
    with F the surrogate's probability of the label and D = L(target) - L(surrogate). For a piecewise-linear
    net `∇² log F = -JᵀAJ` is negative semi-definite, so the last sum is a trace: K-1 pullbacks.

    Args:
        surrogate, target: F and F'.
        images, adversarial, labels: `[B, H, W, C]` twice, and `[B]`; δ is their difference, and ‖δ‖ its
            Euclidean length.
        c: C = B₁/(B₁ + B₂‖δ‖), B the bounds of the images' density and of its gradient, which nobody knows;
            1 is the largest value that it can have, and what the paper's footnote 2 advises to compute with.
        part: `"hessian"`; `"gauss_newton"` for a surrogate that is not piecewise linear, whose second-order
            component is then that of the Gauss-Newton part.
        chunk: of the K-1 pullbacks, how many run at once; None for all.

    Raises:
        ValueError: a c outside of [0, 1], or what `input_hessian_trace` refuses.

    Reference: Fan et al., "Transferability Bound Theory", NeurIPS 2024, Theorem 3.1, eqs. 3 and 4, for
    small ‖δ‖. The proof does not carry it: its C is at most 1, which contradicts the use that it makes of
    Assumption 3.3, p(x + δ) ≤ p(x). The components are what is worth comparing.
    """
    check_examples(images, labels)
    check_like(adversarial, images, "adversarial images", slack=1)
    if not 0 <= c <= 1:
        raise ValueError(f"c must lie in [0, 1]; got {c}")
    counts: dict[str, int] = {}
    curvature = trace_anywhere(surrogate, adversarial, part, chunk)
    surrogate, target = noting(surrogate, "surrogate", counts), noting(target, "target", counts)

    def of(predict: Predict, x: Array) -> tuple[Array, Array]:
        loss, pullback = jax.vjp(lambda x: cross_entropy(predict(x), labels), x)
        return loss, pullback(jnp.ones_like(loss))[0]

    (loss_f, slope_f), (loss_g, slope_g) = of(surrogate, images), of(target, images)
    (far_f, far_slope), far_g = of(surrogate, adversarial), cross_entropy(target(adversarial), labels)
    pixels = (1, 2, 3)
    square = norm(adversarial - images, pixels) ** 2
    return TransferLossBound(
        (far_g - far_f) ** 2,
        far_f**2,
        far_g**2,
        (loss_g - loss_f) ** 2 + c * square * norm(slope_g - slope_f, pixels) ** 2,
        (1 + c) * square * norm(far_slope, pixels) ** 2,
        2 * square * curvature,
    )


def jacobian_norm(predict: Predict, images: Array, *, chunk: int | None = None) -> Array:
    """`‖J_i‖_F` of the logits w.r.t. the image, `[B]`, from K pullbacks of one forward pass.

    Proposition 1: `‖∇_x ℓ‖₂ ≤ ‖p - y‖₂ ‖J‖_F ≤ √2 ‖J‖_F`, so a small Jacobian makes the loss flat.

    Args:
        predict: the model.
        images: `[B, H, W, C]` in [0, 1].
        chunk: how many of the K pullbacks run at once; None for all. Bounds memory.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Proposition 1.
    """
    check_images(images, empty=True)
    check_pullbacks(chunk)
    if not len(images):
        return jnp.zeros(0, images.dtype)
    logits, pullback = jax.vjp(predict, images)
    cotangents = jnp.eye(logits.shape[-1], dtype=logits.dtype)[:, None].repeat(len(images), 1)
    rows = lambda c: norm(pullback(c)[0], (1, 2, 3))  # noqa: E731
    return norm(jax.lax.map(rows, cotangents, batch_size=chunk or len(cotangents)), 0)
