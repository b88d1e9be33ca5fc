"""The floors of the house: a file imports only from its own floor or below, and configs from nothing."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {  # the longest matching prefix counts
    "transferjax": 0,
    "transferjax.moved": 0,
    "transferjax.xla": 0,
    "transferjax.lazy": 0,
    "transferjax.extras": 0,
    "transferjax.devices": 0,
    "transferjax.typing": 0,
    "transferjax.checks": 0,
    "transferjax.random": 0,
    "transferjax.files": 0,
    "transferjax.classes": 0,
    "transferjax.trees": 0,
    "transferjax.host": 0,
    "transferjax.connections": 0,
    "transferjax.transport": 0,
    "transferjax.memory": 0,
    "transferjax.stopping": 0,
    "transferjax.naming": 0,
    "transferjax.proportions": 0,
    "transferjax.norms": 0,
    "transferjax.losses": 0,
    "transferjax.chain": 0,
    "transferjax.programs": 0,
    "transferjax.data": 1,
    "transferjax.models": 1,
    "transferjax.predicts": 2,
    "transferjax.attacks": 3,
    "transferjax.training": 4,
    "transferjax.defences": 4,
    "transferjax.metrics": 4,
    "transferjax.report": 4,
    "transferjax.study": 5,
    "transferjax.command": 6,
    "experiments": 6,
}
FILES = [*sorted((ROOT / "transferjax").rglob("*.py")), *sorted((ROOT / "experiments").rglob("*.py"))]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOORS:
            return FLOORS[".".join(parts[:length])]
    return None


def imports_of(path):
    """Imported modules; `from package import name` counts as package.name where that is a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in FLOORS else node.module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    module = name_of(path)
    package = ".".join(module.split(".")[:2])
    for imported in imports_of(path):
        if not imported.startswith(("transferjax", "experiments", "configs")) or imported == "transferjax":
            continue
        if imported.startswith(package):
            continue
        floor = floor_of(imported)
        assert floor is not None, f"{module} imports {imported}, which no floor of CONTRIBUTING.md holds"
        assert floor <= floor_of(module), f"{module} (floor {floor_of(module)}) imports {imported} ({floor})"


def test_every_module_has_a_floor():
    top = {".".join(name_of(path).split(".")[:2]) for path in FILES if name_of(path) != "transferjax"}
    assert not [module for module in top if floor_of(module) is None or module == "transferjax"]
    assert {m for m in top if m.startswith("transferjax.")} <= set(FLOORS)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_configs_import_ml_collections_alone(path):
    for imported in imports_of(path):
        assert imported.split(".")[0] in ("ml_collections", "configs"), f"{path.name} imports {imported}"


JITTED = {  # modules that run a loop of their own on the host and compile what they loop over, or trace once
    "transferjax.chain": "traces a gradient once, which stays a pure function",
    "transferjax.training.parallel": "places a training loop on devices",
    "transferjax.devices": "compiles what runs over a data set",
    "transferjax.attacks.inspection": "looks at a model once before the attack",
    "transferjax.defences.smoothing": "certifies image by image",
    "transferjax.models.conv.primitive": "how its primitive runs outside of any jit",
    "transferjax.models.zoo": "draws the weights of a new head",
}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pure_pieces_never_jit(path):
    """Whoever runs the loop compiles; everything else is a pure function."""
    if (
        name_of(path).startswith(("experiments", "transferjax.study", "transferjax.command"))
        or name_of(path) in JITTED
    ):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap"):
            raise AssertionError(f"{name_of(path)}, line {node.lineno}: {node.attr}")


def test_attacks_start_light():
    """What only some need is loaded by them: networks, image files, HTTP."""
    heavy = ("flax", "cv2", "urllib.request", "orbax", "tensorflow_datasets", "matplotlib", "pandas", "scipy")
    code = f"import sys, transferjax.attacks; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicts_names_load_when_asked_for():
    from transferjax import predicts

    assert {name for name in predicts.__all__ if callable(getattr(predicts, name))} == set(predicts.__all__)
    seen = subprocess.run(
        [sys.executable, "-c", "from transferjax import predicts; print(*dir(predicts))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(predicts.__all__) < set(seen.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'skip_gradients'"):
        predicts.skip_gradients  # noqa: B018


def test_the_wheel_ships_the_library_alone():
    """`configs` and `experiments` in site-packages would collide with other projects'."""
    from setuptools import find_namespace_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_namespace_packages(str(ROOT), **settings["packages"]["find"])
    assert {package.split(".")[0] for package in found} == {"transferjax"}
    assert {name_of(path) for path in FILES if path.name == "__init__.py"} - {"experiments"} <= set(found)
    assert (ROOT / "transferjax/py.typed").exists()
    assert "py.typed" in settings["package-data"]["*"]
