"""A study laid beside the paper: the paper beside itself agrees, a reversed one does not."""

import csv
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from transferjax.report import agreement
from transferjax.report.printed import to_html, to_markdown
from transferjax.report.published import SHAPES, in_its_columns, increments, published

DATASETS = {"table2": "cifar10", "table3": "imagenette"}


@pytest.mark.parametrize("table", SHAPES)
def test_what_is_printed_has_the_columns_of_its_shape(table):
    found = published(table, DATASETS.get(table, "cifar10"))
    with (files("transferjax.report") / "paper" / f"{table}.csv").open() as opened:
        assert set(next(csv.reader(opened))) == set(SHAPES[table].columns)
    assert len(found)
    assert not found.duplicated(SHAPES[table].keys).any()


def test_unknown_tables_are_named():
    with pytest.raises(ValueError, match="table 'table1': expected one of table2"):
        published("table1")


@pytest.mark.parametrize("table", SHAPES)
def test_the_paper_agrees_with_itself(table):
    dataset = DATASETS.get(table, "cifar10")
    found = agreement.cells(table, published(table, dataset), dataset)
    shape, printed = SHAPES[table], published(table, dataset)
    once = len(printed.drop_duplicates(list(shape.rows))) if shape.once else 0
    each = len(shape.values) - len(shape.once)
    assert len(found) == each * len(printed) + once
    assert (found["difference"] == 0).all()
    ranked = agreement.ranks(table, found)
    told = ranked["spearman"].astype(float).dropna()
    assert (len(told) > 0) == SHAPES[table].ranked
    np.testing.assert_allclose(told, 1)
    sides = ranked["same_side"].dropna()
    assert (len(sides) > 0) == (SHAPES[table].ranked and table != "table9")  # which has no baseline
    assert (sides == 1).all()
    section = agreement.agreement_section(table, found, ranked)
    for one in section.tables:
        assert to_html(one)
    assert "difference" in to_markdown(section.tables[-1])


def test_a_reversed_order_disagrees():
    ours = published("table2")
    ours["asr_mean"] = 100 - ours["asr_mean"]
    ranked = agreement.ranks("table2", agreement.cells("table2", ours))
    np.testing.assert_allclose(ranked["spearman"], -1)
    assert (ranked["same_side"] == 0).all()  # a tie with ST is on no side
    assert (ranked["target"] == agreement.MEAN).sum() == 6  # two goals, three budgets


def test_what_is_level_with_the_baseline_is_on_no_side():
    """As ten trainings of the paper's Table 12 are, whose accuracy is 100.00 % on their own images."""
    found = agreement.cells("table12", published("table12"))
    own = found["quantity"] == "train_acc"
    found.loc[own, "ours"] -= np.arange(own.sum())
    ranked = agreement.ranks("table12", found).set_index("quantity")
    printed = published("table12").set_index("mechanism")["train_acc"]
    assert (printed == printed["ST"]).sum() > 5
    assert ranked.at["train_acc", "same_side"] == 1  # of those below; ST, the first, has our most


def test_small_numbers_are_seen_to_differ():
    """A weight of 4e-3 is not the paper's 1e-5, which two digits behind the point would hide."""
    ours = published("table11")
    changed = ours["mechanism"].eq("JR") & ours["tau"].eq(1)
    ours.loc[changed, "value"] = 4e-3
    found = agreement.cells("table11", ours)
    tables = agreement.agreement_section("table11", found, agreement.ranks("table11", found)).tables
    text = "".join(map(to_markdown, tables))
    assert "| JR_1 | 0.00400 | 1.00e-05 | 0.00399 |" in text


def test_rank_correlation_is_scipys():
    import scipy.stats

    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, 20)  # with ties
    y = x + rng.normal(0, 4, 20)
    rho, low, high = agreement.spearman_interval(x, y)
    assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert low < rho < high
    assert np.isnan(agreement.spearman([1, 1, 1], [1, 2, 3]))


def test_cells_without_a_number_are_no_rows():
    """A surrogate that diverged, say: it is neither counted, nor ranked, nor on the wrong side."""
    expected = agreement.spearman_interval([1, 2, 3, 5], [2, 1, 3, 5])
    assert agreement.spearman_interval([1, 2, 3, np.nan, 5], [2, 1, 3, 4, 5]) == expected
    assert np.isnan(agreement.spearman_interval([1, np.nan, 3], [1, 2, 3])).all()
    ours = published("table2")
    ours.loc[ours["mechanism"] == "LS", "asr_mean"] = np.nan
    ranked = agreement.ranks("table2", agreement.cells("table2", ours))
    assert (
        ranked["rows"]
        == ours.query("mechanism != 'LS'").value_counts(["mechanism", "tau"], dropna=False).size
    ).all()
    assert (ranked[["spearman", "same_side"]] == 1).all(axis=None)


def test_the_mean_over_targets_is_of_rows_that_have_them_all():
    """Targets differ by more than rows: one that was tried on an easy target alone would come out first."""
    ours = published("table2")
    ours["asr_mean"] += ours["target"].map({name: 30 * i for i, name in enumerate(ours["target"].unique())})
    tried = ours["mechanism"].str.startswith("SAM") & (ours["target"] != ours["target"].iloc[0])
    ranked = agreement.ranks("table2", agreement.cells("table2", ours[~tried]))
    np.testing.assert_allclose(ranked["spearman"], 1)
    each = ranked.groupby(ranked["target"] == agreement.MEAN)["rows"].agg(["min", "max"])
    assert each.loc[True, "max"] < each.loc[False, "max"]


def rows(*names, seeds=2, attack="pgd", **more):
    """Rows of one target as a study makes them: a tenth of the place and a hundredth of the seed."""
    return pd.DataFrame(
        [
            {
                **{"mechanism": name, "seed": seed, "attack": "noise" if name == "noise" else attack},
                **{"goal": "untargeted", "eps_255": 4.0, "target": "ResNet50"},
                **{"asr": place / 10 + seed / 100, "similarity": 0.1 * place},
                **more,
            }
            for place, name in enumerate(names, start=1)
            for seed in range(seeds)
        ]
    )


def test_our_rows_take_the_papers_columns_and_names():
    found = in_its_columns("table2", rows("ST", "MU_1", "MU_1[paper]", "noise"))
    assert list(found) == list(published("table2"))
    assert found["mechanism"].tolist() == ["ST", "MU", "MU[paper]", "noise"]
    assert found["tau"].fillna(0).tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(found["asr_mean"], [10.5, 20.5, 30.5, 40.5])
    np.testing.assert_allclose(found["asr_err"], 0.5)
    beside = agreement.cells("table2", found)
    assert beside["row"].tolist() == ["ST", "MU_1"]  # the paper has no noise, and no equations
    assert beside["paper"].iloc[0] == 54.3


def test_strategies_and_trainings_of_targets_are_names_too():
    several = pd.concat([rows("ST"), rows("ST", attack="DIM"), rows("noise")])
    assert in_its_columns("table4", several)["surrogate"].tolist() == ["ST", "ST+DIM", "noise"]
    starred = rows("ST", "CM_5", "MU_5").assign(target="target CM")
    starred = starred.assign(same_as_target=starred["mechanism"] == "CM_5")
    found = in_its_columns("table8", starred)
    assert found["surrogate"].tolist() == ["ST", "same_as_target"]
    assert set(found["target_training"]) == {"CM"}


def of_attacks(**rates):
    """Rows of two targets and seeds, as a study of attacks makes them: rates in percent by label."""
    return pd.DataFrame(
        [
            {
                **{"mechanism": "noise" if label == "noise" else "ResNet18", "seed": seed, "attack": label},
                **{"goal": "untargeted", "eps_255": 16.0, "target": target},
                **{"asr": (rate + shift + seed) / 100, "similarity": 0.1},
            }
            for label, rate in rates.items()
            for seed in (0, 2)
            for target, shift in (("VGG16", 0), ("DenseNet121", 5))
        ]
    )


def test_attacks_of_stand_ins_take_the_papers_columns():
    ours = of_attacks(MI=20, VT=30, TPA=40, PGN=50, noise=3).assign(eps_255=8.0)
    ours = pd.concat([ours, ours[ours["target"] == "VGG16"].assign(target="ResNet50")])
    places = {"ResNet18": "ResNet50", "VGG16": "VGG19", 8: 16}
    found = in_its_columns("tpa_table1", ours, stands_for=places)
    assert list(found) == list(published("tpa_table1"))
    assert set(found["attack"]) == {"MI", "VT", "TPA", "PGN"}
    vgg = found[found["target"] == "VGG19"].set_index("attack")["asr"]
    np.testing.assert_allclose(vgg[["MI", "VT", "TPA"]], [21, 31, 41])
    beside = agreement.cells("tpa_table1", found)
    assert set(beside["row"]) == {"MI", "VT", "TPA"}  # PGN is none of the paper's baselines
    assert set(beside["target"]) == {"VGG19", "DenseNet121"}  # our ResNet50 is not the surrogate itself
    assert beside.set_index(["row", "target"]).loc[("TPA", "VGG19"), "paper"] == 98.83
    ranked = agreement.ranks("tpa_table1", beside)
    np.testing.assert_allclose(ranked["spearman"], 1)
    np.testing.assert_allclose(ranked["same_side"], 1)  # of MI
    assert "TPA's Table 1" in agreement.agreement_section("tpa_table1", beside, ranked).title


def test_numbers_of_steps_stand_in_the_attacks_labels():
    ours = of_attacks(**{"VT, 10 steps": 20, "VT, 20 steps": 30, "TPA, 20 steps": 40})
    found = in_its_columns("tpa_table6", ours, stands_for={"ResNet18": "ResNet50"})
    assert set(zip(found["attack"], found["iters"], strict=True)) == {("VT", 10), ("VT", 20), ("TPA", 20)}
    beside = agreement.cells("tpa_table6", found)
    assert beside.set_index(["row", "iters"]).loc[("VT", 20), "paper"] == 89.62
    same = in_its_columns("transferattack_resnet50", of_attacks(PGN=3), stands_for={"ResNet18": "ResNet50"})
    assert set(same["category"]) == {"Gradient-based"}


def test_increment_scores_are_the_papers_own():
    printed = published("table7")
    similarities = printed.pivot(index="surrogate", columns="target_training", values="gradient_similarity")
    expected = printed.drop_duplicates("surrogate").set_index("surrogate")["increment_score"]
    assert increments(similarities).to_dict() == expected.to_dict()
    tidy = printed.rename(columns={"gradient_similarity": "similarity"}).assign(
        mechanism=printed["surrogate"], target="target " + printed["target_training"], seed=0
    )
    tidy.loc[tidy["target_training"] == "ST", "target"] = "VGG16"
    pd.testing.assert_frame_equal(
        in_its_columns("table7", tidy).sort_values(SHAPES["table7"].keys, ignore_index=True),
        printed.sort_values(SHAPES["table7"].keys, ignore_index=True),
        check_dtype=False,
    )
    ranked = agreement.ranks("table7", agreement.cells("table7", printed))
    counted = ranked.groupby("quantity")["target_training"].agg(list)
    assert counted["increment_score"] == [agreement.EVERY]  # a row has one, whatever the target
    assert len(counted["gradient_similarity"]) == printed["target_training"].nunique()


def test_accuracies_are_means_over_seeds_in_percent():
    tidy = pd.DataFrame(
        {"mechanism": ["LS_1", "LS_1"], "seed": [0, 1], "train": [1.0, 0.9], "test": [0.8, 0.6]}
    )
    (found,) = in_its_columns("table12", tidy).to_dict("records")
    assert (found["mechanism"], found["tau"], found["train_acc"], found["test_acc"]) == ("LS", 1, 95.0, 70.0)
