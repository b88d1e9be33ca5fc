"""Which of a file's layers could be which of a net's, where their names do not say it.

Layers of equal shapes are matched by their order and by what their names have in common: a proposal, since
layers of one shape may be exchanged and nothing would show it but the accuracy.
"""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferjax.models.layers import Net

Layer = dict[str, tuple[int, ...]]


def propose_names(
    module: Net, theirs: Mapping[str, tuple[int, ...]], ours: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """`names` for `from_torch`, by shape, order and similarity; empty if a layer finds none.

    Args:
        module: the net.
        theirs, ours: the shapes of the tensors by name, in the file's order; the net's in PyTorch's layout.
    """
    from scipy.optimize import linear_sum_assignment  # slow, and files of the net's own names need none

    there, here = _layers(theirs), _layers(ours)
    order = {name: i for i, name in enumerate(_order(module))}
    here = dict(sorted(here.items(), key=lambda item: order.get(item[0], len(order))))
    if module.head in here:  # of any number of classes; purifiers have none
        features = _features(here[module.head])
        alike = [name for name, layer in there.items() if _features(layer) == features]
        if not alike:
            return {}
        here[module.head] = there[module.head if module.head in alike else alike[-1]]
    same = [name for name in here if there.get(name) == here[name]]
    kinds = {_kind(layer) for layer in here.values()}
    if {_kind(layer) for layer in there.values()} != kinds:
        return {}
    names: dict[str, str] = {}
    for kind in kinds:
        old, new = (
            [n for n, layer in side.items() if _kind(layer) == kind and n not in same]
            for side in (there, here)
        )
        if len(old) != len(new):
            return {}
        cost = np.array([[_distance(a, b, i / len(old), j / len(new)) for j, b in enumerate(new)]
                         for i, a in enumerate(old)]).reshape(len(old), len(new))  # fmt: skip
        names |= {old[i]: new[j] for i, j in zip(*linear_sum_assignment(cost), strict=True)}
    return {name: names[name] for name in there if name in names}


def _layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = tuple(shape)
    return layers


def _kind(layer: Layer) -> tuple:
    return tuple(sorted(layer.items()))


def _distance(a: str, b: str, i: float, j: float) -> float:
    """Order counts most: four times what names can say."""
    return 4 * abs(i - j) + 1 - SequenceMatcher(None, a, b, autojunk=False).ratio()


def _features(layer: Layer) -> tuple:
    """The leaves of a layer, and what it takes."""
    return tuple(sorted((leaf, shape[1:]) for leaf, shape in layer.items()))


def _order(module: Net) -> Iterable[str]:
    """The net's layers, in the order in which it computes them."""
    found: dict[str, None] = {}

    def note(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        found.setdefault(".".join(context.module.path))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(module.init, jax.random.key(0), images)
    return found
