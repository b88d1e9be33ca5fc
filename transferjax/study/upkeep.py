"""What looks after a store: what is there (`ls`), why (`why`), and what nobody needs any more (`gc`)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from transferjax.study import mistakes, walk
from transferjax.study.specs import Spec
from transferjax.study.store import Entry, Store

NEAR = 3  # how many results that differ least are shown


def ls(store: Store) -> None:
    """A line for each result, and their sum."""
    studies = store.studies()
    names = {key: label for study in studies.values() for label, key in study["labels"].items()}
    count, total = 0, 0.0
    for entry in store.entries():
        size, spec = entry.bytes / 1e6, entry.readable
        called = names.get(entry.key, "") if spec else "(cannot be read)"
        print(f"{entry.kind:12} {entry.key[:12]}  {size:9.2f} MB  {entry.when}  {called}".rstrip())
        count, total = count + 1, total + size
    print(f"{count} results, {total:.1f} MB, studies: {', '.join(studies) or 'none'}")


def why(store: Store, text: str, labelled: Mapping[str, Spec]) -> None:
    """What a result is, what it needs, who needs it, and how it differs from those nearest to it.

    Args:
        store: where results are.
        text: a label, a key, or a key's beginning.
        labelled: the networks of a config; those that studies noted are known too.

    Raises:
        ValueError: nothing is called that, with the nearest.
    """
    studies, stored = store.studies(), {entry.key: entry for entry in store.entries()}
    noted = {key: label for study in studies.values() for label, key in study["labels"].items()}
    found = dict(_named(store, text, labelled))
    if not found:
        raise ValueError(
            f"nothing is called {text!r}; {mistakes.nearest(text, [*labelled, *noted.values()])}"
        )
    for key, (label, spec) in found.items():
        users = [name for name, study in studies.items() if key in study["keys"]]
        print(f"{label or noted.get(key, key)}: {key}, needed by {', '.join(users) or 'no study'}")
        print(f"  {_state(stored.get(key))}")
        if spec is None:
            continue
        print(f"  {json.dumps(walk.plain(spec))}")
        for need in walk.needs(spec):
            called = " ".join(filter(None, (type(need).__name__, need.key[:12], noted.get(need.key))))
            print(f"  needs {called}: {'there' if need.key in stored else 'missing'}")
        for entry, differences in nearest(store, spec, NEAR):
            print(f"  differs from {' '.join(filter(None, (entry.key[:12], noted.get(entry.key))))} in")
            print("\n".join(f"    {line}" for line in differences))


def _named(
    store: Store, text: str, labelled: Mapping[str, Spec]
) -> Iterator[tuple[str, tuple[str, Spec | None]]]:
    """(key, (label, spec)) of what a text names; what a config calls so comes before what was noted."""

    def means(label: str, key: str) -> bool:
        return text in (label, label.partition(" (")[0]) or (len(text) >= 6 and key.startswith(text))

    for entry in store.entries():
        if means("", entry.key):
            yield entry.key, ("", entry.readable)
    said = {label for label, spec in labelled.items() if means(label, spec.key)}
    for study in store.studies().values():
        for label, key in study["labels"].items():
            if means(label, key) and label not in said and key in study["specs"]:
                yield key, (label, walk.from_json(json.dumps(study["specs"][key])))
    yield from ((labelled[label].key, (label, labelled[label])) for label in said)


def _state(entry: Entry | None) -> str:
    if entry is None:
        return "missing"
    return f"stored: {json.dumps(entry.provenance)}" if entry.readable else "stored, but it cannot be read"


def gc(store: Store, min_age: float, drop: str = "", dry: bool = False) -> None:
    """Prints what no study names, and removes it.

    Args:
        store: where results are.
        min_age: seconds; younger ones are spared.
        drop: a study to forget first.
        dry: only print.

    Raises:
        ValueError: no such study, with the nearest.
    """
    if drop and drop not in store.studies():
        raise ValueError(f"no study {drop!r}; {mistakes.nearest(drop, store.studies())}")
    entries, leftovers = store.garbage(min_age, drop), store.leftovers(min_age, drop)
    for entry in entries:
        print(f"{entry.kind} {entry.key}  {entry.bytes / 1e6:.2f} MB")
    scratch = sum(path.parent.name == "scratch" for path in leftovers)
    size = sum(entry.bytes for entry in entries) / 1e6
    what = f"{len(entries)} results, {size:.1f} MB, and checkpoints of {scratch} trainings"
    print(f"{'would remove' if dry else 'removes'} {what}")
    if not dry:
        if drop:
            store.forget_study(drop)
        store.remove(entries, leftovers)


def differences(one: Spec, other: Spec, place: str = "") -> list[str]:
    """Where two specs of a kind differ in what counts: "data.content: a there, b here"."""
    if type(one) is not type(other):
        return [f"{place}: {type(one).__name__} there, {type(other).__name__} here"]
    lines: list[str] = []
    for name in type(one).model_fields:
        a, b, where = getattr(one, name), getattr(other, name), f"{place}.{name}".lstrip(".")
        if name in one.unkeyed or a == b:
            continue
        if isinstance(a, Spec) and isinstance(b, Spec):
            lines += differences(a, b, where)
        elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and _all_specs(a + b):
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                lines += [] if x == y else differences(x, y, f"{where}[{i}]")
        else:
            lines.append(f"{where}: {_short(a)} there, {_short(b)} here")
    return lines


def nearest(store: Store, spec: Spec, count: int = 1) -> list[tuple[Entry, list[str]]]:
    """The stored results of the same kind that differ least, and where."""
    others = [(e, e.readable) for e in store.entries(type(spec).__name__) if e.key != spec.key]
    found = [(e, differences(other, spec)) for e, other in others if other is not None]
    return sorted(found, key=lambda pair: len(pair[1]))[:count]


def _all_specs(values: tuple) -> bool:
    return bool(values) and all(isinstance(value, Spec) for value in values)


def _short(value: Any) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, Spec):
            return walk.plain(value)
        return [plain(entry) for entry in value] if isinstance(value, tuple) else value

    return json.dumps(plain(value))
