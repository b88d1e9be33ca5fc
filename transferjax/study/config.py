"""From a config to a study: every name bound, all data pinned, all mistakes at once.

A config is a ConfigDict of scalars and tuples (configs never import transferjax); a spec in it is a dict:

    c.networks = ((label, tags, spec or tuple of specs), …)   several specs are an ensemble, or snapshots
    c.attacks  = ((label, name, options), …)
    c.blocks   = ((name, {surrogates, attacks, goals, eps_255 or eps, norm, targets, data, measures, …}), …)
    c.views    = ((name, view, options), …)

A label may stand for several networks: a mechanism's seeds. Blocks name labels, so that no global cross
product is computed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from transferjax.attacks.vocabulary import check_budget
from transferjax.study import registry, resolve, said, specs
from transferjax.study.make import attack_of
from transferjax.study.said import Reader, Said
from transferjax.study.specs import (
    Adversarial,
    Apply,
    Call,
    Data,
    Derived,
    Goal,
    Mistakes,
    Network,
    Pretrained,
    Purifier,
    Service,
    Spec,
    Training,
    build,
    nearest,
    one_line,
)

NETWORKS: dict[str, type[Spec]] = {
    cls.__name__: cls for cls in (Network, Pretrained, Purifier, Apply, Service)
}
IMAGES: dict[str, type[Spec]] = {"Data": Data, "Derived": Derived}


class Member(NamedTuple):
    """One entry of `networks`: several specs where it is an ensemble."""

    label: str
    tags: Mapping[str, Any]
    specs: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.label} (seed {self.tags['seed']})" if "seed" in self.tags else self.label


@dataclass(frozen=True)
class Block:
    """Which surrogates are attacked how, and tried on which targets; what is measured of each.

    `measures` are (column, call, data); of one network, or of surrogate and target where `pairs` says so.
    """

    name: str
    surrogates: tuple[Member, ...]
    attacks: tuple[tuple[str, Call], ...] = ()
    goals: tuple[tuple[str, Goal], ...] = (("untargeted", Goal()),)
    budgets: tuple[tuple[str, float, float], ...] = ()
    norm: Any = "linf"
    targets: tuple[Member, ...] = ()
    data: Any = None
    accuracy: Any = None
    measures: tuple[tuple[str, Call, Data | Derived], ...] = ()
    noise: bool = True
    seed: int = 0


@dataclass(frozen=True)
class View:
    """A table or figure by name, its kind and options."""

    name: str
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """Networks and questions."""

    name: str
    title: str
    networks: tuple[Member, ...]
    blocks: Mapping[str, Block]
    views: tuple[View, ...]
    batch_size: int = 128
    checkpoint_epochs: int = 10
    error: str = "half_range"

    def labelled(self) -> dict[str, Spec]:
        """What it calls its networks, each member of an ensemble too."""
        return {
            str(member) if len(member.specs) == 1 else f"{member}[{i}]": spec
            for member in self.networks
            for i, spec in enumerate(member.specs)
        }


Stored = Callable[[Spec], bool]


def read(
    config: ConfigDict | Mapping[str, Any],
    views: Mapping[str, Any],
    name: str = "study",
    stored: Stored = lambda spec: False,
) -> Study:
    """The study of a config; nothing is computed, and no store is touched.

    Args:
        config: see above.
        views: the table of views, name -> row with `rows(study, **options)` and `options`.
        name: of the study, unless the config says one.
        stored: what was made already, and needs no trial.

    Raises:
        Mistakes: all that is wrong, one line each.
    """
    reader = Reader()
    if not isinstance(config, ConfigDict | Mapping):
        raise Mistakes([f"config: expected a ConfigDict; got {specs.short(config)}"])
    found = reader.shape(said.Head, {"name": name, **said.plain(config)}, "config")
    if found is None:
        raise Mistakes(reader.wrong)
    head, wrong = found
    known = {
        field: None if field in wrong else _labels(getattr(head, field))
        for field in ("networks", "attacks", "blocks")
    }
    networks = tuple(_networks(reader, head.networks, stored))
    attacks = dict(_attacks(reader, head.attacks))
    blocks = {b.name: b for b in _blocks(reader, head.blocks, known, networks, attacks, stored) if b}
    for field in ("networks", "views"):
        if not getattr(head, field) and field not in wrong:
            reader.wrong.append(f"config: {field} is empty, so nothing is asked")
    scalars = head.batch_size, head.checkpoint_epochs, head.error
    study = Study(head.name, head.title or head.name, networks, blocks, (), *scalars)
    study = replace(study, views=tuple(_views(reader, head.views, views, known["blocks"], study)))
    if reader.wrong:
        raise Mistakes(reader.wrong)
    return study


Labels = Sequence[str] | None


def _labels(entries: Sequence[Any]) -> Labels:
    """What entries are called, those with mistakes too; None where one says no label."""
    found = [
        entry[0] for entry in entries if isinstance(entry, tuple) and entry and isinstance(entry[0], str)
    ]
    return list(dict.fromkeys(found)) if len(found) == len(entries) else None


def _networks(reader: Reader, entries: Sequence[Any], stored: Stored) -> Iterable[Member]:
    names = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.NetworkEntry, entry, f"networks[{place}]")
        if found is None:
            continue
        label, spec = found.entry.label, found.entry.spec
        tags = {"mechanism": label, "seed": 0, **found.entry.tags.model_dump(exclude_unset=True)}
        where = f"network {label!r}"
        made = [reader.attempt(where, network, fields, where, stored) for fields in spec]
        member = Member(label, tags, tuple(made))
        names.append(str(member))
        if None not in made and not found.wrong:
            yield member
    reader.once(names, "networks:")


def network(fields: Mapping[str, Any], where: str = "network", stored: Stored = lambda spec: False) -> Any:
    """A bound and pinned network from plain fields; `kind` is Network unless they say another.

    Raises:
        Mistakes: one line each.
    """
    return bound(_of_kind(NETWORKS, fields, where), stored)


def _of_kind(kinds: Mapping[str, type[Spec]], fields: Mapping[str, Any], where: str) -> Any:
    """A spec of the kind that the fields say, the first by default."""
    name = fields.get("kind", next(iter(kinds)))
    if not isinstance(name, str) or name not in kinds:
        raise Mistakes([f"{where}: unknown kind {name!r}; {nearest(str(name), kinds)}"])
    return build(kinds[name], {**fields, "kind": name}, where)


TABLES: dict[type[Spec], dict[str, registry.Table]] = {
    Network: {"model": registry.MODELS},
    Pretrained: {"model": registry.MODELS, "preprocessing": registry.PREPROCESSING},
    Purifier: {"call": registry.PURIFIERS},
    Apply: {"call": registry.APPLY},
    Derived: {"call": registry.DERIVED},
    Adversarial: {"attack": registry.ATTACKS},
    Training: {
        "schedule": registry.SCHEDULES,
        "optimizer": registry.OPTIMIZERS,
        "augment": registry.AUGMENTS,
    },
    specs.Measure: {"call": registry.MEASURES},
}
"""Which table a call in which field belongs to."""


def bound(spec: Spec, stored: Stored = lambda spec: False) -> Any:
    """The spec with every call bound to its table, parts in the order of their slots, data and files pinned.

    Args:
        spec: as a config has it.
        stored: what was made already, and needs no trial.

    Raises:
        Mistakes: one line each.
    """
    wrong: list[str] = []

    def one(inner: Spec) -> Spec:
        changes: dict[str, Any] = {}
        for name, table in TABLES.get(type(inner), {}).items():
            call = getattr(inner, name)
            if call is not None:
                changes[name] = _noted(wrong, table, call)
        if isinstance(inner, Network):
            parts = [_noted(wrong, registry.PARTS, part) for part in inner.parts]
            if not wrong:
                slots = [registry.SLOTS.index(registry.PARTS.row(part.name).slot) for part in parts]
                parts = [part for _, part in sorted(zip(slots, parts, strict=True), key=lambda pair: pair[0])]
            whole = inner.epoch == inner.training.epochs
            changes |= {"parts": tuple(parts), "epoch": None if whole else inner.epoch}
            if inner.epoch is not None and inner.epoch > inner.training.epochs:
                wrong.append(f"epoch {inner.epoch:g} of a training of {inner.training.epochs:g} epochs")
        return inner.replace(**changes) if changes and not wrong else inner

    found = specs.rebuild(spec, one)
    try:
        found = resolve.pin(found)
    except Mistakes as error:
        wrong += error.lines
    if wrong:
        raise Mistakes(wrong)
    try:
        _try(found, stored)
    except (ValueError, TypeError, OSError) as error:
        raise Mistakes([one_line(error)]) from error
    return found


def _noted(wrong: list[str], table: registry.Table, call: Call) -> Call:
    try:
        return registry.bind(table, call)
    except Mistakes as error:
        wrong += error.lines
        return call


def _try(spec: Spec, stored: Stored) -> None:
    """Builds what costs nothing to build, so that a mistake shows before hours of training."""
    if isinstance(spec, specs.STORED) and stored(spec):
        return
    if isinstance(spec, Network):
        from transferjax.study.networks import check

        check(spec)
    if isinstance(spec, Purifier):
        from transferjax.study.nets import recipe_of

        recipe_of(spec)
    if isinstance(spec, Apply):
        registry.check_predicts(registry.APPLY, spec.call, len(spec.of))
    for child in specs.children(spec):
        _try(child, stored)


def _attacks(reader: Reader, entries: Sequence[Any]) -> Iterable[tuple[str, Call]]:
    names = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.AttackEntry, entry, f"attacks[{place}]")
        if found is None:
            continue
        label, name, options = found.entry.label, found.entry.name, found.entry.options
        names.append(label)
        call = reader.attempt(f"attack {label!r}", _call, registry.ATTACKS, name, options)
        if call is not None:
            yield label, call
    reader.once(names, "attacks:")


def _call(table: registry.Table, name: str, options: Mapping[str, Any]) -> Call:
    return registry.bind(table, build(Call, {"name": name, "options": options}, f"{table.what} {name!r}"))


def _blocks(
    reader: Reader,
    entries: Sequence[Any],
    known: Mapping[str, Labels],
    networks: Sequence[Member],
    attacks: Mapping[str, Call],
    stored: Stored,
) -> Iterable[Block | None]:
    names = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.BlockEntry, entry, f"blocks[{place}]")
        where = f"block {found.entry.name!r}" if found else ""
        fields = found and reader.shape(said.BlockFields, found.entry.fields, where)
        if found and fields and not found.wrong:
            names.append(found.entry.name)
            yield _block(reader, where, found.entry.name, fields, known, networks, attacks, stored)
    reader.once(names, "blocks:")


def _block(
    reader: Reader,
    where: str,
    label: str,
    found: Said,
    known: Mapping[str, Labels],
    networks: Sequence[Member],
    attacks: Mapping[str, Call],
    stored: Stored,
) -> Block | None:
    before, fields = len(reader.wrong), found.entry
    chosen = {
        name: _members(reader, where, name, fields, known, networks) for name in ("surrogates", "targets")
    }
    reader.expect(known["attacks"], fields.attacks, f"{where}, attacks", "attack")
    needed = ("surrogates", *(("targets", "goals", "data") if fields.attacks else ()))
    for name in needed:
        if not getattr(fields, name) and name not in found.wrong:
            reader.wrong.append(f"{where}: {name} is empty, so nothing would be made")
    if fields.attacks and not fields.eps_255 + fields.eps and not found.wrong & {"eps", "eps_255"}:
        reader.wrong.append(f"{where}: eps_255 (or eps) is empty, so nothing would be attacked")
    for name in ("attacks", "eps_255", "eps"):
        reader.once(getattr(fields, name), f"{where}, {name}:")
    named = tuple((name, attacks[name]) for name in fields.attacks if name in attacks)
    goals = tuple(_goals(reader, where, fields.goals, stored))
    images = {
        name: reader.attempt(f"{where}, {name}", _data, getattr(fields, name), stored)
        for name in ("data", "accuracy")
        if getattr(fields, name)
    }
    budgets = tuple(_budgets(reader, where, fields))
    for (name, call), member in product(named, chosen["surrogates"]):
        line = f"{where}: {member}, attack {name!r}"
        reader.attempt(line, registry.check_surrogates, call, len(member.specs))
    for (name, call), (goal_name, goal) in product(named, goals):
        line = f"{where}: attack {name!r} with goal {goal_name!r}"
        reader.attempt(line, check_attack, call, goal, budgets[0][2] if budgets else 0.1, fields.norm)
    measures = tuple(_measures(reader, where, fields.measures, stored))
    whole = len(named) == len(fields.attacks) and all(
        {member.label for member in chosen[name]} == set(getattr(fields, name)) for name in chosen
    )
    if len(reader.wrong) > before or found.wrong or not whole:
        return None
    data = images.get("data")
    return Block(
        label,
        chosen["surrogates"],
        named,
        goals,
        budgets,
        fields.norm,
        chosen["targets"],
        data,
        images.get("accuracy", data),
        measures,
        fields.noise,
        fields.seed,
    )


def _members(
    reader: Reader,
    where: str,
    field: str,
    fields: said.BlockFields,
    known: Mapping[str, Labels],
    networks: Sequence[Member],
) -> tuple[Member, ...]:
    labels = getattr(fields, field)
    reader.expect(known["networks"], labels, f"{where}, {field}", "network")
    reader.once(labels, f"{where}, {field}:")
    members = tuple(member for label in labels for member in networks if member.label == label)
    kinds = (Purifier,) if field == "targets" else (Service, Purifier)
    wrong = {member.label for member in members if isinstance(member.specs[0], kinds)}
    reader.wrong += [f"{where}: {label!r} cannot stand among the {field}" for label in sorted(wrong)]
    return members


def _goals(
    reader: Reader, where: str, goals: Sequence[tuple[str, Any]], stored: Stored
) -> Iterable[tuple[str, Goal]]:
    reader.once([label for label, _ in goals], f"{where}, goals:")
    for label, fields in goals:
        line = f"{where}, goal {label!r}"
        goal = reader.attempt(line, lambda f=fields, w=line: bound(build(Goal, f, w), stored))
        if goal is not None:
            yield label, goal


def _budgets(reader: Reader, where: str, fields: said.BlockFields) -> Iterable[tuple[str, float, float]]:
    """Label, budget in 0–255 units, and in those of [0, 1]."""
    for label, eps_255, eps in (
        *((f"{e:g}/255", float(e), float(e) / 255) for e in fields.eps_255),
        *((f"{e:g}", 255.0 * float(e), float(e)) for e in fields.eps),
    ):
        before = len(reader.wrong)
        reader.attempt(f"{where}: a budget of {label}", check_budget, eps, None, 1, fields.norm)
        if len(reader.wrong) == before:
            yield label, eps_255, eps


def _data(fields: Mapping[str, Any], stored: Stored) -> Any:
    return bound(_of_kind(IMAGES, fields, "data"), stored)


def _measures(
    reader: Reader, where: str, entries: Sequence[Any], stored: Stored
) -> Iterable[tuple[str, Call, Any]]:
    columns = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.MeasureEntry, entry, f"measures[{place}]")
        if found is None:
            continue
        column, name = found.entry.column, found.entry.name
        columns.append(column)
        line = f"{where}, measure {column!r}"
        call = reader.attempt(line, _call, registry.MEASURES, name, found.entry.options)
        images = reader.attempt(line, _data, found.entry.data, stored)
        if call and images:
            yield column, call, images
    reader.once(columns, f"{where}, measures:")


def check_attack(call: Call, goal: Goal, eps: float, norm: str) -> None:
    """Builds an attack, so that what it refuses shows now.

    Raises:
        ValueError: options, a norm or a goal that it does not know.
    """
    mixes = registry.accepts(registry.ATTACKS, call, "pool")
    attack_of(call, goal, eps, norm, np.zeros((1, 1, 1, 1), np.uint8) if mixes else None)


def _views(
    reader: Reader, entries: Sequence[Any], table: Mapping[str, Any], blocks: Labels, study: Study
) -> Iterable[View]:
    names = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.ViewEntry, entry, f"views[{place}]")
        if found is None:
            continue
        name, kind, options = found.entry.name, found.entry.view, found.entry.options
        where, before = f"view {name!r}", len(reader.wrong)
        names.append(name)
        reader.expect(table, (kind,), where, "view")
        if kind in table:
            reader.expect(table[kind].options, options, where, "option")
        reader.expect(blocks, (options.get("block", "(none)"),), where, "block")
        if len(reader.wrong) == before and options["block"] in study.blocks:
            reader.attempt(where, lambda k=kind, o=options: list(table[k].rows(study, **o)))
        yield View(name, kind, options)
    reader.once(names, "views:")
