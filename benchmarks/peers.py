"""The same net in Flax and in PyTorch, for benchmarks against PyTorch libraries."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch_nets import NAMES, NETS, ResNet
from trained import MEAN, STD, predictor

from transferjax import data, models
from transferjax.models import Net
from transferjax.models.weights.torch import abstract_variables
from transferjax.typing import PyTree

# PyTorch at its best: who is ahead depends on the net and the batch. Its threads are its own default, one
# for each core.
SETTINGS: dict[str, dict[str, Any]] = {
    "PyTorch": {},
    "PyTorch, channels_last": {"layout": "channels_last"},
    "PyTorch, compiled": {"layout": "channels_last", "compiled": True},
}


class Normalized(nn.Module):
    """A net of images NCHW in [0, 1]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        for name, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None])

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def drawn(module: Net) -> PyTree:
    """Weights of a trained net's scale, drawn without compiling: speed does not ask for more."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        match path[-1].key:
            case "kernel":
                return rng.standard_normal(leaf.shape, np.float32) * (2 / np.prod(leaf.shape[:-1])) ** 0.5
            case "scale" | "var":
                return np.ones(leaf.shape, np.float32)
            case _:
                return np.zeros(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(module))


def loaded(net: nn.Module, variables: PyTree) -> nn.Module:
    """A net of `torch_nets` with our weights, in evaluation mode."""
    state = {}
    for name, value in models.to_torch(variables).items():
        for ours, theirs in NAMES.items():
            name = re.sub(ours, theirs, name)
        state[name] = torch.from_numpy(np.array(value))
    net.load_state_dict(
        {
            name: state[name].reshape(was.shape) if name in state else was
            for name, was in net.state_dict().items()
        }
        | state
    )
    return net.eval()


def torch_net(name: str, variables: PyTree) -> nn.Module:
    """The net of that name in PyTorch."""
    return loaded(NETS[name](), variables)


def torch_model(variables, blocks=(2, 2, 2, 2), width=64) -> Normalized:
    """Our weights of a `cifar_resnet18`, or of a smaller one, in PyTorch, in evaluation mode."""
    return Normalized(loaded(ResNet(blocks, False, width), variables)).eval()


def arranged(net: nn.Module, images: np.ndarray, layout: str = "contiguous_format", compiled: bool = False):
    """(the net, the images NCHW) in that layout; `compiled` by `torch.compile`."""
    form = getattr(torch, layout)
    net = net.to(memory_format=form)
    return torch.compile(net) if compiled else net, to_torch(images).contiguous(memory_format=form)


def difference(ours, theirs) -> float:
    """The largest difference of logits, relative to the largest logit."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def agree(name: str) -> None:
    """Raises where the two nets of that name differ."""
    module = models.build(name)
    variables = drawn(module)
    images = np.random.default_rng(0).random((2, module.image_size, module.image_size, 3), np.float32)
    ours = jax.jit(models.predictor(module, variables))(jnp.asarray(images))
    with torch.no_grad():
        theirs = torch_net(name, variables)(to_torch(images))
    if (found := difference(ours, theirs)) > 1e-4:
        raise RuntimeError(f"{name}: the two nets differ by {found} in their logits")


def both(variables, **options):
    """(our predict, the PyTorch net) with the same weights, checked against each other."""
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    predict, net = predictor(variables, **options), torch_model(variables, **options)
    with torch.no_grad():
        found = difference(jax.jit(predict)(images), net(to_torch(images)))
    if found > 1e-4:
        raise RuntimeError(f"the two nets differ by {found} in their logits")
    return predict, net


def to_torch(images):
    return torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy())


def to_numpy(images):
    return images.detach().numpy().transpose(0, 2, 3, 1)


def test_images(count):
    """The first test images as floats, and their labels."""
    images = data.load("cifar10", "test").subset(count)
    return images.images.astype(np.float32) / 255, images.labels.astype(np.int32)
