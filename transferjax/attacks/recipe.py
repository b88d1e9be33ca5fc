"""What the factories of the catalogue return: an attack that knows its name and hyper-parameters."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec

import jax
import numpy as np

from transferjax.checks import check_examples
from transferjax.naming import described
from transferjax.typing import Array, Attack, Key, Predict

P = ParamSpec("P")


@dataclass(frozen=True)
class Recipe:
    """An attack as a value: printed, compared and hashed by its name and hyper-parameters."""

    name: str
    settings: tuple[tuple[str, object], ...]
    run: Attack = field(repr=False, compare=False)

    def __call__(self, key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        """Adversarial images in the budget around `images [B, H, W, C]`; `labels` are classes `[B]`."""
        check_examples(images, labels)
        return self.run(key, predict, images, labels)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={described(value)}' for name, value in self.settings)})"


@dataclass(frozen=True)
class ArrayDigest:
    """Stands for an array among the hyper-parameters, which have to be hashable."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str

    @classmethod
    def of(cls, array: Array | np.ndarray) -> "ArrayDigest":
        array = np.ascontiguousarray(array)
        return cls(array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()[:16])


def _hashable(value: object) -> object:
    if isinstance(value, jax.core.Tracer):  # inside jit a budget may be traced; it has no value to digest
        return value
    return ArrayDigest.of(value) if isinstance(value, np.ndarray | jax.Array) else value


def recipe(factory: Callable[P, Attack]) -> Callable[P, Recipe]:
    """Lets a factory return a `Recipe`: its attack, with the hyper-parameters it was made with."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Recipe:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        settings: dict[str, object] = {}
        for name, value in given.arguments.items():
            several = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            settings |= value if several else {name: value}
        frozen = tuple((name, _hashable(value)) for name, value in settings.items())
        return Recipe(factory.__name__, frozen, factory(*args, **kwargs))

    return make
