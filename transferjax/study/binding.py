"""A call as it enters keys: options checked against the factory, typed, defaults left out."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from transferjax.study import content, ranges, registry, specs, walk
from transferjax.study.mistakes import Mistakes, near, nearest, one_line
from transferjax.study.registry import PIECES, Table
from transferjax.study.specs import (
    Adversarial,
    Apply,
    Call,
    Data,
    Derived,
    Network,
    Pretrained,
    Purifier,
    Service,
    Spec,
    Training,
    build,
)


def bind(table: Table, call: Call) -> Call:
    """The call as it enters keys: its row's version, options checked, defaults left out, free ones apart.

    Raises:
        Mistakes: an unknown name or option, with the nearest.
    """
    row, known = table.row(call.name), table.options(call.name)
    options, free, wrong = {}, {}, []
    for name, value in call.arguments.items():
        if name not in known:
            mine = "; the engine gives it, from the study around" if name in table.offered else ""
            wrong.append(f"{table.what} {call.name!r} has no option {name!r}{mine}; {nearest(name, known)}")
            continue
        try:
            value = _typed(_bind_pieces(value), known[name].annotation)
        except Mistakes as error:
            wrong += error.lines
            continue
        if not _fits(value, known[name].annotation):
            kind = _words(known[name].annotation)
            wrong.append(f"{table.what} {call.name!r}: {name} must be {kind}; got {value!r}")
        elif value != known[name].default:  # a default may mean more than a number: 0, for all
            try:
                ranges.check(table.allowed, call.name, name, value)
            except ValueError as error:
                wrong.append(f"{table.what} {call.name!r}: {error}")
        if name in row.free:
            free[name] = value
        elif type(value) is not type(known[name].default) or value != known[name].default:
            options[name] = value
    missing = [n for n, p in known.items() if p.default is p.empty and n not in call.arguments]
    meant = {name for unknown in call.arguments.keys() - known.keys() for name in near(unknown, known)}
    wrong += [
        f"{table.what} {call.name!r} needs the option {name!r}" for name in missing if name not in meant
    ]
    if wrong:
        raise Mistakes(wrong)
    if row.files:
        options, free = _with_files(f"{table.what} {call.name!r}", row, options, free)
    return Call(name=call.name, options=options, free=free, version=row.version)


def _with_files(where: str, row: registry.Row, options: dict, free: dict) -> tuple[dict, dict]:
    """The options with their files' hashes, unless these are said; and the paths, as any directory sees them.

    Raises:
        Mistakes: a file that is not there.
    """
    paths = {name: str(Path(free[name]).absolute()) for name, _ in row.files}
    if "sha256" not in options:
        lost = {name: what for name, what in row.files if not Path(paths[name]).is_file()}
        if lost:
            raise Mistakes(
                [f"{where}: {n}={free[n]!r} is not there: expected {what}" for n, what in lost.items()]
            )
        options = options | {"sha256": tuple(map(content.sha256, paths.values()))}
    return options, free | paths


def _bind_pieces(value: Any) -> Any:
    if isinstance(value, Call):
        return bind(PIECES, value)
    return tuple(map(_bind_pieces, value)) if isinstance(value, tuple) else value


def _typed(value: Any, annotation: Any) -> Any:
    """What is meant has one spelling: 1 is 1.0 where decimals are wanted, and one where several may stand."""
    kind, inside = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return next((_typed(value, part) for part in inside if _fits(value, part)), value)
    if kind is float and type(value) is int:
        return float(value)
    if _many(kind) and (len(inside) == 1 or inside[1:] == (...,)):
        return tuple(_typed(entry, inside[0]) for entry in (value if isinstance(value, tuple) else (value,)))
    return value


def _many(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Iterable) and kind is not str


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a parameter's type; where it wants no scalar, a call stands for what it makes."""
    kind, inside = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Any, inspect.Parameter.empty):
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in inside)
    if kind is type(None) or kind is None:
        return value is None
    if kind in (bool, int, str):
        return type(value) is kind
    if kind is Literal:
        return any(type(value) is type(each) and value == each for each in inside)
    if kind is float:
        return type(value) in (float, int)
    if _many(kind):
        if not isinstance(value, tuple):
            return False
        if len(inside) == 1 or inside[1:] == (...,):
            return all(_fits(entry, inside[0]) for entry in value)
        return not inside or (len(inside) == len(value) and all(map(_fits, value, inside)))
    return isinstance(value, Call)


def _words(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(repr, get_args(annotation)))}"
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return "a piece" if "Callable" in text or "Transformation" in text else str(text)


def call_of(table: registry.Table, name: str, options: Mapping[str, Any]) -> Call:
    return bind(table, build(Call, {"name": name, "options": options}, f"{table.what} {name!r}"))


NETWORKS: dict[str, type[Spec]] = {
    cls.__name__: cls for cls in (Network, Pretrained, Purifier, Apply, Service)
}


IMAGES: dict[str, type[Spec]] = {"Data": Data, "Derived": Derived}


Stored = Callable[[Spec], bool]


Labels = Sequence[str] | None


def network(fields: Mapping[str, Any], where: str = "network", stored: Stored = lambda spec: False) -> Any:
    """A bound and pinned network from plain fields; `kind` is Network unless they say another.

    Raises:
        Mistakes: one line each.
    """
    return bound(of_kind(NETWORKS, fields, where), stored)


def of_kind(kinds: Mapping[str, type[Spec]], fields: Mapping[str, Any], where: str) -> Any:
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

    found = walk.rebuild(spec, one)
    try:
        found = content.pin(found)
    except Mistakes as error:
        wrong += error.lines
    if wrong:
        raise Mistakes(wrong)
    from transferjax.study.trial import try_out  # with Flax and optax, for those who build

    try:
        try_out(found, stored)
    except (ValueError, TypeError, OSError) as error:
        raise Mistakes([one_line(error)]) from error
    return found


def _noted(wrong: list[str], table: registry.Table, call: Call) -> Call:
    try:
        return bind(table, call)
    except Mistakes as error:
        wrong += error.lines
        return call
