"""LPIPS in a study: of attacked images, known by what is in its files of weights."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from small import attacked, failure, make

from configs import frontier
from transferjax import data, metrics
from transferjax.metrics import perceptual
from transferjax.study import binding, config, views
from transferjax.study.mistakes import Mistakes
from transferjax.study.specs import Call, Data, Measure


def lpips_files(path):
    """A SqueezeNet's features and the linear weights above, as random as they come."""
    draw, tensors = np.random.default_rng(0), {}
    for name, shape in perceptual._convolutions("squeeze").items():
        tensors[f"{name}.weight"] = draw.normal(scale=np.sqrt(2 / np.prod(shape[1:])), size=shape)
        tensors[f"{name}.bias"] = np.zeros(shape[0])
    lines = {
        f"lin{i}.model.1.weight": draw.uniform(size=(1, width, 1, 1))
        for i, width in enumerate(perceptual._widths("squeeze"))
    }
    files = {"backbone": path / "squeezenet1_1.safetensors", "linear": path / "squeeze.safetensors"}
    for file, found in zip(files.values(), (tensors, lines), strict=True):
        file.write_bytes(safetensors.numpy.save({n: a.astype(np.float32) for n, a in found.items()}))
    return {name: str(file) for name, file in files.items()}


def test_lpips_is_of_attacked_images_and_known_by_its_files(context, tmp_path):
    files = lpips_files(tmp_path)
    grown = Data(name="digits", split="test", options={"size": 26}, count=16)
    images = attacked((), Call(name="noise"), eps=32 / 255, data=grown)
    call = Call(name="lpips", options={"net": "squeeze", **files})
    measure = binding.bound(Measure(call=call, data=images))
    moved, found = make(context, images, measure)
    x, y = (data.to_float(jnp.asarray(a)) for a in (context.dataset(grown).images, moved["images"]))
    expected = metrics.lpips(metrics.read_lpips("squeeze", **files), x, y)
    np.testing.assert_allclose(found["values"], expected, rtol=1e-3)
    assert found["values"].min() > 0
    # Elsewhere the same files are the same measure; other weights are another.
    elsewhere = {n: str(shutil.copy(f, tmp_path / f"{n}.safetensors")) for n, f in files.items()}
    same = binding.bound(
        Measure(call=Call(name="lpips", options={"net": "squeeze", **elsewhere}), data=images)
    )
    assert same.key == measure.key
    Path(elsewhere["linear"]).write_bytes(b"other weights")
    other = binding.bound(
        Measure(call=Call(name="lpips", options={"net": "squeeze", **elsewhere}), data=images)
    )
    assert other.key != measure.key
    changed = same.replace(data=images.replace(seed=1))
    make(context, changed.data)
    context.forget()
    assert "linear.safetensors is another file than the study named" in failure(context, changed)
    with pytest.raises(
        Mistakes, match=r"measure 'lpips': backbone='nowhere\.pth' is not there: expected torchvision"
    ):
        binding.bound(
            Measure(call=Call(name="lpips", options=files | {"backbone": "nowhere.pth"}), data=images)
        )
    with pytest.raises(Mistakes, match="net must be one of alex, vgg, squeeze; got 'vgg16'"):
        binding.bound(Measure(call=Call(name="lpips", options=files | {"net": "vgg16"}), data=images))


def test_the_frontier_shows_it_where_its_files_are_named(tmp_path):
    """Beside SSIM and L2: a table more, of which the smallest is nearest."""
    files = lpips_files(tmp_path)
    plain = frontier.get_config("smoke")
    asked = {**plain, "views": (("frontier", "frontier", {"block": "main", "net": "squeeze", **files}),)}
    study = config.read(asked, views.VIEWS)
    rows = views.rows_of(study, study.views[0])
    assert {"distortion", "lpips"} <= set(rows[0].needs)
    far = {"l2": np.array([1.0, 3.0]), "ssim": np.array([0.5, 0.7])}
    found = {name: {} for name in rows[0].needs} | {
        "distortion": far,
        "lpips": {"values": np.array([0.1, 0.3])},
    }
    classes = {name: np.zeros(2, int) for name in ("classes", "labels", "aims", "values")}
    found = {name: value or classes for name, value in found.items()}
    assert rows[0].reduce(found)["lpips"] == pytest.approx(0.2)
    seen = {"hit": np.array([True, False]), "both": np.array([True, True])}
    frame = pd.DataFrame(
        {"mechanism": "ST", "seed": 0, "attack": name, "gradients": 10, "target": "VGG", "goal": "untargeted"}
        | {"eps_255": 8.0, "asr": 0.5, "asr_correct": 0.5, "ssim": 0.9, "l2": 1.0, "lpips": value}
        | seen
        for name, value in (("PGD 10", 0.2), ("MI 10", 0.1))
    )
    (section,) = views.VIEWS["frontier"].draw(frame, study, **study.views[0].options)
    table = section.tables[-1]
    assert "LPIPS" in table.title
    assert table.best.loc["MI"].all()
    assert not table.best.loc["PGD"].any()
