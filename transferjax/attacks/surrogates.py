"""Other gradients, and other nets, from the same surrogate: `Predict -> Predict`.

Nothing here copies a net. `skip_gradient` and the ghosts intercept the calls of its Flax modules while it is
traced; `linear_backprop` rewrites the traced program. Each returns a pytree like the predict it takes.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from transferjax.attacks.projections import l2_norm
from transferjax.attacks.stochastic import Stochastic
from transferjax.random import fold_in, sample
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


@jax.custom_vjp
def _linear_relu(x: Array) -> Array:
    return jax.nn.relu(x)


def _linear_relu_backward(positive: Array, ct: Array) -> tuple[Array]:
    # As long as ReLU's own gradient, so that branches keep their share of a sum.
    through, blocked = l2_norm(ct), l2_norm(jnp.where(positive, ct, 0))
    return (ct * blocked / jnp.where(through > 0, through, 1),)


_linear_relu.defvjp(lambda x: (jax.nn.relu(x), x > 0), _linear_relu_backward)


def _is_relu(equation: JaxprEqn) -> bool:
    """`jax.nn.relu` is a function with a derivative of its own around a jitted function named relu."""
    if equation.primitive.name != "custom_jvp_call":
        return False
    return [inner.params.get("name") for inner in equation.params["call_jaxpr"].eqns] == ["relu"]


def _evaluate(equation: JaxprEqn, arguments: list) -> list:
    # Older versions of JAX return the functions of custom derivatives apart from the parameters.
    parameters = equation.primitive.get_bind_params(equation.params)
    functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
    results = equation.primitive.bind(*functions, *arguments, **parameters)
    return results if equation.primitive.multiple_results else [results]


def _run_linearly(program: ClosedJaxpr, inputs: list, which: Callable[[int], bool], seen: list[int]) -> list:
    """Evaluates a program, with the chosen ReLUs (in order of execution) replaced."""
    values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values |= dict(zip(program.jaxpr.invars, inputs, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]  # noqa: E731
    for equation in program.eqns:
        arguments = [read(v) for v in equation.invars]
        if _is_relu(equation):
            seen[0] += 1
            results = [(_linear_relu if which(seen[0] - 1) else jax.nn.relu)(*arguments)]
        elif equation.primitive.name in ("jit", "pjit"):
            results = _run_linearly(equation.params["jaxpr"], arguments, which, seen)
        else:
            results = _evaluate(equation, arguments)
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(v) for v in program.jaxpr.outvars]


@dataclass(frozen=True)
class _LinearBackprop:
    first: int
    last: int | None

    def __call__(self, predict: Predict, x: Array) -> Array:
        program, seen = jax.make_jaxpr(predict)(x), [0]
        last = float("inf") if self.last is None else self.last
        logits = _run_linearly(program, [x], lambda number: self.first <= number <= last, seen)[0]
        _expect(seen[0] > self.first, f"ReLU with a number from {self.first} on, but {seen[0]} in all")
        return logits


def linear_backprop(predict: Predict, first: int = 0, last: int | None = None) -> Predict:
    """The same logits; gradients pass the ReLUs from `first` to `last` as if these were linear.

    ReLUs are numbered from the input; each one's gradient is scaled to the length it would have had.

    Args:
        predict: of any JAX function with `jax.nn.relu` or `flax.linen.relu` in it.
        first, last: the range, both included; to the output if `last` is None.

    Reference: Guo et al., "Backpropagating Linearly Improves Transferability of Adversarial Examples",
    NeurIPS 2020; they rescale each residual unit as a whole.
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
    return Stochastic(jax.tree_util.Partial(_GhostSkips(radius), predict), key)


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
    return Stochastic(jax.tree_util.Partial(_GhostDropout(rate), predict), key)
