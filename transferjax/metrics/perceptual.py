"""LPIPS: how far images are from each other to a network that was taught what people see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferjax.metrics.distortion import widened
from transferjax.models.conv import conv_general_dilated
from transferjax.models.pooling import max_pool
from transferjax.models.weights.formats import read_tensors
from transferjax.norms import unit
from transferjax.typing import Array

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of ImageNet's colours, for images in [-1, 1]."""


class Layer(NamedTuple):
    """One layer of a backbone, by its number in torchvision's `features`.

    Args:
        number: of the convolution, or of the fire module.
        sizes: (features, kernel, stride, padding) of a convolution with a ReLU behind it, or the widths
            (squeeze, expand) of a fire module.
        pooled: the window of a maximum before it, its stride 2; 0 for none.
        tapped: whether its output is compared.
    """

    number: int
    sizes: tuple[int, ...]
    pooled: int = 0
    tapped: bool = True


def _vgg16() -> tuple[Layer, ...]:
    """Thirteen 3 x 3 convolutions; the last of each stage is compared."""
    layers, number = [], 0
    for stage, (features, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for i in range(count):
            pooled = 2 if stage and i == 0 else 0
            layers.append(Layer(number, (features, 3, 1, 1), pooled, tapped=i == count - 1))
            number += 2
        number += 1
    return tuple(layers)


BACKBONES: dict[str, tuple[Layer, ...]] = {
    "alex": (
        Layer(0, (64, 11, 4, 2)),
        Layer(3, (192, 5, 1, 2), pooled=3),
        Layer(6, (384, 3, 1, 1), pooled=3),
        Layer(8, (256, 3, 1, 1)),
        Layer(10, (256, 3, 1, 1)),
    ),
    "vgg": _vgg16(),
    "squeeze": (
        Layer(0, (64, 3, 2, 0)),
        Layer(3, (16, 64), pooled=3, tapped=False),
        Layer(4, (16, 64)),
        Layer(6, (32, 128), pooled=3, tapped=False),
        Layer(7, (32, 128)),
        Layer(9, (48, 192), pooled=3),
        Layer(10, (48, 192)),
        Layer(11, (64, 256)),
        Layer(12, (64, 256)),
    ),
}
TORCHVISION = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""Whose `features` the backbones are."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lpips:
    """What `lpips` compares with: a backbone's tensors by torchvision's names, and a weight per channel.

    Args:
        backbone: kernels HWIO and biases.
        linear: one array for each layer that is compared, none below 0.
        net: a key of `BACKBONES`.
    """

    backbone: dict[str, Array]
    linear: tuple[Array, ...]
    net: str = field(default="alex", metadata={"static": True})


def _convolutions(net: str) -> dict[str, tuple[int, int, int, int]]:
    """The shape of every kernel, OIHW, by the name of its layer."""
    shapes, channels = {}, 3
    for layer in BACKBONES[net]:
        name = f"features.{layer.number}"
        if len(layer.sizes) == 2:
            squeeze, expand = layer.sizes
            shapes[f"{name}.squeeze"] = (squeeze, channels, 1, 1)
            shapes[f"{name}.expand1x1"] = (expand, squeeze, 1, 1)
            shapes[f"{name}.expand3x3"] = (expand, squeeze, 3, 3)
            channels = 2 * expand
        else:
            features, kernel = layer.sizes[:2]
            shapes[name] = (features, channels, kernel, kernel)
            channels = features
    return shapes


def _widths(net: str) -> list[int]:
    """Channels of the layers that are compared."""
    return [
        2 * layer.sizes[1] if len(layer.sizes) == 2 else layer.sizes[0]
        for layer in BACKBONES[net]
        if layer.tapped
    ]


def _taken(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], what: str) -> dict:
    """The tensors of those names and shapes.

    Raises:
        ValueError: one that is not there, or of another shape.
    """
    for name, shape in wanted.items():
        found = np.shape(tensors[name]) if name in tensors else "none of that name"
        if found != shape:
            raise ValueError(f"{what}: expected the tensor {name!r} of shape {shape}; got {found}")
    return {name: np.asarray(tensors[name], np.float32) for name in wanted}


def _read(path: str | Path, what: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{str(path)!r} is not there: expected {what}; nothing is downloaded")
    return read_tensors(path)


def read_lpips(net: str, backbone: str | Path, linear: str | Path) -> Lpips:
    """Weights of LPIPS from two files, `.pth` or `.safetensors`; nothing is downloaded.

    Args:
        net: "alex" (which its authors advise for comparing images), "vgg" or "squeeze".
        backbone: torchvision's weights of alexnet, vgg16 or squeezenet1_1, of which `features` are read.
        linear: `{net}.pth` of the package lpips, version 0.1: `lin0.model.1.weight` and so on.

    Raises:
        ValueError: another net, tensors that are missing or of other shapes, weights below 0.
        FileNotFoundError: a file that is not there, with where one gets it.

    Reference: as `lpips`.
    """
    if net not in BACKBONES:
        raise ValueError(f"net must be one of {', '.join(BACKBONES)}; got {net!r}")
    name = TORCHVISION[net]
    trunk = _read(backbone, f"torchvision's weights of {name}, its state_dict saved by torch.save")
    above = _read(linear, f"lpips/weights/v0.1/{net}.pth of the package lpips (pip download lpips)")
    shapes = {
        tensor: shape
        for layer, kernel in _convolutions(net).items()
        for tensor, shape in ((f"{layer}.weight", kernel), (f"{layer}.bias", kernel[:1]))
    }
    found = _taken(trunk, shapes, f"{backbone} (backbone {net!r}, torchvision's {name})")
    lines = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(_widths(net))}
    weights = _taken(above, lines, f"{linear} (linear weights of {net!r})")
    if wrong := [n for n, w in weights.items() if not (w >= 0).all()]:
        raise ValueError(
            f"{linear}: weights must not be below 0; got {weights[wrong[0]].min()} in {wrong[0]}"
        )
    kernels = {n: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for n, a in found.items()}
    return Lpips(
        jax.tree.map(jnp.asarray, kernels), tuple(jnp.asarray(w.ravel()) for w in weights.values()), net
    )


def _conv(weights: Lpips, name: str, x: Array, stride: int = 1, padding: int = 0) -> Array:
    kernel, bias = (weights.backbone[f"{name}.{part}"].astype(x.dtype) for part in ("weight", "bias"))
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    pads = [(padding, padding)] * 2
    return conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers) + bias


def _features(weights: Lpips, x: Array) -> list[Array]:
    """What is compared, of images `[B, H, W, 3]` as the backbone sees them."""
    found = []
    for layer in BACKBONES[weights.net]:
        name = f"features.{layer.number}"
        if layer.pooled:
            x = max_pool(x, layer.pooled, 2, ceil=weights.net == "squeeze")
        if len(layer.sizes) == 2:
            x = nn.relu(_conv(weights, f"{name}.squeeze", x))
            sides = _conv(weights, f"{name}.expand1x1", x), _conv(weights, f"{name}.expand3x3", x, padding=1)
            x = nn.relu(jnp.concatenate(sides, -1))
        else:
            x = nn.relu(_conv(weights, name, x, *layer.sizes[2:]))
        if layer.tapped:
            found.append(x)
    return found


def lpips(weights: Lpips, x: Array, y: Array) -> Array:
    """The learned perceptual distance of images, 0 for equal ones, `[B]`.

        Σ_l mean over places of Σ_c w_lc (f̂_lc(x) - f̂_lc(y))²,    f̂ = f / ‖f‖₂ over the channels of a place

    f are a backbone's features behind its ReLUs, of the images as they are, at their own size.

    Args:
        weights: of `read_lpips`.
        x, y: `[B, H, W, 3]` in [0, 1], or `[B, H, W, 1]`, grey for all three; 31 x 31 or more for "alex",
            16 x 16 for "vgg", 25 x 25 for "squeeze".

    Raises:
        ValueError: images of other shapes, or too small for the backbone.

    Reference: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
    2018, version 0.1 of its package, which adds 1e-10 to the norms; here features that are all zero stay so.
    """
    x, y = widened(x, y)
    if x.shape[-1] not in (1, 3):
        raise ValueError(f"expected images [B, H, W, 3] (or 1); got {x.shape}")
    seen = [(2 * z - 1 - jnp.asarray(SHIFT, z.dtype)) / jnp.asarray(SCALE, z.dtype) for z in (x, y)]
    pairs = zip(*(_features(weights, z) for z in seen), strict=True)
    far = [
        ((unit(a, -1) - unit(b, -1)) ** 2 @ line.astype(x.dtype)).mean((1, 2))
        for line, (a, b) in zip(weights.linear, pairs, strict=True)
    ]
    return sum(far[1:], far[0])
