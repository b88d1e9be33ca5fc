"""What an attack spends on an image, counted in the program that it is traced to; nothing is computed.

A surrogate is looked at through marks: at its images, at its logits, and at what flows back through either.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from transferjax.predicts.snapshots import Snapshots
from transferjax.programs import count
from transferjax.typing import Array, Attack, Predict


class Spent(NamedTuple):
    """For each image, all surrogates together: how often one is evaluated, and how often it gives a gradient.

    A gradient is a pass back from the logits or from features, to the image or to features. Attacks that stop
    where the net is fooled spend at most that.
    """

    evaluations: int
    gradients: int


IMAGE, LOGITS = "image", "logits"


class _Marks:
    """Names in a traced program: which evaluation of a surrogate, at which end of it, forth or back."""

    def __init__(self) -> None:
        self.sizes: list[dict[str, int]] = []  # numbers in one image and in its logits, of each evaluation

    def around(self, predict: Predict, x: Array) -> Array:
        number = len(self.sizes)
        self.sizes.append({})
        return self._mark(number, LOGITS, predict(self._mark(number, IMAGE, x)))

    def _mark(self, number: int, end: str, value: Array) -> Array:
        self.sizes[number][end] = prod(value.shape[1:])

        @jax.custom_vjp
        def mark(value: Array) -> Array:
            return checkpoint_name(value, f"{number} {end} forth")

        mark.defvjp(
            lambda value: (mark(value), None),
            lambda _, pulled: (checkpoint_name(pulled, f"{number} {end} back"),),
        )
        return mark(value)

    def images(self, equation: Any) -> dict[str, int]:
        """Of a mark its name, and how many images pass it: several where samples run at once."""
        if equation.primitive.name != "name":
            return {}
        number, end, _ = (name := equation.params["name"]).split()
        return {name: equation.outvars[0].aval.size // self.sizes[int(number)][end]}


def spent(attack: Attack, predict: Predict | Sequence[Predict] | Snapshots, shape: Sequence[int]) -> Spent:
    """What an attack spends on an image of `shape (H, W, C)`.

    Args:
        attack: any that is made of the pieces of this library.
        predict: as the attack takes it; arrays or their shapes (`jax.ShapeDtypeStruct`).
        shape: of an image.

    Raises:
        ValueError: a loop around the surrogate without a limit.
    """
    marks = _Marks()
    marked = partial(jax.tree_util.Partial, marks.around)
    if isinstance(predict, Snapshots):
        predict = Snapshots(marked(predict.predict))
    else:
        predict = tuple(map(marked, predict)) if isinstance(predict, Sequence) else marked(predict)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images, labels = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    counts = count(jax.make_jaxpr(attack)(key, predict, images, labels).jaxpr, marks.images)
    evaluations = gradients = 0
    for number in range(len(marks.sizes)):
        evaluations += counts[f"{number} {IMAGE} forth"]
        gradients += max(counts[f"{number} {end} back"] for end in (IMAGE, LOGITS))
    return Spent(evaluations, gradients)
