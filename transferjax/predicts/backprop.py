"""Linear backpropagation: the traced program of a net, run again with other derivatives of its ReLUs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, repeat
from typing import NamedTuple

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from transferjax.models.layers import Branch
from transferjax.norms import norm, unit
from transferjax.predicts.modules import tapped
from transferjax.predicts.surrogates import is_rectified_sum
from transferjax.typing import Array, Predict


class _Program(NamedTuple):
    """A traced program, or a part of one."""

    inputs: list[Var]
    equations: list[JaxprEqn]
    outputs: list[Var]


BEGIN, END = "a residual branch begins", "a residual branch ends"


def _is_relu(equation: JaxprEqn) -> bool:
    """`jax.nn.relu` is a function with a derivative of its own around a jitted function named relu."""
    if equation.primitive.name != "custom_jvp_call":
        return False
    return [inner.params.get("name") for inner in equation.params["call_jaxpr"].eqns] == ["relu"]


def _is_call(equation: JaxprEqn) -> bool:
    return equation.primitive.name in ("jit", "pjit")


def _count_relus(equations: Sequence[JaxprEqn]) -> int:
    inner = [equation.params["jaxpr"].eqns for equation in equations if _is_call(equation)]
    return sum(map(_is_relu, equations)) + sum(map(_count_relus, inner))


def _linear_relu(x: Array) -> Array:
    return x + jax.lax.stop_gradient(jax.nn.relu(-x))


def _evaluate(equation: JaxprEqn, arguments: list) -> list:
    # Older versions of JAX return the functions of custom derivatives apart from the parameters.
    parameters = equation.primitive.get_bind_params(equation.params)
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    results = equation.primitive.bind(*functions, *arguments, **parameters)
    return results if equation.primitive.multiple_results else [results]


def _take_branch(x: Var, equations: Iterator[JaxprEqn]) -> _Program:
    """The equations up to the end of the branch, as a program of x and of whatever else they read."""
    body = [next(equations)]
    while body[-1].params.get("name") != END:
        body.append(next(equations))
    made = {x, *(v for equation in body for v in equation.outvars)}
    read = (v for equation in body for v in equation.invars if not isinstance(v, Literal))
    return _Program([x, *dict.fromkeys(v for v in read if v not in made)], body, body[-1].outvars)


def _run(program: _Program, inputs: Sequence, linear: Iterator[bool], inside: Iterator[bool]) -> list:
    """Evaluates a program; `linear` says of each of its ReLUs what to do, `inside` of those in branches."""
    values = dict(zip(program.inputs, inputs, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]  # noqa: E731
    equations = iter(program.equations)
    for equation in equations:
        arguments, outputs = [read(v) for v in equation.invars], equation.outvars
        if equation.params.get("name") == BEGIN:
            values[outputs[0]] = arguments[0]
            branch = _take_branch(outputs[0], equations)
            which = tuple(islice(inside, _count_relus(branch.equations)))
            outputs = branch.outputs
            results = [_rescaled(branch, which, arguments[0], [read(v) for v in branch.inputs[1:]])]
        elif _is_relu(equation):
            results = [(_linear_relu if next(linear) else jax.nn.relu)(*arguments)]
        elif _is_call(equation):
            called = equation.params["jaxpr"]
            results = _run(_program(called), [*called.consts, *arguments], linear, inside)
        else:
            results = _evaluate(equation, arguments)
        values |= dict(zip(outputs, results, strict=True))
    return [read(v) for v in program.outputs]


def _program(closed: ClosedJaxpr) -> _Program:
    """To be run on `[*closed.consts, *inputs]`."""
    return _Program([*closed.jaxpr.constvars, *closed.jaxpr.invars], closed.jaxpr.eqns, closed.jaxpr.outvars)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rescaled(branch: _Program, which: tuple[bool, ...], x: Array, others: list) -> Array:
    """A residual branch whose gradient is that with linear ReLUs, as long as the gradient without."""
    return _run(branch, [x, *others], repeat(False), iter(()))[0]


def _rescaled_forward(branch: _Program, which: tuple[bool, ...], x: Array, others: list) -> tuple:
    through = lambda which: jax.vjp(lambda x: _run(branch, [x, *others], which, iter(()))[0], x)  # noqa: E731
    y, plain = through(repeat(False))
    return y, (plain, through(iter(which))[1])


def _rescaled_backward(branch: _Program, which: tuple[bool, ...], pulls: tuple, ct: Array) -> tuple:
    (plain,), (linear,) = (pull(ct) for pull in pulls)
    axes = tuple(range(1, linear.ndim))
    return unit(linear, axes) * norm(plain, axes, keepdims=True), None


_rescaled.defvjp(_rescaled_forward, _rescaled_backward)


@dataclass(frozen=True)
class _LinearBackprop:
    first: int
    last: int | None

    def __call__(self, predict: Predict, x: Array) -> Array:
        units: list[str | None] = []

        def begin(module: nn.Module, x: Array) -> Array:
            if not is_rectified_sum(module):
                return x
            units.append(module.name)
            return checkpoint_name(x, BEGIN)

        def end(module: nn.Module, y: Array) -> Array:
            ends = isinstance(module, Branch) and is_rectified_sum(module.parent)
            return checkpoint_name(y, END) if ends else y

        traced = jax.make_jaxpr(lambda x: tapped(predict, x, end, begin))(x)
        numbers = count()
        which = (self.first <= n and (self.last is None or n <= self.last) for n in numbers)
        linear = repeat(False) if units else which
        logits = _run(_program(traced), [*traced.consts, x], linear, which)[0]
        seen = next(numbers)
        if seen <= self.first:
            raise ValueError(f"this net has no ReLU with a number from {self.first} on, but {seen} in all")
        return logits


def linear_backprop(predict: Predict, first: int = 0, last: int | None = None) -> Predict:
    """The same logits; gradients pass the ReLUs from `first` to `last` as if these were linear.

    Numbered from the input. In a net of residual units `relu(branch + skip)` only the ReLUs inside of
    branches count: the others stay as they are, and a branch's gradient is scaled to the length it would
    have had.

    Args:
        predict: of any JAX function with `jax.nn.relu` or `flax.linen.relu` in it.
        first, last: the range, both included; to the output if `last` is None.

    Gradients by images, that is: those by weights inside of branches are zero.

    Raises:
        ValueError: an empty range, or when it is called, a net with fewer ReLUs.

    Reference: Guo et al., "Backpropagating Linearly Improves Transferability of Adversarial Examples",
    NeurIPS 2020. The official code begins at the second block of a ResNet-50's third stage (`first=16`), and
    rescales no other nets either.
    """
    if first < 0 or (last is not None and last < first):
        raise ValueError(f"first {first}, last {last}: expected 0 <= first <= last, or last None")
    return jax.tree_util.Partial(_LinearBackprop(first, last), predict)
