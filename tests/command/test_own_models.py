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
from transferjax.command import answers, given
from transferjax.command.main import main
from transferjax.command.shown import tables
from transferjax.predicts import Preprocessing

ROOT = Path(__file__).parents[2]


class TestEvaluate:
    def test_the_table_is_what_the_pieces_say(self, here, tmp_path, capsys):
        flags = "--surrogate s=mynets.py:steep --target mynets:flat --target mynets:service --data imgs"
        flags += f" --attack fgsm --attack bim:steps=2 --eps_255 16 --eps_255 64 --out {tmp_path}"
        assert main(["evaluate", *flags.split()]) == 0
        out = capsys.readouterr().out
        assert "24 images of 3 classes, 6 x 6, as they are" in out
        assert "\nnoise  " in out
        assert "Wilson's 95 % interval" in out
        assert "Success on all 24 images" in out
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
        assert "Success on images that surrogate and target get right" in page
        assert results.groupby("surrogate").surrogate_error.nunique()["s"] == 1
        random = transferjax.attacks.craft(
            transferjax.attacks.noise(64 / 255), source.predict, data.load("imgs", ""), batch_size=32
        ).images
        assert row.noise_both == pytest.approx(
            rate(flat.predict, data.to_float(jnp.asarray(random)), labels, mask=both), abs=1e-6
        )
        assert "fgsm, ε = 64/255" in page  # images to look at
        assert "evaluate" in page or "pytest" in page  # the command that made it

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
            given, "_of_file", lambda *parts: given.Model("", net, "resnet50 from w.pth", bare=net)
        )
        transferjax.evaluate("a=resnet50:w.pth", "resnet50:w.pth", "imgs", "noise", 8)
        out = capsys.readouterr().out
        assert (
            "a: resnet50 from w.pth; sees images as they are, RGB in 0 … 1; 16 of 24 clean images wrong"
            in out
        )
        assert "a: 33% of the images right as they are seen, 100% with '0..255': is its preprocessing" in out
        assert "Say it: 'resnet50:w.pth:0..255'" in out

    def test_few_images_tell_no_preprocessing_from_another(self):
        """Of an untrained net some convention gets one or two of four images more right, by chance."""
        rng, asked = np.random.default_rng(0), 0
        for seed in range(6):
            weights = jax.random.normal(jax.random.key(seed), (48, 3))
            net = jax.tree_util.Partial(lambda w, x: jnp.sin(9 * x.reshape(len(x), -1) @ w), weights)
            images = rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
            dataset = data.Dataset(images, np.array([0, 1, 2, 0]), num_classes=3)
            model = given.Model("a", net, "", bare=net)
            clean = answers.answers(model, dataset, images, 4)
            asked += (clean == dataset.labels).mean() < 0.9
            assert answers._better(model, dataset, clean) is None
        assert asked > 3

    def test_a_model_is_made_once_and_its_own_target_is_no_best(self, here, capsys):
        results = transferjax.evaluate(
            ["mynets.py:counted", "mynets:flat"], ["mynets.py:counted", "mynets:flat"], "imgs", "fgsm", 64
        )
        assert capsys.readouterr().out.count("made counted") == 1
        attacked = results[results.surrogate != "noise"]
        assert (attacked.white_box == (attacked.surrogate == attacked.target)).all()
        both = tables(results)[0]
        for label in ("counted", "flat"):
            assert not both.best.at[f"{label}: fgsm", ("ε = 64/255", label)]
            assert "‡" in both.after.at[f"{label}: fgsm", ("ε = 64/255", label)]
        assert both.best.at["flat: fgsm", ("ε = 64/255", "counted")]

    def test_what_does_no_more_than_noise_is_marked_and_never_the_best(self, here):
        results = transferjax.evaluate(
            {"a": "mynets.py:steep"}, {"b": "mynets.py:flat"}, "imgs", ["fgsm"], [1, 64]
        )
        table = tables(results)[0]
        marked = {eps: "†" in table.after.at["a: fgsm", (f"ε = {eps}/255", "b")] for eps in (1, 64)}
        assert marked == {1: True, 64: False}
        assert results.noise_p.dropna().between(0, 1).all()
        assert not table.best.at["a: fgsm", ("ε = 1/255", "b")]
        assert table.after.at["a: fgsm", ("ε = 1/255", "b")].startswith("[0.0–13.8]")

    def test_a_net_that_guesses_is_doubted(self, here, capsys):
        net = jax.tree_util.Partial(lambda x: jnp.zeros((len(x), 3)).at[:, 1].set(2.0))
        transferjax.evaluate({"net": net}, {"net": net}, "imgs", "fgsm", 8)
        assert "warning: net: 8 of 24 clean images right, no better than chance" in capsys.readouterr().out

    def test_what_a_net_sees_is_the_third_part_of_its_name(self, here, tmp_path):
        seen = tmp_path / "seen.json"
        seen.write_text(json.dumps({"channels": "BGR", "classes": [2, 1, 0]}))
        plain, other = given.read_models(["a=mynets.py:steep", f"b=mynets.py:steep:{seen}"], 3)
        x = jax.random.uniform(jax.random.key(0), (2, 6, 6, 3))
        np.testing.assert_allclose(plain.predict(x[..., ::-1])[:, ::-1], other.predict(x), atol=1e-6)
        assert other.seen == Preprocessing(channels="BGR", classes=(2, 1, 0))

    def test_images_with_channels_first_are_told(self):
        images = np.zeros((8, 3, 32, 32), np.uint8)
        with pytest.raises(ValueError, match=r"images are \(8, 3, 32, 32\); \[N, H, W, C\] is wanted"):
            transferjax.evaluate(lambda x: x, lambda x: x, (images, np.arange(8)), "fgsm")

    def test_an_l2_budget_that_rounding_eats_is_told(self, here, capsys):
        transferjax.evaluate("mynets.py:steep", "mynets.py:steep", "imgs", "fgsm", 2, norm="l2")
        assert "an L2 norm of 2/255 changes at most 4 of the 108 values" in capsys.readouterr().out

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
        np.testing.assert_array_equal(cv2.imread(row["source"])[..., ::-1], clean[i])
    again = data.load(str(out / "images"), "")
    assert again.class_names == ("blue", "green", "red")
    np.testing.assert_array_equal(again.labels, np.repeat([0, 1, 2], 8))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["eps"] == pytest.approx(10.9 / 255)
    for table, message in (
        ("file,label\nx.png,zero\n", "label of x.png is 'zero', expected 0 … 2"),
        ("file,label\n", "labels.csv has no rows"),
        ("image,label\nx.png,0\n", r"lacks the columns \['file'\]"),
    ):
        (out / "labels.csv").write_text(table)
        with pytest.raises(ValueError, match=message):
            data.load(str(out / "images"), "")
    assert manifest["surrogate"]["given"] == "mynets.py:steep"
    assert len(manifest["sources"]) == 24
    assert re.search(r"steep errs on 0 of 24 images, and on \d+ after mi_fgsm", capsys.readouterr().out)
    assert main(["attack", *flags.split()]) == 1
    assert "is there already" in capsys.readouterr().err


def measured(tmp_path, *models):
    flags = f"--data imgs --count 6 --out {tmp_path}/m.csv"
    assert main(["measure", *models, *flags.split()]) == 0
    table = pd.read_csv(tmp_path / "m.csv", keep_default_na=False, na_values={"value": [""]})
    return dict(zip(zip(table.model, table.measure, table.other, strict=True), table.value, strict=True))


def test_measure(here, tmp_path):
    value = measured(tmp_path, "mynets.py:steep", "mynets:cubic")
    [steep, cubic] = given.read_models(["mynets:steep", "mynets:cubic"], 3)
    few = given.read_data("imgs", count=6)
    x, y = data.to_float(jnp.asarray(few.images)), few.labels
    similar = metrics.gradient_similarity(cubic.predict, steep.predict, x, y).mean()
    assert value["cubic", "similarity", "steep"] == pytest.approx(float(similar), rel=1e-4)
    sharp = metrics.input_hessian_eigenvalues(steep.predict, x, y)[:, 0].mean()
    assert value["steep", "smoothness", ""] == pytest.approx(float(sharp), rel=1e-4)
    assert value["steep", "accuracy", ""] == float(metrics.correct(steep.predict, x, y).mean())


def test_measure_a_net_of_pytorch(here, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is optional: pip install 'transferjax[torch]'")
    value = measured(tmp_path, "mynets:torch_net")
    [net] = given.read_models(["mynets:torch_net"], 3)
    few = given.read_data("imgs", count=6)
    x, y = data.to_float(jnp.asarray(few.images)), few.labels
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


def test_few_images_know_where_they_are_from(here):
    whole = given.read_data("imgs")
    few = given.take(whole, 5)
    sources = given.read_sources("imgs", whole, "", 5)
    for file, image in zip(sources, few.images, strict=True):
        np.testing.assert_array_equal(cv2.imread(file)[..., ::-1], image)
    assert given.read_sources("digits", data.load("digits", "test"), "", 3)[0].startswith("digits test ")


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
    assert two.seen == Preprocessing(channels="BGR")
    with pytest.raises(ValueError, match=r"expected a model .* got int 3"):
        given.read_models(3, 3)
