"""Inception nets: v3 (ImageNet and CIFAR), v4 and Inception-ResNet-v2.

Every unit is convolution, batch normalization, ReLU. A *branch* is a chain of units, given as one tuple each,
`(features, kernel, stride, padding)`: a stride of one keeps the size unless padding says otherwise, a longer
stride pads nothing.

Reference: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016 (v3), and "Inception-v4,
Inception-ResNet and the Impact of Residual Connections", AAAI 2017; layer names as in timm, and as in the
official CIFAR code.
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from transferjax.models.layers import Layers, Net, Size
from transferjax.models.pooling import avg_pool, global_pool, max_pool
from transferjax.typing import Array

Spec = tuple[Any, ...]
WIDE, TALL = (1, 7), (7, 1)


class Unit(nn.Module):
    """Convolution, batch normalization, ReLU."""

    layers: Layers
    features: int
    kernel: Size = 1
    stride: int = 1
    padding: Size | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = 0 if self.padding is None and self.stride > 1 else self.padding
        x = self.layers.conv(self.features, self.kernel, self.stride, padding=padding, name="conv")(x)
        return nn.relu(self.layers.norm("bn")(x))


def branch(layers: Layers, x: Array, name: str, *specs: Spec, first: int = 0) -> Array:
    """Units one after another: `name` if there is one, else `name.0`, `name.1`, …"""
    lone = len(specs) == 1 and not first
    for i, spec in enumerate(specs, start=first):
        x = Unit(layers, *spec, name=name if lone else f"{name}.{i}")(x)
    return x


def concatenate(*features: Array) -> Array:
    return jnp.concatenate(features, -1)


def to_half(x: Array) -> Array:
    """torchvision's `transform_input`: images normalized by ImageNet's statistics, now by 0.5 and 0.5."""
    mean, std = (jnp.array(values, x.dtype) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x * std + mean - 0.5) / 0.5


class InceptionV3(Net):
    """Inception-v3 for images of about 299 x 299, without the auxiliary classifier.

    Args:
        dropout: before the last layer.
        width: features, as a share of the paper's.
        blocks: how many of the blocks at each of the three resolutions, the reductions between them left out.
        transform_input: images come normalized as ImageNet's, and the weights want 0.5 and 0.5 (torchvision's
            own files).
    """

    dropout: float = 0.0
    width: float = 1.0
    blocks: tuple[int, int, int] = (3, 4, 2)
    transform_input: bool = False

    image_size: ClassVar[int] = 299
    stem: ClassVar[str] = "Conv2d_1a_3x3.conv"
    head: ClassVar[str] = "fc"
    eps: float = 1e-3
    taps: ClassVar[tuple[Size, Size]] = (WIDE, TALL)  # of the shorter 7 x 7 branch
    count_pad: ClassVar[bool] = True  # whether averages count the border's zeros

    def forward(self, layers: Layers, x: Array) -> Array:
        x = self.reduce(layers, to_half(x) if self.transform_input else x)
        first, second, third = self.blocks
        for letter, features in list(zip("bcd", (32, 64, 64), strict=True))[:first]:
            x = self.block_a(layers, x, f"Mixed_5{letter}", features)
        x = self.block_b(layers, x, "Mixed_6a")
        for letter, features in list(zip("bcde", (128, 160, 160, 192), strict=True))[:second]:
            x = self.block_c(layers, x, f"Mixed_6{letter}", features)
        x = self.block_d(layers, x, "Mixed_7a")
        for letter in "bc"[:third]:
            x = self.block_e(layers, x, f"Mixed_7{letter}")
        return layers.dense(self.num_classes, self.head)(layers.dropout(global_pool(x), self.dropout))

    def scaled(self, spec: Spec) -> Spec:
        """A unit of this net's width."""
        return (max(1, round(self.width * spec[0])), *spec[1:])

    def unit(self, layers: Layers, x: Array, name: str, *spec: Any) -> Array:
        return Unit(layers, *self.scaled(spec), name=name)(x)

    def reduce(self, layers: Layers, x: Array) -> Array:
        """The stem."""
        x = self.unit(layers, x, "Conv2d_1a_3x3", 32, 3, 2)
        x = self.unit(layers, x, "Conv2d_2a_3x3", 32, 3, 1, 0)
        x = max_pool(self.unit(layers, x, "Conv2d_2b_3x3", 64, 3), 3, 2)
        x = self.unit(layers, x, "Conv2d_3b_1x1", 80)
        return max_pool(self.unit(layers, x, "Conv2d_4a_3x3", 192, 3, 1, 0), 3, 2)

    def branch(self, layers: Layers, x: Array, name: str, *specs: Spec) -> Array:
        """Like the function of that name; from one on, after an underscore, is how this net counts."""
        for i, spec in enumerate(specs, start=1):
            x = self.unit(layers, x, name if len(specs) == 1 else f"{name}_{i}", *spec)
        return x

    def pooled(self, layers: Layers, x: Array, block: str, features: int) -> Array:
        x = avg_pool(x, 3, 1, 1, count_pad=self.count_pad)
        return self.unit(layers, x, f"{block}.branch_pool", features)

    def last_pool(self, x: Array) -> Array:
        return max_pool(x, 3, 2)

    def block_a(self, layers: Layers, x: Array, block: str, features: int) -> Array:
        run = partial(self.branch, layers, x)
        return concatenate(
            run(f"{block}.branch1x1", (64,)),
            run(f"{block}.branch5x5", (48,), (64, 5)),
            run(f"{block}.branch3x3dbl", (64,), (96, 3), (96, 3)),
            self.pooled(layers, x, block, features),
        )

    def block_b(self, layers: Layers, x: Array, block: str) -> Array:
        run = partial(self.branch, layers, x)
        return concatenate(
            run(f"{block}.branch3x3", (384, 3, 2)),
            run(f"{block}.branch3x3dbl", (64,), (96, 3), (96, 3, 2)),
            max_pool(x, 3, 2),
        )

    def block_c(self, layers: Layers, x: Array, block: str, n: int) -> Array:
        run = partial(self.branch, layers, x)
        first, second = self.taps
        return concatenate(
            run(f"{block}.branch1x1", (192,)),
            run(f"{block}.branch7x7", (n,), (n, first), (192, second)),
            run(f"{block}.branch7x7dbl", (n,), (n, TALL), (n, WIDE), (n, TALL), (192, WIDE)),
            self.pooled(layers, x, block, 192),
        )

    def block_d(self, layers: Layers, x: Array, block: str) -> Array:
        run = partial(self.branch, layers, x)
        return concatenate(
            run(f"{block}.branch3x3", (192,), (320, 3, 2)),
            run(f"{block}.branch7x7x3", (192,), (192, WIDE), (192, TALL), (192, 3, 2)),
            self.last_pool(x),
        )

    def block_e(self, layers: Layers, x: Array, block: str) -> Array:
        run = partial(self.branch, layers)
        y = run(x, f"{block}.branch3x3_1", (384,))
        z = run(x, f"{block}.branch3x3dbl_1", (448,))
        z = run(z, f"{block}.branch3x3dbl_2", (384, 3))
        return concatenate(
            run(x, f"{block}.branch1x1", (320,)),
            run(y, f"{block}.branch3x3_2a", (384, (1, 3))),
            run(y, f"{block}.branch3x3_2b", (384, (3, 1))),
            run(z, f"{block}.branch3x3dbl_3a", (384, (1, 3))),
            run(z, f"{block}.branch3x3dbl_3b", (384, (3, 1))),
            self.pooled(layers, x, block, 192),
        )

    @classmethod
    def canonical(cls, name: str) -> str | None:
        return None if name.startswith("AuxLogits.") else name


class CifarInceptionV3(InceptionV3):
    """Inception-v3 for images of about 32 x 32: a stem that keeps the resolution."""

    dropout: float = 0.5

    image_size: ClassVar[int] = 32
    head: ClassVar[str] = "linear"
    eps: float = 1e-5
    taps: ClassVar[tuple[Size, Size]] = (TALL, WIDE)

    def reduce(self, layers: Layers, x: Array) -> Array:
        x = self.unit(layers, x, "Conv2d_1a_3x3", 32, 3)
        x = self.unit(layers, x, "Conv2d_2a_3x3", 32, 3)
        x = self.unit(layers, x, "Conv2d_2b_3x3", 64, 3)
        x = self.unit(layers, x, "Conv2d_3b_1x1", 80)
        return self.unit(layers, x, "Conv2d_4a_3x3", 192, 3, 1, 0)

    def branch(self, layers: Layers, x: Array, name: str, *specs: Spec) -> Array:
        deep = "" if name.startswith("Mixed_5") else "stack"
        scaled = map(self.scaled, specs)
        return branch(layers, x, name.replace("7x7x3", "7x7").replace("dbl", deep), *scaled)

    def pooled(self, layers: Layers, x: Array, block: str, features: int) -> Array:
        name, kernel = ("branchpool", 3) if block.startswith("Mixed_5") else ("branch_pool", 1)
        return self.unit(layers, avg_pool(x, 3, 1, 1), f"{block}.{name}.1", features, kernel)

    def last_pool(self, x: Array) -> Array:
        return avg_pool(x, 3, 2)
