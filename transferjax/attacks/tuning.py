"""Surrogates whose weights are tuned while the attack goes on, for each image in its own way."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.ensembles import Ensemble, Members, mean_losses, opened
from transferjax.chain import chain
from transferjax.checks import check_outputs
from transferjax.norms import unit
from transferjax.predicts.stochastic import Stochastic, with_keys
from transferjax.random import fold_in
from transferjax.typing import Array, GradFn, Key, Memory, Predict, Rule

Weights = list[Array]


def weights_of(predict: Predict) -> tuple[Weights, Callable[[Weights], Predict]]:
    """The weights of a predict, and the predict with others in their place.

    Weights are the floating leaves under a key "params", as Flax has them, so that neither batch statistics
    nor a normalization moves; without such a key all floating leaves.

    Raises:
        ValueError: a predict without such leaves.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(predict)
    floating = [
        isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
        for _, leaf in leaves
    ]
    named = [any(getattr(part, "key", None) == "params" for part in path) for path, _ in leaves]
    some = any(f and n for f, n in zip(floating, named, strict=True))
    places = [i for i, f in enumerate(floating) if f and (named[i] or not some)]
    if not places:
        raise ValueError(
            "predict holds no weights that could be tuned: make it a jax.tree_util.Partial(function, weights)"
        )

    def put(weights: Weights) -> Predict:
        new = [leaf for _, leaf in leaves]
        for place, weight in zip(places, weights, strict=True):
            new[place] = weight
        return jax.tree.unflatten(structure, new)

    return [jnp.asarray(leaves[i][1]) for i in places], put


def moved(predict: Predict, changes: Weights) -> Predict:
    """A predict of images `[B, H, W, C]`, of which each sees weights that are changed by its own `[B, …]`.

    One image after the other: at once, a convolution with weights of its own for each is slower than that on
    CPU. What is mapped over several points of an image with the same weights runs as a batch.
    """
    weights, put = weights_of(predict)

    def one(given: tuple[Key, Weights, Array]) -> Array:
        key, change, x = given
        own = [(w + c).astype(w.dtype) for w, c in zip(weights, change, strict=True)]
        return with_keys(put(own), key[None])(x[None])[0]

    draw = lambda keys, x: jax.lax.map(one, (keys, changes, x))  # noqa: E731
    return Stochastic(draw, jax.random.key(0))  # whoever asks brings keys


def _stepped(x: Weights, scale: float, y: Weights) -> Weights:
    """`x + scale · y`."""
    return [a + scale * b for a, b in zip(x, y, strict=True)]


def sharpest(slope: Callable[[Weights], Weights], rho: float, at: Weights) -> Weights:
    """`∇J(w + rho ∇J(w) / ‖∇J(w)‖₂)` for each image, J's gradient at weights `[B, …]` being their slope."""

    def look(up: Weights, _: None) -> tuple[Weights, None]:
        return slope(_stepped(at, rho, jax.vmap(unit)(up))), None

    # Twice the same, the first time with a step of zero: compiled once.
    return jax.lax.scan(look, jax.tree.map(jnp.zeros_like, at), None, length=2)[0]


def tuned_weights(
    rate: float = 0.002, rho: float = 0.005, decay: float = 0.5, rules: Sequence[Rule] = ()
) -> Ensemble:
    """`1/K Σ_k g(x; w_k)`, the weights tuned before: a sharpness-aware step down `J(w) = L(x; w) + L(x0; w)`.

    `m ← decay · m + ∇J(w + rho ∇J(w) / ‖∇J(w)‖₂)` and `w ← w - rate · m`, x0 the clean image: what the attack
    has found becomes harder to fool. Four gradients, and those of the rules. Every image has weights of its
    own, kept from step to step: a change and a momentum as large as the net, each.

    Args:
        rate: of the weights.
        rho: Euclidean length of the ascent to the sharpest neighbour, over all weights together.
        decay: of the momentum m.
        rules: around the gradient of the tuned net, inside of which the weights stand still.

    Raises:
        ValueError: members that do not say their nets, or a net without weights (see `weights_of`).

    Reference: Chen et al. (AWT), AAAI 2025; Foret et al. (SAM), ICLR 2021. The official code has one copy of
    the weights, tuned on the mean loss of a batch; and it does not clear the gradients of a step, so that the
    next ascent goes along the sum of both.
    """

    def ensemble(inner: Members) -> GradFn:
        nets, gradient, objective = opened(inner)

        def at(number: int | Array) -> GradFn:
            net, name = nets[int(number)], f"tuned_weights_{number}"

            def tuned(x: Array, memory: Memory, keys: Key, labels: Array):
                check_outputs(jax.eval_shape(net, x), len(x))
                zeros = [_zeros(len(x), w) for w in weights_of(net)[0]]
                own = memory.get(name, {"changes": zeros, "momentum": zeros, "rules": {}})
                clean, both = {"clean": memory["clean"]}, jnp.stack([x, memory["clean"]])

                def total(changes: Weights) -> Array:
                    def ask(x: Array, number: Array) -> Array:
                        return objective(moved(net, changes), x, fold_in(keys, number), labels)

                    return jax.vmap(ask)(both, jnp.arange(2)).sum()

                down = sharpest(jax.grad(total), rho, own["changes"])
                momentum = _stepped(down, decay, own["momentum"])
                changes = _stepped(own["changes"], -rate, momentum)
                around = chain(*rules)(gradient(moved(net, changes)))
                (values, after), grads = around(x, own["rules"] | clean, fold_in(keys, 2), labels)
                kept = {n: value for n, value in after.items() if n != "clean"}
                own = {"changes": changes, "momentum": momentum, "rules": kept}
                return (values, memory | {name: own}), grads

            return tuned

        return mean_losses(Members(len(nets), at))

    return ensemble


def _zeros(count: int, weight: Array) -> Array:
    """A change for each image, in float32 at least: a step is smaller than bfloat16 can tell."""
    return jnp.zeros((count, *weight.shape), jnp.promote_types(weight.dtype, jnp.float32))
