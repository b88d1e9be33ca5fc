"""What a study is made of: frozen specs, each the whole definition of one result, and its key.

A result is a pure function of its spec. The key is the hash of the kind and of the fields that differ from
their defaults; a spec inside another enters by its own key. Paths, labels, batch sizes of evaluation and
whatever else leaves the definition alone are no part of it (`unkeyed`). No JAX here: a plan needs none. All
kinds are in one file, long as it is, because they name each other.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from transferjax.study.mistakes import KINDS, Mistakes, mistakes, short


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


def _different(chosen: tuple[int, ...]) -> tuple[int, ...]:
    if chosen and (min(chosen) < 0 or len(set(chosen)) < len(chosen)):
        raise ValueError("expected different logits, from 0 on")
    return chosen


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
    version: int | str = 1
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
        skip: how many come before them in that order, so that two sets have nothing in common.
        content: pinned when a study is read.
    """

    kind: Literal["Data"] = "Data"
    name: str
    split: str = "test"
    options: Options = ()
    count: int = Field(0, ge=0)
    order_seed: Seed | None = None
    skip: int = Field(0, ge=0)
    content: str = ""
    unkeyed: ClassVar = ("name", "split", "options", "count", "order_seed", "skip")


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
        teacher: whose probabilities are the targets of the part `distilled`.
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
    teacher: "Predictor | None" = None
    epoch: Float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _taught(self) -> "Network":
        """A teacher that nobody asks would make two networks of one."""
        asks = any(part.name == "distilled" for part in self.parts)
        if asks and self.teacher is None:
            raise ValueError("the part 'distilled' needs `teacher`, the network whose probabilities it takes")
        if self.teacher is not None and not asks:
            raise ValueError("only the part 'distilled' reads `teacher`: name it, or leave `teacher` out")
        return self


class Pretrained(Spec):
    """A network from a file of weights, known by its sha256 (pinned when a study is read).

    Args:
        preprocessing: what it sees of an image: `normalize`, or the fields of `predicts.Preprocessing`.
        label_map: the logits that are this study's classes, in their order; empty for all.
    """

    kind: Literal["Pretrained"] = "Pretrained"
    model: Call
    file: str = ""
    sha256: str = ""
    preprocessing: Call = Call(name="normalize")
    label_map: Annotated[tuple[int, ...], BeforeValidator(_tuple), AfterValidator(_different)] = ()
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

    @model_validator(mode="after")
    def _looks_at_some(self) -> "Adversarial":
        if not self.surrogates and self.attack.name != "noise":
            raise ValueError(f"surrogates: expected at least one for {self.attack.name!r}; got ()")
        return self


class Verdicts(Spec):
    """The classes `[N]` that a network says of images: every rate and denominator is a view of them."""

    kind: Literal["Verdicts"] = "Verdicts"
    target: "Target"
    images: "Seen"


OF_IMAGES = ("distortion", "lpips")
"""Measures of attacked images and of no network of the study."""


class Measure(Spec):
    """A quantity of one network, of several or of none on data, attacked ones too."""

    kind: Literal["Measure"] = "Measure"
    call: Call
    of: Annotated[tuple["Predictor", ...], BeforeValidator(_tuple)] = ()
    data: "Seen"

    @model_validator(mode="after")
    def _is_of_some(self) -> "Measure":
        if not self.of and self.call.name not in OF_IMAGES:
            raise ValueError(f"of: expected at least one network for {self.call.name!r}; got ()")
        return self


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
KINDS.update({kind.__name__: kind for kind in (*_OTHERS, *STORED)})
for _kind in KINDS.values():
    _kind.model_rebuild()


def canonical(spec: Spec) -> str:
    """The JSON that a key is the hash of: kind, and the keyed fields that differ from their defaults."""
    said = {n: _canonical_value(getattr(spec, n)) for n in said_fields(spec) if n not in spec.unkeyed}
    return json.dumps({"kind": type(spec).__name__, **said}, sort_keys=True, separators=(",", ":"))


def said_fields(spec: Spec) -> Iterator[str]:
    """The fields that differ from their defaults."""
    for name, field in type(spec).model_fields.items():
        if name != "kind" and getattr(spec, name) != field.get_default(call_default_factory=True):
            yield name


def _canonical_value(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.key
    return [_canonical_value(v) for v in value] if isinstance(value, tuple) else value


def build(kind: type[Spec], fields: Mapping[str, Any], where: str) -> Any:
    """A spec from plain fields; all mistakes at once, each with its place and the nearest name.

    Raises:
        Mistakes: one line for each.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise Mistakes(mistakes(error, kind, where)) from None
