"""The README's example runs as it stands there."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()

EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_pytorch_net_of_ones_own(capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install 'transferjax[torch]'")
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.4, 0.5, 0.6), "std": (0.1, 0.1, 0.1)}
    images = jnp.asarray(np.random.default_rng(0).random((6, 12, 9, 3)), jnp.float32)
    names = {"net": net, "images": images, "labels": jnp.asarray(images.mean((1, 2)).argmax(-1))}
    example, _ = EXAMPLES
    with pytest.warns(UserWarning, match="6 images do not tell 'none' "):
        exec(compile(example, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("none 1.0 0.6")
    assert names["predict"](images).shape == (6, 3)


def test_the_example_runs(capsys):
    _, example = EXAMPLES
    exec(compile(example, "README.md", "exec"), {})
    printed = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert 0.2 < float(printed["transfer success"]) <= 1
    assert float(printed["smoothness"]) > 0
    assert 0 < float(printed["similarity"]) < 1


def test_its_links_and_pictures_exist():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (root / target.partition("#")[0]).exists(), target
