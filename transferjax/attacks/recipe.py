"""What the factories of the catalogue return: an attack that knows its name and all its hyper-parameters.

The options that recipes share stand in one place, `Options` and `Momentum`, with their defaults and meanings.
A factory asks for them with `**options: Unpack[Momentum]`; `@recipe` shows them in its signature and help,
checks every value by its name (`vocabulary`), and hands the factory all of them, defaults included.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypedDict, Unpack, cast, get_args, get_origin, overload

import jax
import numpy as np

from transferjax import losses
from transferjax.attacks.ensembles import Ensemble, mean_losses
from transferjax.attacks.entrance import enter
from transferjax.attacks.vocabulary import LOSSES, check_budget, check_option, explain
from transferjax.naming import described
from transferjax.predicts.snapshots import Snapshots
from transferjax.typing import Array, Attack, Key, Loss, Predict, Projection, Rule

P = ParamSpec("P")

RENAMED = {"rules": "outer_rules", "member_rules": "inner_rules"}
"""Options by their old names, which did not say on which side of the recipe's own rules they stand."""


class Options(TypedDict, total=False):
    """What every recipe around `ascend` takes; `MEANINGS` says what it is."""

    norm: str
    random_start: bool
    targeted: bool
    loss: "str | Loss"
    outer_rules: "Sequence[Rule]"
    inner_rules: "Sequence[Rule]"
    ensemble: "Ensemble | None"
    project: "Projection | None"
    quantize: bool


class Momentum(Options, total=False):
    """`Options`, and those of the recipes with the momentum of MI-FGSM."""

    step_size: float | None
    decay: float


DEFAULTS: dict[str, Any] = {
    "norm": "linf",
    "random_start": False,
    "targeted": False,
    "loss": "cross_entropy",
    "outer_rules": (),
    "inner_rules": (),
    "ensemble": None,
    "project": None,
    "quantize": False,
    "step_size": None,
    "decay": 1.0,
}
MEANINGS = {
    "eps": "budget, in pixel units of [0, 1] (L∞) or as a Euclidean length (L2).",
    "steps": "gradient steps.",
    "step_size": "length of one step in the same norm; `eps / steps` if None.",
    "norm": '"linf" or "l2": of the budget, the steps, and all other lengths that the attack goes.',
    "decay": "of the momentum of MI-FGSM; 0 leaves the momentum out.",
    "random_start": "begin at a uniform draw from the ball.",
    "targeted": "labels are targets.",
    "loss": f"one of {', '.join(LOSSES)}, or a function (logits [B, K], labels) -> [B].",
    "outer_rules": "around the recipe's own, the outermost first: one draw for all of its neighbours.",
    "inner_rules": "inside of the recipe's own, around each surrogate's gradient: a draw for each neighbour.",
    "ensemble": "how to combine several predicts (see `ensembles`); the mean of their losses if None.",
    "project": "a projection instead of the norm's own, such as `projections.l2_nearest(eps)`.",
    "quantize": "round the result to 8 bits inside the ball.",
    "chunk": "gradients that run at once; divides their number.",
}


@dataclass(frozen=True)
class Recipe:
    """An attack as a value: compared and hashed by its name and all hyper-parameters.

    Printed are those that have no default, and those that differ from it.
    """

    name: str
    settings: tuple[tuple[str, object], ...]
    run: Attack = field(repr=False, compare=False)
    usual: tuple[tuple[str, object], ...] = field(default=(), repr=False, compare=False)  # the defaults
    alone: bool = field(default=False, repr=False, compare=False)  # takes one predict, no tuple of them

    def __call__(
        self, key: Key, predict: Predict, images: Array, labels: Array, *, info: bool = False
    ) -> Any:
        """Adversarial images in the budget around `images [B, H, W, C]`; `labels` are classes `[B]`.

        Args:
            key, predict, images, labels: as every attack takes them.
            info: return `(images, ascend.Info)`; for attacks that are made of `ascend`.

        Raises:
            TypeError: `info` of an attack that keeps no account of its steps; several predicts for one that
                takes one.
        """
        if self.alone and isinstance(predict, Sequence | Snapshots):
            raise TypeError(
                f"{self.name} takes one predict; got {len(predict)}: make it one, predicts.mean_logits(*nets)"
            )
        if info and "info" not in inspect.signature(self.run).parameters:
            raise TypeError(f"{self.name} gives no info: it is not made of `ascend`")
        return enter(self.run, key, predict, images, labels, info=info, name=self.name)

    def __repr__(self) -> str:
        usual = dict(self.usual)
        shown = [(n, v) for n, v in self.settings if n not in usual or _differs(v, usual[n])]
        return f"{self.name}({', '.join(f'{name}={described(value)}' for name, value in shown)})"


def _differs(value: object, usual: object) -> bool:
    return isinstance(value, jax.core.Tracer) or (value is not usual and value != usual)


@dataclass(frozen=True)
class ArrayDigest:
    """Stands for an array among the hyper-parameters, which have to be hashable."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str

    @classmethod
    def of(cls, array: Array | np.ndarray) -> "ArrayDigest":
        array = np.ascontiguousarray(array)
        return cls(array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()[:16])


def _canonical(value: Any) -> Any:
    """One spelling, hashable: numbers as Python's, losses of ours by name, sequences as tuples."""
    if isinstance(value, jax.core.Tracer):  # inside jit a budget may be traced; it has no value to digest
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return value.item() if value.ndim == 0 else ArrayDigest.of(np.asarray(value))
    if isinstance(value, list | tuple):
        return tuple(_canonical(part) for part in value)
    if value is mean_losses:
        return None
    return next((name for name in LOSSES if value is getattr(losses, name)), value)


def _signature(factory: Callable, without: Sequence[str], defaults: dict[str, Any]) -> inspect.Signature:
    """The factory's signature with the options written out that its `Unpack` asks for."""
    signature, written = inspect.signature(factory), []
    for parameter in signature.parameters.values():
        if get_origin(parameter.annotation) is not Unpack:
            written.append(parameter)
            continue
        (shared,) = get_args(parameter.annotation)
        for name, hint in shared.__annotations__.items():
            if name not in without:  # aliases by their names: what they stand for fills a page
                hint = getattr(hint, "__forward_arg__", hint)
                kind = inspect.Parameter.KEYWORD_ONLY
                written.append(inspect.Parameter(name, kind, default=defaults[name], annotation=hint))
    return signature.replace(parameters=written, return_annotation=Recipe)


def _help(factory: Callable, signature: inspect.Signature) -> str:
    """The factory's docstring, and the meaning of the shared options that it does not explain itself."""
    text = inspect.getdoc(factory) or ""
    shared = [name for name in signature.parameters if name in MEANINGS and f"    {name}: " not in text]
    return "\n    ".join([text + "\n\nShared options:", *(f"{name}: {MEANINGS[name]}" for name in shared)])


def _bind(name: str, signature: inspect.Signature, args: tuple, kwargs: dict) -> inspect.BoundArguments:
    """Arguments with all defaults, each of them checked.

    Raises:
        TypeError: an option that the recipe does not have, with what to write instead.
        ValueError: a value that an option may not have.
    """
    parameters = signature.parameters
    if args and callable(args[0]) and next(iter(parameters), "") == "eps":
        raise TypeError(
            f"{name} is made with a budget, and sees the net when it is called: "
            f"attack = attacks.{name}(8 / 255), then attack(key, predict, images, labels)"
        )
    for old, new in RENAMED.items():
        if old in kwargs and old not in parameters and new in parameters and new not in kwargs:
            warnings.warn(f"{name}: {old} is {new} now", DeprecationWarning, stacklevel=3)
            kwargs[new] = kwargs.pop(old)
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for unknown in kwargs.keys() - parameters.keys():
            raise TypeError(f"{name} has no option {unknown!r}: {explain(unknown, parameters)}")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    bound.apply_defaults()
    for option, value in bound.arguments.items():
        default = parameters[option].default
        if value is not default:  # a default may mean more than a number: None, or 0
            check_option(option, value)
            if isinstance(value, str) and isinstance(default, int | float):
                raise ValueError(f"{option} must be a number, as its default {default!r} is; got {value!r}")
    values = {"step_size": None, "steps": 1, "norm": "linf"} | bound.arguments
    if "eps" in values:
        check_budget(values["eps"], values["step_size"], values["steps"], values["norm"])
    return bound


@overload
def recipe(factory: Callable[P, Attack], /) -> Callable[P, Recipe]: ...
@overload
def recipe(
    *, without: Sequence[str] = (), alone: bool = False, **defaults: Any
) -> Callable[[Callable[P, Attack]], Callable[P, Recipe]]: ...
def recipe(
    factory: Callable | None = None,
    /,
    *,
    without: Sequence[str] = (),
    alone: bool = False,
    **defaults: Any,
) -> Callable:
    """Lets a factory return a `Recipe`: its attack, with the hyper-parameters it was made with.

    Args:
        factory: `(eps, **options) -> attack`; its `**options: Unpack[Options]` (or `Momentum`) are the shared
            ones. One that returns recipes already stays as it is.
        without: shared options that this recipe does not leave to its user.
        alone: it takes one predict, and no tuple of them; nor an `ensemble` then.
        defaults: of shared options, where this recipe has others.

    Raises:
        TypeError: what is no factory, such as an attack that one made.
    """
    if factory is None:
        left_out = (*without, "ensemble") if alone else without
        return lambda factory: _recipe(factory, left_out, DEFAULTS | defaults, alone)
    _check_factory(factory)
    made = inspect.signature(factory).return_annotation is Recipe
    return factory if made else _recipe(factory, (), DEFAULTS)


def _check_factory(factory: Any) -> None:
    expected = "expected what makes attacks, a function (eps, **options) -> attack"
    if isinstance(factory, Recipe):
        raise TypeError(f"{factory!r:.80} is a finished attack, its eps is bound; {expected}")
    if not callable(factory):
        raise TypeError(f"{expected}; got {type(factory).__name__} {factory!r:.60}")
    if {"predict", "images"} <= inspect.signature(factory).parameters.keys():
        raise TypeError(f"{name_of(factory)} takes predict and images, as a finished attack does; {expected}")


def name_of(function: Any) -> str:
    """What errors call an attack or its factory."""
    inner = inspect.unwrap(getattr(function, "func", function))
    return str(getattr(inner, "name", getattr(inner, "__name__", type(inner).__name__)))


def _recipe(
    factory: Callable[P, Attack], without: Sequence[str], defaults: dict, alone: bool = False
) -> Callable[P, Recipe]:
    signature, build = _signature(factory, without, defaults), cast(Callable[..., Attack], factory)
    called = name_of(factory)
    usual = tuple((n, p.default) for n, p in signature.parameters.items() if p.default is not p.empty)

    @wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Recipe:
        bound = _bind(called, signature, args, kwargs)
        values = {n: v for n, v in bound.arguments.items() if n in signature.parameters}
        for several in [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]:
            values |= values.pop(several)  # a factory of one's own, whose options nobody knows
        settings = tuple((name, _canonical(value)) for name, value in values.items())
        attack = build(*bound.args, **bound.kwargs)
        if not callable(attack):
            raise TypeError(
                f"{called} returned {type(attack).__name__} {attack!r:.40}; expected an attack, a function "
                "(key, predict, images, labels) -> images: is its `return` missing?"
            )
        return Recipe(called, settings, attack, usual, alone)

    make.__signature__ = signature  # type: ignore[attr-defined]
    make.__doc__ = _help(factory, signature)
    return make
