"""Is a function piecewise linear in its input, or in its weights?

Read off its traced operations, whatever it is made of.

Every intermediate value is one of four kinds, ordered:

    FIXED    does not depend on the input
    STEP     piecewise constant in it (comparisons, argmax)
    LINEAR   piecewise linear in it
    CURVED   anything else

and each operation maps kinds to a kind: `max(LINEAR, LINEAR)` is LINEAR, `LINEAR * FIXED` is LINEAR,
`LINEAR * LINEAR` is CURVED, `exp(LINEAR)` is CURVED. Unknown operations on anything that depends on the input
are CURVED, so the answer errs on the safe side.
"""

import functools
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.models.modes import in_mode, module_in_mode
from transferjax.models.predict import Forward
from transferjax.typing import Array, PyTree


class Kind(IntEnum):
    FIXED = 0
    STEP = 1
    LINEAR = 2
    CURVED = 3


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Of piecewise linear functions: piecewise constant, and piecewise linear.
_STEPS = _names("eq ne lt le gt ge sign floor ceil round argmax argmin and or not is_finite")
_LINEAR = _names(
    """add add_any sub neg abs max min clamp reduce_sum reduce_max reduce_min reduce_window_sum
    reduce_window_max reduce_window_min cumsum cummax cummin sort top_k reshape transpose broadcast_in_dim
    squeeze expand_dims concatenate pad slice split rev copy copy_p convert_element_type reduce_precision
    stop_gradient optimization_barrier psum"""
)
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated", "conv_nhwc"}  # linear in each factor
_INDEXED = {"gather", "dynamic_slice", "dynamic_update_slice", "scatter", "scatter-add"}


def _rule(name: str, kinds: Sequence[Kind], params: dict[str, Any]) -> Kind:
    """The kind of an operation's results."""
    worst = max(kinds, default=Kind.FIXED)
    if worst in (Kind.FIXED, Kind.CURVED):
        return worst
    if name in _STEPS or worst == Kind.STEP:
        return Kind.STEP
    if name in _LINEAR or (name == "integer_pow" and params["y"] == 1):
        return Kind.LINEAR
    if name in _PRODUCTS and sorted(kinds)[0] != Kind.LINEAR:
        return Kind.LINEAR
    if name == "select_n":  # a choice between linear pieces by a step function
        return Kind.LINEAR if kinds[0] < Kind.LINEAR else Kind.CURVED
    if name == "div":
        return Kind.LINEAR if kinds[1] < Kind.LINEAR else Kind.CURVED
    if name in _INDEXED:  # integers cannot be LINEAR: an index is FIXED or a STEP
        return Kind.LINEAR
    return Kind.CURVED


# Of a function of the same arguments, once; others with a jaxpr, such as a `reduce` of one's own, do more.
_CALLS = _names(
    """jit pjit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr checkpoint remat
    remat2"""
)


def _inner(name: str, params: dict[str, Any]) -> Any | None:
    """The function an operation calls, if it is a call."""
    if name not in _CALLS:
        return None
    return next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)


def _kinds(jaxpr: Any, inputs: Sequence[Kind]) -> list[Kind]:
    """Abstract interpretation of a jaxpr."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    kinds = dict(zip(jaxpr.invars, inputs, strict=True))
    read = lambda v: kinds.get(v, Kind.FIXED) if isinstance(v, jax.extend.core.Var) else Kind.FIXED  # noqa: E731
    for eqn in jaxpr.eqns:
        arguments = [read(v) for v in eqn.invars]
        inner = _inner(eqn.primitive.name, eqn.params)
        if inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(arguments):
            results = _kinds(inner, arguments)
        else:
            results = [_rule(eqn.primitive.name, arguments, eqn.params)] * len(eqn.outvars)
        kinds.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _traced(function: Callable[[Array], Array], shape: tuple[int, ...]) -> bool:
    jaxpr = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32))
    return all(kind <= Kind.LINEAR for kind in _kinds(jaxpr, [Kind.LINEAR]))


@functools.lru_cache
def _of_module(module: nn.Module, shape: tuple[int, ...]) -> bool:
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    module = module_in_mode(module, train=False)
    mode = in_mode(module, train=False)
    variables = jax.eval_shape(functools.partial(module.init, **mode), jax.random.key(0), images)
    jaxpr = jax.make_jaxpr(functools.partial(module.apply, **mode))(variables, images)
    fixed = [Kind.FIXED] * len(jax.tree.leaves(variables))
    return _kinds(jaxpr, [*fixed, Kind.LINEAR])[0] <= Kind.LINEAR


def is_piecewise_multilinear(apply: Callable[[PyTree, Array], Array], params: PyTree, images: Array) -> bool:
    """Are the logits piecewise linear in every single weight array, the others fixed?

    True for the nets that are piecewise linear in their images, unless they use an array twice. Then
    `∂²f/∂w_j² = 0` for every single weight w_j.

    Args:
        apply: `(params, images) -> logits`.
        params: a pytree of arrays.
        images: `[B, H, W, C]`.
    """
    jaxpr = jax.make_jaxpr(apply)(params, images)
    leaves = len(jax.tree.leaves(params))
    return all(
        _kinds(jaxpr, [Kind.LINEAR if i == leaf else Kind.FIXED for i in range(leaves + 1)])[0] <= Kind.LINEAR
        for leaf in range(leaves)
    )


def is_piecewise_linear(
    model: Callable[[Array], Array] | nn.Module, images: Array | None = None
) -> bool | None:
    """Are the logits piecewise linear in the images, as the exact input Hessian demands?

    True for nets of convolutions, ReLU, max and average pooling, and batch normalization in evaluation mode.
    Read off the traced computation, so it holds for any function that can be traced.

    Args:
        model: a predictor, one of our modules, or, with `images`, any function of images.
        images: `[B, H, W, C]`, of which only the shape matters; the model's own size by default.

    Returns:
        Whether it is; None for a function that says nothing about its input while `images` is not given.
    """
    forward = getattr(model, "func", model)
    module: Any = forward.module if isinstance(forward, Forward) else model
    if images is None and not hasattr(module, "image_size"):
        return None
    shape = (1, module.image_size, module.image_size, 3) if images is None else (1, *images.shape[1:])
    return _of_module(module, shape) if isinstance(module, nn.Module) else _traced(model, shape)
