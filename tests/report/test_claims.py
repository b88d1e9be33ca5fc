"""Verdicts: on margins whose interval is known, and of every claim on rows that fulfil it or do not."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from transferjax.report.claims import (
    AT_CHANCE,
    CLAIMS,
    FAILS,
    HOLDS,
    UNTOLD,
    check_claims,
    claims_section,
    verdict,
)
from transferjax.report.claims.sp2024 import sam_against_ir
from transferjax.report.printed import to_markdown
from transferjax.report.published import names_of, published

NAMES = ("ST", "MU_1", "MU_5", "CM_5", "CO_5", "LS_5", "AT", "IR", "JR", "ER", "SAM", "SAM&IR", "SAM&JR")
RATES = (40, 30, 15, 10, 30, 8, 45, 50, 55, 42, 58, 60, 66)
CURVATURES = (9, 8, 5, 5, 8, 2, 4, 0.5, 0.6, 5, 3, 0.3, 0.4)
SIMILARITIES = (0.2, 0.15, 0.1, 0.1, 0.15, 0.1, 0.22, 0.24, 0.25, 0.21, 0.28, 0.26, 0.3)
SWEPT = {"AT_1": (48, 7, 0.21), "AT_7": (20, 0.1, 0.1), "IR_5": (20, 0.01, 0.1), "IR[paper]": (99, 1e-3, 0.9)}


def test_an_interval_above_zero_holds_one_below_does_not():
    margins = pd.Series([2.0, 3.0, 4.0])
    found = verdict(margins)
    interval = scipy.stats.t.interval(0.95, 2, loc=3, scale=1 / 3**0.5)
    np.testing.assert_allclose((found.low, found.high), interval)
    assert (found.verdict, verdict(-margins).verdict) == (HOLDS, FAILS)
    assert verdict(pd.Series([-1.0, 0.5, 2.0])).verdict == UNTOLD
    assert verdict(pd.Series([5.0])) == (
        UNTOLD,
        5.0,
        pytest.approx(np.nan, nan_ok=True),
        pytest.approx(np.nan, nan_ok=True),
        1,
    )


def transfer(sign=1, seeds=3):
    """Rows as the paper would have them, or with everything turned round."""
    rng = np.random.default_rng(0)
    table = {n: row for n, *row in zip(NAMES, RATES, CURVATURES, SIMILARITIES, strict=True)} | SWEPT
    rows = []
    for name, (rate, curvature, similarity) in table.items():
        for seed in range(seeds):
            for target in ("VGG16", "ResNet50"):
                rate_here = (rate if sign > 0 else 100 - rate) / 100 + rng.normal(0, 0.002)
                rows.append(
                    {
                        **{"mechanism": name, "seed": seed, "goal": "untargeted", "eps_255": 8.0},
                        **{"target": target, "asr": rate_here, "smoothness": curvature**sign},
                        **{"similarity": sign * similarity + rng.normal(0, 1e-4)},
                        **{
                            "surrogate_accuracy": 0.9 + rng.normal(0, 0.01),
                            "fooling_rate": rng.uniform(0.9, 1),
                        },
                    }
                )
    return pd.DataFrame(rows)


def test_an_unfinished_run_is_compared_where_all_have_rows():
    """Without SAM&IR's hard half, or IR's easy half, margins stay those of the other half."""
    both = pd.concat([transfer(), transfer().assign(goal="targeted", asr=lambda rows: rows["asr"] / 10)])
    half = {row.number: row for row in check_claims(CLAIMS["sp2024"], {"all": transfer()}).itertuples()}
    lacking = both[~((both["mechanism"] == "SAM&IR") & (both["goal"] == "targeted"))]
    for row in check_claims(CLAIMS["sp2024"], {"all": lacking}).itertuples():
        if row.unit == "points of ASR":
            np.testing.assert_allclose(row.margin, half[row.number].margin)
    nothing = both[(both["mechanism"] == "SAM") == (both["goal"] == "targeted")]
    found = check_claims(CLAIMS["sp2024"], {"all": nothing, "table2": nothing}).set_index("claim")
    assert found.loc["SAM&JR or SAM&IR is first overall", "why"].startswith("missing: a cell of target, goal")
    cell = found.loc["SAM is no worse than IR in most untargeted cells", "why"]
    assert cell == "missing: a cell of SAM and IR"


def test_white_box_success_is_no_transfer():
    rows = transfer()
    white = rows[rows["target"] == "VGG16"].assign(target=rows["mechanism"], asr=1.0)
    checked = [check_claims(CLAIMS["sp2024"], {"all": found}) for found in (rows, pd.concat([rows, white]))]
    pd.testing.assert_frame_equal(*checked)


def snapshots(sign=1):
    rates = {"SAM": 60, "SAM+LGV_SGD": 45, "ST+LGV_SGD": 40, "SAM&JR+LGV_SGD": 50}
    return pd.DataFrame(
        [
            {"mechanism": name, "seed": seed, "asr": 0.5 + sign * (rate - 50) / 100 + seed / 1000}
            for name, rate in rates.items()
            for seed in range(3)
        ]
    )


def pairs(sign=1):
    table = dict(zip(NAMES, SIMILARITIES, strict=True))
    return pd.DataFrame(
        [
            {"mechanism": name, "seed": seed, "target": target, "similarity": sign * value}
            for name, value in table.items()
            for seed in range(3)
            for target in ("VGG16", "target CM")
        ]
    )


def frames(sign=1):
    rows = transfer(sign)
    roles = {"all": rows, "explained": rows, "table2": rows}
    return {**roles, "lgv": snapshots(sign), "pairs": pairs(sign)}


def number_of(text):
    return next(i for i, claim in enumerate(CLAIMS["sp2024"], 1) if text in claim.text)


EXPLAINS, BETTER_START = number_of("explain transfer"), number_of("LGV from a better")


def test_every_claim_holds_where_the_rows_say_so_and_fails_where_they_say_the_opposite():
    found = check_claims(CLAIMS["sp2024"], frames())
    assert found["number"].tolist() == list(range(1, len(CLAIMS["sp2024"]) + 1))
    told = found.set_index("claim")["verdict"]
    explains = CLAIMS["sp2024"][EXPLAINS - 1].text
    assert (told.drop(explains) == HOLDS).all(), told
    turned = check_claims(CLAIMS["sp2024"], frames(-1))
    told = turned.set_index("claim")["verdict"]
    assert (told.drop(explains) == FAILS).all(), told


def test_what_two_factors_leave_unexplained_speaks_against_the_claim():
    rows = transfer()
    rows["fooling_rate"] = rows["asr"]  # explains all
    rows["similarity"] = np.random.default_rng(1).uniform(size=len(rows))
    rows["smoothness"] = np.random.default_rng(2).uniform(size=len(rows))
    found = check_claims(CLAIMS["sp2024"], {"explained": rows}).set_index("number")
    assert found.loc[EXPLAINS, "verdict"] == FAILS


def test_one_seed_tells_nothing_and_missing_rows_are_named():
    found = check_claims(CLAIMS["sp2024"], {"all": transfer(seeds=1)}).set_index("number")
    assert (found["verdict"] == UNTOLD).all()
    assert found.loc[1, "margin"] == pytest.approx(8, abs=1)
    assert found.loc[BETTER_START, "why"] == "this report has no rows of 'lgv'"
    few = transfer()
    few = few[few["mechanism"].isin(["ST", "SAM"])]
    assert check_claims(CLAIMS["sp2024"], {"all": few}).set_index("number").loc[1, "why"] == "missing: AT_1"
    section = claims_section(found.reset_index())
    assert "1. AT with a small budget" in section.live["Claims"]
    assert "cannot be told at this scale [this report has no rows of 'lgv']" in to_markdown(section.tables[0])
    assert "claim" in to_markdown(section.tables[0])


def test_one_augmentation_that_is_rougher_or_scores_above_zero_is_told():
    """Means over augmentations would hide it behind the others."""
    rows = transfer()
    rows.loc[rows["mechanism"].str.startswith("CO"), "smoothness"] = 20.0
    found = check_claims(CLAIMS["sp2024"], {"all": rows}).set_index("claim")["verdict"]
    assert [found[f"{name} is smoother than ST"] for name in ("MU", "CM", "CO", "LS")] == [
        *(HOLDS, HOLDS, FAILS, HOLDS)
    ]
    rows = pairs()
    rows.loc[rows["mechanism"] == "CO_5", "similarity"] = 0.9
    found = check_claims(CLAIMS["sp2024"], {"pairs": rows}).set_index("claim")["verdict"]
    assert found["no augmentation's increment score is above 0"] == FAILS
    rows = transfer()
    rows.loc[rows["mechanism"] == "JR", "smoothness"] = 20.0  # one of the two is not enough
    assert (
        check_claims(CLAIMS["sp2024"], {"all": rows}).set_index("claim")["verdict"][
            "IR and JR are the smoothest"
        ]
        == FAILS
    )


def printed(table):
    """A table of the paper as rows of transfer, thrice: a seed at each end of its error, one between."""
    found = published(table)
    named = {"mechanism": names_of(found, ("mechanism", "tau"))} if "mechanism" in found else {}
    return pd.concat(
        found.assign(seed=seed, asr=(found["asr_mean"] + side * found["asr_err"]) / 100, **named)
        for seed, side in enumerate((-1, 0, 1))
    )


def test_the_papers_own_tables_fulfil_its_claims():
    """Those of Tables 2, 5 and 7, on its own numbers; SAM is no worse than IR in eleven of twelve."""
    rows = printed("table2")
    assert sam_against_ir(rows) + 0.5 == pytest.approx(11 / 12)
    lgv = printed("table5").rename(columns={"surrogate": "mechanism"})
    similar = published("table7").rename(
        columns={"surrogate": "mechanism", "target_training": "target", "gradient_similarity": "similarity"}
    )
    similar = similar.assign(target="target " + similar["target"])  # as ours are called: no net is its own
    similar = pd.concat(similar.assign(seed=seed) for seed in range(3))
    found = check_claims(
        CLAIMS["sp2024"], {"all": rows, "table2": rows, "lgv": lgv, "pairs": similar}
    ).set_index("claim")
    expected = [
        *(f"{name} transfers worse than ST" for name in ("MU", "CM", "CO", "LS")),
        "SAM is no worse than IR in most untargeted cells",
        "SAM&JR or SAM&IR is first overall",
        "LGV from a better surrogate is better",
        "LGV by SGD undoes SAM's gain",
        "no augmentation's increment score is above 0",
    ]
    assert (found.loc[expected, "verdict"] == HOLDS).all(), found["verdict"]


def test_only_what_is_missing_is_named():
    few = snapshots()
    few = few[~few["mechanism"].str.startswith("SAM&JR")]
    found = check_claims(CLAIMS["sp2024"], {"lgv": few}).set_index("number")
    assert found.loc[BETTER_START, "why"] == "missing: SAM&JR+LGV_SGD"


def learnt(accuracy, chance=0.1, seeds=3, **rates):
    """Rows of AT_1 (and others) that beat ST, of surrogates as accurate as told by mechanism or at all."""
    rates = {"ST": 0.3, "AT_1": 0.5} | rates
    of = accuracy if isinstance(accuracy, dict) else dict.fromkeys(rates, accuracy)
    return pd.DataFrame(
        [
            {"mechanism": name, "seed": seed, "goal": "untargeted", "eps_255": 8.0, "target": "VGG16"}
            | {"asr": rate + seed / 1000, "surrogate_accuracy": of[name], "chance": chance}
            for name, rate in rates.items()
            for seed in range(seeds)
        ]
    )


def told(frame, number=1):
    return check_claims(CLAIMS["sp2024"], {"all": frame}).set_index("number").loc[number, "verdict"]


@pytest.mark.parametrize(
    ("chance", "bound"), [(1 / 2, 0.55), (1 / 10, 0.19), (1 / 100, 0.02), (1 / 1000, 0.002)]
)
def test_surrogates_that_have_learnt_nothing_tell_nothing(chance, bound):
    assert told(learnt(bound + 1e-6, chance)) == HOLDS
    assert told(learnt(bound - 1e-6, chance)) == AT_CHANCE
    assert told(learnt(bound - 1e-6).drop(columns="chance")) == HOLDS  # rows from before


def test_surrogates_at_chance_matter_where_the_claim_compares_them():
    assert told(learnt({"ST": 0.9, "AT_1": 0.1})) == AT_CHANCE
    assert told(learnt({"ST": 0.9, "AT_1": 0.9, "MU_1": 0.1}, MU_1=0.2)) == HOLDS
    one_seed = learnt(0.9)
    one_seed.loc[one_seed["seed"] == 2, "surrogate_accuracy"] = 0.1
    assert told(one_seed) == AT_CHANCE  # two seeds are left, whose margin has no spread
    nothing = check_claims(CLAIMS["sp2024"], {"all": learnt(0.1)}).set_index("number")
    assert nothing.loc[2, "verdict"] == UNTOLD  # AT_7 is missing anyway
    assert nothing.loc[1, "margin"] == pytest.approx(20)
    text = claims_section(nothing.reset_index()).text
    assert "Student's interval" in text
    assert "at chance" in text


def test_counts_have_no_decimals():
    section = claims_section(check_claims(CLAIMS["sp2024"], {"all": learnt(0.9)}))
    assert to_markdown(section.tables[0]).splitlines()[2].endswith("| 3 |")
