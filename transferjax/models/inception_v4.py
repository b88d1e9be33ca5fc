"""Inception-v4 and Inception-ResNet-v2: see `transferjax.models.inception`, whose units they share."""

from functools import partial
from typing import ClassVar

import flax.linen as nn

from transferjax.models.inception import TALL, WIDE, Spec, branch, concatenate
from transferjax.models.layers import Branch, Layers, Net
from transferjax.models.pooling import avg_pool, global_pool, max_pool
from transferjax.typing import Array


def _mean(x: Array) -> Array:
    return avg_pool(x, 3, 1, 1, count_pad=False)


class InceptionV4(Net):
    """Inception-v4 for images of about 299 x 299.

    Args:
        blocks: the numbers of A, B and C blocks.
        dropout: before the last layer.
    """

    blocks: tuple[int, int, int] = (4, 7, 3)
    dropout: float = 0.0

    image_size: ClassVar[int] = 299
    stem: ClassVar[str] = "features.0.conv"
    head: ClassVar[str] = "last_linear"
    eps: float = 1e-3

    def forward(self, layers: Layers, x: Array) -> Array:
        a, b, c = self.blocks
        body = [_block_a] * a + [_reduction_a] + [_block_b] * b + [_reduction_b] + [_block_c] * c
        for i, block in enumerate([_stem_0, _stem_1, _stem_2, _stem_3, _stem_4, _stem_5, *body]):
            x = block(layers, x, f"features.{i}")
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))


def _stem_0(layers: Layers, x: Array, name: str) -> Array:
    return branch(layers, x, name, (32, 3, 2))


def _stem_1(layers: Layers, x: Array, name: str) -> Array:
    return branch(layers, x, name, (32, 3, 1, 0))


def _stem_2(layers: Layers, x: Array, name: str) -> Array:
    return branch(layers, x, name, (64, 3))


def _stem_3(layers: Layers, x: Array, name: str) -> Array:
    return concatenate(max_pool(x, 3, 2), branch(layers, x, f"{name}.conv", (96, 3, 2)))


def _stem_4(layers: Layers, x: Array, name: str) -> Array:
    return concatenate(
        branch(layers, x, f"{name}.branch0", (64,), (96, 3, 1, 0)),
        branch(layers, x, f"{name}.branch1", (64,), (64, WIDE), (64, TALL), (96, 3, 1, 0)),
    )


def _stem_5(layers: Layers, x: Array, name: str) -> Array:
    return concatenate(branch(layers, x, f"{name}.conv", (192, 3, 2)), max_pool(x, 3, 2))


def _block_a(layers: Layers, x: Array, name: str) -> Array:
    return concatenate(
        branch(layers, x, f"{name}.branch0", (96,)),
        branch(layers, x, f"{name}.branch1", (64,), (96, 3)),
        branch(layers, x, f"{name}.branch2", (64,), (96, 3), (96, 3)),
        branch(layers, _mean(x), f"{name}.branch3", (96,), first=1),
    )


def _reduction_a(layers: Layers, x: Array, name: str) -> Array:
    return concatenate(
        branch(layers, x, f"{name}.branch0", (384, 3, 2)),
        branch(layers, x, f"{name}.branch1", (192,), (224, 3), (256, 3, 2)),
        max_pool(x, 3, 2),
    )


def _block_b(layers: Layers, x: Array, name: str) -> Array:
    deep = ((192,), (192, TALL), (224, WIDE), (224, TALL), (256, WIDE))
    return concatenate(
        branch(layers, x, f"{name}.branch0", (384,)),
        branch(layers, x, f"{name}.branch1", (192,), (224, WIDE), (256, TALL)),
        branch(layers, x, f"{name}.branch2", *deep),
        branch(layers, _mean(x), f"{name}.branch3", (128,), first=1),
    )


def _reduction_b(layers: Layers, x: Array, name: str) -> Array:
    return concatenate(
        branch(layers, x, f"{name}.branch0", (192,), (192, 3, 2)),
        branch(layers, x, f"{name}.branch1", (256,), (256, WIDE), (320, TALL), (320, 3, 2)),
        max_pool(x, 3, 2),
    )


def _block_c(layers: Layers, x: Array, name: str) -> Array:
    run = partial(branch, layers)
    y = run(x, f"{name}.branch1_0", (384,))
    z = run(x, f"{name}.branch2_0", (384,))
    z = run(z, f"{name}.branch2_1", (448, (3, 1)))
    z = run(z, f"{name}.branch2_2", (512, (1, 3)))
    return concatenate(
        run(x, f"{name}.branch0", (256,)),
        run(y, f"{name}.branch1_1a", (256, (1, 3))),
        run(y, f"{name}.branch1_1b", (256, (3, 1))),
        run(z, f"{name}.branch2_3a", (256, (1, 3))),
        run(z, f"{name}.branch2_3b", (256, (3, 1))),
        run(_mean(x), f"{name}.branch3", (256,), first=1),
    )


class InceptionResNetV2(Net):
    """Inception-ResNet-v2 for images of about 299 x 299.

    Args:
        blocks: the numbers of 35 x 35, 17 x 17 and 8 x 8 residual blocks.
        dropout: before the last layer.
    """

    blocks: tuple[int, int, int] = (10, 20, 9)
    dropout: float = 0.0

    image_size: ClassVar[int] = 299
    stem: ClassVar[str] = "conv2d_1a.conv"
    head: ClassVar[str] = "classif"
    eps: float = 1e-3

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.reduce(layers, x)
        deep: tuple[Spec, ...] = ((32,), (48, 3), (64, 3))
        for i in range(self.blocks[0]):
            x = nn.relu(_residual(layers, x, f"repeat.{i}", 0.17, ((32,),), ((32,), (32, 3)), deep))
        x = concatenate(
            branch(layers, x, "mixed_6a.branch0", (384, 3, 2)),
            branch(layers, x, "mixed_6a.branch1", (256,), (256, 3), (384, 3, 2)),
            max_pool(x, 3, 2),
        )
        deep = ((128,), (160, WIDE), (192, TALL))
        for i in range(self.blocks[1]):
            x = nn.relu(_residual(layers, x, f"repeat_1.{i}", 0.1, ((192,),), deep))
        x = concatenate(
            branch(layers, x, "mixed_7a.branch0", (256,), (384, 3, 2)),
            branch(layers, x, "mixed_7a.branch1", (256,), (288, 3, 2)),
            branch(layers, x, "mixed_7a.branch2", (256,), (288, 3), (320, 3, 2)),
            max_pool(x, 3, 2),
        )
        deep = ((192,), (224, (1, 3)), (256, (3, 1)))
        for i in range(self.blocks[2]):
            x = nn.relu(_residual(layers, x, f"repeat_2.{i}", 0.2, ((192,),), deep))
        x = _residual(layers, x, "block8", 1.0, ((192,),), deep)
        x = global_pool(branch(layers, x, "conv2d_7b", (1536,)))
        return layers.dense(self.num_classes, self.head)(layers.dropout(x, self.dropout))

    def reduce(self, layers: Layers, x: Array) -> Array:
        x = branch(layers, x, "conv2d_1a", (32, 3, 2))
        x = branch(layers, x, "conv2d_2a", (32, 3, 1, 0))
        x = max_pool(branch(layers, x, "conv2d_2b", (64, 3)), 3, 2)
        x = branch(layers, x, "conv2d_3b", (80,))
        x = max_pool(branch(layers, x, "conv2d_4a", (192, 3, 1, 0)), 3, 2)
        return concatenate(
            branch(layers, x, "mixed_5b.branch0", (96,)),
            branch(layers, x, "mixed_5b.branch1", (48,), (64, 5)),
            branch(layers, x, "mixed_5b.branch2", (64,), (96, 3), (96, 3)),
            branch(layers, _mean(x), "mixed_5b.branch3", (64,), first=1),
        )


def _residual(layers: Layers, x: Array, name: str, scale: float, *branches: tuple[Spec, ...]) -> Array:
    """x plus a small multiple of what its branches find."""
    found = concatenate(*(branch(layers, x, f"{name}.branch{i}", *specs) for i, specs in enumerate(branches)))
    return x + Branch()(scale * layers.conv(x.shape[-1], 1, bias=True, name=f"{name}.conv2d")(found))
