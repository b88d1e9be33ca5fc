"""PGN, TPA and Gubri et al. as configs: what their scales hold, and a whole run of the smallest of each."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from configs import gubri, pgn, tpa
from experiments.publish import overview, publish
from transferjax.report.agreement import MEAN
from transferjax.report.claims import CLAIMS
from transferjax.report.published import published
from transferjax.study import registry, views
from transferjax.study.binding import call_of

PAPERS = {"pgn": pgn, "tpa": tpa, "gubri": gubri}
SCALES = [(name, scale) for name, module in PAPERS.items() for scale in module.SCALES]


def models_of(value):
    """Every model that a config names, wherever it stands."""
    if isinstance(value, tuple | list):
        for entry in value:
            yield from models_of(entry)
    elif isinstance(value, dict):
        if "model" in value:
            yield value["model"]
        yield from models_of(tuple(value.values()))


@pytest.mark.parametrize(
    ("name", "variant"),
    [*SCALES, ("pgn", "cpu,tables=attacks+claims,seed=2"), ("gubri", "cpu,tables=training+claims,seeds=1")],
)
def test_blocks_name_networks_and_views_name_blocks(name, variant):
    c = PAPERS[name].get_config(variant)
    known, attacks = {label for label, _, _ in c.networks}, [label for label, _, _ in c.attacks]
    assert len(attacks) == len(set(attacks))
    for _, attack, options in c.attacks:
        assert call_of(registry.ATTACKS, attack, options).name == attack
    for call in models_of(c.networks):
        assert call_of(registry.MODELS, call["name"], call["options"]).name == call["name"]
    blocks = dict(c.blocks)
    for block in blocks.values():
        assert block["surrogates"]
        assert {*block["surrogates"], *block["targets"]} <= known
        assert set(block["attacks"]) <= set(attacks)
    for view, kind, options in c.views:
        assert set(options) <= set(views.VIEWS[kind].options), view
        assert options["block"] in blocks, view
        assert all(role["block"] in blocks for _, _, role in options.get("roles", ()))


def test_pgn_takes_its_codes_settings():
    c = pgn.get_config("full")
    named = {label: (name, options) for label, name, options in c.attacks}
    assert named["PGN"] == ("pgn", {"steps": 10, "neighbors": 20})  # steps of eps / 10, ζ = 3 and δ = 0.5
    near, probe = named["PGN-DIM"][1]["outer_rules"]
    assert near["options"]["samples"] == 20
    assert near["options"]["transform"]["options"]["radius"] == pytest.approx(3 * 16 / 255)
    assert probe["options"]["radius"] == pytest.approx(-1.6 / 255)
    assert {"AdvIncV3", "EnsAdvIncResV2"} <= set(dict(c.blocks)["attacks"]["targets"])
    exact = named["PGN, Hessian"][1]["outer_rules"]
    assert exact[1]["options"]["exact"] is True


@pytest.mark.parametrize("paper", [pgn, tpa])
def test_claims_look_at_what_the_pages_show(paper):
    """The flatness of a claim is that of the view, at its radius: nothing is measured twice."""
    views = {name: options for name, _, options in paper.get_config("cpu").views}
    roles = {role: options for role, _, options in views["claims"]["roles"]}
    assert roles["flatness"] == views["flatness"]


def test_tpa_has_every_surrogate_attack_and_target_of_its_tables():
    c = tpa.get_config("full")
    blocks = dict(c.blocks)
    for name in ("table1", "table2", "table3"):
        printed, block = published(f"tpa_{name}"), blocks[name]
        assert set(printed["surrogate"]) <= set(block["surrogates"])
        assert set(printed["attack"]) <= set(block["attacks"])
        assert set(printed["target"]) <= set(block["targets"])
    named = {label: options for label, _, options in c.attacks}
    assert named["VT"]["step_size"] == pytest.approx(1.6 / 255)
    assert (named["TPA"]["steps"], named["TPA"]["neighbors"]) == (20, 10)
    assert "step_size" not in named["TPA"]  # a tenth of any budget
    assert named["beta=16"]["beta"] == pytest.approx(1.84 * 16 / 255)


def test_gubris_surrogates_stop_at_every_epoch_on_their_own_schedule():
    c = gubri.get_config("full,seeds=1")
    found = {label: (tags, spec) for label, tags, spec in c.networks}
    tags, spec = found["SGD, epoch 150"]
    assert (tags["epoch"], tags["decay"]) == (150, 50)
    assert spec["training"]["schedule"]["options"]["at"] == (50, 100)
    late = found["SGD, decay at 100, epoch 5"][1]
    assert (late["epoch"], late["training"]["schedule"]["options"]["at"]) == (5, (100,))
    parts = {part["name"]: part["options"] for part in found["l-WASAM, epoch 60"][1]["parts"]}
    assert parts == {"sam": {"rho": 0.3}, "swa": {"start": pytest.approx(1 / 3)}}
    assert {f"SGD, epoch {epoch}" for epoch in (50, 51, 52, 53, 55, 101)} < found.keys()
    averages = [tags["epoch"] for tags, spec in found.values() if tags.get("mechanism") == "SWA"]
    assert min(averages) == 51  # before that an average is the network itself
    assert found["D_NR, epoch 5"][1]["data"]["call"]["options"]["steps"] == 1000
    blocks = dict(c.blocks)
    assert [blocks[name]["eps_255"] for name in ("D_R", "D_NR", "D_rand", "D_det")] == [
        (16,),
        (2,),
        (1,),
        (1,),
    ]
    test, validation = blocks["minimizers"]["data"], blocks["validation"]["data"]
    assert validation["skip"] == test["count"] == 1000
    assert len(blocks["minimizers"]["targets"]) == 10
    assert c.error == "two_std"


@pytest.mark.parametrize(
    ("variant", "epochs"),
    [
        ("cpu,length=2.5", (1, 2, 2.5)),
        ("full,length=12,seeds=1", (5, 6, 7, 9, 10, 11, 12)),
        ("full,length=3,seeds=1", (2, 3)),
    ],
)
def test_the_last_stop_is_the_end_of_training(variant, epochs):
    c = gubri.get_config(f"{variant},tables=training+lgv")
    found = {label: spec for label, _, spec in c.networks}
    assert [label for label in found if label.startswith("SGD, epoch")] == [
        f"SGD, epoch {epoch:g}" for epoch in epochs
    ]
    assert found[f"SGD, epoch {epochs[-1]:g}"]["training"]["epochs"] == epochs[-1]
    blocks = dict(c.blocks)
    assert {label for label in blocks["training"]["surrogates"] if label.startswith("SGD")} < set(found)


def test_images_must_be_left_to_choose_when_to_stop():
    with pytest.raises(ValueError, match="count=0: all test images are attacked, and none are left"):
        gubri.get_config("cpu,count=0")
    gubri.get_config("cpu,count=0,tables=training+claims")


@pytest.mark.parametrize(
    ("paper", "variant", "message"),
    [
        (pgn, "full,width=12", "width=12: full trains nothing: its nets are files"),
        (tpa, "full,seeds=3", "seeds=3: full trains nothing"),
        (pgn, "full,seed=0", "seed=0: full trains nothing"),
        (gubri, "full,epochs=10", "epochs=10: length says how long"),
        (gubri, "cpu,seeds=2,seed=1", "seeds and seed: give one, how many or which"),
        (gubri, "cpu,repeated=SWAG", "repeated=SWAG: cpu has SGD, SAM, l-SAM"),
    ],
)
def test_a_key_that_would_change_nothing_is_refused(paper, variant, message):
    with pytest.raises(ValueError, match=message):
        paper.get_config(variant)


def test_claims_alone_look_at_everything():
    for paper in (pgn, tpa, gubri):
        asked = [paper.get_config(f"cpu{more}").views for more in ("", ",tables=claims")]
        assert len(asked[1]) == 1
        assert asked[1][0] == next(view for view in asked[0] if view[0] == "claims")


def test_every_seed_trains_what_is_asked_to_be_repeated():
    def seeds(variant):
        found = {}
        for _, tags, _ in gubri.get_config(variant).networks:
            if "epoch" in tags:
                found.setdefault(tags["mechanism"], set()).add(tags["seed"])
        return {name: len(of) for name, of in found.items()}

    usual = seeds("cpu,tables=minimizers+D_R+D_NR+D_det")
    assert {name for name, count in usual.items() if count == 3} == {"SGD", "SAM", "l-SAM", "D_R", "D_NR"}
    assert set(seeds("cpu,tables=minimizers+D_R,repeated=all").values()) == {3}
    assert seeds("cpu,tables=minimizers,repeated=SWA")["SWA"] == 3


def test_one_net_serves_as_both_at_any_width():
    c = gubri.get_config("full,width=8,seeds=1,tables=techniques")
    assert {spec["model"]["options"].get("width") for _, tags, spec in c.networks if "epoch" in tags} == {8}
    assert not any("resnet" in label for label, tags, _ in c.networks if "epoch" in tags)


def test_files_claims_have_several_surrogates():
    """Training seeds there are none of: what claims compare is compared from each surrogate."""
    for paper, roles in ((pgn, ("combined", "zeta", "exact")), (tpa, ("table1", "table6", "beta"))):
        found = dict(paper.get_config("full").blocks)
        assert all(len(found[role]["surrogates"]) >= 4 for role in roles)
    assert found["table3"]["surrogates"] == ("ResNet50",)  # as printed: Self-Universality names a layer of it


def test_one_surrogate_is_no_ensemble(capsys):
    assert "ensemble" in {view for view, _, _ in pgn.get_config("cpu").views}
    assert "ensemble" not in {view for view, _, _ in pgn.get_config("cpu,seeds=1").views}
    assert "left out: ensemble needs two surrogates" in capsys.readouterr().out
    with pytest.raises(ValueError, match="tables=ensemble: expected two surrogates or more"):
        pgn.get_config("cpu,seeds=1,tables=ensemble")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("papers") / "store"


@pytest.fixture(scope="module", params=PAPERS)
def smoke(request, finish, store):
    """What a run of the smallest scale writes; later papers find networks of earlier ones."""
    code, out, err = finish(store, "--json", config=f"configs/{request.param}.py:smoke")
    assert code == 0, err
    said = json.loads(out.strip().splitlines()[-1])
    assert not said["failed"]
    assert not said["missing"]
    return request.param, store / f"studies/{request.param}-smoke"


def test_every_view_of_the_smallest_scale_is_drawn_published_and_has_its_claims_told(smoke, tmp_path):
    name, report = smoke
    c = PAPERS[name].get_config("smoke")
    asked = [view for view, _, _ in c.views]
    page = publish(c.title, asked, report, tmp_path / name).read_text()
    assert "not done" not in page
    for view in asked:
        text = (tmp_path / name / f"{view}.md").read_text()
        for figure in re.findall(r"\((figures/[^)]+)\)", text):
            assert (tmp_path / name / figure).exists()
    claims = pd.read_csv(tmp_path / name / "claims.csv")
    assert len(claims) == len(CLAIMS[name])
    assert claims["margin"].notna().mean() > 0.6  # the rest compares what the smallest scale lacks
    _details(name, tmp_path / name)


def test_one_page_has_every_view_and_claim_of_every_scale(tmp_path):
    out = tmp_path / "paper" / "cpu"
    out.mkdir(parents=True)
    (out / "table1.csv").write_text("mechanism,asr\nST,0.1\nIR,0.2\n")
    (out / "table1.md").write_text("# Table 1\n")
    (out / "table1_order.csv").write_text(
        f"target,rows,spearman,same_side\n{MEAN},9,0.5,1\n{MEAN},9,0.75,1\n{MEAN},3,1,1\nVGG,9,0,1\n"
    )
    (out / "claims.csv").write_text("claim,verdict\nit works,holds\n")
    (out / "table3.csv").write_text("mechanism,asr\nST,0.1\n")
    (out / "table3_order.csv").write_text(f"target,rows,spearman,same_side\n{MEAN},3,1.0,1\n")
    views = {"full": ("table1", "table2", "figure1"), "cpu": ("table1", "table3", "figure1")}
    page = overview(tmp_path / "paper", views, {"table9": "configs/other.py"})
    assert "table9 is not run: `configs/other.py`." in page
    assert "| | full | [cpu](cpu/README.md) |" in page
    assert "| table1 | not run | [2 rows](cpu/table1.md), ρ 0.50 to 0.75 |" in page
    assert "| table2 | not run | – |" in page
    assert "| table3 | – | 1 rows, ρ of too few rows |" in page
    assert "| figure1 | not run | not run |" in page
    assert page.endswith("| claim | cpu |\n|---|---|\n| it works | holds |\n")


def _details(name, out):
    if name == "gubri":
        stopped = pd.read_csv(out / "minimizers.csv")
        assert {"SGD", "SGD, stopped", "l-SAM, stopped"} <= set(stopped["mechanism"])
        assert (stopped.loc[stopped["mechanism"] == "SGD", "epoch"] == 3).all()
        training = pd.read_csv(out / "training.csv")
        assert (training["weight_trace"] > 0).all()
        assert set(training["epoch"]) == {1, 2, 3}
        return
    flat = pd.read_csv(out / "flatness.csv")
    assert (flat[["flatness", "first_order", "second_order", "transfer_loss"]] >= 0).all().all()
    assert np.isfinite(flat["model_difference"]).all()
    table = "attacks" if name == "pgn" else "table1"
    found = pd.read_csv(out / f"{table}.csv")
    assert list(found) == list(published("transferattack_resnet50" if name == "pgn" else "tpa_table1"))
    assert list((out / "figures").glob(f"{table}_*.png"))
    if name == "pgn":
        exact = pd.read_csv(out / "exact.csv")
        assert {"PGN", "PGN, Hessian"} <= set(exact["attack"])
