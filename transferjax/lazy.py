"""Names of a package that load their module when they are first asked for: who only attacks needs no HTTP."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`, so that names complete before they are loaded.

    Args:
        package: its `__name__`.
        places: module of the package -> the names that it has for the package, separated by spaces.
    """
    homes = {name: place for place, several in places.items() for name in several.split()}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})
