"""ConvNeXt.

Reference: Liu et al., "A ConvNet for the 2020s", CVPR 2022; names as in timm.
"""

import re
from typing import ClassVar

import flax.linen as nn

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import global_pool
from transferjax.models.vit import MLP
from transferjax.typing import Array


class Block(nn.Module):
    """A 7 x 7 convolution of each channel by itself, then an MLP of each pixel, scaled; and a shortcut."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        y = self.layers.conv(width, 7, groups=width, bias=True, name="conv_dw")(x)
        y = MLP(self.layers, 4 * width, name="mlp")(self.layers.layer_norm("norm")(y))
        y = y * self.param("gamma", nn.initializers.constant(1e-6), (width,)).astype(y.dtype)
        return x + Branch()(y)


class ConvNeXt(Net):
    """A ConvNeXt for images of about 224 x 224.

    Args:
        blocks: the number of blocks in each stage.
        width: the features of the first stage; each further stage doubles them and halves the resolution.
        dropout: before the last layer.
    """

    blocks: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96
    dropout: float = 0.0

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "stem.0"
    head: ClassVar[str] = "head.fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = layers.conv(self.width, 4, 4, padding=0, bias=True, name="stem.0")(x)
        x = layers.layer_norm("stem.1")(x)
        for stage, count in enumerate(self.blocks):
            if stage:
                x = layers.layer_norm(f"stages.{stage}.downsample.0")(x)
                name = f"stages.{stage}.downsample.1"
                x = layers.conv(self.width * 2**stage, 2, 2, padding=0, bias=True, name=name)(x)
            for i in range(count):
                x = Block(layers, name=f"stages.{stage}.blocks.{i}")(x)
        x = layers.layer_norm("head.norm")(global_pool(x))
        return layers.dense(self.num_classes, self.head)(layers.dropout(x, self.dropout))

    @classmethod
    def canonical(cls, name: str) -> str | None:
        place = re.match(r"features\.(\d+)\.(\d+)\.(.*)", name)
        if place and place[1] == "0":
            name = f"stem.{place[2]}.{place[3]}"
        elif place:  # torchvision's stages and what lies between them take turns
            stage, block = divmod(int(place[1]), 2)
            name = f"stages.{stage}.{'blocks' if block else 'downsample'}.{place[2]}.{place[3]}"
        for theirs, ours in _TORCHVISION.items():
            name = name.replace(theirs, ours)
        return name


_TORCHVISION = {
    ".block.0.": ".conv_dw.",
    ".block.2.": ".norm.",
    ".block.3.": ".mlp.fc1.",
    ".block.5.": ".mlp.fc2.",
    ".layer_scale": ".gamma",
    "classifier.0.": "head.norm.",
    "classifier.2.": "head.fc.",
}
