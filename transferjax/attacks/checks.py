"""Bad input, caught where it enters: each error names the value, what was expected and what to do.

The checks of arrays look at values, so call them on the host, outside `jit`; `craft` does.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.ascend import gradient_of
from transferjax.random import per_example
from transferjax.typing import Array, Key, Predict

NORMS = ("linf", "l2")


def check_budget(eps: float, step_size: float | None, steps: int, norm: str) -> None:
    """Hyper-parameters that every attack shares.

    Raises:
        ValueError: an unknown norm, a budget in 0–255 units, a negative one, or no steps.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    for name, value in (("eps", eps), ("step_size", step_size)):
        if value is None or isinstance(value, jax.core.Tracer):  # traced: one compilation for many budgets
            continue
        if not value >= 0:
            raise ValueError(f"{name} must not be negative; got {value}")
        if norm == "linf" and value > 1:
            raise ValueError(
                f"{name}={value} looks like 0–255 units; images lie in [0, 1], so write {name}={value:g}/255"
            )
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")


def check_images(images: Array | np.ndarray) -> None:
    """Float images `[B, H, W, C]` in [0, 1].

    Raises:
        ValueError: another rank, channels first, integers, NaN, or values outside [0, 1].
    """
    shape = images.shape
    if len(shape) != 4:
        raise ValueError(f"images must be [B, H, W, C]; got shape {shape} (one image? add an axis: x[None])")
    if shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise ValueError(
            f"images must be [B, H, W, C]; {shape} has its channels first: x.transpose(0, 2, 3, 1)"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1]; got {images.dtype}: divide by 255")
    values = np.asarray(images, np.float32)
    if np.isnan(values).any():
        raise ValueError("images contain NaN")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        advice = (
            "divide by 255" if high > 2 and low >= 0 else "undo the normalization; it belongs into predict"
        )
        raise ValueError(f"images must lie in [0, 1]; these lie in [{low:g}, {high:g}]: {advice}")


def check_labels(labels: Array | np.ndarray, count: int, num_classes: int) -> None:
    """Classes `[count]` in 0 … num_classes - 1.

    Raises:
        ValueError: another shape, no integers, or classes out of range (1-based labels are named as such).
    """
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one class per image; got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels.dtype}")
    values = np.asarray(labels)
    low, high = int(values.min()), int(values.max())
    if low >= 1 and high == num_classes:
        raise ValueError(
            f"labels lie in {low} … {high}, but predict has {num_classes} logits, 0 … {num_classes - 1}: "
            "these look 1-based; subtract 1"
        )
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in 0 … {num_classes - 1}; these lie in {low} … {high}")


def check_targets(labels: Array | np.ndarray, targets: Array | np.ndarray) -> None:
    """Targets that are not the true classes.

    Raises:
        ValueError: with the number of targets that equal their label.
    """
    same = int(np.sum(np.asarray(labels) == np.asarray(targets)))
    if same:
        raise ValueError(
            f"{same} of {len(labels)} targets equal the true label, so there is nothing to attack: "
            "`choose_targets` never picks the label"
        )


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


def check_predict(predict: Predict, images: Array, labels: Array, key: Key) -> None:
    """Logits and gradients on one batch, with all checks above."""
    keys = per_example(key, len(images))
    logits = predict(images)
    check_logits(logits)
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
    flags = []
    logits = run(lambda predict, x: predict(x))(predict, images)
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
