"""The notebooks of `examples/` run, with few steps of training."""

import json
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def check_transfer(names):
    mean = names["success"].groupby("attack")["success"].mean()
    assert mean["PGD"] > mean["noise"]


def check_smoothness(names):
    assert set(names["found"]) == {"ST", "SAM", "IR", "SAM&IR"}
    assert all(row["smoothness"] > 0 for row in names["found"].values())


CHECKS = {"transfer": check_transfer, "smoothness": check_smoothness}


@pytest.mark.slow  # compilation
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notebook_runs(path):
    names = {}
    for number, cell in enumerate(cells(path), start=1):
        code = "".join(cell["source"]).replace("STEPS = 100", "STEPS = 20")
        exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
    CHECKS[path.stem](names)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notebooks_carry_no_results(path):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(path))
