import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from transferjax.report import asr_table, similarity_heatmap, write_report, write_sections
from transferjax.report.page import Section, success_sections, surrogates_section, told_apart
from transferjax.report.plane import interactive_plane
from transferjax.report.viewer import viewer


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
    paths = write_report(tmp_path, results.assign(transferred=results["asr"]))
    assert "Untargeted transferability T_r (%)" in paths.markdown.read_text()


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


def test_what_is_below_noise_is_told_once_on_a_page(make_results):
    results = make_results().assign(fooling_rate=0.5, noise_fooling_rate=0.75)
    results = pd.concat([results.assign(attack=name) for name in ("MI", "PGN")])
    parts = success_sections(results, "std")
    assert [part.title for part in parts] == [
        f"{goal} transfer: {attack}" for attack in ("MI", "PGN") for goal in ("Untargeted", "Targeted")
    ]
    assert ["Warning" in part.text for part in parts] == [True, False, False, False]
    assert all(f"{attack} on IR (seed 2), targeted" in parts[0].text for attack in ("MI", "PGN"))


def test_figures_of_two_views_have_names_of_their_own(make_results):
    """Two tables of transfer in one report: neither picture takes the other's file."""
    taken = set()
    first, second = (told_apart(success_sections(make_results(), "std"), view, taken) for view in ("a", "b"))
    names = [[name for part in parts for name in part.figures] for parts in (first, second)]
    assert names[0] == ["asr_untargeted", "asr_targeted"]
    assert names[1] == ["b_asr_untargeted", "b_asr_targeted"]


def test_the_plane_says_which_attack_goal_and_budget_it_shows(make_results):
    results = pd.concat([make_results().assign(attack=name) for name in ("MI", "PGN")])
    part = surrogates_section(results, "std")
    assert list(part.figures) == ["plane_MI", "plane_PGN", "smoothness"]
    for name in ("MI", "PGN"):
        figure, caption = part.figures[f"plane_{name}"]
        assert f"({name}, untargeted, ε = 8/255)" in caption
        assert figure.axes[-1].get_ylabel() == f"success (%)\n{name}, untargeted, ε = 8/255"
        assert f"success: {name}, untargeted, ε = 8/255" in part.live[f"plane_{name}"]
    with pytest.raises(ValueError, match=r"results of the attacks \['MI', 'PGN'\]: expected one"):
        interactive_plane(results)


def test_a_figure_wider_than_the_page_keeps_its_size_and_scrolls(tmp_path):
    names = [f"SAM&IR {i}" for i in range(30)]
    figures = {
        "wide": (similarity_heatmap(np.eye(30), names, names), "Wide."),
        "small": (similarity_heatmap(np.eye(2), names[:2], names[:2]), "Small."),
    }
    page = write_sections(tmp_path, [Section("Pairs", "", [], figures)], "t").html.read_text()
    assert re.findall(
        r'<div class="scroll" tabindex="0" role="region" aria-label="(.*?)"><img(.*?) width', page
    ) == [
        ("Wide.", ' class="wide"'),
        ("Small.", ""),
    ]


@pytest.mark.parametrize(("run", "noise"), [("cifar10_cpu", True), ("cifar10_magnitudes", False)])
def test_committed_results_are_readable_those_from_before_noise_too(run, noise):
    results = pd.read_csv(Path(__file__).parents[2] / "docs/results" / run / "results.csv")
    assert ("noise" in asr_table(results).center.index) == noise


def test_names_that_are_markup_stay_text(tmp_path, make_results, examples):
    evil = "<script>a()</script>"
    results = make_results(mechanisms=("ST", evil), targets=("VGG", evil), budgets=(8.0,))
    said = {evil: [evil] * 8}
    seen = {**examples, "caption": evil, "labels": [evil] * 8, "aims": [evil] * 8}
    seen |= {"clean_predictions": said, "adversarial_predictions": said}
    page = write_report(tmp_path, results, [seen], {evil: evil}, title=evil).html.read_text()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_the_viewer_tells_right_wrong_and_aimed_at(examples):
    said = {"A": ["cat"] * 8, "B": ["dog"] * 8}
    one = {**examples, "labels": ["cat"] * 8, "clean_predictions": said, "adversarial_predictions": said}
    plain, aimed = viewer([one]), viewer([{**one, "aims": ["dog"] * 8}])
    assert plain.count('class="right"') == plain.count('class="wrong"') == 2 * 8
    assert plain.count("★") == 1  # what it means, in the caption
    assert aimed.count("★") == 1 + 8
    assert plain.count("perturbation ×16") == 3 * 8


def test_a_point_of_the_plane_tells_all_that_its_surrogate_reaches(make_results):
    results = make_results(mechanisms=("ST", "SAM"), seeds=1, targets=("VGG",))
    drawn = interactive_plane(results, "untargeted", 8.0)
    first = re.search(r'class="point"[^>]*aria-label="([^"]*)"', drawn).group(1).splitlines()
    assert first[0] == "ST, seed 0 → VGG"
    asr = results[results["mechanism"] == "ST"].set_index(["goal", "eps_255"])["asr"]
    for line, goal in zip(first[2:], ("untargeted", "targeted"), strict=True):
        low, high = (100 * asr[goal, eps] for eps in (4.0, 8.0))
        assert line == f"{goal}: {low:.1f} % at 4/255, {high:.1f} % at 8/255"
    places = [tuple(map(float, xy)) for xy in re.findall(r"translate\(([\d.]+) ([\d.]+)\)\"/>", drawn)]
    assert places[0][0] > places[1][0]  # SAM is smoother: to the left
    assert places[0][1] > places[1][1]  # and more similar: up
