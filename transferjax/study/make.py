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
from transferjax.attacks.projections import eight_bit
from transferjax.random import fold_in
from transferjax.study import registry
from transferjax.study.resolve import Context, classes_of
from transferjax.study.specs import (
    Adversarial,
    Derived,
    Measure,
    Network,
    Purifier,
    Service,
    Spec,
    Verdicts,
)
from transferjax.typing import Array, Predict

Made = Mapping[str, Any]
"""`arrays`, and whatever provenance says besides (`steps`)."""


def make(context: Context, members: Sequence[Spec]) -> Iterator[tuple[Spec, Made]]:
    """The results of one group, one by one, each as soon as it is there."""
    made = MAKERS[type(members[0]).__name__](context, members)
    begin = time.perf_counter()
    for spec, result in made:
        seconds = time.perf_counter() - begin
        yield spec, {**result, "seconds": round(seconds, 3)}
        begin = time.perf_counter()


def adversarial(context: Context, members: Sequence[Adversarial]) -> Iterator[tuple[Spec, Made]]:
    """All budgets of one attack on the same surrogates."""
    spec = members[0]
    dataset, several = context.dataset(spec.data), tuple(map(context.predict, spec.surrogates))
    predict = several[0] if len(several) == 1 else several
    aims = classes_of(context, spec.goal, spec.data)
    crafting = context.cached(
        ("craft", spec.attack.key, spec.goal.targeted, spec.norm),
        lambda: context.mapped(_crafting(spec)),
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
        images = context.each(crafting, dataset, shared, f"{spec.attack.name} {255 * member.eps:.3g}/255")
        yield member, {"arrays": {"images": images, "aims": np.asarray(aims, np.int32)}}


def _crafting(spec: Adversarial) -> Callable[..., Array]:
    """(examples, shared) -> uint8 images; the budget is traced, so that all share one compilation."""

    def craft(examples: data.Examples, shared: tuple) -> Array:
        predict, eps, key, aims, pool = shared
        offered = {"eps": eps, "norm": spec.norm, "pool": pool}
        if spec.goal.targeted:
            offered["targeted"] = True
        attack = registry.make(registry.ATTACKS, spec.attack, **offered)
        clean = data.to_float(examples.images)
        images = attack(fold_in(key, examples.indices), predict, clean, aims[examples.indices])
        return jnp.round(255 * eight_bit(spec.norm, eps)(images, clean)).astype(jnp.uint8)

    return craft


def _pool(spec: Adversarial, dataset: data.Dataset) -> Array | None:
    """Other images, for attacks that mix them in."""
    if not registry.accepts(registry.ATTACKS, spec.attack, "pool"):
        return None
    return data.to_float(jnp.asarray(dataset.images[:POOL]))


POOL = 256
"""How many images of the attacked data Admix takes its partners from."""


def verdicts(context: Context, members: Sequence[Verdicts]) -> Iterator[tuple[Spec, Made]]:
    """All images for one target."""
    if isinstance(members[0].target, Service):
        yield from _recorded(context, members)
        return
    predict = context.predict(members[0].target)
    says: Callable[..., Array] = context.cached("verdicts", lambda: context.mapped(_classes), 0)
    for member in members:
        dataset = context.dataset(member.images)
        yield member, _said(context, member, context.each(says, dataset, predict, "verdicts"))


def _said(context: Context, spec: Verdicts, classes: np.ndarray) -> Made:
    """Verdicts with what they are compared with: labels, and what an attack aimed at."""
    said = {"classes": classes, "labels": np.asarray(context.dataset(spec.images).labels)}
    if isinstance(spec.images, Adversarial):
        said["aims"] = context.arrays(spec.images)["aims"]
    return {"arrays": said}


def _classes(examples: data.Examples, predict: Predict) -> Array:
    return predict(data.to_float(examples.images)).argmax(-1).astype(jnp.int32)


def _recorded(context: Context, members: Sequence[Verdicts]) -> Iterator[tuple[Spec, Made]]:
    from transferjax.study.services import read_record

    record = read_record(members[0].target.record)  # type: ignore[union-attr]
    for member in members:
        yield member, _said(context, member, record.classes(context.dataset(member.images).images))


def measures(context: Context, members: Sequence[Measure]) -> Iterator[tuple[Spec, Made]]:
    """One measure of one network, or of all pairs at once."""
    call = members[0].call
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
