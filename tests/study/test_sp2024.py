"""The S&P 2024 paper as a config: what its scales hold, and a whole run of the smallest."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from configs import common, sp2024, sp2024_tables, sp2024_vit
from configs.methods import method
from configs.sp2024_vit import NETS
from experiments.publish import publish
from transferjax import data, models
from transferjax.report.claims import CLAIMS
from transferjax.report.published import OF_ATTACKS, SHAPES, in_its_columns, published
from transferjax.report.tables import NOISE
from transferjax.study import config, content, estimate, resolve, shapes, trial, views
from transferjax.study.mistakes import Mistakes
from transferjax.study.plan import make_plan
from transferjax.study.rows import transfer_rows
from transferjax.study.run import Local, run
from transferjax.study.specs import Adversarial
from transferjax.study.store import Store

TRANSFER = ("table2", "table4", "table5", "table8", "table13")


def specs(c):
    """label -> the fields of its networks."""
    found = {}
    for label, _, spec in c.networks:
        found.setdefault(label, []).append(spec)
    return found


class TestScales:
    def test_cifar10_trains_as_the_official_code_does(self):
        c = sp2024.get_config("cifar10")
        st, *others = specs(c)["ST"]
        t = st["training"]
        assert (t["epochs"], t["batch_size"], [s["seed"] for s in (st, *others)]) == (200.0, 128, [0, 1, 2])
        assert t["schedule"]["options"] == {"peak": 0.1, "warmup_epochs": 10.0}
        assert t["optimizer"]["options"] == {"momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}
        assert st["std"] == (0.2471, 0.2435, 0.2616)
        assert c.attacks[0] == ("pgd", "pgd", {"steps": 20, "step_size": 2 / 255, "random_start": False})
        named = {name: options for name, _, options in c.attacks}
        assert named["MI"]["decay"] == 0.9
        assert (named["DIM"]["prob"], named["DIM"]["rate"], named["DIM"]["decay"]) == (0.7, (0.75, 1.5), 0.9)
        assert named["LGV"]["replace"] is True
        assert dict(c.blocks)["main"]["data"]["count"] == 0  # all of them

    def test_imagenette_begins_with_files_and_takes_fifty_steps(self):
        c = sp2024.get_config("imagenette")
        assert c.attacks[0][2]["steps"] == 50
        t = specs(c)["ST"][0]["training"]
        assert (t["epochs"], t["schedule"]["options"]) == (50.0, {"peak": 1.0, "warmup_epochs": 5})
        assert specs(c)["ST"][0]["start"]["file"] == "weights/resnet50.safetensors"
        assert specs(c)["VGG16"][0]["start"]["file"] == "weights/vgg16_bn.safetensors"
        assert specs(c)["AT"][0]["parts"] == method("AT_5", "imagenette")
        assert dict(c.blocks)["main"]["data"]["count"] == 500

    @pytest.mark.parametrize(("scale", "table"), [("cifar10", "table2"), ("imagenette", "table3")])
    def test_every_row_and_target_of_the_paper_is_there_and_so_are_the_equations(self, scale, table):
        c = sp2024.get_config(scale)
        printed = published(table, "cifar10" if table == "table2" else "imagenette")
        main = dict(c.blocks)["main"]
        rows = {f"{r.mechanism}_{r.tau}" if r.tau is not pd.NA else r.mechanism for r in printed.itertuples()}
        assert set(main["surrogates"]) == rows | {*sp2024.PAPER, *sp2024_tables.BEYOND}
        assert set(main["targets"]) == set(printed["target"])
        assert main["eps_255"] == tuple(sorted(printed["eps_255"].unique()))

    def test_every_magnitude_of_table_11_is_swept_and_shares_its_network(self):
        c = sp2024.get_config("cifar10")
        assert sum(label.startswith("AT_") for label in specs(c)) == 7
        assert specs(c)["IR_3"] == specs(c)["IR"][:1]
        assert len(specs(c)["AT_7"]) == 3  # a claim compares it
        assert {"ST+LGV_SGD", "SAM&JR+LGV_SAM&JR"} <= set(specs(c))
        assert set(dict(c.blocks)["table5"]["surrogates"]) == set(published("table5")["surrogate"])
        others = {label.removeprefix("target ") for label in dict(c.blocks)["table8"]["targets"]}
        assert others == set(published("table8")["target_training"])

    @pytest.mark.parametrize(
        "scale", [*sp2024.SCALES, "cpu,mechanisms=ST+SAM&IR", "cpu,mechanisms=AT_1,seed=1"]
    )
    def test_blocks_name_networks_and_views_name_blocks(self, scale):
        c = sp2024.get_config(scale)
        blocks, known = dict(c.blocks), set(specs(c))
        for name, block in blocks.items():
            named = [*block["surrogates"], *block.get("targets", ())]
            assert set(named) <= known, name
        for name, kind, options in c.views:
            assert kind in views.VIEWS
            assert set(options) <= set(views.VIEWS[kind].options)
            assert options["block"] in blocks, name
        assert all(block["surrogates"] for block in blocks.values())

    def test_a_part_asks_for_what_it_can_fill(self):
        asked = {name for name, _, _ in sp2024.get_config("cpu,mechanisms=ST+SAM&IR,seeds=1").views}
        assert not asked & {"figure2", "figure3", "figures4to6", "figures7to10", "figure11"}
        assert {"table2", "table4", "hypothesis1", "claims"} <= asked

    def test_what_has_nothing_to_show_is_left_out_and_said_to_be(self, capsys):
        c = sp2024.get_config("smoke,mechanisms=l-SAM & SWA")
        assert {"table8", "figure3"}.isdisjoint(name for name, _, _ in c.views)
        assert next(label for label, _, _ in c.networks) == "l-SAM&SWA"
        assert "left out: table4 needs ST; " in capsys.readouterr().out

    def test_services_are_asked_for_by_name(self):
        assert "table10" not in {name for name, _, _ in sp2024.get_config("imagenette").views}
        c = sp2024.get_config("imagenette,tables=table10")
        assert specs(c)["AWS"] == [{"kind": "Service", "name": "AWS", "record": "records/AWS.safetensors"}]
        block = dict(c.blocks)["table10"]
        assert set(block["targets"]) == set(published("table10", "imagenette")["platform"])
        assert block["eps_255"] == (8, 16)

    def test_a_variant_takes_a_part(self):
        c = sp2024.get_config("cpu,seed=2,epochs=3,width=8,mechanisms=ST+SAM&IR,tables=table2,count=50")
        assert set(specs(c)) == {
            "ST",
            "SAM&IR",
            "ResNet50",
            "VGG16",
            "InceptionV3",
            "DenseNet121",
        }
        (st,) = specs(c)["ST"]
        assert (st["seed"], st["training"]["epochs"], st["model"]["options"]["width"]) == (2, 3.0, 8)
        assert st["training"]["schedule"]["options"]["warmup_epochs"] == 0.5
        assert [name for name, _ in c.blocks] == ["main"]
        assert dict(c.blocks)["main"]["data"]["count"] == 50

    def test_swept_magnitudes_are_in_claims_and_curves_alone(self):
        """With every seed of those that claims compare, and one of the others."""
        c = sp2024.get_config(
            "cpu,seeds=3,mechanisms=ST+AT,swept=AT_1+AT_7+IR_1,tables=table2+claims+figure2"
        )
        blocks, views = dict(c.blocks), {name: options["block"] for name, _, options in c.views}
        assert blocks[views["table2"]]["surrogates"] == ("ST", "AT")
        assert blocks[views["claims"]]["surrogates"] == ("ST", "AT", "AT_1", "AT_7", "IR_1")
        assert views["figure2"] == views["claims"]
        trained = {label: [spec["seed"] for spec in several] for label, several in specs(c).items()}
        assert (trained["ST"], trained["AT_1"], trained["IR_1"]) == ([0, 1, 2], [0, 1, 2], [0])

    @pytest.mark.parametrize(
        ("variant", "message"),
        [
            ("gpu", "unknown variant 'gpu': begin with cifar10"),
            ("cpu,sedes=1", "unknown variant 'sedes'"),
            ("cpu,tables=table1", "tables=table1: cpu has table2"),
            ("cpu,seeds=0", "seeds=0: expected at least 1"),
            (
                "cpu,mechanisms=l-SAM,tables=table8+figure3",
                "table8 needs one of ST.*figure3 needs",
            ),
        ],
    )
    def test_unknown_variants_are_named(self, variant, message):
        with pytest.raises(ValueError, match=message):
            sp2024.get_config(variant)


def refuse(*args):
    raise ValueError("no such attack")


@pytest.fixture
def no_data(monkeypatch):
    """CIFAR-10 as if it were there."""
    there = content.Facts("0" * 32, 1000, 10, (32, 32, 3))
    for module in (content, estimate, shapes, trial):
        monkeypatch.setattr(module, "facts", lambda spec: there)
    monkeypatch.setattr("transferjax.study.resolve.facts", lambda spec: there)


def test_a_full_config_is_traced_and_weighed(no_data, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_speed", lambda: 1e9)
    c = sp2024.get_config("cifar10,mechanisms=ST+SAM,tables=table2,seeds=1")
    c.networks = tuple(entry for entry in c.networks if entry[0] in ("ST", "SAM", "VGG16"))
    c.blocks = tuple((name, {**block, "targets": ("VGG16",)}) for name, block in c.blocks)
    study = config.read(c, views.VIEWS)
    demand = [spec for row in views.rows_of(study, study.views[0]) for spec in row.needs.values()]
    plan = make_plan(demand, Store(tmp_path))
    shapes.check_plan(plan)
    found = shapes.sizes(plan, 128)
    assert found["cifar_resnet18"].parameters == 11_173_962
    alone = shapes.sizes(plan, 128, devices=4)["cifar_resnet18"]
    assert alone.bytes < found["cifar_resnet18"].bytes
    # 200 epochs of 1000 images: SAM and ST on ResNet-18, ST on VGG-16, then the attacks
    least = 3 * 200 * 1000 * 3 * 1.1e9 / estimate.GPU_SPEED / 3600
    assert least < estimate.gpu_hours(plan) < 3 * least
    wrong = next(spec for spec in plan.missing.values() if isinstance(spec, Adversarial) and spec.surrogates)
    monkeypatch.setattr(shapes, "attack_of", refuse)
    with pytest.raises(Mistakes, match=f"Adversarial {wrong.key[:12]}: no such attack"):
        shapes.check_plan(plan)


@pytest.fixture(scope="module")
def smoke(finish, tmp_path_factory):
    """What a run of the smallest scale writes."""
    root = tmp_path_factory.mktemp("smoke") / "store"
    code, out, err = finish(root, "--json", config="configs/sp2024.py:smoke")
    assert code == 0, err
    said = json.loads(out.strip().splitlines()[-1])
    assert not said["failed"]
    assert not said["missing"]
    return root / "studies/sp2024-smoke"


@pytest.fixture(scope="module")
def imagenette(smoke, finish):
    """The tables that the paper has of ImageNette alone, from the same networks."""
    store, variant = smoke.parents[1], "smoke,tables=table3+smoothness"
    code, out, err = finish(store, "--json", config=f"configs/sp2024.py:{variant}")
    assert code == 0, err
    said = json.loads(out.strip().splitlines()[-1])
    assert not said["failed"]
    assert not said["made"], "all of it is there"
    return store / f"studies/sp2024-{variant}"


ELSEWHERE = (
    "table9",
    "table10",
    *OF_ATTACKS,
)  # other images, files, services; other papers


@pytest.mark.parametrize("table", [name for name in SHAPES if name not in ELSEWHERE])
def test_a_table_has_the_papers_columns(request, table):
    name = {"smoothness_imagenette": "smoothness"}.get(table, table)
    place = request.getfixturevalue("imagenette" if name in ("table3", "smoothness") else "smoke")
    found = pd.read_csv(place / f"{name}.csv")
    assert list(found) == list(published(table))
    assert len(found)
    for suffix in ("_rows", "_agreement", "_order"):
        assert (place / f"{name}{suffix}.csv").exists()


@pytest.mark.parametrize("table", TRANSFER)
def test_noise_stands_in_every_table_of_transfer(smoke, table):
    found = pd.read_csv(smoke / f"{table}.csv")
    names = found["mechanism" if "mechanism" in found else "surrogate"]
    assert (names == NOISE).any()
    assert "noise" in (smoke / "report.md").read_text()


def test_numbers_are_those_of_the_rows(smoke):
    rows, found = (pd.read_csv(smoke / f"table2{suffix}.csv") for suffix in ("_rows", ""))
    by = ["mechanism", "goal", "eps_255"]
    rates = rows[rows["mechanism"] == "MU_5"].groupby(by)["asr"].agg(["min", "max"]).reset_index()
    ours = found[(found["mechanism"] == "MU") & (found["tau"] == 5)].merge(rates, on=["goal", "eps_255"])
    assert len(ours) == 4
    np.testing.assert_allclose(ours["asr_mean"], 50 * (ours["max"] + ours["min"]), atol=1e-3)
    np.testing.assert_allclose(ours["asr_err"], 50 * (ours["max"] - ours["min"]), atol=1e-3)
    assert (rows["transferred"].dropna() <= rows["asr"][rows["transferred"].notna()] + 1e-9).all()


def test_the_exact_rate_asks_that_both_were_right_and_both_are_fooled():
    """T_r of Section 3, which `metrics.transferability` counts from nets, here from what nets said."""
    row = next(transfer_rows(config.read(sp2024.get_config("smoke"), views.VIEWS), "main"))
    rng, labels = np.random.default_rng(0), np.arange(64) % 3
    said = {name: rng.integers(0, 3, 64) for name in row.needs}
    found = {
        name: {"classes": classes, "labels": labels, "values": np.ones(64)} for name, classes in said.items()
    }
    right = {name: classes == labels for name, classes in said.items()}
    expected = right["own 0 clean"] & right["target clean"] & ~right["own 0"] & ~right["target"]
    assert 0 < expected.mean() < min((~right["target"]).mean(), (~right["own 0"]).mean())
    assert row.reduce(found)["transferred"] == expected.mean()


def test_table_6_calls_smooth_high():
    """Success that falls with λ₁ correlates with smoothness, -λ₁, at +1, as printed."""
    rng, places = np.random.default_rng(0), np.arange(8)
    results = pd.DataFrame({"mechanism": [f"M{i}" for i in places], "smoothness": 10.0 - places})
    results = results.assign(
        **{"seed": 0, "goal": "untargeted", "eps_255": 8.0, "target": "VGG16", "asr": places / 10},
        **{name: rng.uniform(size=8) for name in ("surrogate_accuracy", "fooling_rate", "similarity")},
    )
    found = in_its_columns("table6", results).set_index("statistic")["value"]
    assert found["r_smoothness"] == pytest.approx(1)
    assert (published("table6").query("statistic == 'r_smoothness'")["value"] > 0).all()


@pytest.mark.parametrize("scale", ["cifar10", "imagenette"])
def test_what_explains_transfer_counts_every_training_once(scale):
    """AT is AT_2 of CIFAR-10 and AT_5 of ImageNette; equations and what came later are not the paper's."""
    c = sp2024.get_config(scale)
    labels = dict(c.blocks)["explained"]["surrogates"]
    parts = {repr(specs(c)[label][0]["parts"]): label for label in labels}
    assert len(parts) == len(labels)
    assert not {label for label in labels if "[" in label or label in sp2024_tables.BEYOND}
    twin = {"cifar10": "AT_2", "imagenette": "AT_5"}[scale]
    assert "AT" in labels
    assert twin not in labels
    assert {*specs(c)} >= {twin, *labels}


def test_targets_are_trained_with_the_budgets_that_they_are_named_after():
    c = sp2024.get_config("cifar10")
    for label in ("AT_0.01", "AT_0.05"):
        (part,) = specs(c)[f"target {label}"][0]["parts"]
        assert part["options"]["eps"] == float(label.removeprefix("AT_"))
    assert not {"table7", "table8"} & {name for name, _, _ in sp2024.get_config("imagenette").views}


def test_strategies_ensembles_and_trainings_are_rows(smoke):
    assert {"SAM+MI", "SAM+DIM", "SAM"} <= set(pd.read_csv(smoke / "table4.csv")["surrogate"])
    assert {"ST+LGV_SGD", "SAM+LGV_SAM"} <= set(pd.read_csv(smoke / "table5.csv")["surrogate"])
    assert set(pd.read_csv(smoke / "table7.csv")["target_training"]) == {"ST", "MU"}
    starred = pd.read_csv(smoke / "table8.csv")
    assert (starred["surrogate"] == "same_as_target").sum() == 2  # goals


def test_theory_has_its_terms(smoke):
    bounds = pd.read_csv(smoke / "theorem1.csv")
    assert len(bounds)
    assert (bounds["value"] <= bounds["transfer"] + 1e-5).all()  # of most nets it is -inf
    assert bounds["proposition_1"].between(0, 1 + 1e-4).all()
    shifts = pd.read_csv(smoke / "hypothesis1.csv").groupby("mechanism")["frechet"].mean()
    assert shifts["ST"] == 0 < shifts["MU_5"]


def test_table_11_is_what_networks_of_these_names_have_whatever_is_trained(smoke):
    beside = pd.read_csv(smoke / "table11_agreement.csv")
    assert set(beside["row"]) == set(sp2024_tables.every_magnitude("cifar10"))
    assert len(beside) == 47
    assert (beside["difference"] == 0).all()


def test_figures_and_claims_are_drawn(smoke):
    figures = {file.stem for file in (smoke / "figures").iterdir()}
    assert {
        "magnitude_AT_strength_targeted_16",
        "magnitude_strength_similarity",
        "seeds_similarity",
    } <= figures
    pairs = pd.read_csv(smoke / "figure11.csv")
    assert len(pairs) == 9  # three mechanisms of two seeds: each pair of different seeds once
    claims = pd.read_csv(smoke / "claims.csv")
    assert claims["number"].tolist() == list(range(1, len(CLAIMS["sp2024"]) + 1))
    assert claims["verdict"].notna().all()
    page = (smoke / "report.md").read_text()
    assert "Agreement with the paper's Table 2" in page
    assert "The paper's claims" in page


def test_tables_are_only_those_a_scale_has():
    assert set(sp2024_tables.IMAGENETTE) - set(sp2024_tables.ALL) == {"table3", "smoothness"}


def test_what_is_published_is_whole_and_says_what_is_not_done(smoke, tmp_path):
    names = [*(name for name, _, _ in sp2024.get_config("smoke").views), "table3"]
    title = sp2024.get_config("smoke").title
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke/notes.md").write_text("What it shows.\n")
    page = publish(title, names, smoke, tmp_path / "smoke").read_text()
    assert page.startswith(f"# {title}\n\nWhat it shows.\n\n| | rows |")
    assert "| table3 | – | not done |" in page
    assert "[page](table2.md)" in page
    assert "AT with a small budget (τ = 1) beats ST | cannot be told" in page  # nets that have learnt little
    table = (tmp_path / "smoke/table2.md").read_text()
    assert "Network in" in table.partition("## Cost")[2]
    for figure in re.findall(r"\((figures/[^)]+)\)", table):
        assert (tmp_path / "smoke" / figure).exists()
    copied = pd.read_csv(tmp_path / "smoke/table2.csv")
    pd.testing.assert_frame_equal(copied, pd.read_csv(smoke / "table2.csv"))
    publish(title, ["table2"], smoke, tmp_path / "few")  # as if the config had once had the others
    assert {file.stem.partition("_")[0] for file in (tmp_path / "few").glob("*.csv")} == {"table2"}
    with pytest.raises(FileNotFoundError, match=r"has no report\.md: run the study"):
        publish(title, names, tmp_path, tmp_path / "out")


def test_a_report_is_not_published_as_another_configs(tmp_path):
    (tmp_path / "report.md").write_text("# S&P 2024 on digits, a smoke test\n")
    with pytest.raises(ValueError, match="a smoke test', and the config is 'S&P 2024 on CIFAR-10'"):
        publish("S&P 2024 on CIFAR-10", ["table2"], tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_transformers_are_a_study_of_files(one_device, tmp_path, monkeypatch):
    """Table 9 with a small net's file in the place of each, at 16 px."""
    monkeypatch.chdir(tmp_path)
    net = models.build("cifar_vgg11", 10, width=4, blocks=(1, 1))
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    models.save(variables, tmp_path / "weights/cifar_vgg11.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    data.save(
        data.Dataset(images, np.arange(8, dtype=np.int32), tuple("abcdefghij")), "data/nips2017", "test"
    )
    small = {label: ("cifar_vgg11", "", 12 if how[2] == 224 else 299, how[3]) for label, how in NETS.items()}
    monkeypatch.setattr(sp2024_vit, "NETS", {n: small[n] for n in ("ViT-B/16", "ViT-B/16-SAM", "ResNet101")})
    monkeypatch.setattr(sp2024_vit, "SURROGATES", ("ViT-B/16", "ViT-B/16-SAM"))
    c = sp2024_vit.get_config()
    for _, _, spec in c.networks:
        inner = spec["of"][0] if "of" in spec else spec
        inner["model"] = common.call("cifar_vgg11", width=4, blocks=(1, 1))
    study = config.read(c, views.VIEWS)
    rows = views.rows_of(study, study.views[0])
    context = resolve.Context(Store(tmp_path / "store"), batch_size=8)
    outcome = run(
        list({spec.key: spec for row in rows for spec in row.needs.values()}.values()),
        context.store,
        Local(context),
    )
    assert not outcome.failed, outcome.failed
    frame = views.frame_of(rows, context.arrays, context.store.has)
    found = views.files(study, study.views[0], frame)
    assert list(found[""]) == list(published("table9"))
    assert {"ViT-B/16", "ViT-B/16-SAM+DIM", NOISE} <= set(found[""]["surrogate"])
    assert len(found["_agreement"]) == 2 * 4  # accuracy and success of four surrogates on one target
    assert views.draw(study, study.views[0], frame)
