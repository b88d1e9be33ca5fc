"""The whole path as a user runs it: one command, killed anywhere, refused when it should be."""

import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest

from configs.digits import get_config
from experiments.attack import noisy_images
from transferjax import data

CONFIG = "--config=configs/digits.py:smoke"


@pytest.fixture(scope="module")
def finished(finish, tmp_path_factory):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, out, err = finish(workdir, CONFIG)
    assert code == 0, err
    assert "report.html" in out
    assert err == "", "quiet when not on a terminal"
    return workdir


def test_results_have_a_row_for_every_combination(finished):
    results = pd.read_csv(finished / "results.csv")
    noise = results["mechanism"] == "noise"
    assert noise.sum() == 1 * 2 * 1  # targets, goals, budgets
    assert results.loc[noise, ["asr", "asr_correct"]].notna().all(axis=None)
    results = results[~noise]
    assert len(results) == 2 * 1 * 2 * 1  # mechanisms, targets, goals, budgets
    assert set(results["mechanism"]) == {"ST", "SAM&IR"}
    assert results["noise_fooling_rate"].between(0, 1).all()
    rates = results[["asr", "surrogate_accuracy", "target_accuracy"]]
    assert ((rates >= 0) & (rates <= 1)).all(axis=None)
    assert (results["smoothness"] > 0).all()
    assert results["similarity"].between(-1, 1).all()


def test_the_report_is_whole_and_self_contained(finished):
    html, markdown = (finished / "report.html").read_text(), (finished / "report.md").read_text()
    for mechanism in ("ST", "SAM&amp;IR"):
        assert mechanism in html
    assert "data:image/png;base64," in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert markdown.count("\n| noise |") == markdown.count("transfer success (%)") == 4
    pictures = list((finished / "figures").glob("*.png"))
    assert len(pictures) >= 4
    assert all(f"figures/{picture.name}" in markdown for picture in pictures)
    assert '"seed": 0' in (finished / "environment.json").read_text()


def test_a_finished_run_is_not_repeated(finish, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert finish(finished, CONFIG)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "moment",
    [
        "networks/VGG-seed100/checkpoints/8",
        "networks/SAM+IR-seed0/checkpoints/*",
        "transfer/*",
    ],
)
def test_a_killed_run_ends_with_the_same_bytes(start, finish, finished, tmp_path, moment):
    process = start(tmp_path / "run", CONFIG)
    while not list((tmp_path / "run").glob(moment)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "results.csv").exists()
    code, _, err = finish(tmp_path / "run", CONFIG)
    assert code == 0, err
    assert (tmp_path / "run/results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_stages_are_scripts_of_their_own(finish, finished, tmp_path):
    for script in ("train", "attack", "measure", "blueprint"):
        code, _, err = finish(tmp_path, CONFIG, script=script)
        assert code == 0, err
    assert (tmp_path / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_a_finished_run_is_analysed(finish, finished):
    code, _, err = finish(finished, CONFIG, script="analyse")
    assert code == 0, err
    text = (finished / "analysis.md").read_text()
    assert all(name in text for name in ("fooling rate", "similarity_infimum", "supremum"))
    results = pd.read_csv(finished / "results.csv")
    results = results[results["mechanism"] != "noise"]
    assert results["fooling_rate"].between(0, 1).all()
    with np.load(finished / "similarity.npz") as saved:
        similarity = saved["similarity"]
    assert similarity.shape == (2, 3, 16)
    np.testing.assert_allclose(similarity[[0, 1], [0, 1]], 1, atol=1e-5)
    np.testing.assert_allclose(similarity[0, 1], similarity[1, 0], atol=1e-6)
    own = results[results["mechanism"] == "ST"]["similarity"].iloc[0]
    assert own == pytest.approx(similarity[0, 2].mean(), abs=1e-6)


def test_another_config_is_refused_with_the_difference(finish, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    code, _, err = finish(copy, CONFIG, "--config.training.learning_rate=0.25")
    assert code != 0
    assert '-    "learning_rate": 0.1' in err
    assert '+    "learning_rate": 0.25' in err
    assert "Traceback" not in err


def test_a_mistake_is_named_before_anything_is_trained(finish, tmp_path):
    code, _, err = finish(tmp_path / "run", CONFIG, "--config.attack.name=pdg")
    assert code != 0
    assert err.startswith("ValueError: transferjax.attacks has no 'pdg'; did you mean")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "networks").exists()


def test_divergence_stops_with_advice_and_keeps_the_last_good_checkpoint(finish, tmp_path):
    code, _, err = finish(
        tmp_path, CONFIG, "--config.training.learning_rate=1e30", "--config.training.warmup_epochs=1"
    )
    assert code != 0
    assert "loss is nan" in err or "loss is inf" in err
    assert "learning_rate" in err


def test_random_signs_of_the_budget():
    """Every pixel moves by the budget or to the border; in L2 the whole image does; both keep 8 bits."""
    images = data.Dataset(np.full((3, 8, 8, 1), 128, np.uint8), np.zeros(3, np.int32), ("a",))
    config = get_config("smoke")
    noisy = noisy_images(config, images, 32, seed=0).images.astype(int) - 128
    assert set(np.unique(noisy)) == {-32, 32}
    assert abs(noisy.mean()) < 10
    assert (noisy[0] != noisy[1]).any()
    config.attack.options = {"norm": "l2"}
    np.testing.assert_array_equal(abs(noisy_images(config, images, 32, seed=0).images.astype(int) - 128), 4)
