import numpy as np
import pandas as pd
import pytest

from transferjax.report import to_markdown, write_sections
from transferjax.report.analysis import (
    analysis_sections,
    by_magnitude,
    magnitude_section,
    regression_section,
    similarity_section,
    smoothness_table,
)
from transferjax.study.paper_views import explained


@pytest.fixture
def analysed(make_results):
    rng = np.random.default_rng(0)
    results = make_results(mechanisms=("ST", "SAM", "IR", "JR"))
    similarities = rng.uniform(-0.1, 0.6, (4, 2, 50))
    eigenvalues = {name: scale * rng.exponential(size=200) for name, scale in (("ST", 3.0), ("SAM", 1.0))}
    return results, similarities, ["ST", "SAM", "IR", "JR"], ["VGG", "DenseNet"], eigenvalues


def test_sections_are_written(tmp_path, analysed):
    paths = write_sections(tmp_path, analysis_sections(*analysed), "Why", name="analysis")
    text = paths.markdown.read_text()
    assert paths.markdown.name == "analysis.md"
    for heading in (
        "What explains untargeted",
        "What explains targeted",
        "Gradient similarity",
        "Smoothness",
    ):
        assert f"## {heading}" in text
    assert {path.stem for path in paths.figures} >= {
        "pearson_untargeted",
        "r_squared_targeted",
        "similarity",
        "plane",
    }
    assert "Configuration" not in text


def test_figures_do_not_overlap(analysed, check_texts):
    for section in analysis_sections(*analysed):
        for figure, _ in section.figures.values():
            check_texts(figure)


def test_similarities_are_the_mean_and_the_least(analysed):
    _, similarities, rows, columns, _ = analysed
    figures = similarity_section(similarities, rows, columns).figures
    for name, expected in (
        ("similarity", similarities.mean(-1)),
        ("similarity_infimum", similarities.min(-1)),
    ):
        shown = figures[name][0].axes[0].images[0].get_array()
        np.testing.assert_allclose(shown, expected)


def test_magnitudes_come_from_the_names(make_results):
    results = make_results(mechanisms=("ST", "IR_1", "IR_3", "IR_5", "SAM_2", "SAM_3", "SAM&IR"))
    rows = by_magnitude(results)
    assert set(zip(rows["mechanism"], rows["tau"].fillna(0), strict=True)) == {
        *(("ST", 0), ("IR", 1), ("IR", 3), ("IR", 5)),
        *(("SAM", 2), ("SAM", 3)),
    }


def test_magnitudes_have_tables_and_figures(make_results, check_texts):
    names = ("ST", "IR_1", "IR_3", "SAM_1", "SAM_3")
    results = make_results(mechanisms=names)
    results["weight_eigenvalue"] = (
        results["mechanism"].map(dict(zip(names, range(1, 6), strict=True))).astype(float)
    )
    section = magnitude_section(results)
    smoothness, curvature = section.tables
    assert curvature.center.loc["IR"].to_dict() == pytest.approx(
        {("τ", "0"): np.nan, ("τ", "1"): 2, ("τ", "3"): 3}, nan_ok=True
    )
    assert curvature.center.at["ST", ("τ", "0")] == 1
    expected = results[results["mechanism"] == "SAM_3"].groupby("seed")["smoothness"].first()
    assert smoothness.center.at["SAM", ("τ", "3")] == pytest.approx((expected.max() + expected.min()) / 2)
    assert "| τ 0 | τ 1 | τ 3 |" in to_markdown(curvature)
    assert set(section.figures) == {
        *("magnitude_smoothness", "magnitude_weight_eigenvalue", "magnitude_surrogate_accuracy"),
        "magnitude_similarity",
        *(f"magnitude_{goal}_{eps}" for goal in ("untargeted", "targeted") for eps in (4, 8)),
    }
    for figure, _ in section.figures.values():
        check_texts(figure)


def test_transfer_against_the_magnitude_is_of_one_attack(make_results):
    results = make_results(mechanisms=("ST", "IR_1", "IR_2"), goals=("untargeted",), budgets=(8.0,))
    both = pd.concat([results.assign(attack="MI", asr=0.2), results.assign(attack="PGN, 5", asr=0.6)])
    figures = magnitude_section(both, show=("transfer",)).figures
    assert list(figures) == ["magnitude_untargeted_8_MI", "magnitude_untargeted_8_PGN_5"]
    for (figure, caption), (attack, percent) in zip(
        figures.values(), (("MI", 20), ("PGN, 5", 60)), strict=True
    ):
        assert caption == f"Untargeted transfer success of {attack} at 8/255."
        assert figure.axes[0].get_ylabel() == "transfer success (%)"
        np.testing.assert_allclose(figure.axes[0].containers[0].lines[0].get_ydata(), percent)


def test_one_mechanism_against_its_own_magnitude(make_results, check_texts):
    results = make_results(mechanisms=("ST", "AT_1", "AT_2", "IR_1"))
    results["strength"] = results["mechanism"].map({"AT_1": 0.01, "AT_2": 0.3, "IR_1": 0.1})
    options = {"show": ("transfer",), "mechanisms": ("AT",), "x": "strength"}
    section = magnitude_section(results, **options, xlabel="ε (L2 norm)")
    assert not section.tables
    assert len(section.figures) == 4
    figure, _ = section.figures["magnitude_AT_strength_targeted_8"]
    check_texts(figure)
    axis = figure.axes[0]
    assert figure.axes[-1].get_xlabel() == "ε (L2 norm)"
    points = axis.containers[0].lines[0].get_xdata()
    np.testing.assert_allclose(points, [0.01, 0.3])
    assert len(axis.containers) == 1  # IR is not asked for


def test_mechanisms_with_hyper_parameters_of_their_own_have_an_axis_each(make_results, check_texts):
    values = {"CO_1": 8, "CO_2": 12, "CO_3": 24, "JR_1": 1e-5, "JR_2": 0.01, "JR_3": 0.02, "JR_4": 0.1}
    results = make_results(mechanisms=("ST", *values), goals=("untargeted",), budgets=(8.0,))
    results["strength"] = results["mechanism"].map(values)
    xlabels = {"CO": "side (pixels)", "JR": "weight λ"}
    section = magnitude_section(results, x="strength", xlabel=xlabels)
    assert set(section.figures) == {
        f"magnitude_strength_{name}"
        for name in ("smoothness", "surrogate_accuracy", "similarity", "untargeted_8")
    }
    for figure, _ in section.figures.values():
        check_texts(figure)
    figure, _ = section.figures["magnitude_strength_untargeted_8"]
    assert [(axis.get_title(), axis.get_xlabel(), axis.get_xscale()) for axis in figure.axes] == [
        ("CO", "side (pixels)", "linear"),
        ("JR", "weight λ", "log"),
    ]
    targets = results["target"].nunique()
    for axis, name in zip(figure.axes, xlabels, strict=True):
        assert len(axis.containers) == targets  # a curve for each, beside its level of ST
        rows = results[results["mechanism"].str.startswith(name)]
        first = rows[rows["target"] == rows["target"].iloc[0]].groupby("strength")["asr"]
        middle = 100 * (first.max() + first.min()) / 2
        np.testing.assert_allclose(axis.containers[0].lines[0].get_ydata(), middle)
        np.testing.assert_allclose(axis.containers[0].lines[0].get_xdata(), middle.index)
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["1e-05", "0.01", "", "0.1"]


def test_unknown_things_to_show_are_named(make_results):
    results = make_results(mechanisms=("ST", "IR_1"))
    with pytest.raises(ValueError, match=r"unknown \['speed'\]; expected some of smoothness"):
        magnitude_section(results, show=("speed",))
    with pytest.raises(ValueError, match="x='strength' is no column"):
        magnitude_section(results, x="strength")


def test_smoothness_table(analysed):
    table = smoothness_table(analysed[-1])
    values = analysed[-1]["ST"]
    mean = ("top eigenvalue λ₁", "mean")
    assert table.center.at["ST", mean] == pytest.approx(values.mean(), rel=1e-5)
    assert table.error.at["ST", mean] == pytest.approx(1.96 * values.std() / 200**0.5, rel=0.15)
    assert table.center.at["ST", ("top eigenvalue λ₁", "supremum")] == pytest.approx(values.max(), rel=1e-5)
    assert "| SAM | **" in to_markdown(table)


def test_a_regression_is_of_one_attack_and_its_points_are_surrogates(make_results):
    results = make_results(mechanisms=("ST", "SAM", "IR", "JR"))
    both = pd.concat([results.assign(attack=name) for name in ("MI", "PGN")])
    with pytest.raises(ValueError, match=r"results of the attacks \['MI', 'PGN'\]: expected one"):
        regression_section(both, "untargeted")
    sections = explained(both)
    goals = ("untargeted", "targeted")
    assert [section.title for section in sections] == [
        f"What explains {goal} transfer: {name}" for name in ("MI", "PGN") for goal in goals
    ]
    assert "success of MI with" in sections[0].text
    assert "over 12 surrogates" in sections[0].text
    table = regression_section(results, "untargeted").tables[0]
    assert (table.center.loc["r smoothness"] > 0).all()  # −λ₁: smooth is high, and transfers here
