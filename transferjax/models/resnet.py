"""ResNets: the CIFAR variants (3 x 3 stem, no pooling), the ImageNet ones, and wide ones.

Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the bottleneck strides in its
3 x 3 convolution, as in torchvision and timm. Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016; Xie
et al., "Aggregated Residual Transformations", CVPR 2017 (ResNeXt).
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import flax.linen as nn

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import global_pool, max_pool
from transferjax.typing import Array


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    layers: Layers
    features: int
    stride: int
    shortcut: str
    expansion: ClassVar[int] = 1
    rectified_sum: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm = self.layers.conv, self.layers.norm
        y = nn.relu(norm("bn1")(conv(self.features, 3, self.stride, name="conv1")(x)))
        y = Branch()(norm("bn2")(conv(self.features, name="conv2")(y)))
        return nn.relu(y + _shortcut(self.layers, x, y, self.stride, self.shortcut))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions and a shortcut; the output is four times as wide.

    The 3 x 3 convolution has `groups` groups, each of `width_per_group / 64` of the features.
    """

    layers: Layers
    features: int
    stride: int
    shortcut: str
    groups: int = 1
    width_per_group: int = 64
    expansion: ClassVar[int] = 4
    rectified_sum: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm = self.layers.conv, self.layers.norm
        inner = self.features * self.width_per_group // 64 * self.groups
        y = nn.relu(norm("bn1")(conv(inner, 1, name="conv1")(x)))
        y = nn.relu(norm("bn2")(conv(inner, 3, self.stride, groups=self.groups, name="conv2")(y)))
        y = Branch()(norm("bn3")(conv(self.features * self.expansion, 1, name="conv3")(y)))
        return nn.relu(y + _shortcut(self.layers, x, y, self.stride, self.shortcut))


def _shortcut(layers: Layers, x: Array, y: Array, stride: int, name: str) -> Array:
    """x itself, or projected where the shape changes."""
    if x.shape == y.shape:
        return x
    x = layers.conv(y.shape[-1], 1, stride, name=f"{name}.0")(x)
    return layers.norm(f"{name}.1")(x)


class CifarResNet(Net):
    """A ResNet for images of about 32 x 32.

    Args:
        blocks: the number of blocks in each stage.
        width: the features of the first stage; each further stage doubles them and halves the resolution.
        bottleneck: the block, else the basic one.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    bottleneck: bool = False

    shortcut: ClassVar[str] = "shortcut"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.stages(layers, self.reduce(layers, x))
        return layers.dense(self.num_classes, self.head)(global_pool(x))

    def reduce(self, layers: Layers, x: Array) -> Array:
        return nn.relu(layers.norm("bn1")(layers.conv(self.width, name="conv1")(x)))

    def stages(self, layers: Layers, x: Array) -> Array:
        block = self.block
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage and not i else 1
                name = f"layer{stage + 1}.{i}"
                x = block(layers, self.width * 2**stage, stride, self.shortcut, name=name)(x)
        return x

    @property
    def block(self) -> Callable[..., nn.Module]:
        return Bottleneck if self.bottleneck else BasicBlock


class ResNet(CifarResNet):
    """A ResNet for images of about 224 x 224: the same with a 7 x 7 stem and pooling.

    Args:
        groups, width_per_group: of the bottlenecks; 32 and 4 for ResNeXt, 1 and 128 for a wide ResNet.
    """

    groups: int = 1
    width_per_group: int = 64

    image_size: ClassVar[int] = 224
    head: ClassVar[str] = "fc"
    shortcut: ClassVar[str] = "downsample"

    def reduce(self, layers: Layers, x: Array) -> Array:
        x = nn.relu(layers.norm("bn1")(layers.conv(self.width, 7, 2, name="conv1")(x)))
        return max_pool(x, 3, 2, padding=1)

    @property
    def block(self) -> Callable[..., nn.Module]:
        if not self.bottleneck:
            return BasicBlock
        return partial(Bottleneck, groups=self.groups, width_per_group=self.width_per_group)


class PreActivationBlock(nn.Module):
    """Normalization and ReLU before each of two 3 x 3 convolutions, and a shortcut."""

    layers: Layers
    features: int
    stride: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm = self.layers.conv, self.layers.norm
        y = nn.relu(norm("bn1")(x))
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, name="convShortcut")(y)
        y = nn.relu(norm("bn2")(conv(self.features, 3, self.stride, name="conv1")(y)))
        return x + Branch()(conv(self.features, name="conv2")(self.layers.dropout(y, self.dropout)))


class CifarWideResNet(Net):
    """A wide ResNet for images of about 32 x 32.

    Args:
        blocks: the number of blocks in each of three stages: (depth - 4) / 6.
        width: the features of the first stage: 16 times the widening factor.
        dropout: between the convolutions of a block.
    """

    blocks: int = 4
    width: int = 160
    dropout: float = 0.0

    head: ClassVar[str] = "fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = layers.conv(16, name="conv1")(x)
        for stage in range(3):
            for i in range(self.blocks):
                stride = 2 if stage and not i else 1
                name = f"block{stage + 1}.layer.{i}"
                x = PreActivationBlock(layers, self.width * 2**stage, stride, self.dropout, name=name)(x)
        return layers.dense(self.num_classes, self.head)(global_pool(nn.relu(layers.norm("bn1")(x))))
