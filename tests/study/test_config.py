"""From configs to objects: every mechanism's row, and mistakes that are named before anything runs."""

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from experiments.attack import goal_classes

from configs import digits
from configs.methods import method
from experiments import build


@pytest.fixture
def config():
    return digits.get_config("smoke")


def test_the_smoke_config_is_valid(config):
    build.validate(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("surrogate.model", "cifar_resnet81", "cifar_resnet18"),
        ("attack.name", "pdg", "did you mean .*pgd"),
        ("attack.options", {"step": 3}, "step"),
        ("attack.eps_255", (4000,), "0–255"),
        ("attack.images", 100_000, "100000"),
        ("measure.smoothness_images", 100_000, "100000"),
        ("training.batch_size", 100_000, "100000"),
        ("training.warmup_epochs", 9, "warmup"),
        ("data.name", "digit", "digits"),
        ("methods", {"ST": (("rule", "sam", {"rho": 1}),)}, "unknown slot 'rule'"),
        ("methods", {"ST": (("rules", "smm", {"rho": 1}),)}, "did you mean .*sam"),
        ("methods", {"ST": (("rules", "sam", {"row": 1}),)}, "row"),
        ("methods", {}, "no row 'SAM&IR'"),
    ],
)
def test_mistakes_are_named(config, field, value, message):
    *parents, name = field.split(".")
    with config.unlocked():
        place = config
        for parent in parents:
            place = place[parent]
        place[name] = value
    with pytest.raises(ValueError, match=message):
        build.validate(config)


TABLE = list(csv.DictReader((Path(__file__).parents[1] / "golden/table11.csv").read_text().splitlines()))


def same(a, b):
    return (a["mechanism"], a["dataset"]) == (b["mechanism"], b["dataset"])


@pytest.mark.parametrize("row", TABLE, ids=lambda r: "-".join(r.values()))
def test_magnitudes_are_those_of_table_11(row):
    ((_, _, arguments),) = method(f"{row['mechanism']}_{row['tau']}", row["dataset"])
    assert next(iter(arguments.values())) == float(row["value"])
    shown = [r["tau"] for r in TABLE if r["used_in_tables_2_3"] == "1" and same(r, row)]
    if shown == [row["tau"]]:  # a mechanism at one magnitude is what its bare name means
        assert method(row["mechanism"], row["dataset"]) == method(
            f"{row['mechanism']}_{row['tau']}", row["dataset"]
        )


def test_rows_add_up():
    assert method("SAM&IR") == method("SAM") + method("IR")
    assert method("ST") == ()
    with pytest.raises(ValueError, match="unknown mechanism 'SMA'"):
        method("SMA&IR")
    with pytest.raises(ValueError, match="from 1 to 5"):
        method("SAM_6")


def test_goals():
    labels = jnp.array([0, 8, 9])
    np.testing.assert_array_equal(goal_classes(labels, 10, "targeted"), [1, 9, 0])
    np.testing.assert_array_equal(goal_classes(labels, 10, "untargeted"), labels)
    with pytest.raises(ValueError, match="'target'"):
        goal_classes(labels, 10, "target")
