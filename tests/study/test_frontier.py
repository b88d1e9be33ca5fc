"""Attacks at equal cost: every row of the config spends what its label says."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from configs import attacked, common, frontier, sp2024, trainings
from configs.methods import method
from transferjax import models
from transferjax.attacks import spent
from transferjax.models.vit import ViT
from transferjax.report.tables import NOISE
from transferjax.study import along, config, estimate, registry, views, walk
from transferjax.study import frontier as frontier_views
from transferjax.study.binding import call_of
from transferjax.study.make import attack_of
from transferjax.study.specs import KINDS, STORED, Call, Goal

POOL = np.zeros((1, 8, 8, 3), np.uint8)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.Conv(2, (3, 3), name="layer2.0")(x).mean((1, 2)))


@pytest.mark.parametrize(
    ("table", "name"), [(t, name) for t, named in frontier.NAMED.items() for name in named]
)
def test_every_attack_spends_what_its_label_says(table, name):
    """An ensemble's is for all its nets together."""
    image = jnp.zeros((1, 8, 8, 3))
    scale = frontier.SCALES["cpu"]().but(layer="layer2.0", tokens=(4, 1))
    net = VIT if table == "transformers" else Net()
    predict = models.predictor(net, net.init(jax.random.key(0), image))
    nets = len(scale.pool) if table == "ensembles" else 1
    goal = Goal(aim="next") if table == "targeted" else Goal()
    for label, row, options in frontier.attacks(scale, frontier.NAMED[table], (name,), nets=nets):
        call = Call(name=row, options=options)
        pool = POOL if registry.accepts(registry.ATTACKS, call, "pool") else None
        attack = attack_of(call, goal, 8 / 255, "linf", pool)
        several = (predict,) * nets if nets > 1 else predict
        assert f"{name} {spent(attack, several, (8, 8, 3)).gradients}" == label
        reckoned = estimate.cost_of(call_of(registry.ATTACKS, row, options), goal, "linf", nets, (8, 8, 3))
        assert f"{name} {reckoned.gradients}" == label  # whatever the net


VIT = ViT(num_classes=4, image_size=8, patch=4, depth=1, width=8, heads=2, hidden=8)


HIT = np.arange(50) % 3 == 0


def test_errors_are_of_the_targets_that_are_there():
    """On the first row of each attack, whatever target that is."""
    tags = {"mechanism": "ST", "seed": 0, "goal": "untargeted", "eps_255": 8.0, "gradients": 10}
    both = np.full(len(HIT), True)
    rows = [
        tags | {"attack": attack, "target": target, "hit": HIT, "both": both}
        for attack, targets in (("PGD", ("VGG", "ViT")), ("MI", ("ViT",)))
        for target in targets
    ]
    found = frontier_views.with_errors(pd.DataFrame(rows))
    expected = [
        frontier_views.mean_error([(HIT, both)] * 2),
        np.nan,
        frontier_views.mean_error([(HIT, both)]),
    ]
    np.testing.assert_allclose(found["error"], expected)
    assert not {"hit", "both"} & set(found)


@pytest.mark.parametrize("known", [True, False])
def test_the_view_draws_a_section_for_each_goal(known):
    """Also where target and surrogate get no image right, as small nets do not."""
    study = config.read(frontier.get_config("smoke"), views.VIEWS)
    rows = [
        {"mechanism": m, "seed": 0, "attack": a, "gradients": g, "target": t, "goal": goal, "eps_255": 8.0}
        | {
            "asr": g / 2000,
            "asr_correct": g / 1000 if known else np.nan,
            "hit": HIT,
            "both": np.full(len(HIT), known),
        }
        for m in ("ST", "SAM&IR")
        for a, g in (("PGD 10", 10), ("PGN 100", 100))
        for t in ("VGG", "ViT")
        for goal in ("untargeted", "targeted")
    ]
    noise = {"mechanism": NOISE, "attack": NOISE, "gradients": 0, "asr": 0.01, "asr_correct": 0.01}
    rows += [{**row, **noise} for row in rows[:2]]
    wide = 100 * frontier_views.mean_error([(HIT, np.full(len(HIT), True))] * 2)
    sections = views.VIEWS["frontier"].draw(pd.DataFrame(rows), study, block="main")
    assert [s.title.split(": ")[1] for s in sections] == ["untargeted, ε = 8/255", "targeted, ε = 8/255"]
    for section in sections:
        ((table,), (figure,)) = section.tables, section.figures
        assert list(table.center.index) == ["PGN", "PGD"]
        assert list(table.center.columns) == [("ST", 10), ("ST", 100), ("SAM&IR", 10), ("SAM&IR", 100)]
        assert (table.error.loc["PGN", ("ST", 100)] == pytest.approx(wide)) == known
        assert ("±" in section.text) == known
        assert figure.startswith("frontier_")


def test_the_interval_of_a_mean_over_targets_holds():
    """As often as it says, over draws of images that some targets share."""
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):
        hard = rng.random(300)
        hits = [hard < 0.4, hard < 0.6, rng.random(300) < 0.5]
        seen = [rng.random(300) < 0.9 for _ in hits]
        mean = np.mean([hit[both].mean() for hit, both in zip(hits, seen, strict=True)])
        held.append(abs(mean - 0.5) < frontier_views.mean_error(list(zip(hits, seen, strict=True))))
    assert 0.93 < np.mean(held) < 0.97


def test_one_target_has_its_own_interval_and_one_without_images_is_left_out():
    hit, both = np.arange(10) < 4, np.ones(10, bool)
    expected = 1.96 * np.sqrt(0.4 * 0.6 / 10)
    assert frontier_views.mean_error([(hit, both)]) == pytest.approx(expected, rel=1e-4)
    assert frontier_views.mean_error([(hit, both), (hit, ~both)]) == pytest.approx(expected, rel=1e-4)
    assert np.isnan(frontier_views.mean_error([(hit, ~both)]))


def test_the_config_is_read_and_its_variants_choose():
    study = config.read(frontier.get_config("smoke"), views.VIEWS)
    assert [name for name, _ in study.blocks["main"].attacks] == ["PGD 10", "SIA 10", "FIA 10"]
    one = frontier.get_config("cpu,gradients=100,attacks=PGN+SIA,count=50,tables=attacks")
    assert [label for label, *_ in one.attacks] == ["PGN 100", "SIA 100"]
    assert dict(one.blocks)["main"]["data"]["count"] == 50
    ((_, _, options),) = frontier.get_config("smoke,tables=attacks,lpips=a.pth+b.pth").views
    assert (options["backbone"], options["linear"]) == ("a.pth", "b.pth")
    whole = frontier.get_config()
    sweeps = sum(len(values) for _, values in frontier.SWEPT.values())
    alone = {*frontier.ATTACKS, *frontier.TARGETED, *frontier.TRANSFORMERS}
    assert len(whole.attacks) == 3 * (len(alone) + len(frontier.ENSEMBLES)) + sweeps
    ((_, block),) = frontier.get_config("cpu,attacks=MI+CFM,tables=targeted,gradients=100").blocks
    assert (block["attacks"], block["goals"]) == (("MI 100", "CFM 100"), (common.TARGETED,))
    ((_, block),) = frontier.get_config("cpu,tables=ensembles").blocks
    assert not {"ResNet18", "DenseNet121", "ViT"} & {*block["targets"]}
    few = frontier.get_config("cpu,attacks=AdaEA+TGR,gradients=10")
    assert [view for view, *_ in few.views] == ["ensembles", "transformers", "choices", "swept"]
    assert len(dict(whole.blocks)["main"]["targets"]) == 6 + 2
    for wrong, said in (
        ("attacks=PDG", "attacks=PDG: the table has PGD, MI"),
        ("gradients=50", "gradients=50: the table has 10, 100"),
        ("tables=ensembles,attacks=PGD", "attacks=PGD: not in tables=ensembles"),
        ("lpips=a.pth", "lpips=a.pth: expected two files"),
    ):
        with pytest.raises(ValueError, match=said):
            frontier.get_config(f"cpu,{wrong}")


@pytest.mark.parametrize("scale", frontier.SCALES)
def test_every_scale_names_what_there_is(scale):
    c = frontier.get_config(scale)
    known, blocks = {label for label, *_ in c.networks}, [block for _, block in c.blocks]
    assert len(blocks) == 6
    for block in blocks:
        assert {*block["surrogates"], *block["targets"]} <= known
    assert {label for block in blocks for label in block["attacks"]} == {label for label, *_ in c.attacks}
    for _, attack, options in c.attacks:
        assert call_of(registry.ATTACKS, attack, options).name == attack


def test_defences_are_those_that_a_variant_names():
    blocks = dict(frontier.get_config("full,defences=JPEG+HGD").blocks)
    assert [name for name in blocks["main"]["targets"] if name in attacked.DEFENCES] == ["JPEG"]
    assert "HGD" in blocks["main"]["targets"]
    with pytest.raises(ValueError, match="defences=DiffPur: this scale has JPEG, Bit depth, R&P"):
        frontier.get_config("full,defences=DiffPur")


def test_the_surrogates_are_the_s_and_p_studys():
    """What one study trained the other does not train again."""
    ours, theirs = frontier.get_config("cpu"), sp2024.get_config("cpu,seed=0")
    shared = {
        label: [spec for name, _, spec in theirs.networks if name == label] for label, *_ in ours.networks
    }
    for label, _, spec in ours.networks:
        assert spec in shared[label] or label in (
            "ResNet18",
            "ViT",
            "4 nets",
            *frontier.DEFENCES,
            *frontier.OWN,
        )


def test_trainings_have_the_epochs_that_the_same_cost_buys():
    c = trainings.get_config("cpu,cost=6,mechanisms=ST+SAM+SAM&IR+AT")
    epochs = {label: spec["training"]["epochs"] for label, _, spec in c.networks if "training" in spec}
    assert (epochs["ST"], epochs["SAM"], epochs["SAM&IR"]) == (6, 3, 1.5)
    assert epochs["AT"] == pytest.approx(6 / (1 + 10 * 2 / 3))
    ((_, block),) = c.blocks
    assert block["surrogates"] == ("ST", "ST, WS", "SAM", "SAM&IR", "AT")
    assert block["attacks"] == ("PGD 10", "MI 10", "MEF 100")
    ((_, few),) = trainings.get_config("cpu,targets=ViT+VGG16").blocks
    assert few["targets"] == ("ViT", "VGG16")
    with pytest.raises(ValueError, match="targets=VGG: this scale has ResNet50, VGG16"):
        trainings.get_config("cpu,targets=VGG")


@pytest.mark.parametrize("dataset", ["cifar10", "imagenette"])
@pytest.mark.parametrize("mechanism", [*trainings.TRAININGS, "IR[paper]"])
def test_trainings_cost_what_plans_reckon(mechanism, dataset):
    parts = [Call(**part) for part in method(mechanism, dataset)]
    assert trainings.price(mechanism, dataset) == pytest.approx(estimate.training_cost(parts))


def cost_of(spec):
    """All that was trained for a surrogate, in epochs of ST; images that it draws with are not counted."""
    nets = walk.everything([spec] if isinstance(spec, STORED) else walk.needs(spec)).values()
    whole = {walk.training_of(net).key: net for net in nets}
    return sum(net.training.epochs * estimate.training_cost(net.parts) for net in whole.values())


@pytest.mark.parametrize("variant", ["cpu,cost=12", "cifar10,seed=1"])
def test_what_goes_on_from_a_network_costs_as_much_with_it(variant):
    c = trainings.get_config(variant)
    surrogates, found = c.blocks[0][1]["surrogates"], {}
    for label, _, spec in c.networks:
        if label in surrogates:
            found[label] = cost_of(KINDS[spec["kind"]].model_validate(spec))
    assert len(found) == len(surrogates) >= 30
    assert set(np.round(list(found.values()), 6)) == {12.0 if "cost" in variant else 400.0}


@pytest.mark.parametrize("scale", trainings.SCALES)
def test_every_scale_of_trainings_is_read(scale):
    c = trainings.get_config(scale)
    known, ((_, block),) = {label for label, *_ in c.networks}, c.blocks
    assert {*block["surrogates"], *block["targets"]} <= known


def test_trainings_are_ranked_by_their_mean_and_noise_is_last():
    rows = [
        {"mechanism": m, "seed": s, "attack": a, "target": t, "goal": "untargeted", "eps_255": 8.0}
        | {"asr": 0.0, "asr_correct": value + 0.1 * (a == "MI 10") + 0.02 * s, "epochs": epochs}
        | {"surrogate_accuracy": 0.5}
        for m, value, epochs in ((NOISE, 0.05, np.nan), ("ST", 0.2, 6.0), ("SAM", 0.4, 3.0))
        for s in (0, 1)
        for a in ("PGD 10", "MI 10")
        for t in ("VGG", "ViT")
    ]
    rows = [{**row, "attack": NOISE} if row["mechanism"] == NOISE else row for row in rows]
    study = config.read(trainings.get_config("smoke"), views.VIEWS)
    (section,) = views.VIEWS["ranking"].draw(pd.DataFrame(rows), study, block="main")
    (table,) = section.tables
    assert list(table.center.index) == ["SAM", "ST", NOISE]
    assert table.center.loc["SAM"].tolist() == pytest.approx([41, 51, 46, 50, 3])
    assert table.error.loc["SAM"].tolist()[:3] == pytest.approx([1, 1, 1])
    assert table.best.loc["SAM"].tolist() == [True, True, True, True, False]
    assert table.center.loc[NOISE, ("over attacks (%)", "mean")] == pytest.approx(11, abs=0.1)
    assert list(section.figures) == ["ranking_untargeted"]


def test_an_option_is_chosen_by_the_surrogates_own_views_and_judged_by_targets():
    own, targets = {1: 0.2, 2: 0.6, 3: 0.4}, {1: 0.1, 2: 0.3, 3: 0.5}
    rows = [
        {"attack": f"DI prob={v}", "split": split, "asr": by[v], "target": target}
        | {"mechanism": "ST", "seed": 0, "goal": "untargeted", "eps_255": 8.0}
        for split, by, names in (("test", targets, ("VGG", "ViT")), ("validation", own, ("ST, moved",)))
        for target in names
        for v in (1, 2, 3)
    ]
    (found,) = along.choices(pd.DataFrame(rows)).to_dict("records")
    assert (found["option"], found["chosen"]) == ("DI prob", 2)
    assert (found["success"], found["best"], found["rho"]) == pytest.approx((30, 50, 0.5))
    assert along.choices(pd.DataFrame([row for row in rows if row["split"] == "test"])).empty
    study = config.read(frontier.get_config("smoke"), views.VIEWS)
    (section,) = views.VIEWS["choices"].draw(pd.DataFrame(rows), study, block="swept", validation="own")
    (table,) = section.tables
    assert list(table.center.index) == ["DI prob"]
    assert table.center.loc["DI prob"].tolist() == pytest.approx([2, 30, 50, 0.5])
