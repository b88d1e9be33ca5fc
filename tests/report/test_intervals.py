"""Intervals over seeds: how often they hold, and what is seen to be outside."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments.intervals import publish
from transferjax.report.intervals import intervals, outside, per_seed


def rows(seeds=range(5), smoothness=2.0, asr=0.5, accuracy=0.9):
    """Rows of a table view: two mechanisms, two targets, one goal and budget, and noise."""
    rng = np.random.default_rng(0)
    made = [
        {
            "mechanism": m,
            "seed": s,
            "goal": "untargeted",
            "eps_255": 16,
            "target": t,
            "asr": a * (1 + 0.1 * s),
        }
        for m in ("ST", "SAM", "noise")
        for s in seeds
        for t, a in (("A", asr), ("B", asr / 2))
    ]
    own = {"surrogate_accuracy": accuracy, "smoothness": smoothness, "similarity": 0.25}
    frame = pd.DataFrame(made).assign(**own)
    return frame.assign(smoothness=frame["smoothness"] * np.exp(rng.normal(size=len(frame)) * 0.1))


def long(values, quantity="accuracy"):
    return pd.DataFrame(
        {"mechanism": "ST", "seed": range(len(values)), "quantity": quantity, "value": values}
    )


def test_the_equation():
    values = np.array([0.1, 0.4, 0.2, 0.3])
    (row,) = intervals(long(values), 2, level=0.9).itertuples()
    reach = scipy.stats.t.ppf(0.95, 3) * values.std(ddof=1) * np.sqrt(1 / 4 + 1 / 2)
    np.testing.assert_allclose((row.mean, row.low, row.high), (0.25, 0.25 - reach, 0.25 + reach))
    (again,) = intervals(long(np.exp(values), "smoothness"), 2, level=0.9).itertuples()
    np.testing.assert_allclose(
        (again.mean, again.low, again.high), np.exp([0.25, 0.25 - reach, 0.25 + reach])
    )


def test_they_hold_as_often_as_the_level_says():
    rng, out, runs = np.random.default_rng(0), 0, 600
    for _ in range(runs):
        expected = intervals(long(rng.normal(size=8)), 4, level=0.8)
        out += len(outside(long(rng.normal(size=4)), expected))
    assert 0.15 < out / runs < 0.25


def test_per_seed():
    values = per_seed(rows())
    assert set(values["mechanism"]) == {"ST", "SAM"}, "noise is no surrogate"
    assert set(values["quantity"]) == {"accuracy", "smoothness", "similarity", "untargeted success, 16/255"}
    one = values[(values["mechanism"] == "SAM") & (values["seed"] == 2)].set_index("quantity")["value"]
    np.testing.assert_allclose(one["untargeted success, 16/255"], 0.5 * 0.75 * 1.2)
    np.testing.assert_allclose(one["accuracy"], 0.9)


def test_what_is_outside_is_named():
    expected = intervals(per_seed(rows()), 3)
    assert outside(per_seed(rows(range(1, 4))), expected).empty
    smoother = outside(per_seed(rows(range(1, 4), smoothness=0.2)), expected)
    assert set(smoother["quantity"]) == {"smoothness"}
    missing = per_seed(rows(range(1, 4)))
    missing = outside(missing[missing["mechanism"] == "ST"], expected)
    assert set(missing["mechanism"]) == {"SAM"}
    assert len(missing) == 4


def test_too_few_seeds():
    with pytest.raises(ValueError, match="ST: 2 seeds for 4 others; expected at least 3"):
        intervals(long([1.0, 2.0]), 4)
    with pytest.raises(ValueError, match="expected at least 3, and 1"):
        intervals(long([1.0, 2.0, 3.0]), 0)


def test_a_report_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere has no transfer\.csv: run the study there first"):
        publish(tmp_path / "nowhere", 4, tmp_path / "out")
    assert not (tmp_path / "out").exists()
