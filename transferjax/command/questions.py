"""Attacks with budgets, as people write them.

`dim`, `dim:rate=0.7,step_size=2/255`, `mine=dim:rate=0.7`, `file.py:name:OPTION=VALUE`; in Python functions.
"""

import ast
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transferjax.attacks.goals import is_targeted
from transferjax.attacks.recipe import MEANINGS, Recipe, name_of
from transferjax.study import registry

LEVELS = 255
FRACTION = re.compile(r"\s*([-+.\deE]+)\s*/\s*([-+.\deE]+)\s*")
THIN = 0.1
"""An L2 budget that can change a smaller share of an image's values by one level is worth a word."""


@dataclass(frozen=True)
class Question:
    """An attack with its options and a budget in 1/255.

    Raises:
        ValueError: a budget in another unit.
    """

    label: str
    name: Any  # or a factory
    options: tuple[tuple[str, Any], ...]
    eps_255: float
    norm: str

    def __post_init__(self) -> None:
        eps = self.eps_255
        if not eps >= 0:
            raise ValueError(f"eps_255 must not be negative; got {eps:g}")
        if 0 < eps < 1:
            raise ValueError(
                f"eps_255={eps:g} is in 1/255, and less than one level of 8 bits: no image would change; for "
                f"{eps:g} of [0, 1] write {eps * LEVELS:g}"
            )
        if math.isinf(eps) or (self.norm == "linf" and eps > LEVELS):
            raise ValueError(
                f"eps_255={eps:g} is more than all {LEVELS} levels; it is in 1/255: write 8 for 8/255"
            )

    def attack(self, images: np.ndarray | None = None) -> Recipe:
        """The attack itself.

        Args:
            images: uint8 `[N, H, W, C]`, the first of which are mixed in by attacks that do so; None for an
                attack that only shows its settings.

        Raises:
            ValueError: an attack that is not there, that does not take these options, or that needs targets.
        """
        pool = np.zeros((1, 1, 1, 3), np.uint8) if images is None else images[: registry.POOL]
        eps, options = self.eps_255 / LEVELS, dict(self.options)
        try:
            found = registry.attack(self.name, eps, self.norm, pool, **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"attack {self.label!r}: {error}") from None
        if is_targeted(found):
            raise ValueError(
                f"attack {self.label!r} runs towards targets, and a command has none: targeted=False flees "
                "the labels; with targets it is called in Python (attacks.choose_targets), and in studies"
            )
        return found


def read_questions(attacks: Any, eps_255: float | Sequence[float], norm: str) -> list[Question]:
    """Every attack with every budget.

    Args:
        attacks: one or several of `NAME`, `LABEL=NAME:OPTION=VALUE,…`, a function `eps, **options -> attack`,
            and `(name or function, options)`, or `{label: any of these}`.
        eps_255: budgets in 1/255, one or several.
        norm: of the budgets.

    Raises:
        ValueError: what is no attack or no budget, or two attacks of one label.
    """
    if isinstance(attacks, Mapping):
        named = [(str(label), *_read(given)[1:]) for label, given in attacks.items()]
    else:
        pair = isinstance(attacks, tuple) and isinstance(attacks[-1], Mapping)
        single = isinstance(attacks, str) or callable(attacks) or pair
        named = [_read(given) for given in ([attacks] if single else attacks)]
    labels = [label for label, _, _ in named]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two attacks are called {twice[0]!r}: give labels, LABEL=NAME or {{label: attack}}")
    budgets = dict.fromkeys(map(float, np.atleast_1d(np.asarray(eps_255, float))))
    if not named or not budgets:
        raise ValueError("no attack was given" if not named else "no budget was given: eps_255 is empty")
    found = [Question(*one, eps, norm) for one in named for eps in budgets]
    for question in found:
        question.attack()
    return found


def warn_of_thin(question: Question, shape: tuple[int, ...]) -> None:
    """Says where an L2 budget is so small that rounding to 8 bits leaves next to nothing of it."""
    values = math.prod(shape)
    if question.norm == "l2" and question.eps_255**2 < THIN * values:
        print(
            f"an L2 norm of {question.eps_255:g}/255 changes at most {int(question.eps_255**2)} of the "
            f"{values} values of an image by one level of 8 bits: L2 budgets are larger, 127.5 is 0.5"
        )


def _read(given: Any) -> tuple[str, Any, tuple[tuple[str, Any], ...]]:
    """(label, name or function, options)."""
    if not isinstance(given, str):
        name, options = given if isinstance(given, tuple) else (given, {})
        label = name if isinstance(name, str) else name_of(name)
        said = ",".join(f"{key}={value}" for key, value in options.items())
        return f"{label}:{said}" if said else label, name, tuple(options.items())
    head, colon, options = given.partition(":")
    label, equals, name = head.partition("=")
    own, _, more = options.partition(":")
    if own.isidentifier() and (name or label) not in registry.ATTACKS.rows():  # file.py:name
        name, colon, options = f"{name or label}:{own}", more, more
    pairs = [pair.partition("=") for pair in options.split(",")] if colon else []
    if wrong := ["".join(pair) for pair in pairs if not pair[1]]:
        raise ValueError(f"attack {given!r}: expected NAME:OPTION=VALUE,…; got {wrong[0]!r}")
    values = tuple((key.strip(), _value(value)) for key, _, value in pairs)
    return (label if equals else given), (name or label), values


def _value(text: str) -> Any:
    if fraction := FRACTION.fullmatch(text):
        try:
            return float(fraction[1]) / float(fraction[2])
        except (ValueError, ZeroDivisionError):
            return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a name, such as a loss's


def listed() -> str:
    """All attacks, a line each."""
    names = list(registry.ATTACKS.rows())
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {_summary(name)}" for name in names)


def described(name: str) -> str:
    """An attack and its options, with their defaults.

    Raises:
        ValueError: an unknown one.
    """
    lines = [f"{name}: {_summary(name)}"]
    for option, parameter in inspect.signature(registry.ATTACKS.row(name).factory).parameters.items():
        if option in ("eps", "norm"):  # flags of their own
            continue
        default = "needed" if parameter.default is parameter.empty else f"{parameter.default!r} by default"
        lines.append(f"  {option}: {MEANINGS.get(option, '')}".rstrip(" .") + f"; {default}")
    return "\n".join(lines)


def _summary(name: str) -> str:
    return (inspect.getdoc(inspect.unwrap(registry.ATTACKS.row(name).factory)) or "").partition("\n")[0]
