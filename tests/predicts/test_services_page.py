"""The page about services: its examples run as they stand there, against a server that answers that way."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hostile import Server

from transferjax import data, predicts
from transferjax.metrics import round_to_8_bits
from transferjax.predicts import formats, from_callable

PAGE = (Path(__file__).parents[2] / "docs/services.md").read_text()
DIGITS = data.load("digits", "test").subset(40)
MEANS = np.stack([DIGITS.images[DIGITS.labels == k].mean(0).ravel() / 255 for k in range(10)]).astype(
    np.float32
)


def nearest(x):
    """The class with the nearest mean image: a net that needs no training."""
    x = x.reshape(len(x), -1)
    return x @ MEANS.T - (MEANS**2).sum(-1) / 2


def good(request):
    if request.line.startswith("POST /form"):
        return b'{"seen": [{"label": "nought", "score": 0.8}, {"label": "four", "score": 0.1}]}'
    (tensor,) = json.loads(request.body)["inputs"]
    assert tensor["name"] == "images"
    logits = nearest(np.float32(tensor["data"]).reshape(tensor["shape"]))
    output = {"name": "y", "shape": logits.shape, "datatype": "FP32", "data": logits.ravel().tolist()}
    return json.dumps({"outputs": [output]}).encode()


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = DIGITS.images.astype(np.float32) / 255
    space = {"images": images, "labels": DIGITS.labels, "surrogate": from_callable(nearest)}
    with Server(good) as server:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block.replace("localhost:8080", server.host), "services.md", "exec"), space)
    accuracy, success, by_name = map(float, capsys.readouterr().out.split())
    # the service is the surrogate, behind pixels of 8 bits
    known = nearest(images).argmax(-1) == DIGITS.labels
    said = nearest(np.asarray(round_to_8_bits(space["adversarial"]))).argmax(-1)
    assert accuracy == pytest.approx(known[:20].mean())
    assert success == pytest.approx((said != DIGITS.labels)[known].mean(), abs=1e-6)
    assert by_name == 1 - np.isin(DIGITS.labels[:8], [0, 4]).mean()
    assert len(list((tmp_path / "answers").glob("*.answer"))) == 4  # 20 images, 20 more, 40 attacked in 32s


def test_what_it_names_exists():
    for name in re.findall(r"`\*?(\w+)\(", PAGE):
        known = any(hasattr(place, name) for place in (predicts, formats, predicts.HttpTarget))
        assert known or name in ("parse", "encode", "transfer_success"), name
