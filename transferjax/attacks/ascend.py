"""The one attack loop: up the objective, back into the ball, `steps` times."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from transferjax.attacks.ensembles import Ensemble, Objective, mean_losses, members
from transferjax.attacks.entrance import enter
from transferjax.attacks.projections import Start
from transferjax.attacks.vocabulary import check_option
from transferjax.chain import chain, initial_memory, traced_once
from transferjax.checks import check_no_nan, check_outputs
from transferjax.losses import cross_entropy, values_of
from transferjax.predicts.snapshots import Snapshots, check_members, nets_of
from transferjax.predicts.stochastic import with_keys
from transferjax.random import fold_in, per_example
from transferjax.typing import Array, Attack, GradFn, Key, Loss, Memory, Predict, Projection, Rule


def logits_of(predict: Predict, keys: Key, x: Array) -> Array:
    """Logits `[B, K]`, in float32 at least; a random predict draws from `keys`."""
    logits = with_keys(predict, keys)(x)
    check_outputs(logits, len(x))
    check_no_nan(logits, "predict returned NaN")
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def objective_of(loss: Loss = cross_entropy, targeted: bool = False) -> Objective:
    """What the attack maximizes, `[B]`: the loss, or minus the loss towards the target if `targeted`.

    Logits are raised to float32 first.
    """
    direction = -1 if targeted else 1
    return lambda predict, x, keys, labels: direction * values_of(loss, logits_of(predict, keys, x), labels)


def gradient_of(predict: Predict, loss: Loss = cross_entropy, targeted: bool = False) -> GradFn:
    """The plain gradient: `(x, memory, keys, labels) -> ((values, memory), ∇x Σ values)`.

    The values are those of `objective_of`; summing over the batch keeps every image's gradient its own.
    """
    values_at = objective_of(loss, targeted)

    def objective(x: Array, keys: Key, labels: Array) -> tuple[Array, Array]:
        values = values_at(predict, x, keys, labels)
        return values.sum(), values

    # without the memory, whose entries become more
    value_and_grad = traced_once(jax.value_and_grad(objective, has_aux=True))

    def grad_fn(x: Array, memory: Memory, keys: Key, labels: Array) -> tuple[tuple[Array, Memory], Array]:
        (_, values), grads = value_and_grad(x, keys, labels)
        return (values, memory), grads

    return grad_fn


class Info(NamedTuple):
    """What happened, `[steps + 1, B]`: where the attack began, and after each of its steps, before `finish`.

    `loss` is the mean of the surrogates' losses, towards the target if the attack is targeted; `success` says
    whether all of them are fooled: another class than the label, or the target.
    """

    loss: Array
    success: Array


def _looking(
    predict: Predict | Sequence[Predict] | Snapshots, loss: Loss, targeted: bool
) -> Callable[[Array, Key, Array], Info]:
    """(x, keys, labels) -> one row of `Info`."""

    def look(x: Array, keys: Key, labels: Array) -> Info:
        outputs = [logits_of(member, fold_in(keys, i), x) for i, member in enumerate(nets_of(predict))]
        classes = labels if labels.ndim == 1 else labels.argmax(-1)
        reached = [(logits.argmax(-1) == classes) == targeted for logits in outputs]
        losses = [values_of(loss, logits, labels) for logits in outputs]
        return Info(jnp.stack(losses).mean(0), jnp.stack(reached).all(0))

    return look


def ascend(
    update: optax.GradientTransformation,
    project: Projection,
    *,
    steps: int,
    loss: Loss = cross_entropy,
    rules: Sequence[Rule] = (),
    member_rules: Sequence[Rule] = (),
    ensemble: Ensemble = mean_losses,
    start: Start | None = None,
    targeted: bool = False,
    finish: Projection | None = None,
) -> Attack:
    """An attack from its four slots: `x ← project(x + update(rules(∇x loss)), x0)`, `steps` times.

    Args:
        update: an optax transformation that turns the gradient into a step up (see `updates`).
        project: back into the budget, `(x, x0) -> x` (see `projections`).
        steps: gradient steps, at least 1.
        loss: `(logits [B, K], labels) -> [B]`; the attack maximizes it.
        rules: nested around the gradient, the outermost first (see `attacks.rules`, `inputs`). They find the
            clean images in the memory, under "clean".
        member_rules: inside of those and of the ensemble, around the gradient of each surrogate.
        ensemble: combines the gradients of several predicts (see `ensembles`).
        start: where to begin, `(keys, x0) -> x`; at the clean image if None.
        targeted: labels are targets, and the loss is minimized.
        finish: applied once at the end, such as `projections.eight_bit`.

    Returns:
        `(key or keys, predict, images [B, H, W, C], labels [B]) -> images`, pure and not jitted; predict may
        be a tuple of predicts, or `predicts.Snapshots`. With `info=True` it returns `(images, Info)`, for
        which it looks at the images once more after each step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    check_option("rules", rules)
    check_option("member_rules", member_rules)

    def run(key: Key, predict: Predict, images: Array, labels: Array, *, info: bool = False) -> Any:
        check_members(predict, images)
        keys = per_example(key, images.shape[0])
        plain = partial(gradient_of, loss=loss, targeted=targeted)
        several = members(predict, plain, member_rules, objective_of(loss, targeted))
        grad_fn = chain(*rules)(ensemble(several))
        look = _looking(predict, loss, targeted) if info else lambda x, keys, labels: None
        x = images if start is None else project(start(fold_in(keys, 0), images), images)

        def step(carry: tuple, number: Array) -> tuple[tuple, tuple[Array, Info | None]]:
            x, state, memory = carry
            (values, memory), grads = grad_fn(x, memory | {"clean": images}, fold_in(keys, number), labels)
            ups, state = update.update(grads, state, x)
            x = project(x + ups, images)
            return (x, state, memory), (jnp.isnan(values), look(x, fold_in(keys, number), labels))

        memory = initial_memory(grad_fn, x, {"clean": images}, keys, labels)
        begin = look(x, fold_in(keys, 0), labels)
        (x, _, _), (lost, seen) = jax.lax.scan(step, (x, update.init(x), memory), jnp.arange(1, steps + 1))
        check_no_nan(jnp.where(lost.any(0), jnp.nan, 0.0), "predict, or the loss, became NaN")
        x = x if finish is None else finish(x, images)
        return (x, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begin, seen)) if info else x

    def attack(key: Key, predict: Predict, images: Array, labels: Array, *, info: bool = False) -> Any:
        return enter(run, key, predict, images, labels, soft=True, info=info)

    attack.targeted = targeted  # type: ignore[attr-defined]  # for whoever checks that labels and goal fit
    return attack
