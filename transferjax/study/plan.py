"""What a study needs, what of it is there, and in which groups the rest is made.

A plan is made of specs and of what the store holds; it computes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from transferjax.study.specs import Adversarial, Apply, Measure, Network, Pretrained, Spec, Verdicts
from transferjax.study.store import Store
from transferjax.study.walk import needs, training_of


@dataclass
class Group:
    """Results that one task makes, and the groups whose results it reads."""

    key: str
    members: list[Spec] = field(default_factory=list)
    after: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        return type(self.members[0]).__name__


@dataclass
class Plan:
    """Results by key, whole, and groups of those that are missing, inputs first."""

    found: dict[str, Spec]
    missing: dict[str, Spec]
    groups: list[Group]


def group_key(spec: Spec) -> str:
    """Specs of one group share a compiled program, and are made together.

    All epochs of one training; all budgets of surrogates x attack x goal; all images for one target; all
    pairs of a measure of pairs, for which each network's gradients are computed once.
    """
    if isinstance(spec, Network):
        return training_of(spec).key
    if isinstance(spec, Adversarial):
        return spec.replace(eps=0.0).key
    if isinstance(spec, Verdicts):
        return f"verdicts-{spec.target.key}"
    if isinstance(spec, Measure) and len(spec.of) > 1:
        return f"pairs-{spec.call.key}-{spec.data.key}"
    return spec.key


def make_plan(demand: Iterable[Spec], store: Store) -> Plan:
    """The closure of a demand: what is found stands for all that went into it.

    Args:
        demand: stored kinds (`specs.STORED`).
        store: what is there.
    """
    found: dict[str, Spec] = {}
    missing: dict[str, Spec] = {}
    todo = list(demand)[::-1]
    while todo:
        spec = todo.pop()
        if spec.key in found or spec.key in missing:
            continue
        if store.has(spec):
            found[spec.key] = spec
            continue
        missing[spec.key] = spec
        todo += reversed(list(needs(spec)))
    return Plan(found, missing, _groups(missing))


def _groups(missing: Mapping[str, Spec]) -> list[Group]:
    groups: dict[str, Group] = {}
    for spec in missing.values():
        groups.setdefault(group_key(spec), Group(group_key(spec))).members.append(spec)
    for group in groups.values():
        inputs = [child for spec in group.members for child in needs(spec) if child.key in missing]
        group.after = {group_key(child) for child in inputs} - {group.key}
    order = TopologicalSorter({group.key: group.after for group in groups.values()}).static_order()
    place = {key: number for number, key in enumerate(order)}
    return sorted(groups.values(), key=lambda group: place[group.key])


def clean_of(images: Spec) -> Spec:
    """The data that are attacked; what is not attacked as it is."""
    return images.data if isinstance(images, Adversarial) else images


def work(spec: Spec, size: Callable[[Spec], int]) -> float:
    """What one result costs, in images through a network: only ratios within a kind mean anything."""
    if isinstance(spec, Adversarial):
        return size(spec.data) * float(spec.attack.arguments.get("steps", 10))
    if isinstance(spec, Verdicts):
        return size(clean_of(spec.images))
    if isinstance(spec, Measure):
        return size(clean_of(spec.data))
    training = getattr(spec, "training", None)
    return size(spec.data) * (training.epochs if training else 1.0)  # type: ignore[attr-defined]


def program(spec: Spec) -> str:
    """Results of one program cost about the same per image."""
    if isinstance(spec, Network):
        return " ".join([spec.kind, spec.model.key, *(part.name for part in spec.parts)])
    call = getattr(spec, "attack", getattr(spec, "call", None))
    return " ".join([type(spec).__name__, *([call.key] if call else []), *sorted(set(_models(spec)))])


def _models(spec: Spec) -> Iterator[str]:
    """The architectures that images go through, and what is around them."""
    for net in networks_of(spec):
        if isinstance(net, Apply):
            yield " ".join([net.call.key, *_models(net)])
        elif isinstance(net, Pretrained):
            yield f"{net.model.key} {net.preprocessing.key} {net.label_map}"
        else:
            yield getattr(net, "model", net).key


def networks_of(spec: Spec) -> tuple[Spec, ...]:
    """What images go through where a result is made."""
    if isinstance(spec, Network):
        return (spec,)
    if isinstance(spec, Adversarial):
        return spec.surrogates
    if isinstance(spec, Verdicts):
        return (spec.target,)
    of = getattr(spec, "of", None) or ()
    return of if isinstance(of, tuple) else (of,)
