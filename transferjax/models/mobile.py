"""Nets of inverted residuals: MobileNetV2 and V3, MNASNet, EfficientNet and EfficientNet-Lite.

An inverted residual widens with a 1 x 1 convolution, filters each channel by itself, and narrows again; they
differ in kernels, widths, activation and squeeze-and-excitation.

Reference: Sandler et al., "MobileNetV2", CVPR 2018; Howard et al., "Searching for MobileNetV3", ICCV 2019;
Tan et al., "MnasNet", CVPR 2019; Tan & Le, "EfficientNet", ICML 2019; names as in timm.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import ClassVar, NamedTuple

import flax.linen as nn

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import global_pool
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

    def blocks(self, width: int, activation: Activation, squeeze: float) -> "Iterator[Block]":
        """Its blocks on features of that width; `squeeze` is a share of a block's input."""
        for i in range(self.repeats):
            yield Block(
                self.kernel,
                1 if i else self.stride,
                width * self.expansion,
                self.features,
                activation,
                int(width * squeeze),
                self.skip,
            )
            width = self.features


class Block(NamedTuple):
    """One inverted residual: `wide` features inside, `squeeze` hidden ones of squeeze-and-excitation."""

    kernel: int
    stride: int
    wide: int
    features: int
    activation: Activation
    squeeze: int = 0
    skip: bool = True
    gate: Activation = nn.sigmoid


class SqueezeExcite(nn.Module):
    """Scales each channel by a number in (0, 1) that depends on all channels' means."""

    layers: Layers
    hidden: int
    activation: Activation
    names: tuple[str, str] = ("conv_reduce", "conv_expand")
    gate: Activation = nn.sigmoid

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate = x.mean((1, 2), keepdims=True)
        gate = self.activation(self.layers.conv(self.hidden, 1, bias=True, name=self.names[0])(gate))
        return x * self.gate(self.layers.conv(x.shape[-1], 1, bias=True, name=self.names[1])(gate))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, squeeze and excite, narrow; and a shortcut where the shape stays."""

    layers: Layers
    block: Block
    inside: Activation  # of squeeze-and-excitation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm, block = self.layers.conv, self.layers.norm, self.block
        y, index = x, 1
        expands = block.wide != x.shape[-1]
        if expands:
            y = block.activation(norm("bn1")(conv(block.wide, 1, name="conv_pw")(y)))
            index = 2
        y = conv(block.wide, block.kernel, block.stride, groups=block.wide, name="conv_dw")(y)
        y = block.activation(norm(f"bn{index}")(y))
        if block.squeeze:
            y = SqueezeExcite(self.layers, block.squeeze, self.inside, gate=block.gate, name="se")(y)
        last = "conv_pwl" if expands else "conv_pw"
        y = norm(f"bn{index + 1}")(conv(block.features, 1, name=last)(y))
        return x + Branch()(y) if block.skip and x.shape == y.shape else y


MOBILENET_V2 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
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


class Residuals(Net):
    """What nets of inverted residuals share: a 3 x 3 stem, blocks by stage, and their names."""

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "conv_stem"
    head: ClassVar[str] = "classifier"
    width: ClassVar[int] = 32  # of the stem

    @property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """By stage."""
        raise NotImplementedError

    def residuals(self, layers: Layers, x: Array, activation: Activation, inside: Activation) -> Array:
        """The stem and all blocks; `inside` is the activation of squeeze-and-excitation."""
        x = activation(layers.norm("bn1")(layers.conv(self.width, 3, 2, name="conv_stem")(x)))
        for i, stage in enumerate(self.blocks):
            for j, block in enumerate(stage):
                x = InvertedResidual(layers, block, inside, name=f"blocks.{i}.{j}")(x)
        return x

    def canonical(self, name: str) -> str | None:
        return renamed(name, torchvision_layers(self.blocks, self.width))


class MobileNet(Residuals):
    """Stages of inverted residuals between a 3 x 3 stem and a 1 x 1 convolution.

    Args:
        stages: the blocks.
        activation: between convolutions.
        squeeze: the hidden width of squeeze-and-excitation as a share of a block's input; 0 for none.
        last: the features before the last layer.
        dropout: before the last layer.
    """

    stages: tuple[Stage, ...] = MOBILENET_V2
    activation: Activation = nn.relu6
    squeeze: float = 0.0
    last: int = 1280
    dropout: float = 0.0

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.residuals(layers, x, self.activation, self.activation)
        x = self.activation(layers.norm("bn2")(layers.conv(self.last, 1, name="conv_head")(x)))
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))

    @property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        widths = (self.width, *(stage.features for stage in self.stages))
        return tuple(
            tuple(stage.blocks(width, self.activation, self.squeeze))
            for width, stage in zip(widths, self.stages, strict=False)
        )


SMALL = (  # by stage: kernel, stride, features inside, of the result, activation, squeeze
    ((3, 2, 16, 16, nn.relu, 8),),
    ((3, 2, 72, 24, nn.relu, 0), (3, 1, 88, 24, nn.relu, 0)),
    (
        (5, 2, 96, 40, nn.hard_swish, 24),
        (5, 1, 240, 40, nn.hard_swish, 64),
        (5, 1, 240, 40, nn.hard_swish, 64),
    ),
    ((5, 1, 120, 48, nn.hard_swish, 32), (5, 1, 144, 48, nn.hard_swish, 40)),
    (
        (5, 2, 288, 96, nn.hard_swish, 72),
        (5, 1, 576, 96, nn.hard_swish, 144),
        (5, 1, 576, 96, nn.hard_swish, 144),
    ),
)


class MobileNetV3(Residuals):
    """MobileNetV3-small: gates are hard, and the last but one layer stands behind the pooling.

    Args:
        last: the features before the last layer.
        dropout: before the last layer.
        eps: of batch normalization; 1e-5 in timm.
    """

    last: int = 1024
    dropout: float = 0.0
    eps: float = 1e-3

    width: ClassVar[int] = 16

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.residuals(layers, x, nn.hard_swish, nn.relu)
        wide, name = self.blocks[-1][-1].wide, f"blocks.{len(self.blocks)}.0"
        x = nn.hard_swish(layers.norm(f"{name}.bn1")(layers.conv(wide, 1, name=f"{name}.conv")(x)))
        x = layers.conv(self.last, 1, bias=True, name="conv_head")(x.mean((1, 2), keepdims=True))
        x = layers.dropout(global_pool(nn.hard_swish(x)), self.dropout)
        return layers.dense(self.num_classes, self.head)(x)

    @property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        return tuple(
            tuple(
                Block(kernel, stride, wide, features, act, squeeze, gate=nn.hard_sigmoid)
                for kernel, stride, wide, features, act, squeeze in stage
            )
            for stage in SMALL
        )

    def remarks(self, names: Collection[str]) -> list[str]:
        """torchvision's names tell its `eps`; timm's do not, as `to_torch` writes either net by them."""
        if "features.0.0.weight" not in names or self.eps == 1e-3:
            return []
        return [
            f"the names are torchvision's, whose batch normalization has eps=0.001, and this net's has "
            f"{self.eps:g}: its net is mobilenet_v3_small"
        ]

    def canonical(self, name: str) -> str | None:
        last, end = f"blocks.{len(self.blocks)}.0", f"features.{sum(map(len, self.blocks)) + 1}"
        own = {f"{end}.0": f"{last}.conv", f"{end}.1": f"{last}.bn1"}
        own |= {"classifier.0": "conv_head", "classifier.3": "classifier"}
        return renamed(name, torchvision_layers(self.blocks, self.width) | own)


def renamed(name: str, layers: dict[str, str]) -> str:
    """The tensor's name with that of its layer looked up."""
    layer, dot, leaf = name.rpartition(".")
    return f"{layers.get(layer, layer)}{dot}{leaf}"


@functools.cache
def torchvision_layers(stages: tuple[tuple[Block, ...], ...], width: int) -> dict[str, str]:
    """torchvision's name of each layer -> timm's, in the four ways in which it counts.

    Blocks in one row (`features.3.conv.0.0` of MobileNetV2, `features.3.block.0.0` of V3), by stage
    (`features.2.0.block.0.0` of EfficientNet), or by stage with layers in one row (`layers.8.0.layers.3` of
    MNASNet).
    """
    found = {"classifier.1": "classifier", "features.0.0": "conv_stem", "features.0.1": "bn1"}
    for count in (sum(map(len, stages)), len(stages)):
        found |= {f"features.{count + 1}.0": "conv_head", f"features.{count + 1}.1": "bn2"}
    found |= {"layers.0": "conv_stem", "layers.1": "bn1", "layers.14": "conv_head", "layers.15": "bn2"}
    rows = chain.from_iterable(((i, j, block) for j, block in enumerate(s)) for i, s in enumerate(stages))
    for number, (i, j, block) in enumerate(rows, start=1):
        parts, ours = _parts(block, width), f"blocks.{i}.{j}."
        width = block.features
        for k, pair in enumerate(parts):
            squeezes = pair[0].startswith("se.")
            inner = ("fc1", "fc2") if squeezes else ("0", "1")
            nested = (f"conv.{k}", f"conv.{k + 1}") if k == len(parts) - 1 else (f"conv.{k}.0", f"conv.{k}.1")
            row = (f"layers.{3 * k}", f"layers.{3 * k + 1}")
            first = (f"layers.{3 * k + 3}", f"layers.{3 * k + 4}")
            for layer, place, v2, mnas, one in zip(pair, inner, nested, row, first, strict=True):
                found[f"features.{number}.block.{k}.{place}"] = ours + layer
                found[f"features.{i + 1}.{j}.block.{k}.{place}"] = ours + layer
                found[f"features.{number}.{v2}"] = ours + layer
                found[f"layers.{7 + i}.{j}.{mnas}" if i else one] = ours + layer
    return found


def _parts(block: Block, width: int) -> list[tuple[str, str]]:
    """A block's layers in pairs: convolution and normalization, or the two of squeeze-and-excitation."""
    expands = block.wide != width
    squeeze = [("se.conv_reduce", "se.conv_expand")] if block.squeeze else []
    if expands:
        return [("conv_pw", "bn1"), ("conv_dw", "bn2"), *squeeze, ("conv_pwl", "bn3")]
    return [("conv_dw", "bn1"), *squeeze, ("conv_pw", "bn2")]
