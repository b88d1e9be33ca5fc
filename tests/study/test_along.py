"""Views along training and along an option, on made-up rows: what is chosen, and what is drawn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

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
                **{"surrogate_accuracy": 0.9, "weight_trace": 10.0 * epoch},
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
