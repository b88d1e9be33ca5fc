"""Figures are drawn, and their texts neither overlap nor leave the page."""

import numpy as np
import pandas as pd
import pytest

from transferjax.report import (
    asr_by_mechanism,
    image_grid,
    metric_by_mechanism,
    smoothness_similarity_plane,
)
from transferjax.report.figures import against

MANY = ("ST", "MU τ=1", "MU τ=5", "CM τ=1", "CM τ=5", "CO τ=5", "AT", "IR", "JR", "ER", "SAM", "SAM&IR")
SHAPES = {
    "usual": {},
    "smallest": {"mechanisms": ("ST",), "seeds": 1, "targets": ("VGG",), "budgets": (8.0,)},
    "paper": {"mechanisms": MANY, "targets": ("ResNet50", "VGG16", "InceptionV3", "DenseNet121")},
    "names as in Table 8": {"budgets": (8.0,), "targets": tuple(f"target AT_0.0{i}" for i in range(6))},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_asr_by_mechanism(make_results, shape, goal, check_texts):
    check_texts(asr_by_mechanism(make_results(**SHAPES[shape]), goal))


def markers(axis):
    """What each series of a panel with errors shows, by its label."""
    return {found.get_label(): np.asarray(found.lines[0].get_xdata(), float) for found in axis.containers}


def test_success_and_metrics_are_shown_where_they_are(make_results):
    """Mid-ranges over three seeds, in percent; a panel for each budget, a marker for each target."""
    results = make_results()
    middle = lambda rows: (rows.min() + rows.max()) / 2  # noqa: E731
    figure = asr_by_mechanism(results, "targeted")
    for axis, eps in zip(figure.axes, (4.0, 8.0), strict=True):
        for target, shown in markers(axis).items():
            rows = results[
                (results.goal == "targeted") & (results.eps_255 == eps) & (results.target == target)
            ]
            rates = middle(rows.groupby("mechanism", sort=False).asr).astype(float)
            np.testing.assert_allclose(shown, 100 * rates)
    mi = results[(results.mechanism == "SAM") & (results.goal == "targeted")].assign(attack="MI")
    attacks = pd.concat([mi, mi.assign(attack="DI", asr=mi.asr / 2)])
    axes = asr_by_mechanism(attacks, "targeted", rows="attack").axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["MI", "DI"]
    for axis in axes:
        for shown in markers(axis).values():
            assert 2 * shown[1] == pytest.approx(shown[0])
    [axis] = metric_by_mechanism(results, "smoothness", "top eigenvalue").axes
    seeds = results.groupby(["mechanism", "seed"], sort=False).smoothness.mean()
    expected = middle(seeds.groupby("mechanism", sort=False)).astype(float)
    np.testing.assert_allclose(np.asarray(axis.containers[0].lines[0].get_xdata(), float), expected)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ST", "SAM", "IR"]


@pytest.mark.parametrize("shape", SHAPES)
def test_plane(make_results, shape, check_texts):
    check_texts(smoothness_similarity_plane(make_results(**SHAPES[shape])))


def test_points_that_lie_together_are_named_apart(check_texts):
    rows = pd.DataFrame(
        {"x": 1 + np.arange(12) / 1000, "y": 50.0, "attack": [f"VMI-FGSM {i}" for i in range(12)]}
    )
    figure = against(rows, "x", "y", "attack", "flatness", "transfer success (%)")
    check_texts(figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == rows["attack"].tolist()


def test_plane_shows_the_data_it_was_given(make_results):
    results = make_results()
    figure = smoothness_similarity_plane(results, "targeted", 8.0)
    points = [c.get_offsets() for c in figure.axes[0].collections if len(c.get_offsets())]
    shown = np.concatenate(points)
    rows = results[(results.goal == "targeted") & (results.eps_255 == 8) & (results.target == "VGG")]
    np.testing.assert_allclose(np.sort(shown[:, 1]), np.sort(rows["similarity"]))


@pytest.mark.parametrize("shape", SHAPES)
def test_metric_by_mechanism(make_results, shape, check_texts):
    check_texts(metric_by_mechanism(make_results(**SHAPES[shape]), "smoothness", "top eigenvalue"))


@pytest.mark.parametrize("count", [1, 8])
def test_image_grid(examples, count, check_texts):
    few = {name: value if name == "caption" else value[:count] for name, value in examples.items()}
    check_texts(image_grid(few))


def test_image_grid_takes_bytes_and_grey(examples):
    small = dict(examples)
    for name in ("clean", "adversarial"):
        small[name] = np.round(255 * examples[name][..., :1]).astype(np.uint8)
    figure = image_grid(small)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown[..., 0], examples["clean"][0, ..., 0], atol=1 / 255)
    change = figure.axes[8].images[0].get_array()
    assert {np.round(v, 1) for v in np.unique(change)} >= {0.0, 1.0}  # the largest change fills the range


def test_image_grid_names_what_is_missing(examples):
    examples = {name: value for name, value in examples.items() if name != "labels"}
    with pytest.raises(ValueError, match="labels"):
        image_grid(examples)
