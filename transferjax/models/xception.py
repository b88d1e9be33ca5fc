"""Xception.

Reference: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017; names and
paddings as in timm's `legacy_xception`.
"""

from typing import ClassVar

import flax.linen as nn

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import global_pool, max_pool
from transferjax.typing import Array


def separable(layers: Layers, x: Array, name: str, features: int) -> Array:
    """A 3 x 3 convolution of each channel by itself, then a 1 x 1 convolution."""
    x = layers.conv(x.shape[-1], groups=x.shape[-1], name=f"{name}.conv1")(x)
    return layers.conv(features, 1, name=f"{name}.pointwise")(x)


class _Block(nn.Module):
    """Separable convolutions with ReLU before each (but the first, on request), pooling and a shortcut."""

    layers: Layers
    features: tuple[int, ...]
    stride: int = 1
    relu_first: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y, index = x, 0  # PyTorch's index in one Sequential: ReLU, convolution, normalization
        for i, features in enumerate(self.features):
            if i or self.relu_first:
                y, index = nn.relu(y), index + 1
            y = separable(self.layers, y, f"rep.{index}", features)
            y = self.layers.norm(f"rep.{index + 1}")(y)
            index += 2
        if self.stride > 1:
            y = max_pool(y, 3, self.stride, padding=1)
        if x.shape != y.shape:
            x = self.layers.conv(y.shape[-1], 1, self.stride, name="skip")(x)
            x = self.layers.norm("skipbn")(x)
        return x + Branch()(y)


class Xception(Net):
    """Xception for images of about 299 x 299 (here 224).

    Args:
        middle: the number of blocks in the middle flow.
        width: the features of the middle flow.
        dropout: before the last layer.
    """

    middle: int = 8
    width: int = 728
    dropout: float = 0.0

    image_size: ClassVar[int] = 224
    head: ClassVar[str] = "fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        width, last = self.width, self.middle + 4
        x = nn.relu(layers.norm("bn1")(layers.conv(32, 3, 2, padding=0, name="conv1")(x)))
        x = nn.relu(layers.norm("bn2")(layers.conv(64, 3, padding=0, name="conv2")(x)))
        x = _Block(layers, (128, 128), 2, relu_first=False, name="block1")(x)
        x = _Block(layers, (256, 256), 2, name="block2")(x)
        x = _Block(layers, (width, width), 2, name="block3")(x)
        for i in range(4, last):
            x = _Block(layers, (width,) * 3, name=f"block{i}")(x)
        x = _Block(layers, (width, 1024), 2, name=f"block{last}")(x)
        x = nn.relu(layers.norm("bn3")(separable(layers, x, "conv3", 1536)))
        x = nn.relu(layers.norm("bn4")(separable(layers, x, "conv4", 2048)))
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))
