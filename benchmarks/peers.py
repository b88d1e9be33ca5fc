"""The same net in Flax and in PyTorch, for benchmarks against PyTorch libraries."""

import platform
from pathlib import Path

import jax
import numpy as np
import torch
from torch import nn
from torch_cifar import ResNet
from trained import MEAN, STD, predictor

from transferjax import data, models

RESULTS = Path(__file__).parent / "results"


class Normalized(nn.Module):
    """A net of images NCHW in [0, 1]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        for name, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None])

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def torch_model(variables, blocks=(2, 2, 2, 2), width=64) -> Normalized:
    """Our weights of a `cifar_resnet18` in PyTorch, in evaluation mode."""
    net = ResNet(blocks, False, width)
    state = {name: torch.from_numpy(np.array(value)) for name, value in models.to_torch(variables).items()}
    net.load_state_dict(state)
    return Normalized(net).eval()


def check(variables, images: np.ndarray, **options) -> float:
    """The largest difference of the two nets' logits, relative to the largest logit."""
    ours = np.asarray(jax.jit(predictor(variables, **options))(images))
    with torch.no_grad():
        theirs = torch_model(variables, **options)(to_torch(images)).numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def both(variables, **options):
    """(our predict, the PyTorch net) with the same weights, checked against each other."""
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    if (difference := check(variables, images, **options)) > 1e-4:
        raise RuntimeError(f"the two nets differ by {difference} in their logits")
    return predictor(variables, **options), torch_model(variables, **options)


def to_torch(images):
    return torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy())


def to_numpy(images):
    return images.detach().numpy().transpose(0, 2, 3, 1)


def test_images(count):
    """The first test images as floats, and their labels."""
    images = data.load("cifar10", "test").subset(count)
    return images.images.astype(np.float32) / 255, images.labels.astype(np.int32)


def environment():
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": torch.get_num_threads(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "backend": jax.default_backend(),
    }


def _processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
