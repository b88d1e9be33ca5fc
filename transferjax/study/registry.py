"""What a study can name: tables of name -> row. Nothing passes for an attack or a mechanism by accident.

A row's `version` rises when its *definition* changes, defaults included: results of other versions are other
results. (`tests/study/test_pins.py` fails when defaults move and the version does not.) Adding a row: one
line here, and one in the pins.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from transferjax.study.specs import Call, Mistakes, near, nearest


@dataclass(frozen=True)
class Row:
    """One name of a table.

    Args:
        place: "module:attribute" of the factory, or "module:attribute[key]".
        version: of its definition.
        free: options that change no result, such as `chunk`.
        slot: which slot of training a part fills.
        column: what reports call the quantity.
        alone: an attack of one surrogate; the others take several.
    """

    place: str
    version: int = 1
    free: tuple[str, ...] = ()
    slot: str = ""
    column: str = ""
    alone: bool = False

    @property
    def factory(self) -> Callable[..., Any]:
        """The function itself; its module is imported now."""
        module, _, attribute = self.place.partition(":")
        name, _, key = attribute.partition("[")
        found = getattr(import_module(module), name)
        return found[key.rstrip("]")] if key else found


@dataclass(frozen=True)
class Table:
    """Rows by name; `offered` parameters are filled by the engine from the spec around a call."""

    what: str
    rows: Callable[[], Mapping[str, Row]]
    offered: frozenset[str] = frozenset()

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            Mistakes: unknown, with the nearest names.
        """
        rows = self.rows()
        if name not in rows:
            raise Mistakes([f"unknown {self.what} {name!r}; {nearest(name, rows)}"])
        return rows[name]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The parameters of a row that a study may set."""
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            p.name: _resolved(p)
            for p in inspect.signature(self.row(name).factory).parameters.values()
            if p.name not in self.offered and p.kind not in several
        }


def _rows(module: str, names: str, **options: Any) -> dict[str, Row]:
    return {name: Row(f"{module}:{name}", **options) for name in names.split()}


def _table(what: str, rows: Mapping[str, Row], offered: str = "") -> Table:
    return Table(what, lambda: rows, frozenset(offered.split()))


@cache
def _models() -> dict[str, Row]:
    from transferjax.models.zoo import ZOO

    return {name: Row(f"transferjax.models.zoo:ZOO[{name}]") for name in ZOO}


ATTACKS = _table(
    "attack",
    {
        **_rows(
            "transferjax.attacks",
            "fgsm bim pgd mi_fgsm ni_fgsm emi_fgsm pi_fgsm dim tim sim si_ni_fgsm admix ssa bsr vmi_fgsm "
            "vni_fgsm gra pgn gnp rap tpa logit svre cwa lgv noise",
            free=("chunk",),
        ),
        **_rows(
            "transferjax.attacks",
            "po_trip self_universality apgd apgd_t fab square auto_attack",
            free=("chunk",),
            alone=True,
        ),
    },
    "eps norm targeted pool",
)
PARTS = _table(
    "mechanism part",
    {
        **_rows(
            "transferjax.training.augment",
            "mixup cutmix cutout label_smoothing adversarial",
            slot="transforms",
        ),
        **_rows("transferjax.training.penalties", "input_gradient jacobian", slot="penalties"),
        **_rows("transferjax.training.rules", "sam asam gsam agsam look_sam er", slot="rules"),
        **_rows("transferjax.training.averaging", "swa ema", slot="averages"),
    },
    "axis_name total_steps steps_per_epoch",
)
SLOTS = ("transforms", "penalties", "rules", "averages")
MODELS = Table("model", _models, frozenset(["num_classes", "axis_name", "dtype", "parent", "name"]))
AUGMENTS = _table("augmentation", _rows("transferjax.training.augment", "crop_flip"))
SCHEDULES = _table(
    "schedule",
    _rows("transferjax.study.networks", "warmup_cosine step_decay constant"),
    "updates_per_epoch epochs",
)
OPTIMIZERS = _table("optimizer", _rows("transferjax.study.networks", "sgd adam"), "learning_rate")
PREPROCESSING = _table("preprocessing", _rows("transferjax.study.resolve", "normalize"), "predict")
MEASURES = _table(
    "measure",
    {
        "smoothness": Row("transferjax.study.measures:smoothness", column="input-Hessian λ₁"),
        "similarity": Row("transferjax.study.measures:similarity", column="gradient similarity"),
        "gradient_norm": Row("transferjax.study.measures:gradient_norm", column="‖∇ₓ ℓ‖₂"),
        "weight_eigenvalue": Row("transferjax.study.measures:weight_eigenvalue", column="weight-Hessian λ₁"),
        "weight_trace": Row("transferjax.study.measures:weight_trace", column="weight-Hessian trace"),
    },
    "context spec specs",
)
APPLY = _table(
    "predict wrapper",
    {
        **_rows("transferjax.defences", "bit_depth jpeg feature_distillation resize_and_pad random_affine"),
        **_rows("transferjax.defences", "smoothed purified"),
        **_rows("transferjax.predicts", "skip_gradient", version=2),
        **_rows("transferjax.predicts", "linear_backprop ghost_skips ghost_dropout"),
        **_rows("transferjax.predicts", "mean_logits mean_probabilities"),
        **_rows("transferjax.models", "select_classes"),
        **_rows("transferjax.study.resolve", "resized"),
    },
    "predict purifier key",
)
DERIVED = _table(
    "derived data", _rows("transferjax.study.derived", "robust nonrobust rand det"), "context spec"
)
PURIFIERS = _table("purifier", _rows("transferjax.study.nets", "comdefend hgd nrp"))
PIECES = _table(
    "piece",
    {
        **_rows(
            "transferjax.attacks.rules",
            "through average probe mix lookahead variance_tuning relevance enhanced_momentum "
            "reverse_perturbation uniform_noise",
            free=("chunk",),
        ),
        **_rows("transferjax.attacks.inputs", "diversity spectrum block_shuffle"),
        **_rows("transferjax.attacks.ensembles", "one_member"),
        **_rows("transferjax.attacks.updates", "smooth sign"),
        **_rows("transferjax.attacks.projections", "l2_nearest"),
    },
    "eps norm",
)
"""What stands in an attack's options: rules, inputs, ensembles, projections."""


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
    return Call(name=call.name, options=options, free=free, version=row.version)


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


def _resolved(parameter: inspect.Parameter) -> inspect.Parameter:
    """With its type; recipes write those of the options that they share as text."""
    if not isinstance(parameter.annotation, str):
        return parameter
    return parameter.replace(annotation=_shared_types()[parameter.name])


@cache
def _shared_types() -> dict[str, Any]:
    from transferjax.attacks.recipe import Momentum

    return get_type_hints(Momentum)


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
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return "a piece" if "Callable" in text or "Transformation" in text else str(text)


def check_predicts(table: Table, call: Call, count: int) -> None:
    """Whether a row's factory is one around so many predicts.

    Raises:
        ValueError: it takes fewer or more.
    """
    places = list(inspect.signature(table.row(call.name).factory).parameters.values())
    if any(place.kind is place.VAR_POSITIONAL for place in places):
        return
    takes = [place.name for place in places if place.name in ("predict", "purifier")]
    if len(takes) != count:
        raise ValueError(f"{call.name} stands around {' and '.join(takes)}; `of` names {count}")


def check_surrogates(call: Call, count: int) -> None:
    """Whether an attack takes so many surrogates.

    Raises:
        ValueError: several, of an attack of one.
    """
    if count > 1 and ATTACKS.row(call.name).alone:
        raise ValueError(f"{call.name} takes one surrogate, not {count}: put `mean_logits` around them")


def accepts(table: Table, call: Call, name: str) -> bool:
    """Whether a row's factory has that parameter."""
    return name in inspect.signature(table.row(call.name).factory).parameters


def make(table: Table, call: Call, *predicts: Any, **offered: Any) -> Any:
    """`factory(*predicts, **options)`, and of `offered` what the factory has a parameter for."""
    extra = {name: value for name, value in offered.items() if accepts(table, call, name)}
    arguments = {name: _made(value, offered) for name, value in call.arguments.items()}
    return table.row(call.name).factory(*predicts, **arguments, **extra)


def _made(value: Any, offered: Mapping[str, Any]) -> Any:
    """What stands in options; a piece is offered what the attack around it is."""
    if isinstance(value, Call):
        return make(PIECES, value, **{name: offered[name] for name in PIECES.offered & offered.keys()})
    return tuple(_made(entry, offered) for entry in value) if isinstance(value, tuple) else value
