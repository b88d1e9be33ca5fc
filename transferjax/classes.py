"""Whose classes labels are: class 3 of a data set is logit 3 of a net only if both know the same classes.

Where both counts are known, a difference is an error. Arrays of labels know no count: where they lie among
the first few of many logits, as chance would have it once in a million, that is said.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from transferjax.checks import has_values
from transferjax.typing import Array, Predict

WAY_OUT = "models.select_classes(predict, indices)"
FEWEST, LEAST_PROBABILITY = 16, 1e-6
IMAGENET = (1000, 1001)
"""How many logits nets for ImageNet have."""
MOST_NAMES = 12


def check_classes(classes: int | Sequence[str] | None, logits: int, name: str = "the data set") -> None:
    """As many logits as classes.

    Args:
        classes: of the labels, their names or how many they are; None if nobody knows.
        logits: K, the width of what predict returns.
        name: whose labels they are.

    Raises:
        ValueError: another number of logits; says how to pick the right ones.
    """
    count = len(classes) if isinstance(classes, Sequence) else classes
    if count is None or count == logits:
        return
    names = _named(classes) if isinstance(classes, Sequence) else ""
    raise ValueError(
        f"{name} has {count} classes{names and f' ({names})'}, but predict has {logits} logits, so that a "
        f"label is not the number of its logit: {_remedy(count, logits, bool(names))}"
    )


def _remedy(count: int, logits: int, named: bool) -> str:
    if logits < count:
        ones = "labels that begin at one? subtract 1; or " if count == logits + 1 and not named else ""
        return (
            f"{ones}take images of predict's {logits} classes alone, with its labels (and to a net that "
            f"knows more of them {WAY_OUT})"
        )
    background = "a background class first? Preprocessing(label_offset=1); or " if logits == count + 1 else ""
    by_name = logits in IMAGENET and named
    found = " (ImageNet's by name: indices = data.imagenet_indices(class_names))" if by_name else ""
    return f"{background}pick the logits of its classes, in this order, with {WAY_OUT}{found}"


def _named(names: Sequence[str]) -> str:
    """The names of classes, in their order; "" of those that are but numbers."""
    if all(name.isdecimal() for name in names):
        return ""
    return ", ".join(names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 2], "…", names[-1]])


def check_same_classes(logits: Mapping[str, int]) -> None:
    """Models that are used together have equally many logits.

    Args:
        logits: K of each model, by what the error calls it.

    Raises:
        ValueError: with the numbers.
    """
    if len(set(logits.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in logits.items())
        raise ValueError(
            f"these models do not know the same classes: {counts} logits; pick those that all have, in one "
            f"order, with {WAY_OUT}"
        )


def noting(predict: Predict, name: str, found: dict[str, int]) -> Predict:
    """The predict, whose calls enter its number of logits into `found`; other ones there are an error."""

    def noted(images: Array) -> Array:
        logits = predict(images)
        found[name] = logits.shape[-1]
        check_same_classes(found)
        return logits

    return noted


def check_vocabulary(labels: Array | np.ndarray, logits: int, num_classes: int | None = None) -> None:
    """Labels `[B]` that go with the logits: by the count of their classes, else by their distribution.

    Uniform labels of K classes lie in 0 … m with probability `((m + 1) / K)^B`. Warns below 1e-6 where most
    of those classes are among at least 16 labels (not for some chosen classes); never under `jit`.

    Args:
        labels: classes.
        logits: K.
        num_classes: how many classes the labels are of; None if nobody knows. Given, nothing is guessed.

    Raises:
        ValueError: see `check_classes`.
    """
    if num_classes is not None or not has_values(labels):
        return check_classes(num_classes, logits, "the labels' data set")
    values = np.asarray(labels)
    found = len(np.unique(values))
    if len(values) < FEWEST or found < 2 or not found <= (count := int(values.max()) + 1) < 2 * found:
        return None
    if (count / logits) ** len(values) < LEAST_PROBABILITY:
        warnings.warn(
            f"all of the {len(values)} labels lie in 0 … {count - 1}, but predict has {logits} logits. If "
            f"they are of {count} other classes, success and accuracy mean nothing: {WAY_OUT}. If they are "
            f"the first of predict's classes, say num_classes={logits}",
            stacklevel=4,
        )
    return None
