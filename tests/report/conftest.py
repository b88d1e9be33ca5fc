"""Tidy results with known numbers."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


@pytest.fixture(scope="session")
def make_results():
    """`make_results(mechanisms, seeds, targets, goals, budgets)`: every combination, reproducible numbers."""

    def make(
        mechanisms=("ST", "SAM", "IR"),
        seeds=3,
        targets=("VGG", "DenseNet"),
        goals=("untargeted", "targeted"),
        budgets=(4.0, 8.0),
    ):
        rng = np.random.default_rng(0)
        rows = []
        for (level, mechanism), seed in itertools.product(enumerate(mechanisms), range(seeds)):
            smoothness, accuracy = 10.0 / (1 + level) * rng.uniform(0.9, 1.1), rng.uniform(0.9, 0.95)
            for target in targets:
                similarity = 0.1 + 0.05 * level + rng.uniform(0, 0.02)
                for goal, eps in itertools.product(goals, budgets):
                    asr = min(0.1 * (level + 1) + eps / 40 + rng.uniform(0, 0.03), 1.0)
                    rows.append(
                        (
                            mechanism,
                            seed,
                            target,
                            goal,
                            eps,
                            asr,
                            asr * 0.9,
                            accuracy,
                            0.9,
                            smoothness,
                            similarity,
                        )
                    )
        from transferjax.report import COLUMNS

        return pd.DataFrame(rows, columns=list(COLUMNS))

    return make


@pytest.fixture(scope="session")
def examples():
    """Eight colour images with an attack of 8/255 and made-up predictions."""
    rng = np.random.default_rng(1)
    clean = rng.random((8, 6, 6, 3)).astype(np.float32)
    names = np.array(["cat", "dog", "ship"])
    return {
        "clean": clean,
        "adversarial": np.clip(clean + rng.choice([-8, 8], clean.shape) / 255, 0, 1),
        "labels": names[rng.integers(0, 3, 8)].tolist(),
        "clean_predictions": names[rng.integers(0, 3, 8)].tolist(),
        "adversarial_predictions": names[rng.integers(0, 3, 8)].tolist(),
        "caption": "ST -> VGG <untargeted>",
    }


@pytest.fixture
def check_texts(monkeypatch):
    """`check_texts(figure)`: it shows data, no two texts overlap, and every text lies on the page.

    Slanted texts are only checked against the page: their boxes overlap where their letters do not.
    """
    drawn = []
    draw = Text.draw
    monkeypatch.setattr(
        Text, "draw", lambda self, *args, **kwargs: (drawn.append(self), draw(self, *args, **kwargs))
    )

    def check(figure):
        assert any(axis.has_data() for axis in figure.axes)
        drawn.clear()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        texts = [text for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()]
        boxes = [(t, t.get_window_extent(canvas.get_renderer())) for t in texts]
        check_page(figure.bbox, [(t.get_text(), box) for t, box in boxes])
        check_overlaps([(t.get_text(), box) for t, box in boxes if t.get_rotation() % 90 == 0])

    return check


def check_page(page, boxes):
    for name, box in boxes:
        assert box.x0 >= -2, f"{name!r} leaves the page"
        assert box.y0 >= -2, f"{name!r} leaves the page"
        assert box.x1 <= page.x1 + 2, f"{name!r} leaves the page"
        assert box.y1 <= page.y1 + 2, f"{name!r} leaves the page"


def check_overlaps(boxes):
    for (a, one), (b, two) in itertools.combinations(boxes, 2):
        width = min(one.x1, two.x1) - max(one.x0, two.x0)
        height = min(one.y1, two.y1) - max(one.y0, two.y0)
        assert not (width > 2 and height > 2), f"{a!r} overlaps {b!r}"
