"""What a config says, entry by entry: its shape, before any name in it is looked up.

An entry with a mistake keeps what is right of it, so that all mistakes show at once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic import ConfigDict as Settings

from transferjax.study.mistakes import Mistakes, mistakes, near, nearest, one_line, short
from transferjax.study.specs import Seed

Fields = dict[str, Any]


def _one_or_several(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _file_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError("expected a name for files")
    return name


def _goal(value: Any) -> Any:
    return (value, {"aim": value}) if isinstance(value, str) else value


Label = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, AfterValidator(_file_name)]
Labels = Annotated[tuple[str, ...], BeforeValidator(_one_or_several)]
Budget = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Entry(BaseModel):
    """Strict: a misspelt field, or a value of another type, is a mistake."""

    model_config = Settings(frozen=True, strict=True, extra="forbid")


class Head(Entry):
    """What a config says beside its entries."""

    name: FileName
    title: str = ""
    batch_size: int = Field(128, ge=1)
    checkpoint_epochs: int = Field(10, ge=0)
    error: Literal["half_range", "std", "two_std"] = "half_range"
    networks: tuple[Any, ...] = ()
    attacks: tuple[Any, ...] = ()
    blocks: tuple[Any, ...] = ()
    views: tuple[Any, ...] = ()


class Tags(Entry):
    """Of a network: `mechanism` is what tables call it, `seed` what is averaged over; others as one likes."""

    model_config = Settings(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool | None]
    mechanism: str = ""
    seed: Seed = 0


class NetworkEntry(Entry):
    """`(label, tags, spec or tuple of specs)`."""

    label: Label
    tags: Tags = Tags.model_validate({})
    spec: Annotated[tuple[Fields, ...], BeforeValidator(_one_or_several), Field(min_length=1)] = ()


class AttackEntry(Entry):
    """`(label, name, options)`."""

    label: Label
    name: str
    options: Fields


class MeasureEntry(Entry):
    """`(column, name, options, data)`."""

    column: Label
    name: str
    options: Fields
    data: Fields


class BlockFields(Entry):
    """Which surrogates are attacked how, and tried on which targets; what is measured of each."""

    surrogates: Labels = ()
    attacks: Labels = ()
    goals: tuple[Annotated[tuple[Label, Fields], BeforeValidator(_goal)], ...] = (("untargeted", {}),)
    eps_255: tuple[Budget, ...] = ()
    eps: tuple[Budget, ...] = ()
    norm: Literal["linf", "l2"] = "linf"
    targets: Labels = ()
    data: Fields = {}
    accuracy: Fields = {}
    measures: tuple[Any, ...] = ()
    noise: bool = True
    seed: Seed = 0


class BlockEntry(Entry):
    """`(name, fields)`."""

    name: Label
    fields: Fields = {}


class ViewEntry(Entry):
    """`(name, view, options)`."""

    name: FileName
    view: str
    options: Fields


E = TypeVar("E", bound=Entry)


class Said(NamedTuple):
    """An entry of which `wrong` fields are as if nobody had said them."""

    entry: Any
    wrong: frozenset[str]


class Reader:
    """Collects what is wrong instead of stopping at the first mistake."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def attempt(self, where: str, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns, or None with its mistakes noted."""
        try:
            return function(*args)
        except Mistakes as error:
            self.wrong += [line if line.startswith(where) else f"{where}: {line}" for line in error.lines]
        except (ValueError, TypeError, OSError) as error:
            self.wrong.append(f"{where}: {one_line(error)}")
        return None

    def expect(self, known: Iterable[str] | None, given: Iterable[str], where: str, what: str) -> None:
        """Unknown names are mistakes, with the nearest; None where nobody can say what is known."""
        known = None if known is None else list(known)
        for name in given:
            if known is not None and name not in known:
                self.wrong.append(f"{where}: unknown {what} {name!r}; {nearest(name, known)}")

    def once(self, names: Iterable[Any], where: str) -> None:
        """What is named twice would silently be one, or count twice."""
        counts = Counter(names)
        self.wrong += [f"{where} {name!r} is named twice" for name, count in counts.items() if count > 1]

    def shape(self, kind: type[E], fields: Any, where: str) -> Said | None:
        """An entry from what a config says; None where nothing of it can be used."""
        if not isinstance(fields, Mapping):
            self.wrong.append(f"{where}: expected a dict; got {short(fields)}")
            return None
        try:
            return Said(kind.model_validate(fields), frozenset())
        except ValidationError as error:
            self.wrong += mistakes(error, kind, where)
            wrong = frozenset(str(e["loc"][0]) for e in error.errors() if e["loc"])
            unknown = fields.keys() - kind.model_fields.keys()
            wrong |= unknown.union(*(near(name, kind.model_fields) for name in unknown))
        try:
            return Said(kind.model_validate({n: v for n, v in fields.items() if n not in wrong}), wrong)
        except ValidationError:
            return None

    def entry(self, kind: type[E], entry: Any, where: str) -> Said | None:
        """An entry from a tuple of its fields."""
        names = list(kind.model_fields)
        if not isinstance(entry, tuple) or len(entry) != len(names):
            self.wrong.append(f"{where}: expected a tuple ({', '.join(names)}); got {short(entry)}")
            return None
        label = f" {entry[0]!r}" if isinstance(entry[0], str) else ""
        return self.shape(kind, dict(zip(names, entry, strict=True)), where.split("[")[0][:-1] + label)


def plain(value: Any) -> Any:
    """Without what configs are wrapped in: dicts, tuples and scalars of Python."""
    if isinstance(value, ConfigDict | Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    return plain(value.tolist()) if isinstance(value, np.generic | np.ndarray) else value
