"""What is missing is named with the extra that brings it."""

import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest

from transferjax import extras

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "absl": "absl-py"}


def declared(requirements):
    return {requirement.partition("[")[0].split(">")[0].split("=")[0].lower().replace("_", "-").strip()
            for requirement in requirements}  # fmt: skip


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_the_table_is_that_of_the_project(extra):
    requirements = PROJECT["optional-dependencies"][extra]
    names = {DISTRIBUTIONS.get(module, module).replace("_", "-") for module in extras.EXTRAS[extra]}
    assert declared(requirements) - {"transferjax"} == names
    brought = {
        part for line in requirements if line.startswith("transferjax[") for part in line[12:-1].split(",")
    }
    assert brought == set(extras.BRINGS.get(extra, ()))


def test_the_core_is_what_is_imported():
    from test_architecture import FILES, imports_of

    core = {
        "jax",
        "jaxlib",
        "ml-dtypes",
        "etils",
        "flax",
        "optax",
        "orbax",
        "einops",
        "numpy",
        "scipy",
        "tqdm",
        "filelock",
        "safetensors",
    }
    core |= {"dask", "PIL"}  # come with distributed and Matplotlib
    extra = {m for modules in extras.EXTRAS.values() for m in modules}
    ours = {"transferjax", "experiments", "configs"}
    for path in FILES:
        for module in imports_of(path):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ours:
                assert top.replace("_", "-") in core or top in extra, f"{path.name} imports {top}"
    assert {"jax", "flax", "optax", "numpy", "scipy", "tqdm", "einops"} <= declared(PROJECT["dependencies"])


@pytest.mark.parametrize(
    ("module", "gone", "message"),
    [
        ("transferjax.report", "matplotlib", r"transferjax.report: pip install 'transferjax\[report\]'"),
        ("transferjax.study", "pydantic", r"transferjax.study: pip install 'transferjax\[study\]'"),
    ],
)
def test_a_package_says_what_it_needs(monkeypatch, module, gone, message):
    monkeypatch.setitem(sys.modules, gone, None)
    for name in [name for name in sys.modules if name.startswith(module)]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=rf"{message} \({gone} missing\)"):
        import_module(module)


def test_image_files_need_opencv(monkeypatch):
    from transferjax.data.crops import decode

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"image files: pip install 'transferjax\[data\]' \(cv2 is"):
        decode(b"\x89PNG")


def test_the_command_is_installed():
    scripts = {script.name: script.value for script in metadata.entry_points(group="console_scripts")}
    assert PROJECT["scripts"] == {"transferjax": "transferjax.command.main:main"}
    assert scripts.get("transferjax", "transferjax.command.main:main") == PROJECT["scripts"]["transferjax"]
