"""Blocks: which surrogates, attacks, goals, budgets and targets are crossed, and with what data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from transferjax.attacks.vocabulary import check_budget
from transferjax.study import registry, said
from transferjax.study.binding import IMAGES, Labels, Stored, bound, call_of, of_kind
from transferjax.study.make import attack_of
from transferjax.study.said import Reader, Said
from transferjax.study.specs import (
    Call,
    Data,
    Derived,
    Goal,
    Purifier,
    Service,
    build,
)


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


def read_attacks(reader: Reader, entries: Sequence[Any]) -> Iterable[tuple[str, Call]]:
    names = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.AttackEntry, entry, f"attacks[{place}]")
        if found is None:
            continue
        label, name, options = found.entry.label, found.entry.name, found.entry.options
        names.append(label)
        call = reader.attempt(f"attack {label!r}", call_of, registry.ATTACKS, name, options)
        if call is not None:
            yield label, call
    reader.once(names, "attacks:")


def read_blocks(
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
        if 0 < eps_255 < 1 - 1e-6:
            meant = f": write eps_255=({255 * eps_255:g},)" if label.endswith("/255") else ""
            reader.wrong.append(
                f"{where}: a budget of {label} is below 1/255, and 8-bit images lose it{meant}"
            )
        if len(reader.wrong) == before:
            yield label, eps_255, eps


def _data(fields: Mapping[str, Any], stored: Stored) -> Any:
    return bound(of_kind(IMAGES, fields, "data"), stored)


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
        call = reader.attempt(line, call_of, registry.MEASURES, name, found.entry.options)
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
