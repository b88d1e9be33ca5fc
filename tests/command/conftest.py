"""A folder of images whose class is their colour, and nets that know it."""

import sys

import cv2
import numpy as np
import pytest

COLOURS = {"blue": (0.2, 0.3, 0.7), "green": (0.2, 0.7, 0.3), "red": (0.7, 0.3, 0.2)}

NETS = '''
import jax, jax.numpy as jnp

def linear(scale):
    weights = scale * jnp.array([[-1.0, -1, 2], [-1, 2, -1], [2, -1, -1]]).T
    return jax.tree_util.Partial(lambda w, x: x.mean((1, 2)) @ w, weights)

def steep():
    return linear(20.0)

def flat(images):
    """Itself a predict: it takes images."""
    return linear(5.0)(images)

class Service:
    url = "http://somewhere"

    def as_predict(self, num_classes):
        assert num_classes == 3
        return linear(1.0)

def service():
    return Service()

def torch_net():
    import torch
    class Net(torch.nn.Module):
        def forward(self, x):
            return {"logits": 10 * x.mean((2, 3)).flip(1)}
    return Net()

def counted():
    print("made counted")
    return linear(3.0)

def boom():
    raise RuntimeError("no weights\\nat all")

def loads(path):
    return open(path)

def seen():
    from transferjax.predicts import Preprocessing
    return linear(1.0), Preprocessing(channels="BGR")

state = {"f.weight": jnp.ones(3)}

def cubic():
    return jax.tree_util.Partial(lambda x: 30 * (x.mean((1, 2))[:, ::-1]) ** 3)
'''


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """`<folder>/imgs/<class>/<i>.png`, 8 of each of three classes, 6 x 6, and `<folder>/mynets.py`."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / "imgs" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.clip(np.asarray(colour) + 0.1 * rng.normal(size=(6, 6, 3)), 0, 1)
            cv2.imwrite(str(root / "imgs" / name / f"{i}.png"), (255 * pixels[..., ::-1]).astype(np.uint8))
    (root / "mynets.py").write_text(NETS)
    (root / "other").mkdir()
    (root / "other" / "mynets.py").write_text(NETS)
    return root


@pytest.fixture
def here(colours, monkeypatch):
    """The stranger's directory."""
    monkeypatch.chdir(colours)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield colours
    sys.modules.pop("mynets", None)
