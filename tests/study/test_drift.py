"""Surrogates do not drift unseen: seeds trained with the code as it is, against the published intervals."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from transferjax.report.intervals import outside, per_seed

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs/results/digits/intervals.csv"
# The digits study with a hundredth of a penalty.
LOST = """
import runpy
def get_config(variant=""):
    c = runpy.run_path({digits!r})["get_config"](variant)
    c.networks = tuple((l, t, {{**n, "parts": tuple(map(lost, n["parts"]))}}) for l, t, n in c.networks)
    return c
def lost(part):
    options = {{k: v / 100 if part["name"] == {part!r} else v for k, v in part["options"].items()}}
    return dict(part) | {{"options": options}}
"""


def measured(config, store):
    """Accuracy, smoothness, similarity and transfer of ten seeds, by a process with the usual flags."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "experiments.study", f"--config={config}:seeds=10", f"--store={store}"]
    subprocess.run(command, cwd=ROOT, env=env | {"PYTHONPATH": str(ROOT)}, check=True)
    (file,) = store.glob("studies/*/transfer.csv")
    return per_seed(pd.read_csv(file))


@pytest.mark.slow  # ten seeds of four mechanisms
def test_seeds_are_within_the_published_intervals(tmp_path):
    """A change of the code that changes what surrogates are: the mechanism and the number that left."""
    left = outside(measured("configs/digits.py", tmp_path), pd.read_csv(PUBLISHED))
    assert left.empty, f"\n{left.to_string()}"


@pytest.mark.slow
def test_a_lost_penalty_is_seen(tmp_path):
    config = tmp_path / "lost.py"
    config.write_text(LOST.format(digits=str(ROOT / "configs/digits.py"), part="input_gradient"))
    left = outside(measured(config, tmp_path / "store"), pd.read_csv(PUBLISHED))
    assert set(left["mechanism"]) == {"IR", "SAM&IR"}
    assert "smoothness" in set(left["quantity"])


def test_the_published_intervals_tell_mechanisms_apart():
    """An interval that holds everything would see nothing: no IR is not IR, and vice versa."""
    expected = pd.read_csv(PUBLISHED)
    assert len(expected) == 4 * 9
    assert (expected["low"] < expected["mean"]).all()
    assert (expected["mean"] < expected["high"]).all()
    centers = expected.assign(seed=0, value=expected["mean"])
    for one, other in itertools.product(("ST", "SAM"), ("IR", "SAM&IR")):
        for posing, meant in ((one, other), (other, one)):
            posed = centers[centers["mechanism"] == posing].assign(mechanism=meant)
            left = outside(posed, expected[expected["mechanism"] == meant])
            assert {"smoothness", "targeted success, 48/255"} <= set(left["quantity"]), (posing, meant)
