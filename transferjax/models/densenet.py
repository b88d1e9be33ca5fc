"""DenseNets: the CIFAR variants (3 x 3 stem without normalization) and the ImageNet ones.

Reference: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017 (DenseNet-BC); names as in the
official CIFAR code, and as in timm and torchvision.
"""

import re
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import avg_pool, global_pool, max_pool
from transferjax.typing import Array


class DenseLayer(nn.Module):
    """1 x 1 and 3 x 3 convolutions whose result is added to the features, before or behind them."""

    layers: Layers
    growth: int
    norm: str
    in_front: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm = self.layers.conv, self.layers.norm
        y = conv(4 * self.growth, 1, name="conv1")(nn.relu(norm(f"{self.norm}1")(x)))
        y = Branch()(conv(self.growth, name="conv2")(nn.relu(norm(f"{self.norm}2")(y))))
        return jnp.concatenate([y, x] if self.in_front else [x, y], -1)


class Transition(nn.Module):
    """Halves features and resolution."""

    layers: Layers
    norm: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.layers.norm(self.norm)(x))
        return avg_pool(self.layers.conv(x.shape[-1] // 2, 1, name="conv")(y), 2)


class CifarDenseNet(Net):
    """A DenseNet-BC for images of about 32 x 32.

    Args:
        blocks: the number of dense layers in each block; a transition lies between blocks.
        growth: the features each dense layer adds; the stem has twice as many.
    """

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32

    def forward(self, layers: Layers, x: Array) -> Array:
        x = layers.conv(2 * self.growth, name="conv1")(x)
        for stage, count in enumerate(self.blocks, start=1):
            for i in range(count):
                x = DenseLayer(layers, self.growth, "bn", in_front=True, name=f"dense{stage}.{i}")(x)
            if stage < len(self.blocks):
                x = Transition(layers, "bn", name=f"trans{stage}")(x)
        return layers.dense(self.num_classes, self.head)(global_pool(nn.relu(layers.norm("bn")(x))))


class DenseNet(CifarDenseNet):
    """A DenseNet-BC for images of about 224 x 224: a 7 x 7 stem, normalization and pooling first."""

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "features.conv0"
    head: ClassVar[str] = "classifier"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = layers.conv(2 * self.growth, 7, 2, name="features.conv0")(x)
        x = max_pool(nn.relu(layers.norm("features.norm0")(x)), 3, 2, padding=1)
        for stage, count in enumerate(self.blocks, start=1):
            for i in range(count):
                name = f"features.denseblock{stage}.denselayer{i + 1}"
                x = DenseLayer(layers, self.growth, "norm", in_front=False, name=name)(x)
            if stage < len(self.blocks):
                x = Transition(layers, "norm", name=f"features.transition{stage}")(x)
        x = global_pool(nn.relu(layers.norm("features.norm5")(x)))
        return layers.dense(self.num_classes, self.head)(x)

    @classmethod
    def canonical(cls, name: str) -> str | None:
        return re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", name)  # as in torchvision's old files
