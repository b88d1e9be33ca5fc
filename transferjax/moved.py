"""Where modules stood before: old imports go on working, with a DeprecationWarning that says where to.

from transferjax.rules import sam          # finds transferjax.training.rules.sam
from transferjax.attacks import gradients  # finds transferjax.attacks.rules
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

_TRAINING = ("augment", "averaging", "checkpoint", "fit", "objective", "parallel", "penalties", "rules")
_WEIGHTS = ("convert", "names", "pickles", "torch")
PLACES: dict[str, tuple[str, ...]] = {
    **{name: (f"training.{name}",) for name in _TRAINING},
    "rules": ("training.rules", "chain"),
    "adapters": ("predicts.http", "predicts.foreign", "predicts.formats"),
    "attacks.auto_attack": ("attacks.catalogue.auto_attack",),
    "attacks.checks": ("attacks.inspection", "attacks.goals"),
    "attacks.committees": ("attacks.catalogue.committees",),
    "attacks.flatness": ("attacks.catalogue.neighbors",),
    "attacks.gradients": ("attacks.rules",),
    "attacks.recipes": ("attacks.catalogue.steps", "attacks.catalogue.transformed", "attacks.builders"),
    "attacks.stochastic": ("predicts.stochastic",),
    "attacks.surrogates": ("predicts.surrogates", "predicts.backprop"),
    "attacks.targeted": ("attacks.catalogue.targeted", "attacks.goals", "predicts.modules"),
    **{f"models.{name}": (f"models.weights.{name}",) for name in _WEIGHTS},
    "models.files": ("models.weights.formats",),
    "metrics.stochastic": ("metrics.spectrum",),
}
"""Below `transferjax`: a module that moved -> the modules where what it held is now."""


def _absolute(name: str) -> str:
    return f"transferjax.{name}"


class _Old(ModuleType):
    """Has what its successors have."""

    def __getattr__(self, name: str) -> Any:
        places = PLACES[self.__name__.partition(".")[2]]
        if name.startswith("__"):
            raise AttributeError(name)
        for place in places:
            if hasattr(found := import_module(_absolute(place)), name):
                return getattr(found, name)
        raise AttributeError(f"{self.__name__} became {', '.join(map(_absolute, places))}: no {name!r} there")


class _Package(ModuleType):
    """Keeps what it has where the name of an old module is taken: `attacks.auto_attack` is a function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, _Old) and name in vars(self)):
            super().__setattr__(name, value)


class _Finder(MetaPathFinder, Loader):
    """Comes after the usual finders, and so is asked about what is not there any more."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        return spec_from_loader(name, self) if package == "transferjax" and rest in PLACES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        places = ", ".join(map(_absolute, PLACES[spec.name.partition(".")[2]]))
        warnings.warn(f"{spec.name} moved to {places}", DeprecationWarning, stacklevel=2)
        return _Old(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run; the package, which is given the module by its name, may have one already."""
        sys.modules[module.__name__.rpartition(".")[0]].__class__ = _Package


def install() -> None:
    """Lets old imports find what moved."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def part(package: str, name: str) -> Any:
    """A submodule that moved, for a package's `__getattr__`.

    Raises:
        AttributeError: nothing of that name moved.
    """
    if f"{package}.{name}".partition(".")[2] not in PLACES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return import_module(f"{package}.{name}")
