"""Which attacks no other equals at their price."""

import numpy as np
import pandas as pd

from transferjax.report.frontier import costs, success_by_cost
from transferjax.report.tables import NOISE

ROWS = pd.DataFrame(
    [
        {
            "mechanism": mechanism,
            "attack": attack,
            "gradients": gradients,
            "target": target,
            "asr_correct": asr,
        }
        for mechanism, shift in (("ST", 0.0), ("SAM", 0.1))
        for attack, gradients, both in (
            ("PGD 10", 10, (0.1, 0.3)),
            ("MI 10", 10, (0.3, 0.3)),
            ("PGN 100", 100, (0.5, 0.7)),
            ("SIA 100", 100, (0.6, 0.6)),
            ("VMI 100", 100, (0.2, 0.2)),
            ("OPS 1000", 1000, (0.5, 0.5)),
        )
        for target, asr in zip(("A", "B"), (value + shift for value in both), strict=True)
    ]
    + [{"mechanism": NOISE, "attack": NOISE, "gradients": 0, "target": "A", "asr_correct": 0.05}]
)


def test_the_front_is_what_none_equals_for_as_little():
    """Means over targets; of equals one; a dearer attack that is worse is not on it, noise is no attack."""
    found = costs(ROWS)
    assert NOISE not in set(found["mechanism"])
    for mechanism, shift in (("ST", 0.0), ("SAM", 0.1)):
        rows = found[found["mechanism"] == mechanism].set_index("attack")
        assert abs(rows.loc["PGD 10", "asr_correct"] - 0.2 - shift) < 1e-9
        assert set(rows.index[rows["front"]]) - {"PGN 100", "SIA 100"} == {"MI 10"}
        assert rows.loc[["PGN 100", "SIA 100"], "front"].sum() == 1


def test_the_figure_shows_all_attacks_and_the_front():
    figure = success_by_cost(ROWS)
    axes = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in axes] == ["ST", "SAM"]
    for axis in axes:
        lines = {line.get_label(): line for line in axis.lines}
        assert len(lines["attacks"].get_xdata()) == 6
        assert list(lines["the best so far"].get_xdata()) == [10, 100]
        names = {text.get_text(): text.xyann[1] for text in axis.texts}
        assert set(names) == {"PGD", "MI", "PGN", "SIA", "VMI", "OPS"}
        heights = sorted(names.values())
        assert min(np.diff(heights)) > 0.02 * np.ptp(axis.get_ylim())  # none over another
        assert abs(names["VMI"] - (20 if axis is axes[0] else 30)) < 3
        assert list(lines[NOISE].get_ydata()) == [5, 5]


def test_names_without_their_cost_still_tell_attacks_apart():
    assert set(costs(ROWS)["name"]) == {"PGD", "MI", "PGN", "SIA", "VMI", "OPS"}
    twice = ROWS.replace({"attack": {"MI 10": "PGD"}})
    assert {"PGD", "PGD 10", "PGN 100"} <= set(costs(twice)["name"])


def test_success_that_is_not_known_is_on_no_front():
    rows = ROWS.assign(asr_correct=ROWS["asr_correct"].where(ROWS["attack"] != "MI 10"))
    found = costs(rows).set_index(["mechanism", "attack"])
    assert not found.loc[("ST", "MI 10"), "front"]
    assert found.loc[("ST", "PGD 10"), "front"]
