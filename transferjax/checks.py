"""Bad arrays, caught where they enter: each error names what came, what was expected and what to do.

Shapes and dtypes are checked always, under `jit`, `vmap` and `grad` too. Values are checked where there are
any, which a tracer has not: at public entrances, in one pass over the images, and never inside of a loop.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.typing import Array, Batch

Shape = tuple[int, ...]


def _described(name: str, array: Any) -> tuple[Shape, Any]:
    if not (hasattr(array, "shape") and hasattr(array, "dtype")):
        raise ValueError(f"{name} must be an array; got {type(array).__name__} {array!r:.60}: jnp.asarray it")
    return tuple(array.shape), array.dtype


def has_values(array: Any) -> bool:
    """Whether there is something to look at: no tracer, no array that is partly on other processes."""
    if isinstance(array, jax.Array):
        return not isinstance(array, jax.core.Tracer) and array.is_fully_addressable
    return isinstance(array, np.ndarray | np.generic)


def _range(array: Array | np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value, NaN if there is any; found where the array is."""
    if isinstance(array, jax.Array) and {device.platform for device in array.devices()} != {"cpu"}:
        return float(jnp.min(array)), float(jnp.max(array))
    values = np.asarray(array)
    if values.dtype.itemsize < 4:  # NumPy takes thirty times as long for half precision
        values = values.astype(np.float32)
    return float(values.min()), float(values.max())


def _check_unit_range(name: str, images: Array | np.ndarray, slack: float) -> None:
    low, high = _range(images)
    if np.isnan(low):
        raise ValueError(f"{name} contain NaN")
    if np.isinf(low) or np.isinf(high):
        raise ValueError(f"{name} contain infinite values")
    grace = slack + max(1e-5, float(jnp.finfo(images.dtype).eps))  # what rounding may add to 1
    if low < -grace or high > 1 + grace:
        advice = (
            "divide by 255" if high > 2 and low >= 0 else "undo the normalization; it belongs into predict"
        )
        raise ValueError(
            f"{name} must lie in [{0 - slack:g}, {1 + slack:g}]; these lie in [{low:g}, {high:g}]: {advice}"
        )


def check_images(
    images: Array | np.ndarray, name: str = "images", slack: float = 0, *, empty: bool = False
) -> None:
    """Float images `[B, H, W, C]` in [0, 1], give or take the rounding of their dtype.

    Args:
        images: the array.
        name: what the error calls it.
        slack: how far beyond [0, 1] they may lie.
        empty: whether there may be none of them, as where each image has an answer of its own.

    Raises:
        ValueError: another rank, nothing in it, channels first, no floats; NaN, infinities, or values outside
            [0, 1], where there are values.
    """
    shape, dtype = _described(name, images)
    if len(shape) != 4:
        advice = "one image? add an axis: x[None]" if len(shape) == 3 else "height, width and channels apart"
        raise ValueError(f"{name} must be [B, H, W, C]; got shape {shape} ({advice})")
    if 0 in (shape[1:] if empty else shape):
        raise ValueError(f"{name} must be [B, H, W, C] with at least one of each; got shape {shape}: empty")
    if shape[1] in (1, 3) and shape[3] not in (1, 3) and min(shape[2:]) > 3:
        raise ValueError(
            f"{name} must be [B, H, W, C]; {shape} has its channels first: x.transpose(0, 2, 3, 1)"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be floats in [0, 1]; got {dtype}: divide by 255")
    if has_values(images) and 0 not in shape:
        _check_unit_range(name, images, slack)


def check_like(others: Array | np.ndarray, images: Array | np.ndarray, name: str, slack: float = 0) -> None:
    """Images that go with others, one for one: `check_images` of them, and the same shape."""
    check_images(others, name, slack, empty=True)
    if others.shape != images.shape:
        raise ValueError(f"{name} must be like images, {images.shape}; got {others.shape}")


def check_labels(
    labels: Array | np.ndarray, count: int, num_classes: int | None = None, name: str = "labels"
) -> None:
    """Classes `[count]`, integers in 0 … num_classes - 1.

    Raises:
        ValueError: another shape, no integers; or classes out of range (1-based labels are named as such),
            where there are values.
    """
    shape, dtype = _described(name, labels)
    if len(shape) != 1:
        advice = _advice(name, shape, dtype, (count,))
        raise ValueError(
            f"{name} must have shape ({count},), one class per image; got {shape} {dtype}{advice}"
        )
    if shape != (count,):
        raise ValueError(f"{name} must be one class per image, shape ({count},); got {shape}")
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers; got {dtype}: {name}.astype(int), if they are one class per image"
        )
    if has_values(labels) and count:
        low, high = _range(labels)
        _check_class_range(name, int(low), int(high), num_classes)


def _check_class_range(name: str, low: int, high: int, num_classes: int | None) -> None:
    if num_classes is None:
        if low < 0:
            raise ValueError(f"{name} are classes from 0 on; these lie in {low} … {high}")
        return
    if low >= 1 and high == num_classes:
        raise ValueError(
            f"{name} lie in {low} … {high}, but predict has {num_classes} logits, 0 … {num_classes - 1}: "
            "these look 1-based; subtract 1"
        )
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name} must lie in 0 … {num_classes - 1}; these lie in {low} … {high}")


def _advice(name: str, shape: Shape, dtype: Any, batch: Shape) -> str:
    """What turns these labels into classes of shape `batch`."""
    to_integers = "" if jnp.issubdtype(dtype, jnp.integer) else ".astype(int)"
    if shape == batch:
        return f": {name}{to_integers}, if they are classes" if to_integers else ""
    if shape == (*batch, 1):
        return f": {name}.squeeze(-1){to_integers}"
    if len(shape) == len(batch) + 1 and shape[:-1] == batch:
        return f": {name}.argmax(-1), if they are one-hot vectors or probabilities"
    return f": one image? {name}[None]" if not shape else ": as many as there are images"


def check_outputs(logits: Array | np.ndarray, count: int) -> None:
    """Logits `[count, K]`, by their shape."""
    if logits.ndim != 2 or len(logits) != count:
        classes = logits.ndim == 1 and jnp.issubdtype(logits.dtype, jnp.integer)
        advice = " (classes? as one-hot rows, which a service's num_classes=K makes)" if classes else ""
        raise ValueError(
            f"predict must return logits [B, K] for {count} images; got shape {logits.shape}{advice}"
        )


def check_no_nan(array: Array | np.ndarray, what: str, advice: str = "its weights and normalization") -> None:
    """No NaN in `[B, …]`, where there are values.

    Args:
        array: the first axis counts images.
        what: happened, if there is one: "predict returned NaN".
        advice: where to look.

    Raises:
        ValueError: with the number of images.
    """
    if has_values(array):
        lost = np.isnan(np.asarray(array, np.float32))
        if bad := int(lost.any(tuple(range(1, lost.ndim))).sum()):
            raise ValueError(f"{what} for {bad} of {len(array)} images: look at {advice}")


def check_loss(outputs: Shape, targets: Array | np.ndarray, name: str = "targets") -> None:
    """What a loss of logits takes beside them: classes `[B]`, integers, or probabilities `[B, K]`, floats.

    Args:
        outputs: the shape of the logits, `[B, K]`; without B inside `vmap`.
        targets: classes in 0 … K - 1, where there are values; probabilities by shape and dtype alone.
        name: what the error calls them.

    Raises:
        ValueError: classes without a logit, which would count for nothing; and whatever else would broadcast
            against the logits, or fail to.
    """
    shape, dtype = _described(name, targets)
    batch = outputs[:-1]
    if shape == batch and jnp.issubdtype(dtype, jnp.integer):
        if has_values(targets) and np.size(targets):
            low, high = _range(targets)
            _check_class_range(name, int(low), int(high), outputs[-1])
        return
    if shape == outputs and jnp.issubdtype(dtype, jnp.floating):
        return
    advice = _advice(name, shape, dtype, batch)
    if shape == outputs and shape != (*batch, 1):
        advice = f": one-hot vectors must be floats, {name}.astype(float), or classes, {name}.argmax(-1)"
    raise ValueError(
        f"{name} must be classes {batch} (integers) or probabilities {outputs} (floats), to go with "
        f"the logits; got {dtype} {shape}{advice}"
    )


def check_examples(
    images: Array | np.ndarray, labels: Array | np.ndarray, *, soft: bool = False, empty: bool = False
) -> None:
    """The entrance of attacks and metrics: images, and one label for each.

    Args:
        images, labels: see `check_images` and `check_labels`.
        soft: vectors `[B, K]` of floats may stand for the labels, if the loss takes them.
        empty: there may be none of them.
    """
    check_images(images, empty=empty)
    if soft and len(getattr(labels, "shape", ())) == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        check_loss((len(images), labels.shape[1]), labels, "labels")
    else:
        check_labels(labels, len(images))


def check_batch(batch: Batch) -> None:
    """A training batch: one probability vector for each image, by shape and dtype.

    Raises:
        ValueError: classes instead of probabilities, or another number of them than of images.
    """
    images, _ = _described("images", batch.images)
    shape, dtype = _described("targets", batch.targets)
    fits = len(shape) == 2 and shape[:1] == images[:1] and shape[1] > 1
    if not (fits and jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(
            f"targets of a batch must be probabilities, floats [B, K] for images {images}; got {dtype} "
            f"{shape}: losses.one_hot(classes, num_classes)"
        )


def check_numbers(**values: Any) -> None:
    """Hyper-parameters by their names; traced ones and None pass.

    Raises:
        ValueError: with the name of what is no number, a text such as "0.3" for one.
    """
    for name, value in values.items():
        number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and np.ndim(value) == 0
        if value is not None and (not number or isinstance(value, bool)):
            raise ValueError(f"{name} must be a number; got {value!r}")


def check_tuple(name: str, values: Any, many: str, one: str) -> None:
    """A tuple of functions, such as rules.

    Raises:
        ValueError: a function alone, or something else in it.
    """
    if not (isinstance(values, list | tuple) and all(map(callable, values))):
        raise ValueError(f"{name} must be a tuple of {many}, ({one},) for one; got {values!r:.60}")


def check_pullbacks(chunk: int | None) -> None:
    """How many of an image's pullbacks run at once; None leaves it to the method."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 pullback at a time, or None; got {chunk}")


def misfit(function: Any, arguments: Sequence[Any]) -> str:
    """Why a function cannot be called with so many arguments; "" if it can, or shows no signature."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:  # some built-in functions
        pass
    return ""


def check_mask(mask: Array | np.ndarray, count: int) -> None:
    """Which examples count, bool `[count]`."""
    shape, dtype = _described("mask", mask)
    if shape != (count,) or not jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(f"mask must be bool of shape ({count},); got {dtype} {shape}")
