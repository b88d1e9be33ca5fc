"""Names that load their module when they are first asked for: who only attacks needs no HTTP."""

import difflib
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
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


def named(place: str, load: Callable[[str], ModuleType] = import_module) -> tuple[ModuleType, Any]:
    """The module and what it holds, of `package.module:name` or `file.py:name`.

    Modules are looked for in a file's directory first, so that it may import its siblings.

    Args:
        place: where it stands.
        load: imports a module.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: no such module.
        ValueError: there is no such name in it, or another module of the file's name is imported already.
    """
    module, _, name = place.partition(":")
    path = Path(module).absolute()
    if path.suffix == ".py":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {module!r}")
        sys.path[:0] = [] if str(path.parent) in sys.path[:1] else [str(path.parent)]
    found = load(path.stem if path.suffix == ".py" else module)
    there = Path(getattr(found, "__file__", None) or path)
    if path.suffix == ".py" and there.resolve() != path.resolve():
        raise ValueError(f"{module}: another module is called {path.stem!r}, {there}: rename the file")
    if not hasattr(found, name):
        near = difflib.get_close_matches(name, vars(found), n=3)
        raise ValueError(f"{module} has no {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return found, getattr(found, name)
