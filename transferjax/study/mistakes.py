"""What is wrong with a config, in one line each: names, values, and what was probably meant."""

import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

KINDS: dict[str, type[BaseModel]] = {}
"""Specs by the names of their kinds, as pydantic has them in the places of errors; `specs` fills it."""


class Mistakes(ValueError):
    """What is wrong with a study, one line each."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.lines))


def together(lines: Iterable[str]) -> list[str]:
    """What is wrong in the same words at many places, once: "network 'A', network 'B' and 3 more: …"."""
    places: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        found = re.match(r"(\w+ '[^']*'[^:]*): (.+)", line)
        where, what = found.groups() if found else ("", line)
        places.setdefault(what, []).append(where)
    return [": ".join(filter(None, (_several(named), what))) for what, named in places.items()]


def _several(named: list[str]) -> str:
    few, more = named[:3], len(named) - 3
    return ", ".join(few) + (f" and {more} more" if more > 0 else "")


def one_line(error: BaseException, width: int = 300) -> str:
    """What an error says, on one line."""
    if error.args and isinstance(error.args[0], BaseException):
        return one_line(error.args[0], width)
    said = error.args[0] if isinstance(error, KeyError) and error.args else error  # whose text is a repr
    text = " ".join(str(said).split())
    return text if len(text) <= width else f"{text[:width]} …"


def nearest(name: object, known: Iterable[str]) -> str:
    """ "; did you mean …?" with the nearest of the known names, else all of them."""
    known = list(known)
    found = near(name, known)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return textwrap.shorten(f"known: {', '.join(sorted(known))}", 300, placeholder=" …")


def mistakes(error: ValidationError, kind: type[BaseModel], where: str) -> list[str]:
    """What pydantic found, one line each, with its place and the nearest name."""
    lines: list[str] = []
    found = error.errors()
    meant = {(*e["loc"][:-1], name) for e in found for name in _meant(e, kind)}
    for e in found:
        if e["type"] == "missing" and e["loc"] in meant:
            continue  # it is there, misspelt
        inner = e.get("ctx", {}).get("error")
        if isinstance(inner, Mistakes):
            place = ".".join(str(part) for part in e["loc"] if part not in KINDS)
            lines += [f"{where}: {place}: {line}" for line in inner.lines]
        else:
            lines.append(_mistake(e, kind, where))
    return lines


def near(name: object, known: Iterable[str]) -> list[str]:
    """The known names that a name may stand for."""
    return difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)


def _meant(error: Any, kind: type[BaseModel]) -> list[str]:
    """What an unknown field may stand for."""
    unknown = error["type"] == "extra_forbidden"
    return near(error["loc"][-1], _fields(_owner(kind, error["loc"][:-1]))) if unknown else []


def _mistake(error: Any, kind: type[BaseModel], where: str) -> str:
    path = [part for part in error["loc"] if part not in KINDS]
    place = ".".join(map(str, path))
    if error["type"] == "extra_forbidden":
        owner = _owner(kind, error["loc"][:-1])
        return f"{where}: unknown field {place!r}; {nearest(str(path[-1]), _fields(owner))}"
    if error["type"] == "missing":
        return f"{where}: {place} is missing"
    if error["type"] == "union_tag_not_found":
        return f"{where}: {place}: `kind` is missing; it says {', '.join(map(str, error['input']))}"
    if error["type"] == "union_tag_invalid":
        kinds = error["ctx"]["expected_tags"].replace("'", "")
        return f"{where}: {place}: a {error['ctx']['tag']} cannot stand here, only {kinds}"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], BaseModel | Mapping):  # what a spec as a whole refuses says what it has
        return f"{where}: {place + ': ' if place else ''}{message}"
    return f"{where}: {place}: {message}; got {short(error['input'])}"


def short(value: Any, width: int = 80) -> str:
    """A value on one line, cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= width else f"{text[:width]} …"


def _fields(kind: type[BaseModel]) -> list[str]:
    return list(kind.model_fields)


def _owner(kind: type[BaseModel], loc: tuple) -> type[BaseModel]:
    """The spec class that a place inside a spec of `kind` belongs to."""
    for part in loc:
        if part in KINDS:
            kind = KINDS[part]
        elif isinstance(part, str) and part in kind.model_fields:
            found = [c for c in KINDS.values() if c.__name__ in str(kind.model_fields[part].annotation)]
            kind = found[0] if len(found) == 1 else kind
    return kind
