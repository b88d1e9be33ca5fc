"""What views are called on a page, and what some of them say of made-up rows."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from small import TEST, network

from transferjax.report import to_markdown
from transferjax.report.tables import NOISE
from transferjax.study import paper_views, printed, views
from transferjax.study.blocks import Block, Member
from transferjax.study.rows import transfer_rows
from transferjax.study.specs import Adversarial, Call, Verdicts


@pytest.mark.parametrize(
    ("name", "place"),
    [("table2", "Table 2"), ("figures4to6", "Figures 4 to 6"), ("theorem1", "Theorem 1"), ("tables", "")],
)
def test_sections_of_a_paper_begin_with_its_table_or_figure(name, place):
    assert views.in_paper(name) == place


STUDY = SimpleNamespace(error="std", blocks={})


def test_the_terms_of_theorem_1_have_a_table_for_each_attack_and_budget():
    cells = [(attack, eps, seed) for attack in ("MI", "PGN") for eps in (4.0, 8.0) for seed in (0, 1)]
    frame = pd.DataFrame(
        [
            {"mechanism": "ST", "seed": seed, "attack": attack, "eps_255": eps, "target": target}
            | dict.fromkeys(paper_views.TERMS, seed + eps)
            | {"value": -np.inf, "eps": 2.0}
            for attack, eps, seed in cells
            for target in ("VGG16", "ResNet50")
        ]
    )
    sections = paper_views.bound(frame, STUDY, "b")
    assert [section.title for section in sections] == [
        f"Theorem 1: {attack}, ε = {eps}/255" for attack in ("MI", "PGN") for eps in (4, 8)
    ]
    (table,) = sections[1].tables
    assert table.center.index.tolist() == ["ST → VGG16", "ST → ResNet50"]
    shown = [term for _, term in table.center]
    assert set(shown) == {term.replace("_", " ") for term in paper_views.TERMS}
    assert np.isneginf(table.center[table.center.columns[shown.index("value")]]).all()
    assert "| -inf |" in to_markdown(table)
    assert table.center[table.center.columns[shown.index("risk f")]].tolist() == [8.5, 8.5]
    assert not table.best.any(axis=None)
    assert "| 2 ± 0 |" in to_markdown(table)  # ε


def test_more_is_not_better_where_it_says_nothing():
    frame = pd.DataFrame(
        [{"mechanism": m, "seed": 0, "train": t, "test": 0.5} for m, t in (("ST", 0.9), ("IR", 0.7))]
    )
    (section,) = paper_views.clean(frame, STUDY, "b", "t", table="")
    assert [table.best.any(axis=None) for table in section.tables] == [True, True, False]
    measures = (
        ("cos", "similarity"),
        ("frechet", "augmentation_shift"),
        ("off_subspace", "augmentation_shift"),
    )
    block = SimpleNamespace(measures=tuple((column, Call(name=name), None) for column, name in measures))
    pairs = frame.assign(target="VGG16", **{column: [1.0, 2.0] for column, _ in measures})
    (section,) = paper_views.pairs(pairs, SimpleNamespace(error="std", blocks={"b": block}), "b")
    assert [table.best.any(axis=None) for table in section.tables] == [True, False, False]


def member(label, strength, **options):
    parts = (Call(name="part", options=options),)
    return Member(
        label, {"mechanism": label, "seed": 0, "strength": strength}, (SimpleNamespace(parts=parts),)
    )


def test_a_strength_is_called_by_its_hyper_parameter():
    members = (
        member("AT_1", 0.1, eps=0.1, steps=5),
        member("AT_2", 5.0, eps=5.0, steps=5),
        member("IR_1", 0.5, weight=0.5),
        Member("ST", {"mechanism": "ST", "seed": 0}, (SimpleNamespace(parts=()),)),
    )
    study = SimpleNamespace(blocks={"b": SimpleNamespace(surrogates=members)})
    assert paper_views.magnitude_of(study, "b", ("AT",), "strength") == "ε (L2 norm, pixels in [0, 1])"
    assert paper_views.magnitude_of(study, "b", ("IR",), "strength") == "weight λ"
    assert paper_views.magnitude_of(study, "b", (), "strength") == ""
    assert paper_views.magnitude_of(study, "b", (), "tau") == ""


def test_rows_know_the_accuracy_of_guessing():
    surrogate, target = (Member(name, {"mechanism": name, "seed": 0}, (network(),)) for name in ("ST", "T"))
    block = Block(
        "b",
        (surrogate,),
        (("BIM", Call(name="bim")),),
        budgets=(("8/255", 8.0, 8 / 255),),
        targets=(target,),
        data=TEST,
        accuracy=TEST,
    )
    row = next(transfer_rows(SimpleNamespace(blocks={"b": block}), "b"))
    said = {"classes": np.zeros(4, int), "labels": np.arange(4)}
    found = row.reduce(dict.fromkeys(row.needs, said))
    assert found["chance"] == 0.1
    assert found["surrogate_accuracy"] == 0.25


def test_seconds_per_image_are_their_makers_notes():
    """By attack and surrogate; of many surrogates the median alone, of one attack nothing."""
    names = [f"M{i}" for i in range(printed.MOST_SURROGATES + 1)]
    surrogates = [
        Member(name, {"mechanism": name, "seed": 0}, (network(epochs=i + 1),)) for i, name in enumerate(names)
    ]
    attacks = (("BIM", Call(name="bim")), ("MI", Call(name="mi_fgsm")))
    block = Block(
        "b",
        tuple(surrogates),
        attacks,
        budgets=(("8/255", 8.0, 8 / 255),),
        targets=(surrogates[0],),
        data=TEST,
        accuracy=TEST,
    )
    rows = list(transfer_rows(SimpleNamespace(blocks={"b": block}), "b"))

    needs = [spec.images for row in rows for spec in row.needs.values() if isinstance(spec, Verdicts)]
    took = {  # a second for each epoch of the surrogate, ten times that for MI
        images: images.surrogates[0].training.epochs * (10 if images.attack.name == "mi_fgsm" else 1)
        for images in needs
        if isinstance(images, Adversarial) and images.surrogates
    }
    (first, second), few = names[:2], [row for row in rows if row.tags["mechanism"] in (*names[:2], NOISE)]
    table = printed.seconds_per_image(few, took).center
    assert list(table.index) == ["BIM", "MI"]
    assert table.loc["MI"].tolist() == [10 / TEST.count, 20 / TEST.count]
    assert list(table.columns) == [("seconds", first), ("seconds", second)]
    many = printed.seconds_per_image(rows, took).center
    assert many.to_numpy().ravel().tolist() == [4 / TEST.count, 40 / TEST.count]
    assert printed.seconds_per_image([row for row in rows if row.tags["attack"] == "BIM"], took) is None
    assert printed.seconds_per_image(rows, {}) is None


def test_what_a_training_loses_of_similarity_is_beside_how_far_it_moves_the_data():
    """Hypothesis 1: of ST nothing is lost, and a training that moves the data farther loses more."""
    table = {"ST": (0.5, 0.0), "CM_1": (0.45, 1.0), "CM_5": (0.3, 3.0), "CO_5": (0.1, 6.0)}
    frame = pd.DataFrame(
        {"mechanism": name, "seed": seed, "target": target, "similarity": similarity + off, "frechet": far}
        for name, (similarity, far) in table.items()
        for seed in (0, 1)
        for target, off in (("A", 0.0), ("B", 0.2))
    )
    measures = (("similarity", "similarity"), ("frechet", "augmentation_shift"))
    block = SimpleNamespace(measures=tuple((column, Call(name=name), None) for column, name in measures))
    study = SimpleNamespace(error="std", blocks={"b": block})
    first, moved = paper_views.pairs(frame, study, "b")
    assert [table.title for table in first.tables] == [
        "similarity",
        "frechet",
        "similarity, difference to ST",
    ]
    gained = first.tables[-1].center
    assert list(gained.index) == ["CM_1", "CM_5", "CO_5"]
    np.testing.assert_allclose(gained.to_numpy(), [[-0.05, -0.05], [-0.2, -0.2], [-0.4, -0.4]])
    assert "frechet 1.00 [" in moved.text
    assert set(moved.figures) == {"lost_frechet"}
    for some in (frame[frame["mechanism"] != "ST"], frame[frame["mechanism"] == "ST"]):
        (alone,) = paper_views.pairs(some, study, "b")
        assert len(alone.tables) == 2


def test_what_is_viewed_image_by_image_has_its_numbers_beside_it():
    frame = pd.DataFrame({"row": ["ST", "SAM"], "values": [np.array([1.0, 3.0]), np.array([0.5, 0.0])]})
    (smoothest,) = views.VIEWS["spectrum"].files(frame, STUDY, block="b").values()
    assert smoothest.to_dict("list") == {"row": ["ST", "SAM"], "mean": [2.0, 0.25], "supremum": [3.0, 0.5]}
    (alike,) = views.VIEWS["matrix"].files(frame, STUDY, block="b").values()
    assert alike["infimum"].tolist() == [1.0, 0.0]


def test_the_infimum_of_pairs_of_seeds_is_that_of_each_pair():
    """Its mean over pairs, not the least mean of pairs."""
    pairs = [("ST", "SAM", (0.9, 0.1)), ("SAM", "ST", (0.1, 0.9)), ("ST", "ST", (0.5, 0.3))]
    frame = pd.DataFrame([{"row": a, "column": b, "each": np.array(each)} for a, b, each in pairs])
    members = tuple(Member(name, {"mechanism": name, "seed": 0}, ()) for name in ("ST", "SAM"))
    study = SimpleNamespace(blocks={"b": SimpleNamespace(surrogates=members)})
    (section,) = [paper_views.seeds(frame, study, "b")]
    shown = {
        name: [text.get_text() for text in figure.axes[0].texts]
        for name, (figure, _) in section[0].figures.items()
    }
    assert shown["seeds_similarity"] == ["0.40", "0.50", "0.50"]
    assert shown["seeds_similarity_infimum"] == ["0.30", "0.10", "0.10"]


def test_a_curve_is_of_what_there_is():
    """Said before anything is trained for it."""
    members = (Member("IR_1", {"mechanism": "IR_1", "seed": 0, "strength": 0.1}, ()),)
    study = SimpleNamespace(blocks={"b": SimpleNamespace(surrogates=members, name="b")})
    with pytest.raises(ValueError, match=r"unknown \['smothness'\]; expected some of smoothness"):
        views.curve_rows(study, "b", show=("smothness",))
    with pytest.raises(
        ValueError, match=r"x='strenght' is no tag .* which have tau, mechanism, seed, strength"
    ):
        views.curve_rows(study, "b", x="strenght")


@pytest.mark.parametrize(("view", "kind"), [("matrix", "similarity"), ("spectrum", "smoothness")])
def test_a_measure_is_another(view, kind):
    measures = (("norm", Call(name="gradient_norm"), TEST),)
    study = SimpleNamespace(
        blocks={"b": SimpleNamespace(name="b", measures=measures, surrogates=(), targets=())}
    )
    with pytest.raises(ValueError, match=rf"no {kind} 'norm' to view; it measures norm \(gradient_norm\)"):
        list(views.VIEWS[view].rows(study, block="b", column="norm"))
