"""What a traced program does, counted; nothing is compiled or computed.

A program is a jaxpr. Loops count as often as they run; of a loop that ends early the limit in its condition
counts, of a branch the one that does the most.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

from jax.extend.core import Literal

CONVOLUTIONS = ("conv_general_dilated", "conv_nhwc")  # XLA's own, and the one for CPU
PRODUCTS = (*CONVOLUTIONS, "dot_general")


def count(program: Any, of: Callable[[Any], Mapping[str, int]], *, unread: bool = True) -> Counter[str]:
    """The sum of what `of` finds in each equation of a jaxpr and of the programs inside of it.

    Args:
        program: the jaxpr.
        of: what an equation adds.
        unread: whether equations count that nothing hangs on, which a compiler leaves out.

    Raises:
        ValueError: a loop without a limit around something that counts.
    """
    counts: Counter[str] = Counter()
    for equation in program.eqns if unread else _read(program):
        counts.update(of(equation))
        inner = [count(part, of, unread=unread) for part in _parts(equation.params)]
        if equation.primitive.name == "cond":
            inner = [max(inner, key=Counter.total)]
        times = _times(equation) if any(inner) else 1
        for part in inner:
            counts.update({name: times * found for name, found in part.items()})
    return counts


def _read(program: Any) -> list[Any]:
    """The equations that what a program returns hangs on: the others are never computed."""
    needed, kept = {v for v in program.outvars if not isinstance(v, Literal)}, []
    for equation in reversed(program.eqns):
        if equation.effects or needed.intersection(equation.outvars):
            needed.update(v for v in equation.invars if not isinstance(v, Literal))
            kept.append(equation)
    return kept[::-1]


def operations(program: Any) -> int:
    """Floating-point operations of a jaxpr's convolutions and products that are read, with padding's."""
    return count(program, _operations, unread=False)["operations"]


def outputs(program: Any) -> int:
    """Numbers that a jaxpr's convolutions and matrix products give."""
    return count(program, lambda e: {"outputs": _size(e)} if e.primitive.name in PRODUCTS else {})["outputs"]


def _operations(equation: Any) -> dict[str, int]:
    name, params = equation.primitive.name, equation.params
    if name not in PRODUCTS:
        return {}
    left, right = (var.aval.shape for var in equation.invars)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        terms = prod(left[axis] for axis in contracted)
    elif name == "conv_nhwc":
        terms = prod(right[:-1]) // prod(params["spread"])  # between the pixels of a spread image are zeros
    else:
        features = right[params["dimension_numbers"].rhs_spec[0]]
        terms = prod(right) // features // prod(params["lhs_dilation"])
    return {"operations": 2 * _size(equation) * terms}


def _size(equation: Any) -> int:
    return sum(var.aval.size for var in equation.outvars)


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    """The programs inside of an operation."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            program = getattr(part, "jaxpr", part)
            if hasattr(program, "eqns"):
                yield program


def _times(equation: Any) -> int:
    """How often an operation runs what is inside of it."""
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name != "while":
        return 1
    condition = equation.params["cond_jaxpr"].jaxpr.eqns
    limits = [
        int(e.invars[1].val)
        for e in condition
        if e.primitive.name == "lt" and isinstance(e.invars[1], Literal)
    ]
    if not limits:
        raise ValueError(
            "a loop around the surrogate has no limit: write its condition as `number < limit & …`"
        )
    return min(limits)
