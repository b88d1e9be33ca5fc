"""What only attacks have to ask: goals, and whether a model can be attacked at all.

Images and labels are looked at by `transferjax.checks`. Logits and gradients are looked at here by value, on
the host, outside of `jit`; `craft` does that once before it begins.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from transferjax.attacks.ascend import gradient_of
from transferjax.checks import check_examples, check_images, check_labels
from transferjax.classes import check_classes
from transferjax.random import one_key, per_example
from transferjax.typing import Array, Key, Predict


def looks_like_probabilities(logits: Array | np.ndarray) -> bool:
    """Whether rows are non-negative and sum to one."""
    values = np.asarray(logits, np.float64)
    return bool(values.min() >= 0 and np.allclose(values.sum(-1), 1, atol=1e-3))


def check_logits(logits: Array | np.ndarray) -> None:
    """Finite logits `[B, K]`, before any softmax.

    Raises:
        ValueError: another rank, NaN or infinities, or probabilities.
    """
    if logits.ndim != 2:
        raise ValueError(f"predict must return logits [B, K]; got shape {logits.shape}")
    if not np.isfinite(np.asarray(logits, np.float32)).all():
        raise ValueError("predict returned NaN or infinite logits; check the weights and the normalization")
    if looks_like_probabilities(logits):
        raise ValueError(
            "predict returned probabilities (rows are non-negative and sum to 1), whose gradients vanish "
            "where the net is sure; return the logits before the softmax"
        )


def check_gradients(gradients: Array | np.ndarray) -> None:
    """Finite gradients.

    Raises:
        ValueError: with the number of images whose gradient is not finite.
    """
    bad = int((~np.isfinite(np.asarray(gradients, np.float32))).any((1, 2, 3)).sum())
    if bad:
        raise ValueError(
            f"the gradient of {bad} of {len(gradients)} images is NaN or infinite; look for a norm, a sqrt "
            "or a division at zero inside predict"
        )


def check_predict(
    predict: Predict, images: Array, labels: Array, key: Key, classes: int | Sequence[str] | None = None
) -> None:
    """Images, labels, logits and gradients of one batch, and whether the labels are of predict's classes."""
    check_images(images)
    keys = per_example(key, len(images))
    logits = predict(images)
    check_logits(logits)
    check_classes(classes, logits.shape[-1])
    check_labels(labels, len(images), logits.shape[-1])
    check_gradients(gradient_of(predict)(images, {}, keys, labels)[1])


def robustness_flags(
    predict: Predict,
    images: Array,
    labels: Array,
    key: Key,
    run: Callable[..., Callable[..., Array]] = jax.jit,
) -> tuple[str, ...]:
    """Reasons not to trust AutoAttack's result, in words; none is good news.

    Probabilities instead of logits; logits that change from call to call (use version="rand"); gradients that
    vanish (masked: look at Square's part, or attack through `defences` with BPDA).

    Args:
        predict, images, labels: one batch.
        key: one key, for a random predict.
        run: compiles; the identity to run eagerly.

    Reference: Croce & Hein, ICML 2020; the checks of the official package.
    """
    check_examples(images, labels)
    key, flags = one_key(key), []
    logits = run(lambda predict, x: predict(x))(predict, images)
    check_labels(labels, len(images), logits.shape[-1])
    if looks_like_probabilities(logits):
        flags.append("predict returns probabilities: losses saturate; return logits")
    gradients = run(lambda predict, x, keys, y: gradient_of(predict)(x, {}, keys, y)[1])
    draws = [
        gradients(predict, images, per_example(jax.random.fold_in(key, i), len(images)), labels)
        for i in (0, 1)
    ]
    if not np.array_equal(np.asarray(draws[0]), np.asarray(draws[1])):
        flags.append('predict is random: use version="rand", which averages gradients')
    zero = float(np.mean(np.abs(np.asarray(draws[0])).max((1, 2, 3)) == 0))
    if zero > 0.05:
        flags.append(
            f"the gradient vanishes for {zero:.0%} of the images: gradient-based attacks see nothing"
        )
    return tuple(flags)
