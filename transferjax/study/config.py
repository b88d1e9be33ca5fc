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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from transferjax.study import registry, resolve, specs
from transferjax.study.make import attack_of
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


FIELDS = (
    "name",
    "title",
    "networks",
    "attacks",
    "blocks",
    "views",
    "batch_size",
    "checkpoint_epochs",
    "error",
)


class _Reader:
    """Collects what is wrong instead of stopping at the first mistake."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def attempt(self, where: str, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns, or None with its mistakes noted."""
        try:
            return function(*args)
        except Mistakes as error:
            self.wrong += [line if line.startswith(where) else f"{where}: {line}" for line in error.lines]
        except (ValueError, TypeError, FileNotFoundError) as error:
            self.wrong.append(f"{where}: {one_line(error)}")
        return None

    def expect(self, known: Iterable[str], given: Iterable[str], where: str, what: str = "field") -> None:
        """Unknown names are mistakes, with the nearest."""
        known = list(known)
        for name in given:
            if name not in known:
                self.wrong.append(f"{where}: unknown {what} {name!r}; {nearest(name, known)}")


def read(config: ConfigDict | Mapping[str, Any], views: Mapping[str, Any], name: str = "study") -> Study:
    """The study of a config; nothing is computed, and no store is touched.

    Args:
        config: see above.
        views: the table of views, name -> row with `check(study, options)`.
        name: of the study, unless the config says one.

    Raises:
        Mistakes: all that is wrong, one line each.
    """
    reader = _Reader()
    entries = dict(config.items())
    reader.expect(FIELDS, entries, "config")
    said = {field: _labels(entries.get(field, ())) for field in ("networks", "attacks", "blocks")}
    networks = tuple(_networks(reader, entries.get("networks", ())))
    attacks = dict(_attacks(reader, entries.get("attacks", ())))
    blocks = {}
    for place, entry in enumerate(entries.get("blocks", ())):
        label, fields = _entry(reader, entry, 2, f"blocks[{place}]") or ("", {})
        block = _block(reader, f"block {label!r}", label, dict(fields), said, networks, attacks)
        if block is not None:
            blocks[label] = block
    study = Study(
        str(entries.get("name", name)),
        str(entries.get("title", name)),
        networks,
        blocks,
        tuple(_views(reader, entries.get("views", ()), views, said["blocks"])),
        int(entries.get("batch_size", 128)),
        int(entries.get("checkpoint_epochs", 10)),
        str(entries.get("error", "half_range")),
    )
    if not entries.get("networks"):
        reader.wrong.append("config: networks is empty")
    if not entries.get("views"):
        reader.wrong.append("config: views is empty, so nothing is asked")
    if reader.wrong:
        raise Mistakes(reader.wrong)
    return study


def _labels(entries: Sequence[Any]) -> tuple[str, ...]:
    """What entries are called, those with mistakes too: one mistake is one line."""
    return tuple(
        dict.fromkeys(str(entry[0]) for entry in entries if isinstance(entry, tuple | list) and entry)
    )


def _entry(reader: _Reader, entry: Any, length: int, where: str) -> Any:
    if isinstance(entry, tuple | list) and len(entry) == length:
        return entry
    reader.wrong.append(f"{where}: expected a tuple of {length}; got {entry!r}")
    return None


def _networks(reader: _Reader, entries: Sequence[Any]) -> Iterable[Member]:
    for place, entry in enumerate(entries):
        found = _entry(reader, entry, 3, f"networks[{place}]")
        if found is None:
            continue
        label, tags, said = found
        several = said if isinstance(said, tuple | list) else (said,)
        made = [
            reader.attempt(f"network {label!r}", network, fields, f"network {label!r}") for fields in several
        ]
        if not several:
            reader.wrong.append(f"network {label!r}: an ensemble of no networks")
        if None not in made:
            yield Member(label, {"mechanism": label, "seed": 0, **tags}, tuple(made))


def network(fields: Mapping[str, Any], where: str = "network") -> Spec:
    """A bound and pinned network from plain fields; `kind` is Network unless they say another.

    Raises:
        Mistakes: one line each.
    """
    kind = NETWORKS.get(str(fields.get("kind", "Network")))
    if kind is None:
        raise Mistakes(
            [f"{where}: unknown kind {fields['kind']!r}; {nearest(str(fields['kind']), NETWORKS)}"]
        )
    return bound(build(kind, {**fields, "kind": kind.__name__}, where))


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


def bound(spec: Spec) -> Any:
    """The spec with every call bound to its table, parts in the order of their slots, data and files pinned.

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
    if wrong:
        raise Mistakes(wrong)
    found = resolve.pin(found)
    try:
        _try(found)
    except (ValueError, FileNotFoundError) as error:
        raise Mistakes([one_line(error)]) from error
    return found


def _noted(wrong: list[str], table: registry.Table, call: Call) -> Call:
    try:
        return registry.bind(table, call)
    except Mistakes as error:
        wrong += error.lines
        return call


def _try(spec: Spec) -> None:
    """Builds what costs nothing to build, so that a mistake shows before hours of training."""
    if isinstance(spec, Network):
        from transferjax.study.networks import check

        check(spec)
    if isinstance(spec, Purifier):
        from transferjax.study.purifiers import recipe_of

        recipe_of(spec)
    if isinstance(spec, Apply):
        registry.check_predicts(registry.APPLY, spec.call, len(spec.of))
    for child in specs.children(spec):
        _try(child)


def _attacks(reader: _Reader, entries: Sequence[Any]) -> Iterable[tuple[str, Call]]:
    for place, entry in enumerate(entries):
        found = _entry(reader, entry, 3, f"attacks[{place}]")
        if found is None:
            continue
        label, name, options = found
        where = f"attack {label!r}"
        call = reader.attempt(where, build, Call, {"name": name, "options": options}, where)
        call = call and reader.attempt(where, registry.bind, registry.ATTACKS, call)
        if call is not None:
            yield label, call


BLOCK_FIELDS = (
    "surrogates", "attacks", "goals", "eps_255", "eps", "norm", "targets", "data", "accuracy", "measures",
    "noise", "seed",
)  # fmt: skip


def _block(
    reader: _Reader,
    where: str,
    label: str,
    fields: dict[str, Any],
    said: Mapping[str, Sequence[str]],
    networks: Sequence[Member],
    attacks: Mapping[str, Call],
) -> Block | None:
    before = len(reader.wrong)
    reader.expect(BLOCK_FIELDS, fields, where)
    chosen = {
        name: _members(reader, where, name, fields.get(name, ()), said["networks"], networks)
        for name in ("surrogates", "targets")
    }
    for name, kinds in (("surrogates", (Service, Purifier)), ("targets", (Purifier,))):
        wrong = {member.label for member in chosen[name] if isinstance(member.specs[0], kinds)}
        reader.wrong += [f"{where}: {label!r} cannot stand among the {name}" for label in sorted(wrong)]
    reader.expect(said["attacks"], fields.get("attacks", ()), where, "attack")
    named = tuple((name, attacks[name]) for name in fields.get("attacks", ()) if name in attacks)
    goals = tuple(
        g for g in (_goal(reader, where, goal) for goal in fields.get("goals", ("untargeted",))) if g
    )
    images = {
        name: reader.attempt(where, _data, fields[name]) for name in ("data", "accuracy") if name in fields
    }
    if named and "data" not in fields:
        reader.wrong.append(f"{where}: attacks without data")
    for name in ("surrogates", *(("targets",) if named else ())):
        if not fields.get(name):
            reader.wrong.append(f"{where}: {name} is empty, so nothing would be made")
    budgets = tuple((f"{e:g}/255", float(e), float(e) / 255) for e in fields.get("eps_255", ()))
    budgets += tuple((f"{e:g}", 255.0 * float(e), float(e)) for e in fields.get("eps", ()))
    if named and not budgets:
        reader.wrong.append(f"{where}: eps_255 (or eps) is empty, so nothing would be attacked")
    norm = fields.get("norm", "linf")
    for name, call in named:
        for member in chosen["surrogates"]:
            reader.attempt(
                f"{where}: {member}, attack {name!r}", registry.check_surrogates, call, len(member.specs)
            )
        for goal_name, goal in goals:
            line = f"{where}: attack {name!r} with goal {goal_name!r}"
            reader.attempt(line, check_attack, call, goal, budgets[0][2] if budgets else 0.1, norm)
    measures = tuple(filter(None, (_measure(reader, where, entry) for entry in fields.get("measures", ()))))
    if len(reader.wrong) > before:
        return None
    data = images.get("data")
    return Block(
        label,
        chosen["surrogates"],
        named,
        goals,
        budgets,
        norm,
        chosen["targets"],
        data,
        images.get("accuracy", data),
        measures,
        bool(fields.get("noise", True)),
        int(fields.get("seed", 0)),
    )


def _members(
    reader: _Reader,
    where: str,
    field: str,
    wanted: Any,
    known: Sequence[str],
    networks: Sequence[Member],
) -> tuple[Member, ...]:
    labels = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    reader.expect(known, labels, f"{where}, {field}", "network")
    return tuple(member for label in labels for member in networks if member.label == label)


def _goal(reader: _Reader, where: str, said: Any) -> tuple[str, Goal] | None:
    label, fields = (said, {"aim": said}) if isinstance(said, str) else (said[0], dict(said[1]))
    goal = reader.attempt(where, lambda: bound(build(Goal, fields, f"{where}, goal {label!r}")))
    return None if goal is None else (label, goal)


def _data(fields: Any) -> Any:
    kinds: dict[str, type[Spec]] = {"Data": Data, "Derived": Derived}
    kind = kinds[str(fields.get("kind", "Data"))]
    return bound(build(kind, {**fields, "kind": kind.__name__}, "data"))


def _measure(reader: _Reader, where: str, entry: Any) -> Any:
    found = _entry(reader, entry, 4, f"{where}, measures")
    if found is None:
        return None
    column, name, options, fields = found
    call = reader.attempt(where, lambda: registry.bind(registry.MEASURES, Call(name=name, options=options)))
    images = reader.attempt(where, _data, fields)
    return (column, call, images) if call and images else None


def check_attack(call: Call, goal: Goal, eps: float, norm: str) -> None:
    """Builds an attack, so that what it refuses shows now.

    Raises:
        ValueError: options, a norm or a goal that it does not know.
    """
    mixes = registry.accepts(registry.ATTACKS, call, "pool")
    attack_of(call, goal, eps, norm, np.zeros((1, 1, 1, 1), np.uint8) if mixes else None)


def _views(
    reader: _Reader, entries: Sequence[Any], table: Mapping[str, Any], blocks: Sequence[str]
) -> Iterable[View]:
    for place, entry in enumerate(entries):
        found = _entry(reader, entry, 3, f"views[{place}]")
        if found is None:
            continue
        name, kind, options = found
        if kind not in table:
            reader.wrong.append(f"view {name!r}: unknown view {kind!r}; {nearest(kind, table)}")
            continue
        known = table[kind].options
        reader.expect(known, options, f"view {name!r}", "option")
        if options.get("block", "") not in blocks:
            block = options.get("block", "")
            reader.wrong.append(f"view {name!r}: unknown block {block!r}; {nearest(block, blocks)}")
            continue
        yield View(name, kind, dict(options))
