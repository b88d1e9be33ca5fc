"""What a study is made of: frozen specs, each the whole definition of one result, and its key.

A result is a pure function of its spec. The key is the hash of the kind and of the fields that differ from
their defaults; a spec inside another enters by its own key. Paths, labels, batch sizes of evaluation and
whatever else leaves the definition alone are no part of it (`unkeyed`). No JAX here: a plan needs none.
"""

import difflib
import hashlib
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class Spec(BaseModel):
    """Strict and frozen: a misspelt field, or a value of another type, is an error and no other spec."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    unkeyed: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits that name the result."""
        return hashlib.blake2b(canonical(self).encode(), digest_size=16).hexdigest()

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.key == other.key

    def replace(self, **changes: Any) -> Any:
        """The spec with other fields, checked."""
        return type(self).model_validate({n: getattr(self, n) for n in type(self).model_fields} | changes)


def _plain(value: Any) -> Any:
    """A value as specs hold it: scalars of Python, tuples and Calls; -0.0 is 0.0.

    Raises:
        ValueError: anything else, or a number that is not finite.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number; got {value}")
        return value + 0.0
    if value is None or isinstance(value, bool | int | str | Call):
        return value
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if isinstance(value, Mapping) and "name" in value:
        return build(Call, value, f"call {value['name']!r}")
    expected = "a scalar, a tuple or a call {'name': …, 'options': …}"
    raise ValueError(f"expected {expected}; got {type(value).__name__} {short(value)}")


def _pairs(options: Any) -> tuple[tuple[str, Any], ...]:
    """Sorted by name.

    Raises:
        ValueError: no options, or values that are none.
    """
    try:
        pairs = list(dict(options).items())
    except (TypeError, ValueError):
        raise ValueError("expected options {name: value}") from None
    return tuple(sorted((str(name), _plain(value)) for name, value in pairs))


def _tuple(value: Any) -> Any:
    """A single spec where several may stand; a list, from JSON, where a tuple is meant."""
    if isinstance(value, Spec | Mapping):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _floats(value: Any) -> Any:
    value = _tuple(value)
    if not isinstance(value, tuple) or not all(isinstance(v, float | int | np.number) for v in value):
        raise ValueError("expected a tuple of numbers")
    return tuple(_plain(float(v)) for v in value)


Options = Annotated[Any, BeforeValidator(_pairs)]
"""Pairs (name, value), sorted; a mapping is welcome."""
Floats = Annotated[tuple[float, ...], BeforeValidator(_floats)]
Float = Annotated[float, BeforeValidator(_plain)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]


class Call(Spec):
    """A row of a registry with its options; `free` ones (such as `chunk`) change no result."""

    kind: Literal["Call"] = "Call"
    name: str
    options: Options = ()
    free: Options = ()
    version: int = 1
    unkeyed: ClassVar = ("free",)

    @property
    def arguments(self) -> dict[str, Any]:
        """All options, those that do not count included."""
        return dict(self.options) | dict(self.free)


class Data(Spec):
    """Images and labels by name or path; what counts is `content`, the hash of decoded pixels and labels.

    Args:
        name, split, options: of `data.load` (evaluation) or `data.source` (training).
        count: how many examples, 0 for all; `order_seed`: the first ones of that seeded order.
        content: pinned when a study is read.
    """

    kind: Literal["Data"] = "Data"
    name: str
    split: str = "test"
    options: Options = ()
    count: int = Field(0, ge=0)
    order_seed: Seed | None = None
    content: str = ""
    unkeyed: ClassVar = ("name", "split", "options", "count", "order_seed")


class Derived(Spec):
    """Data that a network makes of other data, such as those of robust features."""

    kind: Literal["Derived"] = "Derived"
    call: Call
    of: "Predictor"
    data: "Images"
    seed: Seed = 0


class Training(Spec):
    """How long, on what schedule and with which optimizer; `remat` saves memory and changes nothing."""

    kind: Literal["Training"] = "Training"
    epochs: Float = Field(gt=0)
    batch_size: int = Field(128, ge=1)
    schedule: Call
    optimizer: Call = Call(name="sgd")
    augment: Call | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    accumulate: int = Field(1, ge=1)
    remat: bool = False
    unkeyed: ClassVar = ("remat",)


class Network(Spec):
    """A trained network: `parts` are the pieces of its mechanism, none for standard training.

    Args:
        start: what training goes on from (LGV, fine-tuning); None for random weights.
        epoch: stopped after so many, fractions too; None for the end of training.
    """

    kind: Literal["Network"] = "Network"
    model: Call
    data: "Images"
    mean: Floats = (0.0,)
    std: Floats = (1.0,)
    parts: Annotated[tuple[Call, ...], BeforeValidator(_tuple)] = ()
    training: Training
    seed: Seed = 0
    start: "Trained | None" = None
    epoch: Float | None = Field(None, gt=0)


class Pretrained(Spec):
    """A network from a file of weights, known by its sha256 (pinned when a study is read).

    Args:
        preprocessing: what it sees of an image, a row of `preprocessing` (`normalize`).
        label_map: the logits that are this study's classes, in their order; empty for all.
    """

    kind: Literal["Pretrained"] = "Pretrained"
    model: Call
    file: str = ""
    sha256: str = ""
    preprocessing: Call = Call(name="normalize")
    label_map: Annotated[tuple[int, ...], BeforeValidator(_tuple)] = ()
    unkeyed: ClassVar = ("file",)

    @model_validator(mode="after")
    def _known(self) -> "Pretrained":
        if not self.file and not self.sha256:
            raise ValueError("give `file`, a file of weights")
        return self


class Purifier(Spec):
    """A network that is trained to clean images for the classifier `of`."""

    kind: Literal["Purifier"] = "Purifier"
    call: Call
    of: "Predictor | None" = None
    data: "Images"
    training: Training
    seed: Seed = 0


class Apply(Spec):
    """Any factory around other predicts: a defence, skip gradients, an average, another image size."""

    kind: Literal["Apply"] = "Apply"
    call: Call
    of: Annotated[tuple["Wrapped", ...], BeforeValidator(_tuple)] = Field(min_length=1)


class Service(Spec):
    """A service whose answers were bought once and lie in a file, `record`; they are never made again.

    It answers and has no gradient: a target, and nothing else. Its `name` is what it is known by, the version
    or the month of what was asked included: the record grows with every purchase, and is no part of the key.
    """

    kind: Literal["Service"] = "Service"
    name: str
    record: str = ""
    unkeyed: ClassVar = ("record",)


class Goal(Spec):
    """What an attack wants: away from the label, or to a class.

    Args:
        aim: "untargeted"; "next" (label + 1, as in the official code of the S&P paper); "least_likely" of the
            network `of`; "random" by `seed`, never the label; "file", one class per image.
    """

    kind: Literal["Goal"] = "Goal"
    aim: Literal["untargeted", "next", "least_likely", "random", "file"] = "untargeted"
    of: "Predictor | None" = None
    seed: Seed = 0
    file: str = ""
    sha256: str = ""
    unkeyed: ClassVar = ("file",)

    @property
    def targeted(self) -> bool:
        return self.aim != "untargeted"

    @model_validator(mode="after")
    def _consistent(self) -> "Goal":
        """What an aim does not read would make two goals of one."""
        reads = {"least_likely": ("of",), "random": ("seed",), "file": ("file", "sha256")}.get(self.aim, ())
        for name in ("of", "seed", "file", "sha256"):
            if getattr(self, name) and name not in reads:
                raise ValueError(f"aim {self.aim!r} reads no `{name}`: leave it out")
        if self.aim == "least_likely" and self.of is None:
            raise ValueError("aim 'least_likely' needs `of`, the network whose least likely class it is")
        if self.aim == "file" and not self.file and not self.sha256:
            raise ValueError("aim 'file' needs `file`, an .npy file with one class for each image")
        return self


class Adversarial(Spec):
    """Images that an attack makes on one surrogate or several, 8 bits, inside the ball."""

    kind: Literal["Adversarial"] = "Adversarial"
    surrogates: Annotated[tuple["Predictor", ...], BeforeValidator(_tuple)]
    attack: Call
    goal: Goal = Field(default_factory=Goal)
    eps: Float = Field(ge=0)
    norm: Literal["linf", "l2"] = "linf"
    data: "Images"
    seed: Seed = 0


class Verdicts(Spec):
    """The classes `[N]` that a network says of images: every rate and denominator is a view of them."""

    kind: Literal["Verdicts"] = "Verdicts"
    target: "Target"
    images: "Seen"


class Measure(Spec):
    """A quantity of one network or of several on data."""

    kind: Literal["Measure"] = "Measure"
    call: Call
    of: Annotated[tuple["Predictor", ...], BeforeValidator(_tuple)] = Field(min_length=1)
    data: "Images"


_by_kind = Field(discriminator="kind")
Images = Annotated[Data | Derived, _by_kind]
Trained = Annotated[Network | Pretrained, _by_kind]
Predictor = Annotated[Network | Pretrained | Apply, _by_kind]
"""What says logits of images, and has a gradient."""
Wrapped = Annotated[Network | Pretrained | Apply | Purifier, _by_kind]
Target = Annotated[Network | Pretrained | Apply | Service, _by_kind]
Seen = Annotated[Adversarial | Data | Derived, _by_kind]
STORED: tuple[type[Spec], ...] = (Derived, Network, Purifier, Adversarial, Verdicts, Measure)
_OTHERS: tuple[type[Spec], ...] = (Call, Data, Training, Pretrained, Apply, Service, Goal)
KINDS = {kind.__name__: kind for kind in (*_OTHERS, *STORED)}
for _kind in KINDS.values():
    _kind.model_rebuild()


def canonical(spec: Spec) -> str:
    """The JSON that a key is the hash of: kind, and the keyed fields that differ from their defaults."""
    said = {n: _canonical_value(getattr(spec, n)) for n in _said(spec) if n not in spec.unkeyed}
    return json.dumps({"kind": type(spec).__name__, **said}, sort_keys=True, separators=(",", ":"))


def _said(spec: Spec) -> Iterator[str]:
    """The fields that differ from their defaults."""
    for name, field in type(spec).model_fields.items():
        if name != "kind" and getattr(spec, name) != field.get_default(call_default_factory=True):
            yield name


def _canonical_value(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.key
    return [_canonical_value(v) for v in value] if isinstance(value, tuple) else value


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

    said = {name: getattr(spec, name) for name in _said(spec)}
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
    return KINDS[json.loads(text)["kind"]].model_validate_json(text)


def build(kind: type[Spec], fields: Mapping[str, Any], where: str) -> Any:
    """A spec from plain fields; all mistakes at once, each with its place and the nearest name.

    Raises:
        Mistakes: one line for each.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise Mistakes(mistakes(error, kind, where)) from None


class Mistakes(ValueError):
    """What is wrong with a study, one line each."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.lines))


def one_line(error: BaseException, width: int = 300) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split())
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
    if isinstance(error["input"], Spec | Mapping):  # what a spec as a whole refuses says what it has
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
