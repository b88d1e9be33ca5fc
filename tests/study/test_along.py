"""Views along training and along an option, on made-up rows: what is chosen, and what is drawn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from transferjax.report import to_markdown
from transferjax.report.tables import spread
from transferjax.study import along, landscape
from transferjax.study.content import load
from transferjax.study.specs import Data


def rows(split, **rates):
    """label -> success in percent at epochs 1, 2, …, of two seeds and targets."""
    return pd.DataFrame(
        [
            {
                **{"mechanism": name, "seed": seed, "epoch": float(epoch), "split": split, "target": target},
                **{"asr": rate / 100, "goal": "untargeted", "eps_255": 4.0, "attack": "BIM"},
                **{"surrogate_accuracy": 0.9, "weight_trace": 10.0 * epoch, "last": float(len(several))},
            }
            for name, several in rates.items()
            for epoch, rate in enumerate(several, start=1)
            for seed in (0, 1)
            for target in ("VGG16", "ResNet50")
        ]
    )


def study(**blocks):
    return SimpleNamespace(error="two_std", blocks=blocks)


def test_the_epoch_is_chosen_on_validation_images_and_told_on_test_images():
    """The test images' own best epoch is the first; validation's is the second."""
    frame = pd.concat([rows("test", SGD=(60, 40, 20)), rows("validation", SGD=(30, 50, 10))])
    found = along.stopped(frame).groupby("mechanism")[["epoch", "asr"]].mean()
    assert found.loc["SGD"].tolist() == [3, pytest.approx(0.2)]
    assert found.loc["SGD, stopped"].tolist() == [2, pytest.approx(0.4)]
    (section,) = along.stopping(frame, study(), "minimizers", "validation")
    assert len(section.tables) == 2
    assert "split" not in along.stopped_files(frame, study())[""]
    assert along.stopped(rows("test", SGD=(60, 40))).empty  # nothing to choose by
    late = pd.concat([rows("test", SGD=(40, 50, 60)), rows("validation", SGD=(30, 40, 50))])
    found = along.stopped(late).groupby("mechanism")["asr"].mean()  # the end is best, and stopping costs
    assert found["SGD, stopped"] < found["SGD"]


@pytest.mark.parametrize(
    "lost", ["epoch == 3", "split == 'test' & epoch == 2", "epoch == 1 & target == 'VGG16'"]
)
def test_a_training_that_lacks_moments_is_not_told(lost):
    """Its newest epoch is not its end, and what is best may be what is missing."""
    both = pd.concat([rows(split, SGD=(60, 40, 20), SAM=(30, 50, 40)) for split in ("test", "validation")])
    left = both[~both.eval(f"mechanism == 'SGD' & seed == 0 & {lost}")]
    found = along.stopped(left)
    assert set(found.loc[found["seed"] == 0, "mechanism"]) == {"SAM", "SAM, stopped"}
    assert {"SGD", "SGD, stopped"} <= set(found.loc[found["seed"] == 1, "mechanism"])
    assert "yet" in along.stopping(rows("test", SGD=(60,)), study(), "a", "b")[0].text


def test_epochs_are_drawn_with_what_the_block_measures():
    block = SimpleNamespace(measures=(("weight_trace", None, None),))
    (section,) = along.epochs(
        rows("test", SGD=(60, 40), SAM=(50, 70)), study(training=block), "training", (1.5,)
    )
    assert list(section.figures) == ["epochs_training"]
    assert section.tables[0].center.shape == (2, 2)


def test_networks_without_an_epoch_and_attacks_without_a_value_are_refused():
    members = SimpleNamespace(surrogates=(along_member("SGD"),), attacks=(("PGN", None),))
    with pytest.raises(ValueError, match="SGD say no `epoch` among their tags"):
        along.epoch_rows(study(b=members), "b")
    with pytest.raises(ValueError, match="attacks PGN are labelled by no value, as in 'zeta=3'"):
        along.sweep_rows(study(b=members), "b")


def along_member(label):
    from transferjax.study.blocks import Member

    return Member(label, {}, ())


def test_a_sweep_has_a_row_for_each_value():
    frame = pd.concat(
        [rows("test", SGD=(rate,)).assign(attack=label) for label, rate in (("zeta=0.5", 30), ("zeta=3", 60))]
    )
    (section,) = along.sweep(frame, study(), "zeta")
    assert section.title == "Ablation: zeta"
    assert section.tables[0].center.index.tolist() == [0.5, 3.0]
    np.testing.assert_allclose(section.tables[0].center.to_numpy(), [[30, 30], [60, 60]])


def test_flatness_is_laid_beside_transfer():
    frame = rows("test", ResNet18=(60,)).drop(columns="split")
    columns = ("flatness", *landscape.COMPONENTS, "transfer_loss")
    attacks = {"MI": (20, 8.0), "VT": (30, 5.0), "PGN": (40, 2.0)}
    frame = pd.concat(
        [
            frame.assign(attack=name, asr=rate / 100, **dict.fromkeys(columns, slope))
            for name, (rate, slope) in attacks.items()
        ]
    )
    (section,) = landscape.flatness(frame, study(), "flatness")
    assert "flatness -1.00" in section.text
    assert set(section.figures) == {"flatness_flatness", "bound_flatness"}
    assert len(section.tables) == len(columns)


def test_a_table_of_what_is_not_there_yet_is_empty():
    """Of networks that are there on test images alone."""
    frame = rows("test", SGD=(10, 20))
    files = along.stopped_files(frame, study(), block="b", validation="v")
    assert files[""].empty
    assert len(files["_rows"]) == len(frame)
    assert "not there yet" not in along.stopping(rows("validation", SGD=(1,)), study(), "b", "v")[0].title


def crossed(frame, **columns):
    """The rows with every one of these columns' values, each 10 points more transferable than the last."""
    for name, values in columns.items():
        frame = pd.concat(
            [frame.assign(**{name: value, "asr": frame["asr"] + i / 10}) for i, value in enumerate(values)]
        )
    return frame


def centers(sections, place=0):
    return [round(float(section.tables[place].center.to_numpy().mean()), 6) for section in sections]


def test_views_along_training_average_over_no_attack_goal_or_budget():
    block = SimpleNamespace(measures=())
    plain = rows("test", SGD=(10, 10))
    frame = crossed(plain, attack=("BIM", "PGN"), goal=("untargeted", "next"))
    sections = along.epochs(frame, study(training=block), "training")
    names = ["BIM, untargeted", "PGN, untargeted", "BIM, next", "PGN, next"]
    assert [section.title for section in sections] == [f"Along training: training: {name}" for name in names]
    assert [figure for section in sections for figure in section.figures] == [
        "epochs_training_BIM_untargeted",
        "epochs_training_PGN_untargeted",
        "epochs_training_BIM_next",
        "epochs_training_PGN_next",
    ]
    assert centers(sections) == [10, 20, 20, 30]
    figure, _ = sections[0].figures["epochs_training_BIM_untargeted"]
    assert figure.axes[0].get_ylabel() == "transfer success (%)"
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 10)


def test_an_epoch_is_chosen_for_each_attack_and_budget():
    """BIM's best epoch on validation images is the first, PGN's the second."""
    frame = pd.concat(
        [
            rows(split, SGD=rates).assign(attack=attack)
            for attack, rates in (("BIM", (60, 40, 20)), ("PGN", (30, 50, 10)))
            for split in ("test", "validation")
        ]
    )
    sections = along.stopping(frame, study(), "minimizers", "validation")
    assert [section.title for section in sections] == ["Early stopping: BIM", "Early stopping: PGN"]
    assert [s.tables[0].center.loc["SGD, stopped"].tolist() for s in sections] == [[60, 60], [50, 50]]
    assert [s.tables[1].center.loc["SGD, stopped"].item() for s in sections] == [1, 2]
    assert not any(s.tables[1].best.any(axis=None) for s in sections)  # a late epoch is no better one
    assert "| SGD, stopped | 1 ± 0 |" in to_markdown(sections[0].tables[1])


def test_a_sweep_averages_over_no_budget_and_no_option():
    frame = crossed(rows("test", SGD=(10,)), attack=("zeta=0.5", "zeta=3", "beta=2"), eps_255=(4.0, 8.0))
    sections = along.sweep(frame, study(), "b")
    budgets = ("ε = 4/255", "ε = 8/255")
    assert [s.title for s in sections] == [
        f"Ablation: {n}: {eps}" for n in ("zeta", "beta") for eps in budgets
    ]
    assert centers(sections) == [15, 25, 30, 40]
    figures = [figure for section in sections for figure in section.figures]
    assert figures[0] == "sweep_b_zeta_untargeted_ε_4_255"
    assert len(set(figures)) == 4
    two = crossed(frame[frame["eps_255"] == 4], mechanism=("SGD", "SAM"))
    assert len(along.sweep(two, study(), "b")) == 4  # nor over surrogates


def test_flatness_is_told_for_each_goal_and_budget():
    columns = dict.fromkeys(("flatness", *landscape.COMPONENTS, "transfer_loss"), 1.0)
    frame = rows("test", ResNet18=(10,)).assign(**columns)
    frame = crossed(frame, attack=("MI", "PGN"), goal=("untargeted", "next"))
    sections = landscape.flatness(frame.assign(flatness=frame["asr"]), study(), "b")
    assert [s.title for s in sections] == [
        f"Flatness and transfer: {goal}" for goal in ("untargeted", "next")
    ]
    assert centers(sections) == [0.15, 0.25]
    assert list(sections[1].figures) == ["flatness_b_next", "bound_b_next"]
    assert len(landscape.flatness(crossed(frame, mechanism=("ST", "SAM")), study(), "b")) == 4


def attacked(**columns):
    """A row for each value of these columns."""
    one = {"attack": "MI", "goal": "untargeted", "eps_255": 8.0, "mechanism": "ST", "seed": 0}
    index = pd.MultiIndex.from_product(columns.values(), names=list(columns))
    return index.to_frame(index=False).assign(**{n: v for n, v in one.items() if n not in columns})


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"attack": ("MI", "PGN")}, ["MI", "PGN"]),
        ({"goal": ("untargeted", "next")}, ["MI, untargeted", "MI, next"]),
        ({"eps_255": (4.0, 8.0)}, ["MI, ε = 4/255", "MI, ε = 8/255"]),
        (
            {"mechanism": ("ST", "SAM"), "seed": (0, 1)},
            [f"MI, {m}, seed {i}" for m in ("ST", "SAM") for i in "01"],
        ),
    ],
)
def test_every_surface_and_map_is_shown_under_its_name(columns, names):
    frame = attacked(**columns)
    bowl = np.add.outer(np.linspace(-1, 1, 5) ** 2, np.linspace(-1, 1, 5) ** 2)
    surfaces = frame.assign(surface=[(i + 1) * bowl for i in range(len(frame))])
    (section,) = landscape.surfaces(surfaces, study(), "b", points=5)
    ((figure, _),) = section.figures.values()
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes]
    assert [title for title in titles if title] == names

    data = Data(name="digits", count=3)
    level = [np.full((3, 8, 8), (i + 1) / 10) for i in range(len(frame))]
    clean = pd.DataFrame([{"attack": "clean", "mechanism": "ST", "seed": 0, "maps": np.zeros((3, 8, 8))}])
    maps = pd.concat([clean, frame.assign(maps=level)], ignore_index=True).assign(target="VGG16")
    (section,) = landscape.attention(maps, study(b=SimpleNamespace(data=data)), "b")
    (table,) = section.tables
    assert table.center.index.tolist() == ["clean", *names]
    np.testing.assert_allclose(table.center.iloc[:, 0], [0, *((i + 1) / 10 for i in range(len(names)))])
    assert not table.best.any(axis=None)
    moved = landscape.attention_files(maps, study(), "b")[""]
    np.testing.assert_allclose(moved["moved"], table.center.iloc[:, 0])
    assert landscape.attention_files(maps[1:], study(), "b")[""]["moved"].isna().all()
    points = landscape.surface_files(surfaces, study(), "b", points=5)[""]
    assert len(points) == 25 * len(frame)
    corner = points[(points["down"] == 1) & (points["across"] == -1)]
    np.testing.assert_allclose(corner["loss"], 2 * (1 + np.arange(len(frame))))


def test_two_standard_deviations():
    values = pd.Series([0.1, 0.2, 0.6])
    assert spread(values, "two_std") == pytest.approx((0.3, 2 * np.std([0.1, 0.2, 0.6], ddof=1)))


def test_data_behind_others_have_nothing_in_common_with_them():
    first = load(Data(name="digits", count=100, order_seed=3))
    second = load(Data(name="digits", count=100, order_seed=3, skip=100))
    whole = load(Data(name="digits", count=200, order_seed=3))
    np.testing.assert_array_equal(np.concatenate([first.images, second.images]), whole.images)
    rest = load(Data(name="digits", skip=300))
    np.testing.assert_array_equal(rest.images, load(Data(name="digits")).images[300:])
    with pytest.raises(ValueError, match="expected skip and count within 355 examples; got 300 and 100"):
        load(Data(name="digits", skip=300, count=100))
