"""A denoiser, and nets of ImageNet behind one: the high-level guided denoiser (HGD).

Reference: Liao et al., "Defense against Adversarial Attacks Using High-Level Representation Guided Denoiser",
CVPR 2018. Their submission to NIPS 2017 is the sum of four nets' logits: `hgd_resnet152` and
`hgd_resnext101_64x4d` (images normalized as ImageNet's), `hgd_inception_v3` and `hgd_inception_resnet_v2` (by
0.5 and 0.5; 1001 classes, the first of them none), all at 299 px. Before each is a denoiser of normalized
images; its file (`denoise_res_015.ckpt`, …) holds both. Features are enlarged as PyTorch does it now, by the
centres of pixels; theirs of 2017 went by the corners.
"""

import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.models.inception import InceptionV3, Unit
from transferjax.models.inception_v4 import InceptionResNetV2
from transferjax.models.layers import Layers, Net
from transferjax.models.resnet import ResNet
from transferjax.typing import Array

OF = "of github.com/lfz/Guided-Denoise"


class Denoiser(Net):
    """A U-net that predicts the perturbation and takes it away (DUNET): images -> images, at first the same.

    Args:
        widths: of the stages on the way down, each at half the size of the one before; those on the way up
            have the same, without the last.
        depth: units of a stage, one fewer in the first.
    """

    widths: tuple[int, ...] = (64, 128, 256, 256, 256)
    depth: int = 3

    stem: ClassVar[str] = "fwd.0.0.conv"
    head: ClassVar[str] = "final"

    def forward(self, layers: Layers, x: Array) -> Array:
        def stage(y: Array, i: int, name: str, stride: int = 1) -> Array:
            for j in range(max(self.depth - (i == 0), 1)):
                y = Unit(layers, self.widths[i], 3, 1 if j else stride, 1, name=f"{name}.{i}.{j}")(y)
            return y

        features, y = [], x
        for i in range(len(self.widths)):
            y = stage(y, i, "fwd", stride=2 if i else 1)
            features.append(y)
        for i, side in reversed([*enumerate(features[:-1])]):
            y = jax.image.resize(y, (*side.shape[:3], y.shape[3]), "bilinear")
            y = stage(jnp.concatenate([y, side], -1), i, "back")
        return x + layers.conv(x.shape[-1], 1, name="final", init=nn.initializers.zeros)(y)


class Denoised(Net):
    """What nets behind a denoiser share.

    Args:
        denoiser: the widths of its stages.
    """

    denoiser: tuple[int, ...] = Denoiser.widths

    image_size: ClassVar[int] = 299
    guard: ClassVar[str] = "denoise.0"  # what the files call it

    def forward(self, layers: Layers, x: Array) -> Array:
        guard = Denoiser(self.num_classes, self.dtype, self.axis_name, widths=self.denoiser, name=self.guard)
        return super().forward(layers, guard(x, layers.train))


class DenoisedResNet(Denoised, ResNet):
    """A ResNet behind a denoiser."""

    published: ClassVar[str] = f"denoise_res_015.ckpt {OF}"


class DenoisedResNeXt(Denoised, ResNet):
    """A ResNeXt behind a denoiser; names in files count modules, as the Lua net did from which they came."""

    guard: ClassVar[str] = "denoise"
    published: ClassVar[str] = f"denoise_rex_001.ckpt {OF}"

    @classmethod
    def canonical(cls, name: str) -> str:
        name = re.sub(r"^features\.0\.", "conv1.", name)
        name = re.sub(r"^features\.1\.", "bn1.", name)
        if not (found := re.fullmatch(r"features\.(\d)\.(\d+)\.0\.([\d.]+)\.(\w+)", name)):
            return name
        stage, block, place, leaf = found.groups()
        return f"layer{int(stage) - 3}.{block}.{_PLACES[place]}.{leaf}"


_PLACES = {
    **{"0.0.0": "conv1", "0.0.1": "bn1", "0.0.3": "conv2", "0.0.4": "bn2", "0.1": "conv3", "0.2": "bn3"},
    **{"1.0": "downsample.0", "1.1": "downsample.1"},
}
"""Where a block's layers stand in its nested modules."""


class DenoisedInceptionV3(Denoised, InceptionV3):
    """Inception-v3 behind a denoiser; pooling leaves the border out, as in TensorFlow, from which it came."""

    eps: float = 1e-3
    guard: ClassVar[str] = "denoise"
    count_pad: ClassVar[bool] = False
    published: ClassVar[str] = f"denoise_incepv3_012.ckpt {OF}"

    @classmethod
    def canonical(cls, name: str) -> str | None:
        if found := re.fullmatch(r"conv2d_(..)\.(.+)", name):
            place, rest = found.groups()
            return f"Conv2d_{place}_{'1x1' if place == '3b' else '3x3'}.{rest}"
        if found := re.fullmatch(r"(Mixed_(.)(.))\.branch(\d)[._](\d)\.(.+)", name):
            block, size, letter, number, unit, rest = found.groups()
            branches = _BRANCHES.get(size + letter) or _BRANCHES[size]
            return f"{block}.branch{branches[int(number)].split()[int(unit)]}.{rest}"
        return re.sub(r"^classif\.", "fc.", name)


_BRANCHES = {
    "5": ("1x1", "5x5_1 5x5_2", "3x3dbl_1 3x3dbl_2 3x3dbl_3", "- _pool"),
    "6a": ("3x3", "3x3dbl_1 3x3dbl_2 3x3dbl_3"),
    "6": ("1x1", "7x7_1 7x7_2 7x7_3", "7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5", "- _pool"),
    "7a": ("3x3_1 3x3_2", "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"),
    "7": ("1x1", "3x3_1 3x3_2a 3x3_2b", "3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b", "- _pool"),
}
"""What the units of a block's branches are called here, by the number of the branch and the unit."""


class DenoisedInceptionResNetV2(Denoised, InceptionResNetV2):
    """Inception-ResNet-v2 behind a denoiser."""

    eps: float = 1e-3
    published: ClassVar[str] = f"denoise_inres_014.ckpt {OF}"
