"""Lines and maps are drawn from the data they are given, without texts that overlap."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from transferjax.metrics.regression import explain
from transferjax.report import (
    attention_grid,
    correlation_intervals,
    explained_table,
    loss_surfaces,
    metric_curves,
    similarity_heatmap,
    spectral_densities,
    to_markdown,
    training_curves,
)

TARGETS = ("ResNet50", "VGG16", "InceptionV3", "DenseNet121")


def magnitudes(targets=TARGETS, seeds=3):
    rng = np.random.default_rng(0)
    rows = [
        (name, tau, seed, target, rng.uniform(0.1, 0.9), rng.uniform(1, 100))
        for name, taus in (("ST", [np.nan]), ("MU", range(1, 6)), ("CM", range(1, 6)))
        for tau, seed, target in itertools.product(taus, range(seeds), targets)
    ]
    return pd.DataFrame(rows, columns=["mechanism", "tau", "seed", "target", "asr", "smoothness"])


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5])
def test_metric_curves(panels, check_texts):
    targets = (*TARGETS, "ViT")[:panels]
    check_texts(metric_curves(magnitudes(targets), "asr", "transfer success", panel="target"))


def test_metric_curves_show_the_data(check_texts):
    data = magnitudes(("VGG16",))
    figure = metric_curves(data, "smoothness", "λ₁", error="std", log=True)
    check_texts(figure)
    [axis] = figure.axes
    assert axis.get_yscale() == "log"
    for container, name in zip(axis.containers, ("MU", "CM"), strict=True):
        expected = data[data.mechanism == name].groupby("tau").smoothness.mean()
        np.testing.assert_allclose(container.lines[0].get_ydata(), expected)
        np.testing.assert_allclose(container.lines[0].get_xdata(), expected.index)


def history():
    rng = np.random.default_rng(0)
    rows = [
        (m, s, e, rng.uniform(), rng.uniform(1, 99))
        for m in ("SGD", "SAM")
        for s in (0, 1)
        for e in range(20)
    ]
    return pd.DataFrame(rows, columns=["mechanism", "seed", "epoch", "asr", "weight_top1"])


def test_training_curves(check_texts):
    data = history()
    values = {"asr": "transfer success (%)", "weight_top1": "λ₁ of the loss"}
    figure = training_curves(data, values, decays=(10, 15), log=("weight_top1",))
    check_texts(figure)
    left, right = figure.axes
    assert right.get_yscale() == "log"
    assert {10, 15} <= {line.get_xdata()[0] for line in left.lines}
    expected = data[data.mechanism == "SGD"].groupby("epoch").asr.mean()
    np.testing.assert_allclose(left.lines[0].get_ydata(), 100 * expected)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_similarity_heatmap(size, check_texts):
    rng = np.random.default_rng(0)
    matrix = rng.uniform(-0.1, 0.5, (size, size))
    np.fill_diagonal(matrix, 1)
    names = [f"SAM&IR τ={i}" for i in range(size)]
    figure = similarity_heatmap(matrix, names, names)
    check_texts(figure)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [f"{entry:.2f}" for entry in matrix.ravel()]


def test_numbers_in_a_heatmap_can_be_read():
    """Black on light cells, white on dark ones."""
    figure = similarity_heatmap(np.array([[0.0, 0.5], [0.25, 0.4]]), "ab", "cd")
    colors = [to_hex(text.get_color()) for text in figure.axes[0].texts]
    assert colors[:2] == ["#ffffff", "#000000"]


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        similarity_heatmap(np.ones((2, 2)), ["a", "b"], ["c"])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_loss_surfaces(count, check_texts):
    grid = np.linspace(-1, 1, 11)
    bowl = np.add.outer(grid**2, grid**2)
    figure = loss_surfaces({f"PGD {i}": 7 + (i + 1) * bowl for i in range(count)}, grid)
    check_texts(figure)
    largest = 2 * count
    np.testing.assert_allclose(figure.axes[-1].get_ylim(), (-largest, largest))  # the centre is zero


def test_long_names_of_surfaces_and_maps_do_not_overlap(check_texts):
    bowl = np.add.outer(np.linspace(-1, 1, 5) ** 2, np.linspace(-1, 1, 5) ** 2)
    names = [f"VMI-FGSM, untargeted, ε = {eps}/255, ResNet18, seed 1" for eps in range(4, 9)]
    check_texts(loss_surfaces(dict.fromkeys(names, bowl), np.linspace(-1, 1, 5)))
    maps = {f"PGN-DIM, next, ε = {eps}/255": np.zeros((6, 8, 8)) for eps in (4, 8)}
    check_texts(attention_grid(np.zeros((6, 8, 8, 1)), maps))


def test_attention_grid(check_texts):
    rng = np.random.default_rng(0)
    images, maps = rng.random((5, 8, 8, 3)), {name: rng.random((5, 8, 8)) for name in ("ST", "SAM&IR")}
    figure = attention_grid(images, maps, ["cat", "dog", "automobile", "ship", "truck"])
    check_texts(figure)
    np.testing.assert_allclose(figure.axes[5].images[1].get_array(), maps["ST"][0])


def test_spectral_densities(check_texts):
    grid = np.linspace(-1, 20, 50)
    densities = {"ST": np.exp(-(grid**2)), "SAM": np.exp(-((grid - 5) ** 2))}
    figure = spectral_densities(grid, densities)
    check_texts(figure)
    for line, density in zip(figure.axes[0].lines, densities.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.maximum(density, 1e-6), rtol=0.01)


@pytest.fixture(scope="module")
def explained():
    rng = np.random.default_rng(0)
    rows = [
        (goal, target, eps, *rng.uniform(size=4))
        for goal, target, eps, _ in itertools.product(("untargeted",), TARGETS[:3], (4, 8, 16), range(12))
    ]
    names = ["goal", "target", "eps_255", "asr", "smoothness", "similarity", "surrogate_accuracy"]
    return explain(pd.DataFrame(rows, columns=names))


@pytest.mark.parametrize("statistic", ["pearson", "spearman", "r_squared"])
def test_correlation_intervals(statistic, explained, check_texts):
    figure = correlation_intervals(explained, "untargeted", statistic)
    check_texts(figure)
    for axis, eps in zip(figure.axes, (4, 8, 16), strict=True):
        for container in axis.containers:
            rows = explained[(explained.statistic == statistic) & (explained.eps_255 == eps)]
            rows = rows[(rows.goal == "untargeted") & (rows.target == container.get_label())]
            np.testing.assert_allclose(np.asarray(container.lines[0].get_xdata(), float), rows["value"])


def test_explained_table(explained):
    table = explained_table(explained, "untargeted")
    assert table.center.shape == (3 + 3 + 2, 9)
    row = explained[(explained.statistic == "pearson") & (explained.factor == "smoothness")].iloc[0]
    assert table.center.at["r smoothness", ("ε = 4/255", "ResNet50")] == row.value
    assert to_markdown(table).startswith("| statistic | ε = 4/255 ResNet50 |")
    assert f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" in to_markdown(table)
    with pytest.raises(ValueError, match="'targeted'"):
        explained_table(explained, "targeted")
