"""How each kind of result is made: a group of specs that share a compiled program in (see `plan.group_key`),
`(spec, made)` out, each as soon as it is there.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import data
from transferjax.attacks.craft import check_kept, crafting
from transferjax.devices import mapped
from transferjax.memory import memory_advice
from transferjax.predicts.snapshots import Snapshots
from transferjax.study import registry
from transferjax.study.resolve import Context, classes_of, logits_of
from transferjax.study.specs import (
    Adversarial,
    Call,
    Derived,
    Goal,
    Measure,
    Network,
    Purifier,
    Service,
    Spec,
    Verdicts,
)
from transferjax.typing import Array, Attack, Predict

Made = Mapping[str, Any]
"""`arrays`, and what provenance says besides; of a training its `steps` in this process, which `share` of
all this moment was, and the seconds that were spent on that `before`."""


def make(context: Context, members: Sequence[Spec]) -> Iterator[tuple[Spec, Made]]:
    """The results of one group, one by one, each as soon as it is there."""
    made = MAKERS[type(members[0]).__name__](context, members)
    begin = time.perf_counter()
    with memory_advice(_smaller(context, members[0])):
        for spec, result in made:
            seconds = result.get("before", 0.0) + time.perf_counter() - begin
            yield spec, {**result, "seconds": round(seconds, 3)}
            begin = time.perf_counter()


def _smaller(context: Context, spec: Spec) -> str:
    """What to change where memory does not suffice."""
    if isinstance(spec, Network | Purifier):
        smaller = f"a smaller training.batch_size than {spec.training.batch_size}, with `accumulate`"
        return f"training.remat=True takes less and changes nothing; {smaller} takes less too"
    half = f"--config.batch_size={max(1, context.batch_size // 2)}"
    return f"{half} changes no result, nor does a smaller `chunk` of the attack or the measure"


def adversarial(context: Context, members: Sequence[Adversarial]) -> Iterator[tuple[Spec, Made]]:
    """All budgets of one attack on the same surrogates."""
    spec = members[0]
    registry.check_surrogates(spec.attack, len(spec.surrogates))
    context.check_classes(spec.surrogates, spec.data)
    dataset, predict = context.dataset(spec.data), _surrogate(context, spec)
    aims = classes_of(context, spec.goal, spec.data)
    craft = context.cached(
        ("craft", spec.attack.key, spec.goal.targeted, spec.norm),
        lambda: mapped(_crafting(spec)),
        0,
    )
    for member in members:
        shared = (
            predict,
            jnp.float32(member.eps),
            jax.random.key(spec.seed),
            jnp.asarray(aims),
            _pool(spec, dataset),
        )
        text = f"{spec.attack.name} {255 * member.eps:.3g}/255"
        images, far = context.each(craft, dataset, shared, text)
        check_kept(spec.attack.name, far, images.shape[1:], member.eps, spec.norm)
        yield member, {"arrays": {"images": images, "aims": np.asarray(aims, np.int32)}}


def _surrogate(context: Context, spec: Adversarial) -> Any:
    """One predict, or several; those of one structure are stacked, and ten snapshots compile like one net."""
    several = tuple(map(context.predict, spec.surrogates))
    if len(several) == 1:
        return several[0]
    if not alike(several):
        return several
    key = ("snapshots", *(net.key for net in spec.surrogates))
    return context.cached(key, lambda: Snapshots.stack(several))


def alike(predicts: Sequence[Predict]) -> bool:
    """Whether predicts differ in the numbers of their leaves alone, so that they can be stacked."""
    kinds = {(jax.tree.structure(p), *((a.shape, a.dtype) for a in jax.tree.leaves(p))) for p in predicts}
    return len(kinds) == 1


def _crafting(spec: Adversarial) -> Callable[..., tuple[Array, Array]]:
    """As `crafting`; the budget is traced, so that all share one compilation."""

    def batch(examples: data.Examples, shared: tuple) -> tuple[Array, Array]:
        predict, eps, key, aims, pool = shared
        attack = attack_of(spec.attack, spec.goal, eps, spec.norm, pool)
        return crafting(attack, eps, spec.norm)(examples, (predict, key, aims))

    return batch


def attack_of(call: Call, goal: Goal, eps: Any, norm: str, pool: Any = None) -> Attack:
    """An attack with what the spec around it says.

    Args:
        call: a row of the attacks.
        goal: labels are targets, unless it is untargeted.
        eps, norm: the budget, which may be traced.
        pool: uint8 images, for attacks that mix others in.

    Raises:
        ValueError: a norm or a goal that the attack does not know, or options that it refuses.
    """
    able = lambda name: registry.accepts(registry.ATTACKS, call, name)  # noqa: E731
    offered = {"eps": eps, "norm": norm}
    if norm != "linf" and not able("norm"):
        raise ValueError(f"{call.name} knows no norm {norm!r}, only linf")
    if able("targeted"):  # said aloud: some are made for targets, and run to them by default
        offered["targeted"] = goal.targeted
    elif goal.targeted:
        calls = (Call(name=name) for name in registry.ATTACKS.rows())
        others = [other.name for other in calls if registry.accepts(registry.ATTACKS, other, "targeted")]
        raise ValueError(f"{call.name} has no targeted form; these have: {', '.join(others)}")
    if pool is not None:
        offered["pool"] = data.to_float(pool)
    return registry.make(registry.ATTACKS, call, **offered)


def _pool(spec: Adversarial, dataset: data.Dataset) -> Array | None:
    """Other images, for attacks that mix them in."""
    mixes = registry.accepts(registry.ATTACKS, spec.attack, "pool")
    return jnp.asarray(dataset.images[: registry.POOL]) if mixes else None


def verdicts(context: Context, members: Sequence[Verdicts]) -> Iterator[tuple[Spec, Made]]:
    """All images for one target."""
    if isinstance(members[0].target, Service):
        yield from _recorded(context, members)
        return
    predict = context.predict(members[0].target)
    says: Callable[..., Array] = context.cached("verdicts", lambda: mapped(_classes), 0)
    for member in members:
        context.check_classes((member.target,), member.images)
        dataset = context.dataset(member.images)
        yield member, _said(context, member, context.each(says, dataset, predict, "verdicts"))


def _said(context: Context, spec: Verdicts, classes: np.ndarray) -> Made:
    """Verdicts with what they are compared with: labels, and what an attack aimed at."""
    said = {"classes": classes, "labels": np.asarray(context.dataset(spec.images).labels)}
    if isinstance(spec.images, Adversarial):
        said["aims"] = context.arrays(spec.images)["aims"]
    return {"arrays": said}


def _classes(examples: data.Examples, predict: Predict) -> Array:
    return logits_of(examples, predict).argmax(-1).astype(jnp.int32)


def _recorded(context: Context, members: Sequence[Verdicts]) -> Iterator[tuple[Spec, Made]]:
    from transferjax.study.services import read_record

    record = read_record(members[0].target.record)  # type: ignore[union-attr]
    for member in members:
        yield member, _said(context, member, record.classes(context.dataset(member.images).images))


def measures(context: Context, members: Sequence[Measure]) -> Iterator[tuple[Spec, Made]]:
    """One measure of one network, or of all pairs at once."""
    call = members[0].call
    for spec in members:
        context.check_classes(spec.of, spec.data)
    for spec, arrays in registry.make(registry.MEASURES, call, context=context, specs=members):
        yield spec, {"arrays": arrays}


def derived(context: Context, members: Sequence[Derived]) -> Iterator[tuple[Spec, Made]]:
    """Data that a network makes."""
    for spec in members:
        made = registry.make(registry.DERIVED, spec.call, context=context, spec=spec)
        yield spec, {"arrays": made}


def _networks(context: Context, members: Sequence[Any]) -> Iterator[tuple[Spec, Made]]:
    from transferjax.study.networks import make_networks

    return make_networks(context, members)


def _purifiers(context: Context, members: Sequence[Any]) -> Iterator[tuple[Spec, Made]]:
    from transferjax.study.purifiers import make_purifiers

    return make_purifiers(context, members)


MAKERS: dict[str, Callable[..., Iterator[tuple[Spec, Made]]]] = {
    Network.__name__: _networks,
    Adversarial.__name__: adversarial,
    Verdicts.__name__: verdicts,
    Measure.__name__: measures,
    Derived.__name__: derived,
    Purifier.__name__: _purifiers,
}
