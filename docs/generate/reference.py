"""The API, a page for each package, from the docstrings."""

import importlib
import pkgutil

PACKAGES = {
    "attacks": (
        "attacks.ascend",
        "attacks.recipe",
        "attacks.craft",
        "attacks.rules",
        "attacks.inputs",
        "attacks.ensembles",
        "attacks.updates",
        "attacks.projections",
        "attacks.goals",
        "attacks.inspection",
    ),
    "training": (),
    "predicts": (),
    "models": (
        "models.zoo",
        "models.predict",
        "models.linearity",
        "models.weights.formats",
        "models.weights.convert",
        "models.weights.torch",
    ),
    "metrics": (),
    "data": (),
    "defences": (),
    "report": (),
    "study": ("study.specs", "study.config", "study.registry", "study.store", "study.views", "study.run"),
    "ground": ("typing", "losses", "norms", "random", "checks", "devices", "classes"),
}
"""Package -> its modules, where not all of them are for users."""


def modules(package: str) -> list[str]:
    """Full names of the modules that a package's page shows."""
    if names := PACKAGES[package]:
        return [f"transferjax.{name}" for name in names]
    found = importlib.import_module(f"transferjax.{package}")
    return [f"transferjax.{package}.{one.name}" for one in pkgutil.iter_modules(found.__path__)]


def page(package: str) -> str:
    """Its modules' docstrings."""
    blocks = "\n\n".join(f"::: {name}" for name in modules(package))
    return f"# {'typing, losses, …' if package == 'ground' else f'transferjax.{package}'}\n\n{blocks}\n"


def pages() -> dict[str, str | bytes]:
    """By place in the site."""
    return {f"api/{package}.md": page(package) for package in PACKAGES}


def nav() -> list:
    """A page for each package."""
    return [{package: f"api/{package}.md"} for package in PACKAGES]
