"""What data are: read from where they lie, told apart by what they hold."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transferjax import data, models
from transferjax.study import walk
from transferjax.study.mistakes import Mistakes
from transferjax.study.specs import (
    Data,
    Derived,
    Goal,
    Pretrained,
    Spec,
)


def load(spec: Data) -> data.Source:
    """The data by name."""
    options = dict(spec.options)
    read = data.source if "scale" in options else data.load
    try:
        found = read(spec.name, spec.split, **options)
        return _part(found, spec)
    except TypeError as error:
        raise ValueError(f"data {spec.name!r}: {error}") from error


def _part(found: data.Source, spec: Data) -> data.Source:
    """The examples that the spec counts.

    Raises:
        ValueError: more than there are.
    """
    if not spec.skip:
        return found.subset(spec.count, seed=spec.order_seed) if spec.count else found
    end = spec.skip + spec.count if spec.count else len(found)
    if not spec.skip < end <= len(found):
        raise ValueError(
            f"data {spec.name!r} ({spec.split}): expected skip and count within {len(found)} examples; got "
            f"{spec.skip} and {spec.count}"
        )
    return found.subset(slice(spec.skip, end), seed=spec.order_seed)


def checked(spec: Data) -> data.Source:
    """The data by name, as they are now.

    Raises:
        ValueError: they are others than the study named.
    """
    found = load(spec)
    if spec.content and content_of(found, spec) != spec.content:
        raise ValueError(f"data {spec.name!r} ({spec.split}) is not what the study was planned with any more")
    return found


def content_of(source: data.Source, spec: Data) -> str:
    """The hash of what is decoded, pixels and labels; of a stream the encoded images and how they are cut."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _content(source, spec):
        digest.update(part)
    return digest.hexdigest()


def _content(source: data.Source, spec: Data) -> Iterator[Any]:
    yield f"{source.num_classes} {len(source)} {source.image_shape}".encode()
    yield np.ascontiguousarray(source.labels).data
    if isinstance(source, data.ImageStream):
        cut = {name: value for name, value in dict(spec.options).items() if name != "data_dir"}
        yield repr(sorted({**cut, "size": source.size}.items())).encode()
        rows: Iterable[int] = range(len(source)) if source.rows is None else source.rows.tolist()
        for row in rows:
            yield source.encoded[row]
    else:
        for start in range(0, len(source), 4096):  # memory-mapped: a part at a time
            yield np.ascontiguousarray(source.images[start : start + 4096]).data  # type: ignore[attr-defined]


def sha256(file: str | Path) -> str:
    """Of a file's bytes.

    Raises:
        FileNotFoundError: it is not there.
    """
    stat = Path(file).stat()
    return _digest(str(file), stat.st_mtime_ns, stat.st_size)


@cache
def _digest(file: str, *stamp: int) -> str:
    """Gigabytes are read once, unless the file changes."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_file(file: str | Path, expected: str) -> None:
    """Whether it is the file that a study pinned.

    Raises:
        ValueError: it has another sha256.
        FileNotFoundError: it is not there.
    """
    if sha256(file) != expected:
        raise ValueError(f"{file} is another file than the study named (sha256 {expected[:12]}…)")


def place_of(spec: Data) -> tuple:
    return spec.name, spec.split, spec.options, spec.count, spec.order_seed, spec.skip


def _check_there(spec: Pretrained | Goal) -> None:
    """Whether a spec's file is there.

    Raises:
        FileNotFoundError: it is not; says what it is, and how one gets it.
    """
    if Path(spec.file).is_file():
        return
    if isinstance(spec, Goal):
        raise FileNotFoundError(f"{spec.file!r} is not there: an .npy file with one class for each image")
    name = spec.model.name
    own, stem = models.build(name).published, Path(spec.file).name.removesuffix(".safetensors")
    kind, saved = stem.removeprefix(name).lstrip(".-_"), f"{stem}.pth"
    if own:
        found, saved = f"get {own}", own.split()[0]
    elif stem.startswith(name) and kind:  # "resnet50.l2_eps0.05": the usual weights are another network
        found = f"save the {name} that {kind!r} says, not the usual one (its state_dict), as {saved}"
    else:
        found, saved = f"save torchvision's or timm's {name} (its state_dict) as {name}.pth", f"{name}.pth"
    raise FileNotFoundError(
        f"weights {spec.file!r} are not there: {found}, then "
        f"`transferjax convert {saved} {spec.file} --model={name}`"
    )


def pin(spec: Spec) -> Spec:
    """The spec with the content of its data and the hashes of its files filled in.

    Raises:
        Mistakes: data or files that are not there, one line each.
    """
    wrong: list[str] = []

    def one(inner: Spec) -> Spec:
        try:
            if isinstance(inner, Data) and not inner.content:
                return inner.replace(content=facts(inner).content)
            if isinstance(inner, Pretrained | Goal) and inner.file and not inner.sha256:
                _check_there(inner)
                return inner.replace(sha256=sha256(inner.file))
        except (ValueError, FileNotFoundError, TypeError) as error:
            wrong.append(str(error))
        return inner

    pinned = walk.rebuild(spec, one)
    if wrong:
        raise Mistakes(wrong)
    return pinned


class Facts(NamedTuple):
    """What a study knows of data before it reads them again."""

    content: str
    size: int
    num_classes: int
    image_shape: tuple[int, int, int]


_FACTS: dict[tuple, Facts] = {}


def facts(spec: Data | Derived) -> Facts:
    """Of data as they are on disk; hashed once in a process."""
    if isinstance(spec, Derived):
        return facts(spec.data)
    if place_of(spec) not in _FACTS:
        source = load(spec)
        content = content_of(source, spec)
        _FACTS[place_of(spec)] = Facts(content, len(source), source.num_classes, source.image_shape)
    return _FACTS[place_of(spec)]


def forget_facts() -> None:
    """Data are looked at anew: a process that outlives a run may find others at the same place."""
    _FACTS.clear()


def size(spec: Spec) -> int:
    """Images in a data set."""
    return facts(spec).size  # type: ignore[arg-type]
