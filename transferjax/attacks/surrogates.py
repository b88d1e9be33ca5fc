"""Other gradients, and other nets, from the same surrogate: `Predict -> Predict`.

Nothing here copies a net. `skip_gradient` and the ghosts intercept the calls of its Flax modules while it is
traced; `linear_backprop` rewrites the traced program. Each returns a pytree like the predict it takes.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, repeat
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from transferjax.attacks.projections import l2_norm
from transferjax.attacks.stochastic import Stochastic
from transferjax.norms import unit
from transferjax.random import fold_in, sample, typed
from transferjax.typing import Array, Key, Predict

Context = nn.module.InterceptorContext

RESIDUAL_BRANCHES = {
    "BasicBlock": ("bn2",),
    "Bottleneck": ("bn3",),
    "InvertedResidual": ("bn3",),
    "DenseLayer": ("conv2",),
    "Block": ("attn", "mlp"),
}
"""Blocks with a skip connection, and their submodules whose output is added to it."""

SKIP_THEN_RELU = ("BasicBlock", "Bottleneck")
"""Blocks that compute `relu(branch + skip)`."""


def ends_residual_branch(module: nn.Module) -> bool:
    """Whether the module's output is what a block of the zoo adds to its skip connection."""
    return module.name in RESIDUAL_BRANCHES.get(type(module.parent).__name__, ())


def _call_intercepted(interceptor: Callable[..., Any], predict: Predict, x: Array) -> Array:
    with nn.intercept_methods(interceptor):
        return predict(x)


def _expect(found: object, what: str) -> None:
    """A method that finds nothing to change would silently be the plain gradient."""
    if not found:
        raise ValueError(f"this net has no {what}: expected a predict of a Flax net of `transferjax.models`")


@dataclass(frozen=True)
class _SkipGradient:
    decay: float
    branch: Callable[[nn.Module], bool]

    def __call__(self, predict: Predict, x: Array) -> Array:
        found: list[str | None] = []

        def interceptor(call: Callable, args: tuple, kwargs: dict, context: Context) -> Any:
            y = call(*args, **kwargs)
            if context.method_name != "__call__" or not self.branch(context.module):
                return y
            found.append(context.module.name)
            return self.decay * y + jax.lax.stop_gradient((1 - self.decay) * y)

        logits = _call_intercepted(interceptor, predict, x)
        _expect(found, "residual branch (give `branch`)")
        return logits


def skip_gradient(
    predict: Predict, decay: float = 0.5, branch: Callable[[nn.Module], bool] = ends_residual_branch
) -> Predict:
    """The same logits; gradients that pass through a residual branch are multiplied by `decay`.

    Args:
        predict: of a Flax net, such as `models.predictor` makes.
        decay: γ; 1 is the plain gradient.
        branch: which modules end a residual branch.

    Reference: Wu et al., "Skip Connections Matter", ICLR 2020. The official code scales the gradients
    of ReLUs inside the branches instead, and normalizes every block's gradient.
    """
    return jax.tree_util.Partial(_SkipGradient(decay, branch), predict)


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
    return unit(linear, tuple(range(1, linear.ndim))) * l2_norm(plain), None


_rescaled.defvjp(_rescaled_forward, _rescaled_backward)


@dataclass(frozen=True)
class _LinearBackprop:
    first: int
    last: int | None

    def __call__(self, predict: Predict, x: Array) -> Array:
        units: list[str | None] = []

        def mark(call: Callable, args: tuple, kwargs: dict, context: Context) -> Any:
            module = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            if type(module).__name__ in SKIP_THEN_RELU:
                units.append(module.name)
                args = checkpoint_name(args[0], BEGIN), *args[1:]
            y = call(*args, **kwargs)
            ends = type(module.parent).__name__ in SKIP_THEN_RELU and ends_residual_branch(module)
            return checkpoint_name(y, END) if ends else y

        traced = jax.make_jaxpr(partial(_call_intercepted, mark, predict))(x)
        numbers = count()
        which = (self.first <= n and (self.last is None or n <= self.last) for n in numbers)
        linear = repeat(False) if units else which
        logits = _run(_program(traced), [*traced.consts, x], linear, which)[0]
        seen = next(numbers)
        _expect(seen > self.first, f"ReLU with a number from {self.first} on, but {seen} in all")
        return logits


def linear_backprop(predict: Predict, first: int = 0, last: int | None = None) -> Predict:
    """The same logits; gradients pass the ReLUs from `first` to `last` as if these were linear.

    Numbered from the input. In a net of residual units (`SKIP_THEN_RELU`) only the ReLUs inside of branches
    count: the others stay as they are, and a branch's gradient is scaled to the length it would have had.

    Args:
        predict: of any JAX function with `jax.nn.relu` or `flax.linen.relu` in it.
        first, last: the range, both included; to the output if `last` is None.

    Reference: Guo et al., "Backpropagating Linearly Improves Transferability of Adversarial Examples",
    NeurIPS 2020. The official code begins at the second block of a ResNet-50's third stage (`first=16`), and
    rescales no other nets either.
    """
    return jax.tree_util.Partial(_LinearBackprop(first, last), predict)


def _keys_at(keys: Key, module: nn.Module) -> Key:
    return fold_in(keys, zlib.crc32("/".join(module.path).encode()))


@dataclass(frozen=True)
class _GhostSkips:
    radius: float

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        scales: dict[tuple[str, ...], Array] = {}

        def interceptor(call: Callable, args: tuple, kwargs: dict, context: Context) -> Any:
            module, path = context.module, context.module.path
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            if type(module).__name__ in SKIP_THEN_RELU:
                uniform = sample(jax.random.uniform, _keys_at(keys, module), (1, 1, 1))
                scales[path] = 1 + self.radius * (2 * uniform - 1)
                return call(*args, **kwargs) * scales[path]
            # relu(branch + λ skip) = λ relu(branch / λ + skip)
            y = call(*args, **kwargs)
            return y / scales[path[:-1]] if path[:-1] in scales and ends_residual_branch(module) else y

        logits = _call_intercepted(interceptor, predict, x)
        _expect(scales, f"block that ends in relu(branch + skip) ({', '.join(SKIP_THEN_RELU)})")
        return logits


def ghost_skips(predict: Predict, key: Key, radius: float = 0.22) -> Stochastic:
    """Every skip connection of a ResNet scaled by a random λ in `[1 - radius, 1 + radius]`, one per example.

    Reference: Li et al., "Learning Transferable Adversarial Examples via Ghost Networks", AAAI 2020.
    """
    return Stochastic(jax.tree_util.Partial(_GhostSkips(radius), predict), typed(key))


@dataclass(frozen=True)
class _GhostDropout:
    rate: float

    def __call__(self, predict: Predict, keys: Key, x: Array) -> Array:
        def interceptor(call: Callable, args: tuple, kwargs: dict, context: Context) -> Any:
            y = call(*args, **kwargs)
            if context.method_name != "__call__" or not isinstance(context.module, nn.Conv):
                return y
            kept = sample(jax.random.bernoulli, _keys_at(keys, context.module), 1 - self.rate, y.shape[1:])
            return jnp.where(kept, y / (1 - self.rate), 0)

        return _call_intercepted(interceptor, predict, x)


def ghost_dropout(predict: Predict, key: Key, rate: float = 0.012) -> Stochastic:
    """Dropout behind every convolution of a Flax net.

    Reference: Li et al., AAAI 2020.
    """
    return Stochastic(jax.tree_util.Partial(_GhostDropout(rate), predict), typed(key))
