"""Gradient similarity: do two models agree on which way an image's loss grows?"""

from collections.abc import Sequence

import jax.numpy as jnp

from transferjax.classes import noting
from transferjax.losses import cross_entropy
from transferjax.metrics.gradients import input_gradient
from transferjax.norms import cosine, flat_unit
from transferjax.typing import Array, Loss, Predict


def cosine_similarity(gradients_a: Array, gradients_b: Array) -> Array:
    """`⟨a_i, b_i⟩ / (‖a_i‖ ‖b_i‖)` per example, `[B]`; 0 where either is zero.

    Raises:
        ValueError: gradients of different shapes.
    """
    if gradients_a.shape != gradients_b.shape:
        raise ValueError(f"gradients must have one shape; got {gradients_a.shape} and {gradients_b.shape}")
    return jnp.clip(cosine(gradients_a, gradients_b), -1, 1)


def gradient_similarity(
    predict_a: Predict,
    predict_b: Predict,
    images: Array,
    labels: Array,
    loss: Loss = cross_entropy,
) -> Array:
    """Cosine between two models' input gradients of the loss, per example.

    `S_i = cos(∇_x ℓ_a(x_i, y_i), ∇_x ℓ_b(x_i, y_i))`; 0 where a gradient is zero.

    Args:
        predict_a, predict_b: the models.
        images: `[B, H, W, C]` in [0, 1].
        labels: classes `[B]`, or probabilities `[B, K]`.
        loss: cross-entropy unless told otherwise.

    Returns:
        Similarities `[B]` in [-1, 1].

    Raises:
        ValueError: models with different numbers of logits.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Definition 2; Demontis et al.,
    "Why Do Adversarial Attacks Transfer?", USENIX Security 2019, eq. 8.
    """
    counts: dict[str, int] = {}
    models = (noting(predict_a, "predict_a", counts), noting(predict_b, "predict_b", counts))
    return cosine_similarity(*(input_gradient(model, images, labels, loss) for model in models))


def similarity_matrix(
    surrogates: Sequence[Predict],
    images: Array,
    labels: Array,
    targets: Sequence[Predict] | None = None,
    loss: Loss = cross_entropy,
) -> Array:
    """Gradient similarity of every surrogate to every target, each model's gradient computed once.

    Args:
        surrogates: A models, of any architectures that take these images.
        images: `[B, H, W, C]` in [0, 1].
        labels: classes `[B]`, or probabilities `[B, K]`.
        targets: T models; None compares the surrogates with each other.
        loss: cross-entropy unless told otherwise.

    Returns:
        Similarities `[A, T, B]`. Over a data set, concatenate batches on the last axis: its mean is the
        expected similarity, its minimum the infimum of Theorem 1.

    Raises:
        ValueError: models with different numbers of logits.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Figures 4-6 and 11, Table 7.
    """

    counts: dict[str, int] = {}

    def units(kind: str, models: Sequence[Predict]) -> Array:
        # A loop, not vmap: over weights it makes grouped convolutions, 5 to 8 times slower on CPUs.
        noted = [noting(predict, f"{kind} {i}", counts) for i, predict in enumerate(models)]
        return jnp.stack([flat_unit(input_gradient(predict, images, labels, loss)) for predict in noted])

    ours = units("surrogate", surrogates)
    return jnp.einsum("abn,tbn->atb", ours, ours if targets is None else units("target", targets))
