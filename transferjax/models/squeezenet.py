"""SqueezeNet.

Reference: Iandola et al., "SqueezeNet", 2016, and its version 1.1; names as in torchvision.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from transferjax.models.layers import Layers, Net
from transferjax.models.pooling import global_pool, max_pool
from transferjax.typing import Array


class Fire(nn.Module):
    """A narrow 1 x 1 convolution, then 1 x 1 and 3 x 3 ones side by side."""

    layers: Layers
    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = self.layers.conv
        x = nn.relu(conv(self.squeeze, 1, bias=True, name="squeeze")(x))
        small = conv(self.expand, 1, bias=True, name="expand1x1")(x)
        large = conv(self.expand, 3, bias=True, name="expand3x3")(x)
        return nn.relu(jnp.concatenate([small, large], -1))


class SqueezeNet(Net):
    """A SqueezeNet 1.1 for images of about 224 x 224.

    Args:
        squeeze: the narrow widths of the fire modules, by stage; a pooling precedes each stage.
        dropout: before the last layer.
    """

    squeeze: tuple[tuple[int, ...], ...] = ((16, 16), (32, 32), (48, 48, 64, 64))
    dropout: float = 0.5

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "features.0"
    head: ClassVar[str] = "classifier.1"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = nn.relu(layers.conv(64, 3, 2, padding=0, bias=True, name="features.0")(x))
        index = 2  # PyTorch's index in one Sequential
        for widths in self.squeeze:
            x = max_pool(x, 3, 2, ceil=True)
            for i, width in enumerate(widths, start=1):
                x = Fire(layers, width, 4 * width, name=f"features.{index + i}")(x)
            index += 1 + len(widths)
        x = layers.dropout(x, self.dropout)
        return global_pool(nn.relu(layers.conv(self.num_classes, 1, bias=True, name=self.head)(x)))
