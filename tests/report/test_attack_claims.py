"""The claims of PGN, TPA and Gubri et al.: each holds on rows that say so, and fails on their opposite."""

import numpy as np
import pandas as pd
import pytest

from transferjax.report.claims import CLAIMS, FAILS, HOLDS, UNTOLD, check_claims
from transferjax.report.claims.verdicts import by_value, value_of


def rows(sign=1, **rates):
    """Three seeds and two targets of attacks with these rates in percent, or turned around 50."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                **{"mechanism": "ResNet18", "seed": seed, "attack": label, "target": target},
                "asr": (50 + sign * (rate - 50) + rng.normal(0, 0.1)) / 100,
            }
            for label, rate in rates.items()
            for seed in range(3)
            for target in ("VGG16", "DenseNet121")
        ]
    )


def swept(sign, name, values):
    return rows(sign, **{f"{name}={value:g}": rate for value, rate in values.items()})


def flat(sign, **attacks):
    """Rows with a flatness and the components of the bound: label -> rate, flatness, second order."""
    found = rows(sign, **{label: rate for label, (rate, _, _) in attacks.items()})
    for place, column in ((1, "flatness"), (2, "second_order")):
        found[column] = found["attack"].map({label: row[place] for label, row in attacks.items()})
    if sign < 0:
        found["flatness"] = 10 - found["flatness"]
    least = 1.0 if sign > 0 else 100.0
    return found.assign(model_difference=1.0, first_order=1.0, transfer_loss=least)


def pgn(sign):
    tables = {"MI-FGSM": 30, "NI-FGSM": 31, "EMI-FGSM": 40, "VMI-FGSM": 50, "RAP": 45, "PGN": 70}
    combined = {"DIM": 40, "VMI-DIM": 50, "EMI-DIM": 45, "PGN-DIM": 60}
    apart = {"PGN": 70, "PGN, Hessian": 69.5 if sign > 0 else 60}  # a worse one is another, too
    return {
        "attacks": rows(sign, **tables),
        "combined": rows(sign, **combined),
        "exact": rows(1, **apart),
        "zeta": swept(sign, "zeta", {0.5: 40, 3: 60}),
        "neighbors": swept(sign, "neighbors", {1: 40, 20: 60}),
        "delta": swept(sign, "delta", {0: 40, 0.5: 60, 1: 45}),
        "flatness": flat(sign, **{"MI-FGSM": (30, 8, 1), "PGN": (60, 2, 1)}),
    }


def tpa(sign):
    tables = {"MI": 20, "VT": 30, "PGN": 40, "TPA": 60}
    if sign > 0:  # the flattest is not the best, and the bound knows the order
        landscape = {"MI": (20, 8, 90), "VT": (30, 2, 60), "PGN": (40, 9, 40), "TPA": (60, 5, 10)}
    else:  # the flattest is the best, and the bound knows nothing
        landscape = {"MI": (80, 2, 10), "VT": (70, 3, 40), "PGN": (60, 4, 5), "TPA": (40, 9, 20)}
    return {
        **{role: rows(sign, **tables) for role in ("attacks", "secured", "targeted", "defences")},
        "steps": rows(sign, **{"TPA, 10 steps": 40, "TPA, 20 steps": 50}),
        "weight": swept(sign, "weight", {0.1: 30, 0.5: 60, 0.9: 40}),
        "beta": swept(sign, "beta", {1: 30, 16: 60}),
        "neighbors": swept(sign, "neighbors", {5: 30, 20: 60}),
        "radius": swept(sign, "radius", {0.01: 60, 0.09: 30}),
        "flatness": flat(sign, **landscape),
    }


def along(mechanism, rates, traces=(), decay=4.0):
    rng = np.random.default_rng(len(mechanism))
    return [
        {
            **{"mechanism": mechanism, "seed": seed, "epoch": 2.0 * place, "decay": decay, "target": target},
            **{
                "asr": (rate + rng.normal(0, 0.1)) / 100,
                "weight_trace": traces[place - 1] if traces else np.nan,
            },
        }
        for place, rate in enumerate(rates, start=1)
        for seed in range(3)
        for target in ("VGG16", "DenseNet121")
    ]


def gubri(sign):
    ends = {"SGD": 30, "SGD, stopped": 40, "SAM": 45, "l-SAM": 60, "ASAM": 35, "l-ASAM": 50}
    stopped = rows(sign, **ends)
    stopped = stopped.assign(mechanism=stopped["attack"], attack="BIM")
    rates = [30, 40, 55, 45] if sign > 0 else [30, 45, 40, 50]  # rises, or falls, right after the decay
    training = along("SGD", rates, [60.0, 60.0, 50.0, 50.0] if sign > 0 else [1.0, 1.0, 2.0, 2.0])
    training += along("SAM", rates, [9.0, 8.0, 5.0, 6.0] if sign > 0 else [1.0, 3.0, 2.0, 4.0])
    training += along("l-SAM", rates, [5.0] * 4)
    alike = [30, 50, 40, 35] if sign > 0 else [60, 50, 40, 35]
    late = [30, 50, 40, 35] if sign > 0 else [30, 35, 40, 60]
    features = along("D_R", alike) + along("D_NR", late)
    return {"training": pd.DataFrame(training), "stopped": stopped, "features": pd.DataFrame(features)}


@pytest.mark.parametrize(("paper", "frames"), [("pgn", pgn), ("tpa", tpa), ("gubri", gubri)])
def test_every_claim_holds_where_the_rows_say_so_and_fails_where_they_say_the_opposite(paper, frames):
    for sign, verdict in ((1, HOLDS), (-1, FAILS)):
        found = check_claims(CLAIMS[paper], frames(sign))
        told = found.set_index("claim")["verdict"]
        assert (told == verdict).all(), found[told.to_numpy() != verdict][["claim", "margin", "low", "why"]]


def test_surrogates_are_runs_where_attacks_are_compared():
    """Networks from files have one seed, and may be several."""
    frame = rows(PGN=70, **{"VMI-FGSM": 50, "MI-FGSM": 30})
    frame = pd.concat(frame[frame["seed"] == 0].assign(mechanism=name) for name in ("A", "B", "C"))
    frame["asr"] += frame["mechanism"].map({"A": 0, "B": 0.01, "C": 0.02}) * (frame["attack"] == "PGN")
    found = check_claims(CLAIMS["pgn"], {"attacks": frame}).set_index("claim").loc["PGN beats VMI"]
    assert (found["verdict"], found["runs"]) == (HOLDS, 3)
    assert found["margin"] == pytest.approx(21, abs=0.3)
    one = check_claims(CLAIMS["pgn"], {"attacks": frame[frame["mechanism"] == "A"]})
    assert one.set_index("claim").loc["PGN beats VMI", "runs"] == 1


@pytest.mark.parametrize("paper", CLAIMS)
def test_what_is_missing_is_named(paper):
    found = check_claims(CLAIMS[paper], {})
    assert (found["why"] == [f"this report has no rows of {claim.role!r}" for claim in CLAIMS[paper]]).all()
    few = {claim.role: rows(MI=20).assign(epoch=1.0, decay=0.0, flatness=1.0) for claim in CLAIMS[paper]}
    if paper != "sp2024":
        assert check_claims(CLAIMS[paper], few)["why"].str.startswith("missing: ").any()


def test_runs_that_lack_what_others_have_are_not_compared():
    """Three seeds of l-SAM and one of its rivals: two of them would have none to lose to."""
    stopped = gubri(1)["stopped"]
    usual = stopped["mechanism"].isin(("SGD", "SGD, stopped", "SAM", "l-SAM"))
    few = stopped[usual | (stopped["seed"] == 0)]
    found = check_claims(CLAIMS["gubri"], {"stopped": few}).set_index("claim")
    for claim in ("l-SAM is first of all minimizers", "large neighbourhoods beat small ones"):
        assert (found.loc[claim, "verdict"], found.loc[claim, "runs"]) == (UNTOLD, 1)
    assert found.loc["l-SAM beats early stopping", "runs"] == 3
    none = check_claims(CLAIMS["gubri"], {"stopped": few[(few["seed"] > 0) | (few["mechanism"] != "SAM")]})
    assert (
        none.set_index("claim").loc["l-SAM is first of all minimizers", "why"].startswith("missing in a run")
    )


def test_values_stand_in_labels():
    assert [value_of(label) for label in ("zeta=3", "radius=0.05", "k=1e-05", "PGN")] == [3, 0.05, 1e-5, None]
    assert by_value(swept(1, "zeta", {0.5: 40, 3: 60})).round().to_dict() == {0.5: 40, 3.0: 60}
    with pytest.raises(KeyError, match="labelled by a value"):
        by_value(rows(PGN=30))
