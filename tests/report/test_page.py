import base64
import re

import pytest

from transferjax.report import write_report


def test_writes_a_self_contained_page_and_a_markdown_file(tmp_path, make_results, examples):
    results = make_results()
    environment = {"jax": "0.10.2", "devices": ["cpu"]}
    paths = write_report(tmp_path / "run", results, examples, {"seed": 0}, environment, "A <run>")
    page, text = paths.html.read_text(), paths.markdown.read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == len(paths.figures) == 5
    assert all(base64.b64decode(image)[:4] == b"\x89PNG" for image in images)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<title>A &lt;run&gt;</title>" in page
    assert "prefers-color-scheme: dark" in page
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
