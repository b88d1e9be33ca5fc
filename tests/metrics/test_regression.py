import numpy as np
import pandas as pd
import pytest
import scipy.stats

from transferjax.metrics.regression import correlation, explain, least_squares

RNG = np.random.default_rng(0)


def table(count=60, noise=0.02):
    rows = pd.DataFrame(
        RNG.uniform(size=(count, 3)), columns=["surrogate_accuracy", "smoothness", "similarity"]
    )
    return rows.assign(
        asr=0.5 - 0.3 * rows.smoothness + 0.4 * rows.similarity + noise * RNG.normal(size=count)
    )


def test_correlations_against_scipy():
    x, y = RNG.normal(size=(2, 30))
    y = y + x
    found = correlation(x, y)
    reference = scipy.stats.pearsonr(x, y)
    low, high = reference.confidence_interval(0.95)
    np.testing.assert_allclose(found[:4], (reference.statistic, low, high, reference.pvalue), rtol=1e-9)
    rank = correlation(x, np.exp(3 * y), "spearman")
    assert rank.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)  # ranks do not see the exp
    assert rank.low < rank.value < rank.high


def test_correlations_that_are_not_defined():
    assert np.isnan(correlation([1, 1, 1], [1, 2, 3]).value)
    assert correlation([1, 2, 3], [2, 4, 6]).value == pytest.approx(1)
    assert np.isnan(correlation([1, 2, 3], [2, 4, 6]).low)
    with pytest.raises(ValueError, match="'kendall'"):
        correlation([1], [1], "kendall")


def test_least_squares_recovers_the_model():
    rows = table()
    fit = least_squares(rows, ("smoothness", "similarity"))
    scale = rows[["smoothness", "similarity"]].std(ddof=0)
    truth = np.array([-0.3, 0.4]) * scale
    assert (fit.coefficients["low"] < truth).all()
    assert (fit.coefficients["high"] > truth).all()
    residual = 1 - 0.02**2 / rows.asr.var()
    assert fit.r_squared == pytest.approx(residual, abs=0.03)
    assert fit.low < fit.r_squared < fit.high <= 1
    assert fit.adjusted < fit.r_squared
    design = np.column_stack([np.ones(60), rows.smoothness, rows.similarity])
    rest = np.linalg.lstsq(design, rows.asr, rcond=None)[1][0]
    assert fit.r_squared == pytest.approx(1 - rest / ((rows.asr - rows.asr.mean()) ** 2).sum())


def test_r_squared_is_the_squared_correlation_for_one_factor():
    rows = table(noise=0.2)
    fit = least_squares(rows, ("similarity",))
    assert fit.r_squared == pytest.approx(correlation(rows.similarity, rows.asr).value ** 2)


def test_what_does_not_vary_explains_nothing_and_is_no_warning(recwarn):
    """Every attack may succeed on its own surrogate."""
    rows = table().assign(fooling_rate=0.98)
    fit = least_squares(rows, ("smoothness", "fooling_rate", "similarity"))
    assert fit.r_squared == pytest.approx(least_squares(rows, ("smoothness", "similarity")).r_squared)
    assert fit.coefficients.loc["fooling_rate"].isna().all()
    assert fit.coefficients.loc["similarity"].notna().all()
    assert not recwarn


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="2 factors need at least 4 rows; got 3"):
        least_squares(table(3), ("smoothness", "similarity"))


def test_explain_has_every_cell():
    parts = [
        table(12).assign(goal=goal, target=target, eps_255=eps)
        for goal in ("untargeted", "targeted")
        for target in ("VGG", "ResNet")
        for eps in (4, 8)
    ]
    found = explain(pd.concat(parts))
    cells = found.groupby(["goal", "target", "eps_255"]).size()
    assert len(cells) == 8
    assert (cells == 3 + 3 + 2).all()  # Pearson and Spearman of three factors, R² of two and of all
    by = found.set_index(["goal", "target", "eps_255", "statistic", "factor"]).value
    cell = ("targeted", "VGG", 4)
    pair = parts[4]
    assert by[(*cell, "pearson", "smoothness")] == pytest.approx(pair.smoothness.corr(pair.asr))
    small, large = (
        by[(*cell, "r_squared", name)]
        for name in ("smoothness + similarity", "surrogate_accuracy + smoothness + similarity")
    )
    assert small <= large


def test_explain_with_few_surrogates_leaves_the_fits_out():
    rows = table(3).assign(goal="untargeted", target="VGG", eps_255=8)
    assert set(explain(rows).statistic) == {"pearson", "spearman"}


def test_what_one_mechanism_alone_varies_has_no_interval():
    """Its draws without that mechanism have no correlation; those with it say nothing of the others."""
    points = table(8, noise=0.3).assign(goal="untargeted", target="VGG16", eps_255=8.0, seed=0)
    points = pd.concat([points.assign(seed=seed, mechanism=points.index.map(str)) for seed in range(2)])
    points["fooling_rate"] = np.where(points["mechanism"] == "3", 0.999, 1.0)
    found = explain(points).set_index(["statistic", "factor"]).loc["pearson"]
    assert np.isfinite(found.loc["fooling_rate", "value"])
    assert found.loc["fooling_rate", ["low", "high"]].isna().all()
    assert np.isfinite(found.loc[["smoothness", "similarity"], ["low", "high"]].astype(float)).all(axis=None)


def test_seeds_of_one_mechanism_are_no_independent_points():
    """Thirty copies of each of eight points say what the eight say; alone they are taken as they are."""
    points = table(8, noise=0.3).assign(goal="untargeted", target="VGG16", eps_255=8.0, seed=0)
    points["mechanism"] = [f"M{i}" for i in range(8)]
    copies = pd.concat([points.assign(seed=seed) for seed in range(30)], ignore_index=True)
    alone, many = (explain(rows).set_index(["statistic", "factor"]) for rows in (points, copies))
    np.testing.assert_allclose(many["value"], alone["value"], atol=1e-9)
    width = lambda found: found["high"] - found["low"]  # noqa: E731
    naive = width(explain(copies.drop(columns="mechanism")).set_index(["statistic", "factor"]))
    assert (width(many).loc["pearson"] > 2 * naive.loc["pearson"]).all()
    assert (width(many).loc["pearson"] > 0.5 * width(alone).loc["pearson"]).all()
    assert (many["low"] <= many["value"]).all()
    assert (many["value"] <= many["high"]).all()
    assert many.loc["pearson", "p_value"].isna().all()
    assert alone.loc["pearson", "p_value"].notna().all()
    fits = [width(found).loc["r_squared"] for found in (alone, many)]
    np.testing.assert_allclose(fits[1], fits[0], atol=1e-6)
