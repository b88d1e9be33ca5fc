"""Nesting rules, `GradFn -> GradFn`, and the memory that they share."""

from functools import reduce

import jax
import jax.numpy as jnp

from transferjax.typing import GradFn, Memory, PyTree, Rule


def chain(*rules: Rule) -> Rule:
    """Nests rules, the outermost first: `chain(a, b)(g) = a(b(g))`; `chain()` is the identity."""

    def apply(grad_fn: GradFn) -> GradFn:
        return reduce(lambda inner, rule: rule(inner), reversed(rules), grad_fn)

    return apply


def initial_memory(grad_fn: GradFn, variable: PyTree, memory: Memory, *data: PyTree) -> Memory:
    """`memory` and, for every entry that the rules inside `grad_fn` add to it, zeros.

    Args:
        grad_fn: a gradient, rules included; it is traced, not run.
        variable, memory, data: what it will be called with, as arrays or `jax.ShapeDtypeStruct`.
    """
    (_, after), _ = jax.eval_shape(grad_fn, variable, memory, *data)
    zeros = {name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), after[name]) for name in after}
    return {**zeros, **memory}
