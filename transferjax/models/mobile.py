"""Nets of inverted residuals: MobileNetV2, MNASNet, EfficientNet and EfficientNet-Lite.

An inverted residual widens with a 1 x 1 convolution, filters each channel by itself, and narrows again; they
differ in kernels, widths, activation and squeeze-and-excitation.

Reference: Sandler et al., "MobileNetV2", CVPR 2018; Tan et al., "MnasNet", CVPR 2019; Tan & Le,
"EfficientNet", ICML 2019; names as in timm.
"""

import math
import re
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import flax.linen as nn

from transferjax.models.layers import Branch, Layers, Net, global_pool
from transferjax.typing import Array

Activation = Callable[[Array], Array]


class Stage(NamedTuple):
    """Blocks of one width; the first has the stride. `skip`: whether a lone block may keep its input."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    features: int
    skip: bool = True


class SqueezeExcite(nn.Module):
    """Scales each channel by a number in (0, 1) that depends on all channels' means."""

    layers: Layers
    hidden: int
    activation: Activation
    names: tuple[str, str] = ("conv_reduce", "conv_expand")

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate = x.mean((1, 2), keepdims=True)
        gate = self.activation(self.layers.conv(self.hidden, 1, bias=True, name=self.names[0])(gate))
        return x * nn.sigmoid(self.layers.conv(x.shape[-1], 1, bias=True, name=self.names[1])(gate))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, squeeze and excite, narrow; and a shortcut where the shape stays."""

    layers: Layers
    stage: Stage
    stride: int
    activation: Activation
    squeeze: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm = self.layers.conv, self.layers.norm
        wide = x.shape[-1] * self.stage.expansion
        y, index = x, 1
        if self.stage.expansion > 1:
            y = self.activation(norm("bn1")(conv(wide, 1, name="conv_pw")(y)))
            index = 2
        y = conv(wide, self.stage.kernel, self.stride, groups=wide, name="conv_dw")(y)
        y = self.activation(norm(f"bn{index}")(y))
        if self.squeeze:
            y = SqueezeExcite(self.layers, int(x.shape[-1] * self.squeeze), self.activation, name="se")(y)
        last = "conv_pwl" if self.stage.expansion > 1 else "conv_pw"
        y = norm(f"bn{index + 1}")(conv(self.stage.features, 1, name=last)(y))
        return x + Branch()(y) if self.stage.skip and x.shape == y.shape else y


class MobileNet(Net):
    """Stages of inverted residuals between a 3 x 3 stem and a 1 x 1 convolution.

    Args:
        stages: the blocks.
        activation: between convolutions.
        squeeze: the hidden width of squeeze-and-excitation as a share of a block's input; 0 for none.
        last: the features before the last layer.
        dropout: before the last layer.
    """

    stages: tuple[Stage, ...] = (
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(3, 3, 2, 6, 32),
        Stage(4, 3, 2, 6, 64),
        Stage(3, 3, 1, 6, 96),
        Stage(3, 3, 2, 6, 160),
        Stage(1, 3, 1, 6, 320),
    )
    activation: Activation = nn.relu6
    squeeze: float = 0.0
    last: int = 1280
    dropout: float = 0.0

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "conv_stem"
    head: ClassVar[str] = "classifier"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.activation(layers.norm("bn1")(layers.conv(32, 3, 2, name="conv_stem")(x)))
        for i, stage in enumerate(self.stages):
            for j in range(stage.repeats):
                stride = 1 if j else stage.stride
                block = InvertedResidual(
                    layers, stage, stride, self.activation, self.squeeze, name=f"blocks.{i}.{j}"
                )
                x = block(x)
        x = self.activation(layers.norm("bn2")(layers.conv(self.last, 1, name="conv_head")(x)))
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))

    @classmethod
    def canonical(cls, name: str) -> str | None:
        return torchvision_name(name) if re.match(r"features\.|classifier\.\d", name) else name


MNASNET = (
    Stage(1, 3, 1, 1, 16, skip=False),
    Stage(3, 3, 2, 3, 24),
    Stage(3, 5, 2, 3, 40),
    Stage(3, 5, 2, 6, 80),
    Stage(2, 3, 1, 6, 96),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320, skip=False),
)
EFFICIENTNET_B0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def scaled(stages: tuple[Stage, ...], width: float, depth: float) -> tuple[Stage, ...]:
    """Wider and deeper stages, as EfficientNet-Lite scales them: the first and the last are not deepened.

    Widths are rounded to multiples of 8, never down by more than a tenth.
    """

    def wide(features: int) -> int:
        rounded = max(8, int(features * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * features * width else rounded

    middle = range(1, len(stages) - 1)
    return tuple(
        stage._replace(
            features=wide(stage.features),
            repeats=math.ceil(stage.repeats * depth) if i in middle else stage.repeats,
        )
        for i, stage in enumerate(stages)
    )


EFFICIENTNET_LITE = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}
"""Width and depth of the five sizes."""


def torchvision_name(name: str) -> str:
    """timm's name of a tensor of torchvision's `mobilenet_v2`, which numbers all blocks in one row."""
    name = re.sub(r"^classifier\.1", "classifier", name)
    found = re.match(r"features\.(\d+)\.(.*)", name)
    if not found:
        return name
    index, rest = int(found[1]), found[2].split(".")
    places = [(i, j) for i, stage in enumerate(MobileNet.stages) for j in range(stage.repeats)]
    if index in (0, len(places) + 1):
        layer = ("conv_stem", "bn1") if index == 0 else ("conv_head", "bn2")
        return f"{layer[int(rest[0])]}.{rest[1]}"
    i, j = places[index - 1]
    layers = ["conv_dw", "bn1", "conv_pw", "bn2"]
    if i:
        layers = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
    # conv.0.0, conv.0.1, … are convolution and normalization; the last pair is not nested.
    _, unit, *nested, kind = rest
    position = 2 * int(unit) + int(nested[0]) if nested else int(unit) + len(layers) // 2 - 1
    return f"blocks.{i}.{j}.{layers[position]}.{kind}"
