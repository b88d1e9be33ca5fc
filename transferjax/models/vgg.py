"""VGGs with batch normalization: the CIFAR variants (one linear layer) and the ImageNet ones (three).

Reference: Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015.
"""

from typing import ClassVar

import flax.linen as nn

from transferjax.models.layers import Layers, Net
from transferjax.models.pooling import global_pool, max_pool
from transferjax.typing import Array


class CifarVGG(Net):
    """A VGG for images of about 32 x 32.

    Args:
        blocks: the number of convolutions in each stage; a 2 x 2 pooling ends each.
        width: the features of the first stage; they double up to eight times that.
    """

    blocks: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64

    stem: ClassVar[str] = "features.0"
    head: ClassVar[str] = "classifier"

    def forward(self, layers: Layers, x: Array) -> Array:
        return layers.dense(self.num_classes, self.head)(global_pool(self.features(layers, x)))

    def features(self, layers: Layers, x: Array) -> Array:
        index = 0  # PyTorch's index in one Sequential: convolution, normalization, ReLU; pooling
        for stage, count in enumerate(self.blocks):
            for _ in range(count):
                x = layers.conv(self.width * min(2**stage, 8), bias=True, name=f"features.{index}")(x)
                x = nn.relu(layers.norm(f"features.{index + 1}")(x))
                index += 3
            x = max_pool(x, 2)
            index += 1
        return x


class VGG(CifarVGG):
    """A VGG for images of at least 224 x 224, with two hidden layers of 64 times `width`.

    Of images larger than 255 x 255 it averages the logits of all 7 x 7 windows, as timm's; torchvision's
    averages features to 7 x 7 before, and is another function there, of the same weights.

    Args:
        dropout: after each hidden layer.
    """

    dropout: float = 0.0

    image_size: ClassVar[int] = 224
    head: ClassVar[str] = "head.fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.features(layers, x)
        if min(x.shape[1:3]) < 7:
            raise ValueError(
                f"VGG's first linear layer takes features of 7 x 7, got {x.shape[1]} x {x.shape[2]}: "
                "give images of at least 224 x 224, or build cifar_vgg16"
            )
        hidden = 64 * self.width
        x = layers.conv(hidden, 7, padding=0, bias=True, name="pre_logits.fc1")(x)
        x = layers.dropout(nn.relu(x), self.dropout)
        x = nn.relu(layers.conv(hidden, 1, bias=True, name="pre_logits.fc2")(x))
        return layers.dense(self.num_classes, self.head)(global_pool(layers.dropout(x, self.dropout)))

    @classmethod
    def canonical(cls, name: str) -> str | None:
        for theirs, ours in (("classifier.0.", "pre_logits.fc1."), ("classifier.3.", "pre_logits.fc2.")):
            name = name.replace(theirs, ours)  # torchvision's names
        return name.replace("classifier.6.", "head.fc.")
