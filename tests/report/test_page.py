import base64
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from transferjax.report import asr_table, write_report


def test_writes_a_self_contained_page_and_a_markdown_file(tmp_path, make_results, examples):
    results = make_results()
    environment = {"jax": "0.10.2", "devices": ["cpu"]}
    paths = write_report(tmp_path / "run", results, examples, {"seed": 0}, environment, "A <run>")
    page, text = paths.html.read_text(), paths.markdown.read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(paths.figures) == 5
    assert len(images) == 3 + 3 * len(
        examples["labels"]
    )  # the plane is a drawing, the images are in the viewer
    assert page.count('class="point"') == 3 * 3 * 2
    assert all(base64.b64decode(image)[:4] == b"\x89PNG" for image in images)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<title>A &lt;run&gt;</title>" in page
    assert "color-scheme: light dark" in page
    assert "ST -&gt; VGG &lt;untargeted&gt;" in page
    for figure in paths.figures:
        assert f"](figures/{figure.name})" in text
        assert figure.stat().st_size > 5000
    assert '"jax": "0.10.2"' in text
    assert "± is half the range around the mid-range over 3 seeds" in text
    leftovers = [path.name for path in (tmp_path / "run").rglob(".*")]
    assert leftovers == []


def test_the_same_results_give_the_same_bytes(tmp_path, make_results):
    results = make_results(mechanisms=("ST", "SAM"), targets=("VGG",), goals=("untargeted",), budgets=(8.0,))
    one, two = (write_report(tmp_path / name, results, title="t") for name in "ab")
    assert one.html.read_bytes() == two.html.read_bytes()


def test_one_seed_says_so_and_missing_measurements_leave_figures_out(tmp_path, make_results):
    results = make_results(seeds=1, goals=("untargeted",), budgets=(8.0,)).assign(
        smoothness=float("nan"), similarity=float("nan"), asr_correct=float("nan")
    )
    paths = write_report(tmp_path, results)
    assert [path.stem for path in paths.figures] == ["asr_untargeted"]
    assert "One seed: no errors can be given." in paths.markdown.read_text()
    assert "classify correctly" not in paths.markdown.read_text()


def test_untidy_results_write_nothing(tmp_path, make_results):
    with pytest.raises(ValueError, match="lack the columns"):
        write_report(tmp_path / "run", make_results().drop(columns="asr"))
    assert not (tmp_path / "run").exists()


def test_a_report_with_noise_says_where_an_attack_is_weaker(tmp_path, make_results):
    results = make_results(budgets=(8.0,)).assign(fooling_rate=0.5, noise_fooling_rate=0.25)
    noise = results[results["mechanism"] == "ST"].assign(
        mechanism="noise", surrogate_accuracy=np.nan, smoothness=np.nan, similarity=np.nan
    )
    weak = results["goal"] == "targeted"
    results = pd.concat([results.assign(noise_fooling_rate=np.where(weak, 0.75, 0.25)), noise])
    paths = write_report(tmp_path, results)
    for text in (paths.markdown.read_text(), paths.html.read_text()):
        assert text.count("Warning: on the surrogate itself") == 1
        assert "targeted, ε = 8/255: 50.0 % against 75.0 %" in text
        assert "is what random signs of the same size reach" in text
    assert {path.stem for path in paths.figures} >= {"plane", "smoothness", "asr_untargeted"}
    assert paths.markdown.read_text().count("| noise |") == 4


@pytest.mark.parametrize(("run", "noise"), [("cifar10_cpu", True), ("cifar10_magnitudes", False)])
def test_committed_results_are_readable_those_from_before_noise_too(run, noise):
    results = pd.read_csv(Path(__file__).parents[2] / "docs/results" / run / "results.csv")
    assert ("noise" in asr_table(results).center.index) == noise
