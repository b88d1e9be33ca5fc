"""Several surrogates at once.

Wherever an attack takes `predict` (but for `fia`, `bfa`, `att` and those of AutoAttack), it takes a tuple of
them, of any architectures, or `Snapshots`: one function with stacked weights. What it makes of their
gradients is an `Ensemble`:

    mean of logits, of probabilities    predict = mean_logits(a, b), one predict that holds the others
    the same of a tuple's logits        ensemble = fused_logits()
    mean of losses                      ensemble = mean_losses (the default)
    one member a step                   ensemble = one_member()
    variance reduction, common weakness ensemble = svre(…), cwa(…)
    logits by weights that adapt        ensemble = adaptive(…), reweighed(…)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.attacks.projections import ball
from transferjax.attacks.updates import applied, direction, normalize_by_l2, normalize_by_mean_abs
from transferjax.chain import chain
from transferjax.norms import unit
from transferjax.predicts.snapshots import (
    Snapshots,
    mean_logits,
    mean_probabilities,
    nets_of,
    weighted_logits,
)
from transferjax.random import fold_in
from transferjax.typing import Array, GradFn, Key, Memory, Predict, PyTree, Rule

__all__ = [
    "Ensemble",
    "Members",
    "Snapshots",
    "adaptive",
    "cwa",
    "fused_logits",
    "mean_logits",
    "mean_losses",
    "mean_probabilities",
    "members",
    "one_member",
    "reweighed",
    "svre",
]


_SURE = 1e-30
"""The least size of a loss that another is divided by: those of nets that are sure enough are zero."""

Objective = Callable[[Predict, Array, Key, Array], Array]
"""(predict, x, keys, labels) -> `[B]`, what the attack maximizes."""


class Members(NamedTuple):
    """The gradients an ensemble combines: how many, and the one of a given (possibly traced) number.

    Who weighs logits takes the nets, the gradient `of` what is made of them, and the objective.
    """

    size: int
    at: Callable[[int | Array], GradFn]
    predict: Predict | Sequence[Predict] | Snapshots = ()
    of: Callable[[Predict], GradFn] | None = None
    objective: Objective | None = None


Ensemble = Callable[[Members], GradFn]


def members(
    predict: Predict | Sequence[Predict] | Snapshots,
    gradient_of: Callable[[Predict], GradFn],
    rules: Sequence[Rule] = (),
    objective: Objective | None = None,
) -> Members:
    """The members of a predict, a tuple of predicts or of snapshots.

    Args:
        predict: one, several, or snapshots.
        gradient_of: a predict's plain gradient.
        rules: around the gradient of each member, which remember apart for each.
        objective: what those are the gradients of.
    """
    if isinstance(predict, Snapshots):
        inner = Members(len(predict), lambda number: gradient_of(predict.at(number)))
    else:
        functions = [gradient_of(member) for member in nets_of(predict)]

        def at(number: int | Array) -> GradFn:
            if isinstance(number, int):
                return functions[number]
            return lambda *inputs: jax.lax.switch(number, functions, *inputs)

        inner = Members(len(functions), at)
    inner = inner._replace(predict=predict, of=gradient_of, objective=objective)
    return _with_rules(inner, gradient_of, rules) if rules else inner


def _with_rules(inner: Members, gradient_of: Callable[[Predict], GradFn], rules: Sequence[Rule]) -> Members:
    """Rules around each member, whose memories are stacked under "members": they see no other's.

    What they remember around a net that is made of members is under "of".
    """

    def at(number: int | Array) -> GradFn:
        ruled = chain(*rules)(inner.at(number))

        def one(x: Array, memory: Memory, keys: Key, labels: Array):
            stacks = memory.get("members", {})
            given = {"clean": memory["clean"]} if "clean" in memory else {}
            own = {name: jax.tree.map(lambda a: a[number], stack) for name, stack in stacks.items()}
            (values, after), grads = ruled(x, given | own, keys, labels)

            def put(stack: Array, value: Array) -> Array:
                return stack.at[number].set(value)

            for name in after.keys() - given.keys():
                empty = jax.tree.map(lambda a: jnp.zeros((inner.size, *a.shape), a.dtype), after[name])
                stacks = stacks | {name: jax.tree.map(put, stacks.get(name, empty), after[name])}
            return (values, memory | ({"members": stacks} if stacks else {})), grads

        return one

    def of(predict: Predict) -> GradFn:
        ruled = chain(*rules)(gradient_of(predict))

        def one(x: Array, memory: Memory, keys: Key, labels: Array):
            given = {"clean": memory["clean"]} if "clean" in memory else {}
            (values, after), grads = ruled(x, given | memory.get("of", {}), keys, labels)
            own = {name: after[name] for name in after.keys() - given.keys()}
            return (values, memory | ({"of": own} if own else {})), grads

        return one

    return inner._replace(at=at, of=of)


def mean_losses(inner: Members) -> GradFn:
    """`1/K Σ_k g_k(x)`, the gradient of the mean loss.

    Reference: Liu et al., "Delving into Transferable Adversarial Examples", ICLR 2017.
    """

    def mean(x: Array, memory: Memory, keys: Key, labels: Array):
        total: PyTree = None
        for number in range(inner.size):
            (values, memory), grads = inner.at(number)(x, memory, fold_in(keys, number), labels)
            total = (values, grads) if total is None else jax.tree.map(jnp.add, total, (values, grads))
        values, grads = jax.tree.map(lambda a: a / inner.size, total)
        return (values, memory), grads

    return inner.at(0) if inner.size == 1 else mean


def one_member(*, replace: bool = False, seed: int = 0) -> Ensemble:
    """A random member at every step: the longitudinal ensemble, and with `Snapshots` LGV.

    The draw is the same for all images, so it hangs on the seed and the number of the step alone.

    Args:
        replace: draw with replacement; else in shuffled passes over all members.
        seed: of the draws.

    Reference: Li et al., "Learning Transferable Adversarial Examples via Ghost Networks", AAAI 2020;
    Gubri et al., "LGV", ECCV 2022.
    """

    def choose(step: Array, count: int) -> Array:
        if replace:
            return jax.random.randint(jax.random.fold_in(jax.random.key(seed), step), (), 0, count)
        return _turn(seed, step // count, step % count, count)

    def ensemble(inner: Members) -> GradFn:
        def one(x: Array, memory: Memory, keys: Key, labels: Array):
            step = memory.get("one_member", jnp.zeros((), jnp.int32))
            aux, grads = inner.at(choose(step, inner.size))(x, memory, keys, labels)
            return (aux[0], aux[1] | {"one_member": step + 1}), grads

        return one

    return ensemble


def _turn(seed: int, number: Array, place: Array, count: int) -> Array:
    """Whose turn it is at a place of a shuffled pass over `count` members."""
    return jax.random.permutation(jax.random.fold_in(jax.random.key(seed), number), count)[place]


def _inner_step(
    eps: float, step_size: float, norm: str, decay: float
) -> Callable[[Array, Array, Array, Array], tuple[Array, Array]]:
    """MI-FGSM's: `(x, momentum, gradient, clean) -> (x, momentum)`."""
    project, up, even = ball(norm, eps), direction(norm), normalize_by_mean_abs()

    def climb(x: Array, momentum: Array, grads: Array, clean: Array) -> tuple[Array, Array]:
        momentum = decay * momentum + applied(even, grads)
        return project(x + step_size * applied(up, momentum), clean), momentum

    return climb


def svre(
    eps: float,
    step_size: float,
    norm: str = "linf",
    *,
    decay: float = 1.0,
    inner_steps: int | None = None,
    seed: int = 0,
) -> Ensemble:
    """Stochastic variance reduced ensemble: the momentum of an inner ascent with `g_k(x') - g_k(x) + ḡ(x)`.

    Args:
        eps: budget of the inner ascent around the clean image.
        step_size: of the inner steps.
        norm: of that budget and those steps.
        decay: of the inner momentum.
        inner_steps: M; four times the number of members if None.
        seed: of the member drawn at each inner step.

    Reference: Xiong et al., CVPR 2022, algorithm 1.
    """

    def ensemble(inner: Members) -> GradFn:
        mean, count = mean_losses(inner), 4 * inner.size if inner_steps is None else inner_steps

        def reduced(x: Array, memory: Memory, keys: Key, labels: Array):
            (values, memory), full = mean(x, memory, fold_in(keys, 0), labels)
            done = memory.get("svre", jnp.zeros((), jnp.int32))
            climb = _inner_step(eps, step_size, norm, decay)

            def step(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
                at, momentum = carry
                draw = jax.random.fold_in(jax.random.key(seed), done * count + number)
                member = inner.at(jax.random.randint(draw, (), 0, inner.size))
                both = fold_in(keys, number + 1)  # the same draw of the rules at both points
                _, there = member(at, memory, both, labels)
                _, here = member(x, memory, both, labels)
                return climb(at, momentum, there - here + full, memory["clean"]), None

            (_, momentum), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), jnp.arange(count))
            return (values, memory | {"svre": done + 1}), momentum

        return reduced

    return ensemble


def cwa(
    eps: float,
    reverse_step: float,
    norm: str = "linf",
    *,
    inner_step: float = 250.0,
    decay: float = 1.0,
) -> Ensemble:
    """Common weakness: a step down the mean loss, one up each member's; the gradient is the displacement.

    Args:
        eps: budget of the inner steps around the clean image.
        reverse_step: length of the steepest step down (the sharpness-aware half).
        norm: of that budget and that step.
        inner_step: of the steps up, along L2-normalized gradients with momentum (the cosine half).
        decay: of that momentum, which lives on between the attack's steps.

    Reference: Chen et al., "Rethinking Model Ensemble in Transfer-based Adversarial Attacks", ICLR 2024,
    algorithm 1 (MI-CWA with a `momentum` update around it).
    """

    def ensemble(inner: Members) -> GradFn:
        mean = mean_losses(inner)

        def common(x: Array, memory: Memory, keys: Key, labels: Array):
            project, down, even = ball(norm, eps), direction(norm), normalize_by_l2()
            clean, momentum = memory["clean"], memory.get("cwa", jnp.zeros_like(x))
            (values, memory), full = mean(x, memory, fold_in(keys, 0), labels)
            at = project(x - reverse_step * applied(down, full), clean)
            for number in range(inner.size):
                (_, memory), grads = inner.at(number)(at, memory, fold_in(keys, number + 1), labels)
                momentum = decay * momentum + applied(even, grads)
                at = project(at + inner_step * momentum, clean)
            return (values, memory | {"cwa": momentum}), at - x

        return common

    return ensemble


def opened(inner: Members) -> tuple[tuple[Predict, ...], Callable[[Predict], GradFn], Objective]:
    """The nets themselves, the gradient of what is made of them, and what it maximizes.

    Raises:
        ValueError: members that do not say it.
    """
    if inner.of is None or inner.objective is None:
        raise ValueError(
            "members without nets and an objective: nothing can be made of their logits or weights"
        )
    return nets_of(inner.predict), inner.of, inner.objective


def fused_logits() -> Ensemble:
    """`∇x L(1/K Σ_k z_k)`, as of the one predict `mean_logits(…)`: a gradient of each surrogate.

    Reference: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, section 3.4, where logits
    do better than probabilities and losses.
    """

    def ensemble(inner: Members) -> GradFn:
        nets, gradient, _ = opened(inner)
        return gradient(mean_logits(*nets))

    return ensemble


def adaptive(
    eps: float, step_size: float, norm: str = "linf", *, beta: float = 10.0, threshold: float = -0.3
) -> Ensemble:
    """`m ⊙ ∇x L(Σ_k w_k z_k)`: the surrogate whose own step fools the others best weighs the most.

    `w = softmax_k β Σ_{i ≠ k} L_i(x_k) / L_i(x_i)` with x_k a step of `step_size` up the loss of surrogate k,
    and m is 1 at pixels where the mean cosine between two surrogates' gradients (over channels) is at least
    `threshold`, 0 elsewhere. Of losses towards a target, which are to fall, the ratio is the inverse.

    Args:
        eps: budget of those steps around the clean image.
        step_size: their length.
        norm: of that budget and those steps.
        beta: β, how much the best surrogate is preferred.
        threshold: of the cosine.

    Reference: Chen et al., "An Adaptive Model Ensemble Adversarial Attack for Boosting Adversarial
    Transferability", ICCV 2023, equations 5 to 9. The official code has one w for a batch, ours one for each
    image; it leaves the last surrogate out of the mean of cosines, and begins at noise of 0.001.
    """

    def ensemble(inner: Members) -> GradFn:
        nets, gradient, objective = opened(inner)
        project, up = ball(norm, eps), direction(norm)

        def modulated(x: Array, memory: Memory, keys: Key, labels: Array):
            grads, clean = [], memory["clean"]
            for number in range(inner.size):
                (_, memory), own = inner.at(number)(x, memory, fold_in(keys, number), labels)
                grads.append(own)
            ahead = [project(x + step_size * applied(up, g), clean) for g in grads]
            there = jnp.stack(
                [jnp.stack([objective(net, y, keys, labels) for y in ahead]) for net in nets]
            )  # [of surrogate i, after a step of k, B]
            there = jnp.where(jnp.abs(there) < _SURE, jnp.copysign(_SURE, there), there)
            own = jnp.einsum("iib->ib", there)[:, None]
            ratio = jnp.where(own > 0, there / own, own / there)
            others = ratio.sum(0) - jnp.einsum("iib->ib", ratio)
            weights = jax.lax.stop_gradient(jax.nn.softmax(beta * others, axis=0))
            net = weighted_logits(nets, weights)
            aux, weighed = gradient(net)(x, memory, fold_in(keys, inner.size), labels)
            return aux, jnp.where(_agreement(grads) >= threshold, weighed, 0)

        return modulated

    return ensemble


def _agreement(grads: Sequence[Array]) -> Array:
    """The mean cosine of two gradients' pixels over all pairs, `[B, H, W, 1]`; 0 where one vanishes.

    One gradient agrees with itself.
    """
    if len(grads) == 1:
        return jnp.ones_like(grads[0][..., :1])
    units = jnp.stack([unit(g, -1) for g in grads])
    cosines = jnp.einsum("ibhwc,jbhwc->bhw", units, units) - jnp.einsum("ibhwc,ibhwc->bhw", units, units)
    return (cosines / (len(grads) * (len(grads) - 1)))[..., None]


def reweighed(
    eps: float,
    step_size: float,
    norm: str = "linf",
    *,
    decay: float = 1.0,
    inner_steps: int | None = None,
    weight_rate: float = 0.02,
    weight_decay: float = 0.002,
    seed: int = 0,
) -> Ensemble:
    """The momentum of an inner ascent along `∇x L(w_k z_k)`, one surrogate a step, while the weights w learn.

    After each gradient `w ← w + weight_rate · (∇w log L(1/K Σ_k w_k z_k) - weight_decay · w)`: the weights
    raise the loss of the whole. They begin at one and are kept between the attack's steps, for each image its
    own. While an image is surely right they fall: over hundreds of small steps below zero, where the inner
    ascent makes it surer. Ten steps, as in the paper, are far from that.

    Args:
        eps: budget of the inner ascent around the clean image.
        step_size: of the inner steps.
        norm: of that budget and those steps.
        decay: of the inner momentum.
        inner_steps: four times the number of surrogates if None; they take turns in shuffled passes.
        weight_rate, weight_decay: of the weights.
        seed: of the passes.

    Reference: Tang et al., "Ensemble Diversity Facilitates Adversarial Transferability" (SMER), CVPR 2024,
    algorithm 1; rates are those of its official code, whose weights are shared by a batch and kept for the
    next one.
    """

    def ensemble(inner: Members) -> GradFn:
        nets, gradient, objective = opened(inner)
        count = 4 * inner.size if inner_steps is None else inner_steps
        climb = _inner_step(eps, step_size, norm, decay)

        def whole(weights: Array, x: Array, keys: Key, labels: Array) -> Array:
            """`Σ_b log L`, up to a constant; of a loss that is to fall `-log`."""
            net = weighted_logits(nets, weights / inner.size)
            values = objective(net, x, keys, labels)
            return (values / jnp.maximum(jnp.abs(jax.lax.stop_gradient(values)), _SURE)).sum()

        def learned(x: Array, memory: Memory, keys: Key, labels: Array):
            done = memory.get("reweighed", jnp.zeros((), jnp.int32))
            moved = memory.get("reweighed_from_one", jnp.zeros((inner.size, len(x)), x.dtype))

            def one(net: Predict, weights: Array, x: Array, keys: Key) -> tuple[Array, Array]:
                """Values and gradient of one net with its logits scaled."""
                (values, _), grads = gradient(weighted_logits((net,), weights[None]))(x, memory, keys, labels)
                return values, grads

            branches = [partial(one, net) for net in nets]

            def step(carry: tuple, number: Array) -> tuple[tuple, Array]:
                at, momentum, weights = carry
                turn = _turn(seed, done * count + number // inner.size, number % inner.size, inner.size)
                own = fold_in(keys, number)
                values, grads = jax.lax.switch(turn, branches, weights[turn], at, own)
                better = jax.grad(whole)(weights, at, own, labels)
                weights = weights + weight_rate * (better - weight_decay * weights)
                return (*climb(at, momentum, grads, memory["clean"]), weights), values

            start = x, jnp.zeros_like(x), 1 + moved
            (_, momentum, weights), values = jax.lax.scan(step, start, jnp.arange(count))
            return (values[0], memory | {"reweighed": done + 1, "reweighed_from_one": weights - 1}), momentum

        return learned

    return ensemble
