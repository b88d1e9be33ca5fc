"""Rules that look at more than one gradient: averages, probes, look-aheads, variance tuning.

A rule turns `g(x)`, the gradient it wraps, into another. Three building blocks carry the catalogue:

    average(T, N)        mean over n of the gradient at T_n(x), pulled back to x
    probe(r, a, b)       a g(x) + b g(x + r ĝ), with ĝ = g(x) made unit length
                         (`exact`: a g(x) + b (g(x) + r H ĝ), with H the Hessian)
    mix(a, b, rule)      a g(x) + b rule(g)(x)

PGN, for example, is `chain(average(uniform_noise(zeta * eps), 20), probe(-step_size, 1 - delta, delta))`.
`radius`es are in pixel units of [0, 1], or Euclidean lengths where `norm` is "l2". `samples` or `neighbors`
gradients cost as many passes; `chunk` of them run at once, which takes `chunk` times the memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from transferjax.attacks.projections import ball, uniform
from transferjax.attacks.updates import applied, direction, normalize_by_l2, normalize_by_mean_abs, sign
from transferjax.chain import call_of, traced_once
from transferjax.naming import place_of
from transferjax.norms import cosine, unit
from transferjax.random import fold_in
from transferjax.typing import Array, GradFn, Key, Memory, PyTree, Rule

InputTransform = Callable[[Key, Array, Array | int], Array]
"""(keys `[B]`, x `[B, H, W, C]`, number of the sample) -> what the net sees; keys differ between samples."""

DIRECTIONS = {"mean_abs": normalize_by_mean_abs, "l2": normalize_by_l2, "sign": sign}


def along(norm: str) -> str:
    """The direction in which the rules of the catalogue take steps of length one: "mean_abs" (L∞) or "l2"."""
    return "l2" if norm == "l2" else "mean_abs"


def through(transformation: optax.GradientTransformation) -> Rule:
    """The gradient through a stateless optax transformation, such as `updates.smooth`."""

    def rule(grad_fn: GradFn) -> GradFn:
        def changed(x: Array, memory: Memory, keys: Key, labels: Array):
            aux, grads = grad_fn(x, memory, keys, labels)
            return aux, transformation.update(grads, transformation.init(x), x)[0]

        return changed

    return rule


def unit_of(grads: Array, direction: str) -> Array:
    """ĝ, by the name of its direction."""
    return applied(DIRECTIONS[direction](), grads)


def uniform_noise(radius: float, norm: str = "linf") -> InputTransform:
    """`x + u` with u uniform in the norm's ball, a cube in L∞, around 0; not clipped to [0, 1]."""
    draw = uniform(norm, radius)
    return lambda keys, x, _: draw(keys, x)


def check_chunk(samples: int, chunk: int) -> None:
    """Raises a ValueError unless `chunk` divides `samples`."""
    if samples < 1 or chunk < 1 or samples % chunk:
        raise ValueError(f"chunk must divide the number of samples; got chunk={chunk}, samples={samples}")


def likeness(x: Array, y: Array) -> Array:
    """`exp cos(x, y)`, `[B]`: as weights of an average, the softmax of the cosines."""
    return jnp.exp(cosine(x, y))


def average(
    transform: InputTransform,
    samples: int = 1,
    *,
    chunk: int = 1,
    pull_back: bool = True,
    weight: Callable[[Array, Array], Array] | None = None,
) -> Rule:
    """`1/N Σ_n J_nᵀ g(T_n(x))`: the mean gradient over N draws of an input transformation, J_n its Jacobian.

    All samples start from the same memory, and leave the mean of theirs.

    Args:
        transform: T (see `inputs`, `uniform_noise`).
        samples: N.
        chunk: samples that run at once; divides N.
        pull_back: apply J_nᵀ; False takes the gradient at T_n(x) as it is.
        weight: `(x, T_n(x)) -> [B]`, of each gradient in a weighted mean, such as `likeness`; all the same if
            None.

    Raises:
        ValueError: `chunk` does not divide `samples`.
    """
    check_chunk(samples, chunk)

    def rule(grad_fn: GradFn) -> GradFn:
        @traced_once
        def one(number: Array | int, x: Array, memory: Memory, keys: Key, labels: Array):
            keys = fold_in(keys, number)
            name = f"the transformation {place_of(transform)}"
            call_of(transform, name, "(keys, x, number) -> x")
            y, pull = jax.vjp(lambda x: transform(fold_in(keys, 0), x, number), x)
            if jnp.shape(y)[:1] != x.shape[:1] or jnp.ndim(y) != x.ndim:
                raise ValueError(f"{name} must return as many images as x, {x.shape}; got {y.shape}")
            aux, grads = grad_fn(y, memory, fold_in(keys, 1), labels)
            grads = pull(grads)[0] if pull_back else grads
            if weight is None:
                return aux, grads
            share = weight(x, y).reshape(-1, *(1,) * (x.ndim - 1)).astype(grads.dtype)
            return aux, (share * grads, share)

        def weighed(outputs: Any) -> Any:
            aux, grads = outputs
            return aux, grads if weight is None else grads[0] / grads[1]

        def mean(*inputs: Any):
            numbers = jnp.arange(samples)
            if samples == 1:
                return weighed(one(numbers[0], *inputs))

            def add(total: PyTree, some: Array) -> tuple[PyTree, None]:
                if chunk == 1:
                    return jax.tree.map(jnp.add, total, one(some[0], *inputs)), None
                several = jax.vmap(lambda number: one(number, *inputs))(some)
                return jax.tree.map(lambda t, s: t + s.sum(0), total, several), None

            shapes = jax.eval_shape(one, numbers[0], *inputs)
            zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            total, _ = jax.lax.scan(add, zeros, numbers.reshape(-1, chunk))
            return weighed(jax.tree.map(divide_by(samples), total))

        return mean

    return rule


def divide_by(samples: int) -> Callable[[Array], Array]:
    """Counters, of which all samples hold the same, stay integers."""
    return lambda a: a / samples if jnp.issubdtype(a.dtype, jnp.inexact) else a // samples


def probe(
    radius: float, here: float, there: float, direction: str = "mean_abs", *, exact: bool = False
) -> Rule:
    """`here · g(x) + there · g(x + radius · ĝ)`: a second gradient, a step along the first.

    Args:
        radius: length of the step in units of ĝ; negative steps down the objective.
        here, there: weights.
        direction: ĝ is g divided by its mean absolute value ("mean_abs") or length ("l2"), or its "sign".
        exact: the second gradient to first order in the radius, `g(x) + radius · H ĝ`, H the objective's
            Hessian: a product by double backpropagation instead of the finite difference. So
            `probe(-λ, 0, 1, "l2", exact=True)` is the gradient of `L - λ ‖∇L‖₂`, the gradient-norm penalty
            itself. g must be a gradient: H is taken to be symmetric.
    """

    def rule(grad_fn: GradFn) -> GradFn:
        def expanded(x: Array, memory: Memory, keys: Key, labels: Array):
            def gradient(x: Array) -> tuple[Array, tuple[Array, Memory]]:
                aux, grads = grad_fn(x, memory, keys, labels)
                return grads, aux

            # Reverse over reverse: forward over reverse compiles to naive convolutions inside CPU loops.
            first, product, aux = jax.vjp(gradient, x, has_aux=True)
            return aux, (here + there) * first + there * radius * product(unit_of(first, direction))[0]

        def probed(x: Array, memory: Memory, keys: Key, labels: Array):
            aux, first = grad_fn(x, memory, fold_in(keys, 0), labels)
            ahead = x + radius * unit_of(first, direction)
            (_, memory), second = grad_fn(ahead, aux[1], fold_in(keys, 1), labels)
            return (aux[0], memory), here * first + there * second

        return expanded if exact else probed

    return rule


def mix(here: float, there: float, other: Rule) -> Rule:
    """`here · g(x) + there · other(g)(x)`."""

    def rule(grad_fn: GradFn) -> GradFn:
        changed = other(grad_fn)

        def mixed(x: Array, memory: Memory, keys: Key, labels: Array):
            (values, memory), first = grad_fn(x, memory, fold_in(keys, 0), labels)
            (_, memory), second = changed(x, memory, fold_in(keys, 1), labels)
            return (values, memory), here * first + there * second

        return mixed

    return rule


def integrated(baseline: InputTransform, position: float = 0.65) -> Rule:
    """`(x - b) ⊙ g(b + position · (x - b))`: the gradient on the way from a baseline b, times the way.

    Integrated gradients with one point instead of the integral.

    Args:
        baseline: b, a transformation of x, such as `inputs.lower_ends`; no gradient goes through it.
        position: of the point, as a share of the way.

    Reference: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017; Ren et al. (MuMoDIG,
    AAAI 2025).
    """

    def rule(grad_fn: GradFn) -> GradFn:
        def along_way(x: Array, memory: Memory, keys: Key, labels: Array):
            start = jax.lax.stop_gradient(baseline(fold_in(keys, 0), x, 0))
            way = x - start
            aux, grads = grad_fn(start + position * way, memory, fold_in(keys, 1), labels)
            return aux, way * grads

        return along_way

    return rule


def outwards(weight: float) -> Rule:
    """`g(x) + λ (x - x0)/‖x - x0‖₂`, the gradient of `L + λ ‖x - x0‖₂`, x0 the clean image; nothing at x0.

    Args:
        weight: λ.

    Reference: Wei et al., "Towards Transferable Adversarial Attacks on Vision Transformers", AAAI 2022,
    whose λ is 0.1; the length there is that of a whole batch.
    """

    def rule(grad_fn: GradFn) -> GradFn:
        def pushed(x: Array, memory: Memory, keys: Key, labels: Array):
            away = unit(x - memory["clean"], (1, 2, 3))
            aux, grads = grad_fn(x, memory, keys, labels)
            return aux, grads + weight * away

        return pushed

    return rule


def lookahead(decay: float, step_size: float, direction: str = "mean_abs") -> Rule:
    """`g(x + decay · step_size · m)`, m the momentum of the ĝ it returned (as in `probe`): Nesterov's method.

    Reference: Lin et al., "Nesterov Accelerated Gradient and Scale Invariance", ICLR 2020.
    """

    def rule(grad_fn: GradFn) -> GradFn:
        def ahead(x: Array, memory: Memory, keys: Key, labels: Array):
            velocity = memory.get("lookahead", jnp.zeros_like(x))
            (values, memory), grads = grad_fn(x + decay * step_size * velocity, memory, keys, labels)
            return (values, memory | {"lookahead": decay * velocity + unit_of(grads, direction)}), grads

        return ahead

    return rule


def enhanced_momentum(
    step_size: float, samples: int, radius: float, direction: str = "mean_abs", *, chunk: int = 1
) -> Rule:
    """`1/N Σ_n g(x + c_n · step_size · ĝ_prev)`, c_n from -radius to radius: the mean along the previous one.

    ĝ is that of `probe`.

    Reference: Wang et al., "Boosting Adversarial Transferability through Enhanced Momentum", BMVC 2021.
    """
    check_chunk(samples, chunk)

    def rule(grad_fn: GradFn) -> GradFn:
        def along(x: Array, memory: Memory, keys: Key, labels: Array):
            previous = memory.get("enhanced_momentum", jnp.zeros_like(x))
            factors = jnp.linspace(-radius, radius, samples, dtype=x.dtype) * step_size
            mean = average(lambda _, x, number: x + factors[number] * previous, samples, chunk=chunk)(grad_fn)
            (values, memory), grads = mean(x, memory, keys, labels)
            return (values, memory | {"enhanced_momentum": unit_of(grads, direction)}), grads

        return along

    return rule


def variance_tuning(radius: float, neighbors: int, norm: str = "linf", *, chunk: int = 1) -> Rule:
    """`g(x) + v`, and then `v ← 1/N Σ_n g(x + u_n) - g(x)` with u uniform in the neighbourhood.

    Reference: Wang & He, "Enhancing the Transferability of Adversarial Attacks through Variance Tuning",
    CVPR 2021, algorithm 1.
    """
    neighborhood = average(uniform_noise(radius, norm), neighbors, chunk=chunk)

    def rule(grad_fn: GradFn) -> GradFn:
        around = neighborhood(grad_fn)

        def tuned(x: Array, memory: Memory, keys: Key, labels: Array):
            variance = memory.get("variance_tuning", jnp.zeros_like(x))
            (values, memory), grads = grad_fn(x, memory, fold_in(keys, 0), labels)
            (_, memory), mean = around(x, memory, fold_in(keys, 1), labels)
            return (values, memory | {"variance_tuning": mean - grads}), grads + variance

        return tuned

    return rule


def relevant_to(neighborhood: Rule) -> Rule:
    """`s g(x) + (1 - s) ḡ`, ḡ the gradient of a rule that looks around x, and s the cosine between the two.

    Reference: Zhu et al., "Boosting Adversarial Transferability via Gradient Relevance Attack", ICCV 2023.
    """

    def rule(grad_fn: GradFn) -> GradFn:
        around = neighborhood(grad_fn)

        def relevant(x: Array, memory: Memory, keys: Key, labels: Array):
            (values, memory), grads = grad_fn(x, memory, fold_in(keys, 0), labels)
            (_, memory), mean = around(x, memory, fold_in(keys, 1), labels)
            dot = jnp.sum(unit_of(grads, "l2") * unit_of(mean, "l2"), axis=(1, 2, 3), keepdims=True)
            return (values, memory), dot * grads + (1 - dot) * mean

        return relevant

    return rule


def relevance(radius: float, neighbors: int, norm: str = "linf", *, chunk: int = 1) -> Rule:
    """`relevant_to` the mean gradient of uniform neighbours."""
    return relevant_to(average(uniform_noise(radius, norm), neighbors, chunk=chunk))


def reverse_perturbation(
    radius: float, step_size: float, steps: int, norm: str = "linf", *, late_start: int = 0
) -> Rule:
    """`g(x + n)`, n the worst perturbation for the attack: steepest descent in a ball around x.

    Args:
        radius: of the ball; the descent begins at a uniform draw from it.
        step_size, steps: of the descent.
        norm: of the ball and the steps.
        late_start: attack steps before the first descent (RAP-LS); they take the plain gradient.

    Reference: Qin et al., "Boosting the Transferability of Adversarial Attacks with Reverse Adversarial
    Perturbation", NeurIPS 2022, algorithm 1.
    """
    project, down = ball(norm, radius), direction(norm)

    def rule(grad_fn: GradFn) -> GradFn:
        def descend(x: Array, memory: Memory, keys: Key, labels: Array) -> Array:
            def step(worst: Array, number: Array) -> tuple[Array, None]:
                _, grads = grad_fn(worst, memory, fold_in(keys, number), labels)
                return project(worst - step_size * applied(down, grads), x), None

            start = project(uniform_noise(radius, norm)(fold_in(keys, 0), x, 0), x)
            return jax.lax.scan(step, start, jnp.arange(1, steps + 1))[0]

        def reversed_(x: Array, memory: Memory, keys: Key, labels: Array):
            done = memory.get("reverse_perturbation", jnp.zeros((), jnp.int32))
            inner = x, memory, fold_in(keys, 0), labels
            if late_start:
                worst = jax.lax.cond(done >= late_start, descend, lambda x, *_: x, *inner)
            else:
                worst = descend(*inner)
            (values, memory), grads = grad_fn(worst, memory, fold_in(keys, 1), labels)
            return (values, memory | {"reverse_perturbation": done + 1}), grads

        return reversed_

    return rule
