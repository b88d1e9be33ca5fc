"""Transfer success: how often a model falls for images that were crafted on another."""

import warnings

import jax.numpy as jnp

from transferjax.checks import (
    check_images,
    check_labels,
    check_mask,
    check_no_nan,
    check_outputs,
    has_values,
)
from transferjax.classes import check_vocabulary
from transferjax.metrics.gradients import asked
from transferjax.typing import Array, Predict


def round_to_8_bits(images: Array) -> Array:
    """The nearest image a PNG file can hold: `round(255 x) / 255`."""
    check_images(images, empty=True)
    return jnp.round(images * 255) / 255


def correct(predict: Predict, images: Array, labels: Array, *, num_classes: int | None = None) -> Array:
    """Which images `[B]` the model classifies as `labels`, bool; AND several models' for a common mask.

    Args:
        predict, images, labels: the model, `[B, H, W, C]` in [0, 1], and true classes `[B]`.
        num_classes: see `fooled`.
    """
    return _among(_logits(predict, images, labels, num_classes=num_classes), labels, 1)


def _logits(
    predict: Predict,
    images: Array,
    labels: Array,
    targets: Array | None = None,
    num_classes: int | None = None,
) -> Array:
    """What the model says, `[B, K]`; labels and targets must be classes of it."""
    check_images(images, empty=True)
    logits = asked(predict, images)
    check_outputs(logits, len(images))
    check_no_nan(logits, "predict returned NaN")
    check_labels(labels, len(images))
    check_vocabulary(labels, logits.shape[-1], num_classes)
    check_labels(labels, len(images), logits.shape[-1])
    if targets is not None:
        check_labels(targets, len(images), logits.shape[-1], "targets")
    return logits


def _among(logits: Array, classes: Array, k: int) -> Array:
    """Whether a class `[B]` is among the k greatest logits, bool; of equal ones the others come first."""
    if k == 1:
        return logits.argmax(-1) == classes
    own = jnp.take_along_axis(jnp.asarray(logits), classes[:, None], -1)
    return (logits >= own).sum(-1) <= k


def _check_told_apart(logits: Array, k: int) -> None:
    """A warning where no image has k classes above the rest: services name some, and are silent of others."""
    if k > 1 and len(logits) and has_values(logits):
        told = int((logits > logits.min(-1, keepdims=True)).sum(-1).max())
        if 0 < told < k:
            warnings.warn(
                f"top_k={k}, but of no image more than {told} classes are told from the rest: the rates are "
                f"those of top_k={told}; ask for so many, or the service for more names",
                stacklevel=3,
            )


def fooled(
    predict: Predict,
    adversarial: Array,
    labels: Array,
    targets: Array | None = None,
    *,
    round_8_bits: bool = False,
    num_classes: int | None = None,
    top_k: int = 1,
) -> Array:
    """Which adversarial images succeed, bool `[B]`: `f(x') ≠ y`, or with targets `f(x') = t`.

    Args:
        predict: the target model.
        adversarial: images `[B, H, W, C]` in [0, 1].
        labels: true classes `[B]`.
        targets: classes `[B]` that a targeted attack aimed at; None if it was untargeted.
        round_8_bits: round the images to what a file can hold first, as the official code does.
        num_classes: how many classes the labels' data set has, so that a model of other classes is an error;
            None if nobody knows: then labels that lie among the first few of many logits get a warning.
        top_k: an attack succeeds where the label is not among the k greatest logits, or the target is.

    Raises:
        ValueError: labels or targets that are not one class per image, or of other classes than the model's.
    """
    images = round_to_8_bits(adversarial) if round_8_bits else adversarial
    logits = _logits(predict, images, labels, targets, num_classes)
    if not 1 <= top_k < logits.shape[-1]:
        raise ValueError(f"top_k must lie in 1 … {logits.shape[-1] - 1}, fewer than the classes; got {top_k}")
    _check_told_apart(logits, top_k)
    return ~_among(logits, labels, top_k) if targets is None else _among(logits, targets, top_k)


def transfer_success(
    predict: Predict,
    adversarial: Array,
    labels: Array,
    targets: Array | None = None,
    *,
    mask: Array | None = None,
    round_8_bits: bool = False,
    num_classes: int | None = None,
    top_k: int = 1,
) -> Array:
    """Attack success rate in [0, 1], a scalar: the mean of `fooled` over all images, or over those in a mask.

    `ASR = Σ_i m_i [f(x'_i) ≠ y_i] / Σ_i m_i`; targeted: `[f(x'_i) = t_i]`.

    Args:
        predict, adversarial, labels, targets, round_8_bits, num_classes, top_k: see `fooled`.
        mask: bool `[B]`, which images count. None counts every image, as the paper's tables do; with
            `correct(surrogate, x, y) & correct(target, x, y)` those that both models know beforehand.

    Returns:
        The rate; NaN if no image counts.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Tables 2 to 5: its official
    code counts every image. `transferability` is its Definition 3.
    """
    check_images(adversarial)  # a rate of none is no number
    success = fooled(
        predict, adversarial, labels, targets, round_8_bits=round_8_bits, num_classes=num_classes, top_k=top_k
    )
    if mask is None:
        return success.mean()
    check_mask(mask, len(success))
    return (success & mask).sum() / mask.sum()


def transferability(
    surrogate: Predict,
    target: Predict,
    images: Array,
    adversarial: Array,
    labels: Array,
    targets: Array | None = None,
    *,
    num_classes: int | None = None,
) -> Array:
    """Which images transfer, bool `[B]`: right before on both models, fooled on both. The mean: Pr(T_r = 1).

    `T_r = [F(x) = G(x) = y] [F(x') ≠ y] [G(x') ≠ y]`; targeted: `[F(x') = G(x') = t]`.

    Args:
        surrogate, target: F and G.
        images, adversarial: `[B, H, W, C]` in [0, 1], before and after.
        labels, targets, num_classes: see `fooled`.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Definition 3; what Theorem 1
    bounds.
    """
    models = (surrogate, target)
    known = [correct(m, images, labels, num_classes=num_classes) for m in models]
    hit = [fooled(m, adversarial, labels, targets, num_classes=num_classes) for m in models]
    return known[0] & known[1] & hit[0] & hit[1]
