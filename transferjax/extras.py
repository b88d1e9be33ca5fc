"""What only some need is installed with an extra; where it is missing, the error says which.

`pip install transferjax` brings what importing and attacking need.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

EXTRAS: dict[str, tuple[str, ...]] = {
    "data": ("cv2", "sklearn", "tensorflow_datasets", "array_record", "importlib_resources"),
    "report": ("pandas", "matplotlib", "statsmodels"),
    "study": ("pydantic", "ml_collections", "absl"),
    "imagenette": ("grain",),
    "cluster": ("distributed",),
    "http": ("urllib3",),
    "torch": ("torch",),
}
"""Extra of pyproject.toml -> modules that come with it. `study` brings `data` and `report` too."""
BRINGS = {"study": ("data", "report")}


def require(module: str, what: str) -> None:
    """Checks that a module is there.

    Raises:
        ModuleNotFoundError: with what it is needed for, and what to install.
    """
    if find_spec(module) is None:
        [extra] = [extra for extra, modules in EXTRAS.items() if module in modules]
        raise ModuleNotFoundError(
            f"{what}: pip install 'transferjax[{extra}]' ({module} is missing)", name=module
        )


def require_all(extra: str, what: str) -> None:
    """Checks that all of an extra is there.

    Raises:
        ModuleNotFoundError: as `require`.
    """
    if gone := missing(extra):
        names = ", ".join(gone)
        raise ModuleNotFoundError(
            f"{what}: pip install 'transferjax[{extra}]' ({names} missing)", name=gone[0]
        )


def missing(extra: str) -> list[str]:
    """The modules of an extra, and of those that it brings, that are not installed."""
    modules = [module for part in (extra, *BRINGS.get(extra, ())) for module in EXTRAS[part]]
    return [module for module in modules if find_spec(module) is None]


def load(module: str, what: str) -> Any:
    """The module, imported now: some are slow to import, and most do without.

    Raises:
        ModuleNotFoundError: as `require`.
    """
    require(module.partition(".")[0], what)
    return import_module(module)
