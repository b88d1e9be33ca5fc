"""Results on disk under their keys: put, get, checksums, locks, and what looks after them.

<store>/
  objects/<kind>/<key>/  arrays.safetensors spec.json provenance.json
  scratch/<key>/         checkpoints of a training that goes on
  locks/<key>            held while a group is made; the kernel frees it when its holder dies
  studies/<name>.json    what a study needs, all its views: the roots of `gc`
  studies/<name>/        its report

An object's directory appears by one rename: it is whole or absent. Where two finish the same, the second
steps back.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load, save

from transferjax.data.storage import atomic_directory
from transferjax.files import Unwritable, checksum, directory_at, write_text, writing
from transferjax.study import walk
from transferjax.study.specs import Network, Service, Spec, Verdicts

Arrays = Mapping[str, np.ndarray]
ARRAYS, SPEC, PROVENANCE = "arrays.safetensors", "spec.json", "provenance.json"


class Corrupt(ValueError):
    """A stored result is not what was stored; `key` says which."""

    def __init__(self, kind: str, key: str, why: str):
        super().__init__(f"{kind} {key} is damaged ({why})")
        self.kind, self.key = kind, key


class Missing(Corrupt, FileNotFoundError):
    """A result is not there (any more): another run may have found it damaged."""


class Entry(NamedTuple):
    """One stored result."""

    kind: str
    key: str
    path: Path

    @property
    def spec(self) -> Spec:
        return walk.from_json((self.path / SPEC).read_text())

    @property
    def provenance(self) -> dict[str, Any]:
        """Who made it: versions, device, seconds (its own, and of what it was made of), when; checksums."""
        return json.loads((self.path / PROVENANCE).read_text())

    @property
    def seconds(self) -> float | None:
        """What it took to make; None where that was not noted, or cannot be read (any more)."""
        try:
            return float(self.provenance["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def of(self) -> dict[str, float]:
        """What the results took that it was made of, by key; nothing where that cannot be read."""
        try:
            return {str(key): float(seconds) for key, seconds in self.provenance["of"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    @property
    def readable(self) -> Spec | None:
        """The spec; None where it is damaged, or was written by a version that knew other fields."""
        try:
            written = self.provenance.get("spec")  # which older versions did not note
            whole = written in (None, checksum((self.path / SPEC).read_bytes()))
            return self.spec if whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @property
    def when(self) -> str:
        """When it was made."""
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC).isoformat(timespec="seconds")

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

    def entry(self, spec: Spec) -> Entry:
        """A result as it lies on disk, with its provenance."""
        return Entry(type(spec).__name__, spec.key, self.path(spec))

    def put(self, spec: Spec, arrays: Arrays, provenance: Mapping[str, Any]) -> None:
        """Keeps a result; one that is there already stays.

        Raises:
            Unwritable: no space, no permission, no disk.
        """
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        text = walk.to_json(spec) + "\n"
        marks = {"checksum": checksum(content), "spec": checksum(text.encode())}
        said = {"when": now(), **provenance, **marks}
        try:
            with atomic_directory(self.path(spec)) as directory:
                (directory / ARRAYS).write_bytes(content)
                (directory / SPEC).write_text(text)
                (directory / PROVENANCE).write_text(json.dumps(said, indent=1) + "\n")
        except FileExistsError:
            pass
        except Unwritable:
            raise
        except OSError as error:
            raise Unwritable(f"cannot write {self.path(spec)}: {error.strerror or error}") from error

    def get(self, spec: Spec) -> dict[str, np.ndarray]:
        """The arrays of a result.

        Raises:
            Missing: it is not there.
            Corrupt: its content is not what was stored. (A disk that does not answer is another error.)
        """
        path = self.path(spec)
        if not path.is_dir():
            raise Missing(type(spec).__name__, spec.key, f"it is not in {self.root}")
        try:
            content = (path / ARRAYS).read_bytes()
            expected = json.loads((path / PROVENANCE).read_text())["checksum"]
            if checksum(content) != expected:
                raise ValueError("its checksum differs")
            return dict(sorted(load(content).items()))  # it reads them in any order
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
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
        with writing(self.root):
            return FileLock(directory_at(self.root / "locks") / key)

    def write_study(self, name: str, demand: Iterable[Spec], labelled: Mapping[str, Spec]) -> None:
        """Notes what a study needs, inputs of inputs too, and what it calls its networks."""
        needed = walk.everything(demand)
        trained = {key: spec for key, spec in needed.items() if isinstance(spec, Network)}
        note = {
            "name": name,
            "when": now(),
            "keys": {key: type(spec).__name__ for key, spec in needed.items()},
            "labels": {label: spec.key for label, spec in labelled.items()},
            "specs": {spec.key: walk.plain(spec) for spec in labelled.values()},
            "trainings": {key: walk.training_of(spec).key for key, spec in trained.items()},
        }
        write_text(self.root / "studies" / f"{name}.json", json.dumps(note, indent=1) + "\n")

    def studies(self) -> dict[str, dict[str, Any]]:
        """What every study noted, by name.

        Raises:
            ValueError: a note cannot be read, so that nobody knows what its study needs.
        """
        notes = {}
        for path in sorted((self.root / "studies").glob("[!.]*.json")):
            try:
                notes[path.stem] = {
                    "labels": {},
                    "specs": {},
                    "trainings": {},
                    **json.loads(path.read_text()),
                }
                notes[path.stem]["keys"].keys()
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{path} is damaged: run its study again, or remove it") from None
        return notes

    def garbage(self, min_age: float = 86400.0, without: str = "") -> list[Entry]:
        """Results that no study (but `without`) names and that are older than `min_age` seconds.

        Spared are answers of a service, which were bought, and the images that they are of.
        """
        kept = {key for name, study in self.studies().items() if name != without for key in study["keys"]}
        for entry in filter(_bought, self.entries(Verdicts.__name__)):
            spec = entry.readable
            kept |= {entry.key, *(child.key for child in (walk.needs(spec) if spec else ()))}
        return [e for e in self.entries() if e.key not in kept and _age(e.path) >= min_age]

    def leftovers(self, min_age: float = 86400.0, without: str = "") -> list[Path]:
        """What nobody goes on with, older than `min_age` seconds, and what killed runs left half written.

        Checkpoints are gone on with where a study (but `without`) names a result of their training, and it is
        not there. Locks that nobody holds are nothing.
        """
        done, wanted = {entry.key for entry in self.entries()}, set[str]()
        for name, study in self.studies().items():
            missing = study["keys"].keys() - done if name != without else set()
            wanted |= {study["trainings"].get(key, key) for key in missing}
        scratch = [path for path in self.root.glob("scratch/*") if path.name not in wanted]
        partial = [
            *self.root.glob("objects/*/.*.tmp"),
            *self.root.glob("studies/.*"),
            *self.root.glob("trash/*"),
        ]
        found = sorted([*scratch, *partial, *self.root.glob("locks/*")])
        return [path for path in found if _age(path) >= min_age and self._free(path)]

    def _free(self, path: Path) -> bool:
        """Whether no process holds the lock of a group."""
        if path.parent.name not in ("scratch", "locks"):
            return True
        lock = FileLock(self.root / "locks" / path.name)
        try:
            with lock.acquire(timeout=0):
                return True
        except Timeout:
            return False

    def remove(self, entries: Iterable[Entry], leftovers: Iterable[Path] = ()) -> None:
        """Removes results, each by one rename first, so that none is ever half there, and leftovers."""
        trash = self.root / "trash" / uuid4().hex
        for entry in entries:
            trash.mkdir(parents=True, exist_ok=True)
            entry.path.rename(trash / f"{entry.kind}-{entry.key}")
        for path in (*leftovers, trash):
            if (
                path.parent.name == "locks"
            ):  # held while it goes: who opened it before notices, and opens another
                with suppress(Timeout), FileLock(path).acquire(timeout=0):
                    path.unlink(missing_ok=True)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            trash.parent.rmdir()

    def forget_study(self, name: str) -> None:
        """Drops a study: what it alone needed is garbage from then on."""
        path = self.root / "studies" / f"{name}.json"
        path.unlink()
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _bought(entry: Entry) -> bool:
    """Whether a result came from a service; one whose spec cannot be read may have."""
    spec = entry.readable
    return entry.kind == Verdicts.__name__ and (
        spec is None or isinstance(getattr(spec, "target", None), Service)
    )


def now() -> str:
    """The time, to the second, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _age(path: Path) -> float:
    """Seconds since something was written there."""
    times = [p.stat().st_mtime for p in (path, *(path.iterdir() if path.is_dir() else ()))]
    return time.time() - max(times)
