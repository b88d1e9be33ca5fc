"""The command as a stranger runs it: their folder, their nets, one line."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import transferjax
from transferjax import data, metrics, models
from transferjax.command import given
from transferjax.command.main import main
from transferjax.predicts import Preprocessing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(colours, monkeypatch):
    """The stranger's directory."""
    monkeypatch.chdir(colours)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield colours
    sys.modules.pop("mynets", None)


class TestEvaluate:
    def test_the_table_is_what_the_pieces_say(self, here, tmp_path, capsys):
        flags = "--surrogate s=mynets.py:steep --target mynets:flat --target mynets:service --data imgs"
        flags += f" --attack fgsm bim:steps=2 --eps_255 16 64 --out {tmp_path}"
        assert main(["evaluate", *flags.split()]) == 0
        out = capsys.readouterr().out
        assert "24 images of 3 classes, 6 x 6, as they are" in out
        assert "| noise |" in out
        results = pd.read_csv(tmp_path / "results.csv")
        assert len(results) == (2 + 1) * 2 * 2  # two attacks and the noise, two budgets, two targets
        images, labels = jnp.asarray(data.load("imgs", "").images), np.repeat([0, 1, 2], 8)
        [source] = given.read_models("mynets.py:steep", 3)
        attack = transferjax.attacks.bim(64 / 255, steps=2)
        crafted = transferjax.attacks.craft(
            attack, source.predict, data.load("imgs", ""), batch_size=32
        ).images
        [flat] = given.read_models("mynets:flat", 3)
        moved = data.to_float(jnp.asarray(crafted))
        rate = lambda *given, **more: float(metrics.transfer_success(*given, **more))  # noqa: E731
        row = results.query("attack == 'bim:steps=2' and eps_255 == 64 and target == 'flat'").iloc[0]
        assert row.asr == pytest.approx(rate(flat.predict, moved, labels), abs=1e-6)
        both = metrics.correct(flat.predict, data.to_float(images), labels)
        both &= metrics.correct(source.predict, data.to_float(images), labels)
        assert row.both_right == both.sum()
        expected = rate(flat.predict, moved, labels, mask=both)
        assert row.asr_both == pytest.approx(expected, abs=1e-6)
        assert row.asr_low <= row.asr <= row.asr_high
        noise = results[results.surrogate == "noise"].set_index(["eps_255", "target"]).asr
        assert row.asr > noise[64, "flat"]
        page = (tmp_path / "report.html").read_text()
        assert "Success on images that both models get right" in page

    def test_pytorch_modules_are_surrogates(self, here):
        pytest.importorskip("torch", reason="PyTorch is optional: pip install 'transferjax[torch]'")
        results = transferjax.evaluate(
            "mynets.py:torch_net", ["mynets.py:torch_net", "mynets:steep"], "imgs", "fgsm", 96
        )
        white = results.query("surrogate == target")
        assert white.asr.item() == 1
        assert set(results.target) == {"torch_net", "steep"}

    def test_files_of_known_architectures_with_preprocessing(self, here, tmp_path, capsys):
        net = models.build("cifar_vgg11", 3, width=2, blocks=(1,))
        variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 6, 6, 3)))
        [model] = given.read_models({"mine": (net, variables)}, 3)
        images = data.to_float(jnp.asarray(data.load("imgs", "").images))
        np.testing.assert_array_equal(model.predict(images), models.predictor(net, variables)(images))
        file = models.save(jax.jit(models.build("squeezenet1_1", 3).init)(
            jax.random.key(0), jnp.zeros((1, 32, 32, 3))), tmp_path / "net.npz")  # fmt: skip
        (tmp_path / "seen.json").write_text(json.dumps({"size": 32, "mean": [0.5], "std": [0.5]}))
        plain, named, written = given.read_models(
            [
                f"a=squeezenet1_1:{file}",
                f"b=squeezenet1_1:{file}:-1..1",
                f"squeezenet1_1:{file}:{tmp_path}/seen.json",
            ],
            3,
        )
        x = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
        np.testing.assert_allclose(plain.predict(2 * x - 1), named.predict(x), atol=1e-5)
        np.testing.assert_allclose(written.predict(x), named.predict(x), atol=1e-5)
        assert written.label == "squeezenet1_1"

    def test_a_net_with_a_missing_preprocessing_is_doubted(self, here, tmp_path, capsys, monkeypatch):
        """Sure of its answers on images in 0 … 255 alone."""
        net = jax.tree_util.Partial(lambda x: jnp.where(x.max() > 2, x.mean((1, 2))[:, ::-1], 0.0))
        monkeypatch.setattr(
            given, "_of_file", lambda *parts: (net, "resnet50 from w.pth, images as they are")
        )
        transferjax.evaluate("a=resnet50:w.pth", "resnet50:w.pth", "imgs", "noise", 8)
        out = capsys.readouterr().out
        assert "a: 33% of the images right as they are, 100% with '0..255': is its preprocessing" in out

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ("--surrogate resnet51:w.pth --data imgs", "model 'resnet51:w.pth'|No module named 'resnet51'"),
            ("--surrogate resnet50 --data imgs", "model 'resnet50': which weights"),
            ("--surrogate resnet50:no.pth --data imgs", "there is no file 'no.pth'"),
            ("--surrogate mynets.py:steap --data imgs", "mynets.py has no 'steap'; did you mean steep"),
            ("--surrogate mynets:steep --data imgs --attack mi_fgms", "unknown attack 'mi_fgms'.*mi_fgsm"),
            ("--surrogate mynets:steep --data imgs --attack bim:stepz=2", "attack 'bim'.*stepz"),
            ("--surrogate mynets:steep --data imgs --attack bim:steps", "expected NAME:OPTION=VALUE"),
            (
                "--surrogate mynets:steep --surrogate mynets:steep --data imgs",
                "two models are called 'steep'",
            ),
            ("--surrogate mynets:steep --data imgz", "unknown data set 'imgz'"),
        ],
    )
    def test_mistakes_are_one_line(self, here, capsys, flags, message):
        assert main(["evaluate", *flags.split()]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error)
        assert "Traceback" not in error

    def test_a_net_of_other_classes_is_refused(self, here):
        with pytest.raises(
            ValueError, match=r"net: .*has 3 classes \(blue, green, red\), but predict has 2 logits"
        ):
            transferjax.evaluate({"net": lambda x: x.mean((1, 2))[:, :2]}, "mynets.py:steep", "imgs", "fgsm")


def test_attack_writes_what_other_tools_read(here, tmp_path, capsys):
    out = tmp_path / "adv"
    flags = f"mynets.py:steep --attack mi_fgsm:steps=3 --eps_255 10.9 --data imgs --out {out}"
    assert main(["attack", *flags.split()]) == 0
    rows = list(csv.DictReader((out / "labels.csv").read_text().splitlines()))
    assert len(rows) == 24
    clean = data.load("imgs", "").images
    for i, row in enumerate(rows):
        image = cv2.imread(str(out / row["file"]))[..., ::-1]
        change = np.abs(image.astype(int) - clean[i]).max()
        assert change == int(row["largest_change_255"]) <= 10  # 10.9, rounded inside the ball
        assert Path(row["file"]).parent.name == row["class"]
    again = data.load(str(out / "images"), "")
    assert again.class_names == ("blue", "green", "red")
    np.testing.assert_array_equal(again.labels, np.repeat([0, 1, 2], 8))
    assert json.loads((out / "manifest.json").read_text())["eps"] == pytest.approx(10.9 / 255)
    assert main(["attack", *flags.split()]) == 1
    assert "is there already" in capsys.readouterr().err


def test_measure(here, capsys, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is optional: pip install 'transferjax[torch]'")
    flags = f"mynets.py:steep mynets:cubic mynets:torch_net --data imgs --count 6 --out {tmp_path}/m.csv"
    assert main(["measure", *flags.split()]) == 0
    table = pd.read_csv(tmp_path / "m.csv", keep_default_na=False, na_values={"value": [""]})
    value = dict(zip(zip(table.model, table.measure, table.other, strict=True), table.value, strict=True))
    [steep, cubic, net] = given.read_models(["mynets:steep", "mynets:cubic", "mynets:torch_net"], 3)
    few = given.read_data("imgs", count=6)
    x, y = data.to_float(jnp.asarray(few.images)), few.labels
    similar = metrics.gradient_similarity(cubic.predict, steep.predict, x, y).mean()
    assert value["cubic", "similarity", "steep"] == pytest.approx(float(similar), rel=1e-4)
    sharp = metrics.input_hessian_eigenvalues(steep.predict, x, y)[:, 0].mean()
    assert value["steep", "smoothness", ""] == pytest.approx(float(sharp), rel=1e-4)
    same = jax.tree_util.Partial(lambda x: 10 * x.mean((1, 2))[:, ::-1])
    sharp = metrics.input_hessian_eigenvalues(same, x, y)[:, 0].mean()
    assert value["torch_net", "smoothness", ""] == pytest.approx(float(sharp), rel=1e-3)
    assert value["torch_net", "accuracy", ""] == float(metrics.correct(net.predict, x, y).mean())


def test_doctor_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "extra report: lacks statsmodels: pip install 'transferjax[report]'" in out
    assert "an attack on a linear model: as its closed form says" in out


def test_what_is_missing_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert main(["study", "--store=x"]) == 1
    assert "transferjax study: pip install 'transferjax[study]' (pydantic missing)" in capsys.readouterr().err
    with pytest.raises(
        ModuleNotFoundError, match=r"transferjax.evaluate: pip install 'transferjax\[study\]'"
    ):
        transferjax.evaluate  # noqa: B018


def test_convert_and_prepare_have_their_own_flags(capsys):
    for command, word in (("convert", "--model"), ("prepare", "--archive")):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert word in capsys.readouterr().out


def test_a_study_by_the_path_of_its_config(tmp_path):
    """From anywhere; what a config imports lies beside it, or among the configs that are shipped."""
    (tmp_path / "proj" / "mine").mkdir(parents=True)
    (tmp_path / "proj" / "mine" / "study.py").write_text(
        "from configs import digits\nfrom helper import variant\n"
        "get_config = lambda v='': digits.get_config(variant)\n"
    )
    (tmp_path / "proj" / "mine" / "helper.py").write_text("variant = 'smoke'\n")
    command = [sys.executable, "-m", "transferjax.command.main", "study", "--list"]
    done = subprocess.run(
        [*command, f"--config={tmp_path}/proj/mine/study.py"], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SAM&IR" in done.stdout


def test_labels_and_pairs():
    net = jax.tree_util.Partial(lambda x: x.mean((1, 2)))
    [one, two] = given.read_models({"a": net, "b": (net, Preprocessing(channels="BGR"))}, 3)
    x = jnp.asarray(np.random.default_rng(0).random((1, 2, 2, 3)), jnp.float32)
    np.testing.assert_allclose(one.predict(x)[0, ::-1], two.predict(x)[0], atol=1e-6)
    assert "BGR" in two.what
    with pytest.raises(ValueError, match=r"expected a model .* got int 3"):
        given.read_models(3, 3)
