"""Results on disk under their keys: put, get, checksums, locks, and what looks after them.

<store>/
  objects/<kind>/<key>/  arrays.safetensors spec.json provenance.json
  scratch/<key>/         checkpoints of a training that goes on
  locks/<key>            held while a group is made; the kernel frees it when its holder dies
  studies/<name>.json    what a study demanded: the roots of `gc`
  studies/<name>/        its report

An object's directory appears by one rename: it is whole or absent. Where two finish the same, the second
steps back.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load, save

from transferjax.data.storage import atomic_directory
from transferjax.files import write_text
from transferjax.study import specs
from transferjax.study.specs import Service, Spec, Verdicts

Arrays = Mapping[str, np.ndarray]
ARRAYS, SPEC, PROVENANCE = "arrays.safetensors", "spec.json", "provenance.json"


class Corrupt(ValueError):
    """A stored result is not what was stored; `key` says which."""

    def __init__(self, kind: str, key: str, why: str):
        super().__init__(f"{kind} {key} is damaged ({why})")
        self.kind, self.key = kind, key


class Entry(NamedTuple):
    """One stored result."""

    kind: str
    key: str
    path: Path

    @property
    def spec(self) -> Spec:
        return specs.from_json((self.path / SPEC).read_text())

    @property
    def provenance(self) -> dict[str, Any]:
        """Who made it: versions, device, seconds, when; and the checksum of its arrays."""
        return json.loads((self.path / PROVENANCE).read_text())

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())


class Store:
    """A directory of results; reading touches nothing, and the first `put` makes it."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def path(self, spec: Spec) -> Path:
        """Where a result is, or would be."""
        return self.root / "objects" / type(spec).__name__ / spec.key

    def has(self, spec: Spec) -> bool:
        return self.path(spec).is_dir()

    def put(self, spec: Spec, arrays: Arrays, provenance: Mapping[str, Any]) -> None:
        """Keeps a result; one that is there already stays."""
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        said = {**provenance, "checksum": _checksum(content), "when": now()}
        try:
            with atomic_directory(self.path(spec)) as directory:
                (directory / ARRAYS).write_bytes(content)
                (directory / SPEC).write_text(specs.to_json(spec) + "\n")
                (directory / PROVENANCE).write_text(json.dumps(said, indent=1) + "\n")
        except FileExistsError:
            pass

    def get(self, spec: Spec) -> dict[str, np.ndarray]:
        """The arrays of a result.

        Raises:
            FileNotFoundError: it is not there.
            Corrupt: its content is not what was stored.
        """
        path = self.path(spec)
        if not path.is_dir():
            raise FileNotFoundError(f"{type(spec).__name__} {spec.key} is not in {self.root}")
        try:
            content = (path / ARRAYS).read_bytes()
            expected = json.loads((path / PROVENANCE).read_text())["checksum"]
            if _checksum(content) != expected:
                raise ValueError("its checksum differs")
            return load(content)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Corrupt(type(spec).__name__, spec.key, str(error)) from error

    def discard(self, kind: str, key: str) -> None:
        """Forgets a damaged result; what was bought is put aside (`damaged/`), it may be worth a look."""
        entry = Entry(kind, key, self.root / "objects" / kind / key)
        if entry.path.is_dir() and _bought(entry):
            aside = self.root / "damaged" / f"{kind}-{key}"
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            entry.path.rename(aside)
        shutil.rmtree(entry.path, ignore_errors=True)

    def entries(self, kind: str = "*") -> Iterator[Entry]:
        """All stored results of a kind."""
        for path in sorted((self.root / "objects").glob(f"{kind}/*")):
            if not path.name.startswith("."):
                yield Entry(path.parent.name, path.name, path)

    def scratch(self, key: str) -> Path:
        """A directory for what is worth keeping while a group is made."""
        return self.root / "scratch" / key

    def lock(self, key: str) -> FileLock:
        """The right to make a group; whoever dies with it, loses it."""
        directory = self.root / "locks"
        directory.mkdir(parents=True, exist_ok=True)
        return FileLock(directory / key)

    def write_study(self, name: str, demanded: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Notes what a study needs: key -> kind, and label -> key."""
        text = json.dumps({"name": name, "when": now(), "keys": demanded, "labels": labels}, indent=1)
        write_text(self.root / "studies" / f"{name}.json", text + "\n")

    def studies(self) -> dict[str, dict[str, Any]]:
        """What every study noted, by name."""
        return {p.stem: json.loads(p.read_text()) for p in sorted((self.root / "studies").glob("*.json"))}

    def garbage(self, min_age: float = 86400.0, without: str = "") -> list[Entry]:
        """Results that no study (but `without`) names and that are older than `min_age` seconds.

        Spared are answers of a service, which were bought, and the images that they are of.
        """
        kept = {key for name, study in self.studies().items() if name != without for key in study["keys"]}
        for entry in filter(_bought, self.entries(Verdicts.__name__)):
            spec = _spec_of(entry)
            kept |= {entry.key, *(child.key for child in (specs.needs(spec) if spec else ()))}
        return [e for e in self.entries() if e.key not in kept and _age(e.path) >= min_age]

    def leftovers(self, min_age: float = 86400.0) -> list[Path]:
        """Checkpoints of trainings that are finished, or were left for longer than `min_age` seconds."""
        done = {entry.key for entry in self.entries()}
        scratch = (self.root / "scratch").glob("*")
        return [path for path in sorted(scratch) if path.name in done or _age(path) >= min_age]

    def forget_study(self, name: str) -> None:
        """Drops a study: what it alone needed is garbage from then on."""
        path = self.root / "studies" / f"{name}.json"
        path.unlink()
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def find(self, text: str) -> list[tuple[str, str]]:
        """(label or "", key) of what a label, or the beginning of a key, names."""
        found = {
            (label, key)
            for study in self.studies().values()
            for label, key in study["labels"].items()
            if label == text or (len(text) >= 6 and key.startswith(text))
        }
        keyed = {key for _, key in found}
        stored = {("", e.key) for e in self.entries() if len(text) >= 6 and e.key.startswith(text)}
        return sorted(found | {pair for pair in stored if pair[1] not in keyed})


def _bought(entry: Entry) -> bool:
    """Whether a result came from a service; one whose spec cannot be read may have."""
    spec = _spec_of(entry)
    return entry.kind == Verdicts.__name__ and (
        spec is None or isinstance(getattr(spec, "target", None), Service)
    )


def _spec_of(entry: Entry) -> Spec | None:
    try:
        return entry.spec
    except (OSError, ValueError):  # damaged
        return None


def collect_garbage(store: Store, entries: Sequence[Entry]) -> None:
    """Removes results, each by one rename first, so that none is ever half there."""
    trash = store.root / "trash"
    trash.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        entry.path.rename(trash / f"{entry.kind}-{entry.key}")
    shutil.rmtree(trash)


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


def nearest(store: Store, spec: Spec) -> tuple[Entry, list[str]] | None:
    """The stored result of the same kind that differs least, and where."""
    found = [(e, differences(e.spec, spec)) for e in store.entries(type(spec).__name__)]
    found = [(e, d) for e, d in found if d]
    return min(found, key=lambda pair: len(pair[1]), default=None)


def now() -> str:
    """The time, to the second, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _all_specs(values: tuple) -> bool:
    return bool(values) and all(isinstance(value, Spec) for value in values)


def _short(value: Any) -> str:
    return json.dumps(specs.plain(value)) if isinstance(value, Spec) else str(value)


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime
