"""Nesting rules, `GradFn -> GradFn`, and the memory that they share."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from transferjax.checks import misfit
from transferjax.naming import place_of
from transferjax.typing import GradFn, Memory, PyTree, Rule

F = TypeVar("F", bound=Callable[..., Any])


def chain(*rules: Rule) -> Rule:
    """Nests rules, the outermost first: `chain(a, b)(g) = a(b(g))`; `chain()` is the identity.

    Raises:
        TypeError: when the gradient is traced: a rule that was not called, or that returns another thing than
            `((value, memory), gradient)`.
        ValueError: a gradient of another shape than the images.
    """

    def apply(grad_fn: GradFn) -> GradFn:
        return reduce(_nested, reversed(rules), grad_fn)

    return apply


def _nested(inner: GradFn, rule: Rule) -> GradFn:
    """`rule(inner)`, whose answers are looked at."""
    changed, name = rule(inner), f"the rule {place_of(rule)}"

    def checked(variable: PyTree, memory: Memory, *data: PyTree) -> Any:
        call_of(changed, name, "(x, memory, keys, labels) -> ((values, memory), gradient)")
        found: Any = changed(variable, memory, *data)
        after: Any
        grads: Any
        try:
            (_, after), grads = found
        except (TypeError, ValueError):
            after = grads = None
        if not isinstance(after, Mapping):
            raise TypeError(
                f"{name} must return ((values, memory), gradient), as the gradient function that it wraps "
                f"does; got {_shapes(found)}"
            )
        if hasattr(variable, "shape") and jnp.shape(grads) != variable.shape:
            raise ValueError(
                f"{name} must return a gradient of shape {variable.shape}, as x has; got {_shapes(grads)}"
            )
        return found

    return checked


def call_of(function: Callable[..., Any], name: str, expected: str) -> None:
    """What a factory made takes so many arguments as is expected; the factory itself takes others.

    Args:
        function: what will be called.
        name: what the error calls it.
        expected: its signature, as `(x, y) -> z`.

    Raises:
        TypeError: with the hint that the factory may want to be called.
    """
    count = expected.partition(")")[0].count(",") + 1
    if why := misfit(function, range(count)):
        raise TypeError(
            f"{name} must be {expected}, and cannot be called so ({why}): is it a factory, to be called "
            "with its options first?"
        )


def _shapes(value: PyTree) -> str:
    """A structure with the shapes of its arrays."""
    return str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else a, value))


def traced_once(function: F) -> F:
    """The same pure function, traced once for all that ask for it at the same shapes.

    Rules that average ask twice, for the shapes and for the sum, and `initial_memory` asks all of them again.
    """
    return jax.jit(function)  # type: ignore[return-value]


def initial_memory(grad_fn: GradFn, variable: PyTree, memory: Memory, *data: PyTree) -> Memory:
    """`memory` and, for every entry that the rules inside `grad_fn` add to it, zeros.

    Args:
        grad_fn: a gradient, rules included; it is traced, not run.
        variable, memory, data: what it will be called with, as arrays or `jax.ShapeDtypeStruct`.
    """
    (_, after), _ = jax.eval_shape(grad_fn, variable, memory, *data)
    zeros = {name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), after[name]) for name in after}
    return {**zeros, **memory}
