import numpy as np
import pandas as pd
import pytest

from transferjax.report import (
    NOISE,
    asr_table,
    below_noise,
    model_table,
    spread,
    to_html,
    to_markdown,
    to_text,
)
from transferjax.report.tables import Table, apart, best_of, several, significant, tenths


def test_spread():
    values = pd.Series([0.1, 0.2, 0.6])
    assert spread(values) == pytest.approx((0.35, 0.25))
    assert spread(values, "std") == pytest.approx((0.3, np.std([0.1, 0.2, 0.6], ddof=1)))
    center, error = spread(pd.Series([0.4]))
    assert center == 0.4
    assert np.isnan(error)
    with pytest.raises(ValueError, match="'range'"):
        spread(values, "range")


def one_row(results, **where):
    rows = results
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


@pytest.mark.parametrize("error", ["half_range", "std"])
def test_asr_table_holds_every_cell_in_the_papers_layout(make_results, error):
    results = make_results()
    table = asr_table(results, "targeted", error)
    assert list(table.center.index) == ["ST", "SAM", "IR"]
    assert list(table.center.columns) == [
        (f"ε = {eps}/255", target) for eps in (4, 8) for target in ("VGG", "DenseNet")
    ]
    for mechanism in table.center.index:
        for eps in (4, 8):
            cell = one_row(results, mechanism=mechanism, target="VGG", goal="targeted", eps_255=eps)["asr"]
            center, err = spread(100 * cell, error)
            assert table.center.at[mechanism, (f"ε = {eps}/255", "VGG")] == pytest.approx(center)
            assert table.error.at[mechanism, (f"ε = {eps}/255", "VGG")] == pytest.approx(err)
    assert table.best.loc["IR"].all()
    assert not table.best.loc["ST"].any()


def test_rows_in_any_order_give_the_same_numbers(make_results):
    results = make_results()
    shuffled = asr_table(results.sample(frac=1, random_state=0)).center
    expected = asr_table(results).center
    pd.testing.assert_frame_equal(shuffled.loc[expected.index, expected.columns], expected)


def test_markdown_marks_the_best_and_survives_gaps(make_results):
    results = make_results(targets=("VGG",), budgets=(4.0,), goals=("untargeted",))
    results = results[(results["mechanism"] != "SAM") | (results["seed"] == 0)]
    lines = to_markdown(asr_table(results)).splitlines()
    assert lines[0] == "| mechanism | ε = 4/255 VGG |"
    assert lines[2].startswith("| ST | 2")
    assert "±" in lines[2]
    assert "±" not in lines[3]  # one seed: no error
    assert lines[4].startswith("| IR | **4")
    assert len({line.count("|") for line in lines}) == 1


def test_text_for_a_terminal_has_its_columns_under_each_other(make_results):
    table = asr_table(make_results(targets=("VGG",), budgets=(4.0,), goals=("untargeted",)))
    lines = to_text(table._replace(after=table.center.map("[{:.0f}]".format))).splitlines()
    assert lines[0].split("  ", 1)[0] == "mechanism"
    assert lines[-1].index("*") == lines[0].index("ε")
    assert "±" not in "".join(lines)
    assert all(line.endswith("]") for line in lines[2:])


def test_a_missing_combination_is_a_dash(make_results):
    results = make_results()
    results = results[(results["mechanism"] != "SAM") | (results["target"] != "VGG")]
    assert "| – |" in to_markdown(asr_table(results)).splitlines()[3]


def test_best_of_the_model_table(make_results):
    table = model_table(make_results())
    assert table.best.at["IR", ("λ₁ (lower is smoother)", "")]  # the lowest
    assert table.best.at["IR", ("gradient similarity", "VGG")]  # the highest
    assert (
        table.center.at["ST", ("λ₁ (lower is smoother)", "")]
        > table.center.at["IR", ("λ₁ (lower is smoother)", "")]
    )
    cells = to_markdown(table).splitlines()[2].split("|")[2:-1]
    for cell in cells:  # an error has its centre's decimals
        center, error = (part.strip(" *").partition(".")[2] for part in cell.split("±"))
        assert len(center) == len(error)


def test_html_spans_shared_heads_and_escapes_names(make_results):
    text = to_html(asr_table(make_results(mechanisms=("A<B", "SAM&IR"))))
    assert text.count('<th scope="colgroup" colspan="2">') == 2
    assert "A&lt;B" in text
    assert "SAM&amp;IR" in text
    assert text.count("<td data-value=") == 2 * 4


def test_untidy_results_are_refused(make_results):
    results = make_results()
    with pytest.raises(ValueError, match=r"lack the columns \['similarity'\]"):
        asr_table(results.drop(columns="similarity"))
    with pytest.raises(ValueError, match="asr must be a fraction"):
        asr_table(results.assign(asr=100 * results["asr"]))
    with pytest.raises(ValueError, match="no rows with goal 'both'"):
        asr_table(results, "both")
    with pytest.raises(ValueError, match="no rows"):
        model_table(results.iloc[:0])


def with_noise(results):
    """Noise is first here, and best; it has neither accuracy nor smoothness."""
    noise = results[results["mechanism"] == "ST"].assign(mechanism=NOISE, asr=0.99, asr_correct=0.99)
    nothing = {"surrogate_accuracy": np.nan, "smoothness": np.nan, "similarity": np.nan}
    return pd.concat([noise.assign(**nothing), results], ignore_index=True)


def test_noise_is_the_last_row_and_never_the_best(make_results):
    plain, noisy = (asr_table(results) for results in (make_results(), with_noise(make_results())))
    assert list(noisy.center.index) == ["ST", "SAM", "IR", NOISE]
    pd.testing.assert_frame_equal(noisy.center.drop(NOISE), plain.center)
    np.testing.assert_allclose(noisy.center.loc[NOISE], 99)
    assert noisy.best.drop(NOISE).equals(plain.best)
    assert not noisy.best.loc[NOISE].any()
    assert "| noise | 99.0 ± 0.0 |" in to_markdown(noisy)
    assert NOISE not in model_table(with_noise(make_results())).center.index


def test_t_r_is_told_of_surrogates_alone(make_results):
    results = with_noise(make_results().assign(transferred=lambda rows: rows["asr"] / 2))
    results.loc[results["mechanism"] == NOISE, "transferred"] = np.nan
    found = asr_table(results, value="transferred")
    assert found.title == "Untargeted transferability T_r (%): both classify correctly, and both are fooled"
    pd.testing.assert_frame_equal(found.center, asr_table(make_results()).center / 2)


def test_a_white_box_success_below_noise_is_named_once(make_results):
    results = make_results(budgets=(4.0,)).assign(fooling_rate=0.95, noise_fooling_rate=0.9)
    assert below_noise(results) == ""
    weak = (results["mechanism"] == "SAM") & (results["seed"] == 1) & (results["goal"] == "untargeted")
    text = below_noise(results.assign(fooling_rate=results["fooling_rate"].mask(weak, 0.65)))
    assert text.startswith("Warning: on the surrogate itself these attacks do less than random signs")
    assert text.endswith(": the attack on SAM (seed 1), untargeted, ε = 4/255: 65.0 % against 90.0 %.")
    assert below_noise(with_noise(results)) == ""
    assert below_noise(make_results()) == ""


def test_bold_is_what_looks_best_and_neither_noise_nor_alone():
    center = pd.DataFrame(
        {"a": [12.94, 12.86, 3.0, 99.0], "b": [np.nan, 5.0, np.nan, 1.0]}, index=["ST", "SAM", "IR", NOISE]
    )
    best = best_of(center, number=tenths)
    assert best["a"].tolist() == [True, True, False, False]  # 12.9 and 12.9
    assert not best["b"].any()
    assert best_of(center, largest=False)["a"].tolist() == [False, False, True, False]
    assert not best_of(center, largest=None).any(axis=None)


def test_attacks_goals_and_budgets_are_kept_apart_and_noise_stands_beside_every_attack(make_results):
    plain = make_results(goals=("untargeted",), budgets=(8.0,))
    noise = plain.assign(mechanism=NOISE, attack=NOISE)
    results = pd.concat([plain.assign(attack="MI"), plain.assign(attack="PGN"), noise])
    found = dict(apart(results))
    assert list(found) == ["MI, untargeted, ε = 8/255", "PGN, untargeted, ε = 8/255"]
    assert set(found["MI, untargeted, ε = 8/255"]["attack"]) == {"MI", NOISE}
    assert [name for name, _ in apart(plain, ("attack",))] == [""]
    assert several(results) == ["attack"]
    assert several(noise) == []


def test_columns_of_whole_numbers_are_printed_whole():
    center = pd.DataFrame({"seeds": [3.0, 12.0], "%": [40.0, 33.3], "half": [2.0, 3.0]}, index=["a", "b"])
    error = pd.DataFrame({"seeds": [np.nan, np.nan], "%": [1.0, 2.0], "half": [0.5, 0.5]}, index=["a", "b"])
    table = Table("t", center, error, center.isna(), significant)
    assert to_markdown(table).splitlines()[2:] == [
        "| a | 3 | 40.0 ± 1.0 | 2.00 ± 0.50 |",
        "| b | 12 | 33.3 ± 2.0 | 3.00 ± 0.50 |",
    ]
