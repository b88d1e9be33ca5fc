"""GoogLeNet (Inception-v1), without its auxiliary classifiers.

Reference: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015; with batch normalization, 3 x 3
kernels in the place of 5 x 5 ones, and names as in torchvision.
"""

from typing import ClassVar

from transferjax.models.inception import Unit, branch, concatenate, to_half
from transferjax.models.layers import Layers, Net
from transferjax.models.pooling import global_pool, max_pool
from transferjax.typing import Array

BLOCKS = (  # by resolution: the widths of each branch
    ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
    (
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
    ),
    ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
)


class GoogLeNet(Net):
    """A GoogLeNet for images of about 224 x 224.

    Args:
        dropout: before the last layer.
        transform_input: as in `InceptionV3`.
    """

    dropout: float = 0.0
    transform_input: bool = False
    eps: float = 1e-3

    image_size: ClassVar[int] = 224
    stem: ClassVar[str] = "conv1.conv"
    head: ClassVar[str] = "fc"

    def forward(self, layers: Layers, x: Array) -> Array:
        x = to_half(x) if self.transform_input else x
        x = max_pool(Unit(layers, 64, 7, 2, 3, name="conv1")(x), 3, 2, ceil=True)
        x = Unit(layers, 192, 3, name="conv3")(Unit(layers, 64, name="conv2")(x))
        x = max_pool(x, 3, 2, ceil=True)
        for stage, blocks in enumerate(BLOCKS, start=3):
            if stage > 3:
                x = max_pool(x, 3 if stage == 4 else 2, 2, ceil=True)
            for letter, widths in zip("abcde", blocks, strict=False):
                x = self.inception(layers, x, f"inception{stage}{letter}", *widths)
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))

    def inception(
        self,
        layers: Layers,
        x: Array,
        name: str,
        small: int,
        medium: tuple[int, int],
        large: tuple[int, int],
        pooled: int,
    ) -> Array:
        return concatenate(
            branch(layers, x, f"{name}.branch1", (small,)),
            branch(layers, x, f"{name}.branch2", (medium[0],), (medium[1], 3)),
            branch(layers, x, f"{name}.branch3", (large[0],), (large[1], 3)),
            branch(layers, max_pool(x, 3, 1, 1), f"{name}.branch4", (pooled,), first=1),
        )

    @classmethod
    def canonical(cls, name: str) -> str | None:
        return None if name.startswith(("aux1.", "aux2.")) else name
