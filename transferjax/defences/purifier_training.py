"""How purifiers are trained: their losses, and a step that trains a critic beside them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from transferjax.attacks.goals import check_goal
from transferjax.checks import check_images, check_labels
from transferjax.defences.purifiers import Purify
from transferjax.models.layers import Net
from transferjax.models.predict import train_apply
from transferjax.predicts.modules import with_features
from transferjax.random import one_key, per_example, sample
from transferjax.typing import Array, Attack, Key, Predict, PyTree

PurifierLoss = Callable[[Purify, Key, Array, Array], Array]
"""(purify, keys `[B]`, clean images, labels) -> scalar."""


def reconstruction_loss() -> PurifierLoss:
    """`mean (P(x) - x)²`: ComDefend's; the noise is in the net, `‖code‖²` is the step's `code_penalty`."""
    return lambda purify, keys, images, labels: jnp.mean((purify(images) - images) ** 2)


def guided_loss(predict: Predict, attack: Attack) -> PurifierLoss:
    """`mean |z(P(x_adv)) - z(x)|`: adversarial images should look clean to the classifier (HGD's LGD).

    Raises:
        ValueError: a targeted attack, which would run towards the labels.

    Reference: Liao et al., CVPR 2018.
    """
    check_goal(attack)

    def loss(purify: Purify, keys: Key, images: Array, labels: Array) -> Array:
        adversarial = attack(keys, predict, images, labels)
        return jnp.abs(predict(purify(adversarial)) - predict(images)).mean()

    return loss


def self_supervised_loss(
    predict: Predict, layer: str, eps: float, steps: int = 5, pixel: float = 1.0
) -> PurifierLoss:
    """`mean |F(P(x')) - F(x)| + pixel · mean (P(x') - x)²`, the features of x' far from those of x.

    x' maximizes the feature distance in an L∞ ball, without labels (the self-supervised perturbation).

    Args:
        predict: of the Flax net whose features count.
        layer: the end of the path of the module whose output are the features F.
        eps: of the ball, in pixel units of [0, 1].
        steps: of the ascent.
        pixel: weight of the distance in pixels.

    Reference: Naseer et al., CVPR 2020; their adversarial term is the train step's `critic`.
    """

    def loss(purify: Purify, keys: Key, images: Array, labels: Array) -> Array:
        features = with_features(predict, layer, images)[1]

        def distance(x: Array) -> Array:
            return jnp.abs(with_features(predict, layer, x)[1] - features).mean((1, 2, 3)).sum()

        def step(x: Array, _: None) -> tuple[Array, None]:
            x = x + 2 * eps / steps * jnp.sign(jax.grad(distance)(x))
            return jnp.clip(jnp.clip(x, images - eps, images + eps), 0, 1), None

        noise = sample(jax.random.uniform, keys, images.shape[1:], images.dtype, -eps, eps)
        start = jnp.clip(images + noise, 0, 1)
        farthest = jax.lax.stop_gradient(jax.lax.scan(step, start, None, steps)[0])
        clean = purify(farthest)
        return distance(clean) / len(images) + pixel * jnp.mean((clean - images) ** 2)

    return loss


class PurifierState(NamedTuple):
    """What training carries, arrays only."""

    variables: PyTree
    opt_state: optax.OptState
    step: Array
    critic: "PurifierState | None" = None


class PurifierStep(NamedTuple):
    """`init(key, images) -> state` and `update(state, key, images, labels) -> (state, loss)`."""

    init: Callable[[Key, Array], PurifierState]
    update: Callable[[PurifierState, Key, Array, Array], tuple[PurifierState, Array]]


def make_purifier_step(
    net: Net,
    loss: PurifierLoss,
    optimizer: optax.GradientTransformation,
    *,
    code_penalty: float = 0.0,
    critic: Net | None = None,
    critic_weight: float = 5e-3,
) -> PurifierStep:
    """A train step for a purifier; pure, the caller jits its `update`.

    A critic C learns, by the same optimizer, to tell clean images from purified ones: it minimizes
    `-log σ(C(x) - C(P(x')))`. The purifier's loss grows by `critic_weight` times `-log σ(C(P(x')) - C(x))`.

    Args:
        net: the purifier.
        loss: `(purify, keys, images, labels) -> scalar`.
        optimizer: any optax transformation.
        code_penalty: weight of the mean square of what the net sows as its code (ComDefend: 1e-4).
        critic: a net with one logit (NRP), of the caller's choice, for no code of the official one is public.
        critic_weight: of the adversarial term; 5e-3 is ESRGAN's.

    Reference: the relativistic loss of Jolicoeur-Martineau, ICLR 2019, as Naseer et al., CVPR 2020, use it.
    """

    def start(module: Net, key: Key, images: Array) -> PurifierState:
        # Drawn one by one: XLA takes minutes to compile a deep net's draws as one program.
        shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
        variables = module.lazy_init({"params": key, "dropout": key}, shape)
        return PurifierState(variables, optimizer.init(variables["params"]), jnp.zeros((), jnp.int32))

    def descend(state: PurifierState, grads: PyTree, stats: PyTree) -> PurifierState:
        ups, opt_state = optimizer.update(grads, state.opt_state, state.variables["params"])
        variables = {"params": optax.apply_updates(state.variables["params"], ups)}
        variables |= {"batch_stats": stats} if stats else {}
        return state._replace(variables=variables, opt_state=opt_state, step=state.step + 1)

    def init(key: Key, images: Array) -> PurifierState:
        check_images(images)
        key = one_key(key)
        state = start(net, key, images)
        if critic is None:
            return state
        return state._replace(critic=start(critic, jax.random.fold_in(key, 1), images))

    def judge(state: PurifierState | None, x: Array, y: Array) -> tuple[Array, PurifierState | None]:
        """The adversarial term for clean x and purified y, and the critic one step later."""
        if critic is None or state is None:
            return jnp.zeros(()), None

        def lead(params: PyTree, y: Array) -> tuple[Array, PyTree]:
            variables = {**state.variables, "params": params}
            logits, stats = train_apply(critic, variables, jnp.concatenate([x, y]))
            clean, repaired = jnp.split(logits[:, 0], 2)
            return clean - repaired, stats

        def objective(params: PyTree) -> tuple[Array, PyTree]:
            ahead, stats = lead(params, jax.lax.stop_gradient(y))
            return jax.nn.softplus(-ahead).mean(), stats

        params = state.variables["params"]
        later = descend(state, *jax.grad(objective, has_aux=True)(params))
        return critic_weight * jax.nn.softplus(lead(params, y)[0]).mean(), later

    def update(state: PurifierState, key: Key, images: Array, labels: Array) -> tuple[PurifierState, Array]:
        check_images(images)
        if labels is not None:  # not every loss looks at them
            check_labels(labels, len(images))
        now = jax.random.fold_in(one_key(key), state.step)
        keys, noise = per_example(now, len(images)), jax.random.fold_in(now, len(images))

        def objective(params: PyTree) -> tuple[Array, tuple[PyTree, PurifierState | None]]:
            kept: dict[str, Any] = {}

            def purify(x: Array) -> Array:
                variables = {**state.variables, "params": params}
                mutable = ["batch_stats", "intermediates"]
                y, new = net.apply(variables, x, True, rngs={"dropout": noise}, mutable=mutable)
                kept.update(new, purified=y)
                return y

            value = loss(purify, keys, images, labels)
            codes = jax.tree.leaves(kept.get("intermediates", {}))
            value += code_penalty * sum(jnp.mean(code**2) for code in codes)
            adversarial, later = judge(state.critic, images, kept["purified"])
            return value + adversarial, (kept.get("batch_stats", {}), later)

        params = state.variables["params"]
        (value, (stats, later)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return descend(state, grads, stats)._replace(critic=later), value

    return PurifierStep(init, update)
