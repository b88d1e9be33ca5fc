"""RegNetX and RegNetY.

Reference: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020; names as in timm.
"""

import re
from typing import ClassVar

import flax.linen as nn

from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.mobile import SqueezeExcite
from transferjax.models.pooling import global_pool
from transferjax.typing import Array


class Block(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolutions of one width, and a shortcut."""

    layers: Layers
    features: int
    stride: int
    group: int
    squeeze: float
    rectified_sum: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def unit(x: Array, name: str, kernel: int, stride: int = 1, groups: int = 1) -> Array:
            x = self.layers.conv(self.features, kernel, stride, groups=groups, name=f"{name}.conv")(x)
            return self.layers.norm(f"{name}.bn")(x)

        y = nn.relu(unit(x, "conv1", 1))
        y = nn.relu(unit(y, "conv2", 3, self.stride, groups=self.features // self.group))
        if self.squeeze:
            hidden = round(x.shape[-1] * self.squeeze)
            y = SqueezeExcite(self.layers, hidden, nn.relu, ("fc1", "fc2"), name="se")(y)
        y = Branch()(unit(y, "conv3", 1))
        return nn.relu(y + (x if x.shape == y.shape else unit(x, "downsample", 1, self.stride)))


class RegNet(Net):
    """A RegNet for images of about 224 x 224.

    Args:
        blocks, widths: the number of blocks in each stage, and their features.
        group: the features of one group of the 3 x 3 convolutions.
        squeeze: the hidden width of squeeze-and-excitation as a share of a block's input; 0 (RegNetX): none.
        dropout: before the last layer.
    """

    blocks: tuple[int, ...] = (2, 5, 13, 1)
    widths: tuple[int, ...] = (72, 216, 576, 1512)
    group: int = 24
    squeeze: float = 0.25
    dropout: float = 0.0

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "stem.conv"
    head: ClassVar[str] = "head.fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = nn.relu(layers.norm("stem.bn")(layers.conv(32, 3, 2, name="stem.conv")(x)))
        for stage, (count, features) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for i in range(count):
                name = f"s{stage}.b{i + 1}"
                x = Block(layers, features, 1 if i else 2, self.group, self.squeeze, name=name)(x)
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))

    @classmethod
    def canonical(cls, name: str) -> str | None:
        block = re.match(r"trunk_output\.block(\d+)\.block\d+-(\d+)\.", name)
        if block:
            name = f"s{block[1]}.b{int(block[2]) + 1}.{name[block.end() :]}"
        for pattern, replacement in _TORCHVISION:
            name = re.sub(pattern, replacement, name)
        return name


_UNITS = {"stem": "stem", "f.a": "conv1", "f.b": "conv2", "f.c": "conv3", "proj": "downsample"}
_TORCHVISION = [
    *(
        (rf"(^|\.){re.escape(theirs)}\.{index}\.", rf"\1{ours}.{layer}.")
        for theirs, ours in _UNITS.items()
        for index, layer in enumerate(("conv", "bn"))
    ),
    (r"\.f\.se\.", ".se."),
    (r"^fc\.", "head.fc."),
]
