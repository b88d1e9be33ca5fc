"""Specs as trees: what they hold and need, and as JSON."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from transferjax.study.specs import KINDS, STORED, Network, Spec, said_fields


def children(spec: Spec) -> Iterator[Spec]:
    """The specs that one holds directly, in the order of its fields."""

    def of(value: Any) -> Iterator[Spec]:
        if isinstance(value, Spec):
            yield value
        elif isinstance(value, tuple):
            for entry in value:
                yield from of(entry)

    for name in type(spec).model_fields:
        yield from of(getattr(spec, name))


def needs(spec: Spec) -> Iterator[Spec]:
    """The stored results that making this one reads, each once."""
    seen: dict[str, Spec] = {}

    def visit(parent: Spec) -> None:
        for child in children(parent):
            if isinstance(child, STORED):
                seen.setdefault(child.key, child)
            else:
                visit(child)

    visit(spec)
    return iter(seen.values())


def everything(demand: Iterable[Spec]) -> dict[str, Spec]:
    """By key, a demand and what it needs, inputs of inputs too."""
    found: dict[str, Spec] = {}
    todo = list(demand)
    while todo:
        spec = todo.pop()
        if spec.key not in found:
            found[spec.key] = spec
            todo += needs(spec)
    return found


def training_of(network: Network) -> Network:
    """The whole training that a network is a moment of."""
    return network.replace(epoch=None)


def rebuild(spec: Spec, change: Any) -> Any:
    """The same spec with every spec inside replaced by `change` of it, innermost first."""

    def of(value: Any) -> Any:
        if isinstance(value, Spec):
            return rebuild(value, change)
        return tuple(map(of, value)) if isinstance(value, tuple) else value

    return change(type(spec).model_construct(**{n: of(getattr(spec, n)) for n in type(spec).model_fields}))


def plain(spec: Spec) -> dict[str, Any]:
    """A spec as JSON has it: its kind, and every field that is not its default, keyed or not."""

    def of(value: Any) -> Any:
        if isinstance(value, Spec):
            return plain(value)
        return [of(v) for v in value] if isinstance(value, tuple) else value

    said = {name: getattr(spec, name) for name in said_fields(spec)}
    options = {name: dict(said.pop(name)) for name in ("options", "free") if name in said}
    values = {name: of(value) for name, value in said.items()}
    return {
        "kind": type(spec).__name__,
        **values,
        **{k: {n: of(v) for n, v in o.items()} for k, o in options.items()},
    }


def to_json(spec: Spec) -> str:
    """What `from_json` reads: for people and for workers."""
    return json.dumps(plain(spec), indent=1)


def from_json(text: str) -> Spec:
    """The spec of `to_json`."""
    return cast(type[Spec], KINDS[json.loads(text)["kind"]]).model_validate_json(text)
