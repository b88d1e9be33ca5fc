"""What a net wants to see of an image: one value, put around its predict.

    images [B, H, W, C] in [0, 1]  ->  resized, cropped, channels, scaled, normalized, layout  ->  net
    its logits                     ->  without the first `label_offset`, those of `classes`    ->  logits

All of it is differentiable and lies inside of the predict, so a budget is one of the image as it is.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.models.predict import select_classes
from transferjax.typing import Array, Predict

METHODS = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos3"}


@dataclass(frozen=True)
class Preprocessing:
    """`Preprocessing(…)(predict)`: the predict of images in [0, 1] around one of what a net was trained on.

    The net sees `(scale · image - mean) / std`.

    Args:
        size: height and width that the net sees, in pixels, one number for both; 0 leaves images as they are.
        crop: the share of the side that the crop in the middle keeps: .875 is "resize to 256, crop 224".
        aspect: "keep" resizes the shorter side to `size / crop`, "squash" both sides, whatever their ratio.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", as PIL has them.
        antialias: whether shrinking averages; False is what tensors get by default in older libraries (with
            another cubic kernel: a = -0.75 where PIL has -0.5).
        scale: what 1 becomes: 255 for nets of 0 … 255.
        mean, std: after scaling, one for all channels or one for each, in the order of `channels`.
        channels: "RGB" or "BGR", what the net takes; images are RGB.
        layout: "NHWC" or "NCHW", what the net takes.
        label_offset: how many logits come before that of class 0: 1 for nets of 1 + 1000 classes.
        classes: the logits that are the labels' classes, in their order; empty for all.
        num_classes: of the labels, if known: a net of no more logits has none before that of class 0, as
            timm's have not, which drop it from their files.

    Raises:
        ValueError: values out of range; when it is called, images of another number of channels.
    """

    size: int | tuple[int, int] = 0
    crop: float = 1.0
    aspect: Literal["keep", "squash"] = "keep"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    label_offset: int = 0
    classes: tuple[int, ...] = ()
    num_classes: int = 0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = np.atleast_1d(np.asarray(getattr(self, name), float)).tolist()
            object.__setattr__(self, name, tuple(values))
        object.__setattr__(self, "classes", tuple(map(int, self.classes)))
        sides = np.atleast_1d(np.asarray(self.size)).tolist()
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
        if not whole or not (self.size == 0 or (len(sides) < 3 and min(sides, default=0) > 0)):
            raise ValueError(f"size must be 0, or one or two numbers of pixels; got {self.size!r}")
        if np.ndim(self.size):
            object.__setattr__(self, "size", (sides[0], sides[-1]))
        allowed = {
            "aspect": ("keep", "squash"),
            "interpolation": tuple(METHODS),
            "channels": ("RGB", "BGR"),
            "layout": ("NHWC", "NCHW"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}; got {getattr(self, name)!r}")
        if not 0 < self.crop <= 1 or (self.crop < 1 and not self.size):
            raise ValueError(f"crop must lie in (0, 1], and needs a size if below 1; got {self.crop}")
        if not self.scale > 0 or not min(self.std) > 0 or self.label_offset < 0:
            raise ValueError(
                f"scale and std must be positive and label_offset not negative; got {self.scale}, {self.std} "
                f"and {self.label_offset}"
            )

    def __call__(self, predict: Predict) -> Predict:
        """The predict of images in [0, 1] around `predict`, which takes what the net wants to see."""
        seen = jax.tree_util.Partial(_Seen(self), predict)
        return select_classes(seen, self.classes) if self.classes else seen

    def see(self, images: Array) -> Array:
        """What the net sees of images `[B, H, W, C]` in [0, 1]."""
        x = self._cropped(images) if self.size else images
        channels = x.shape[-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} entries, for images of {channels} channels")
        x = x[..., ::-1] if self.channels == "BGR" else x
        x = x * self.scale if self.scale != 1 else x
        if self.mean != (0.0,) or self.std != (1.0,):
            mean, std = (jnp.asarray(values, jnp.result_type(float)) for values in (self.mean, self.std))
            x = (x - mean) / std
        return x.transpose(0, 3, 1, 2) if self.layout == "NCHW" else x

    def _cropped(self, x: Array) -> Array:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        grown = [math.floor(side / self.crop + 1e-6) for side in (height, width)]
        if self.aspect == "keep":  # the shorter side, by the share that covers both
            share = max(g / side for g, side in zip(grown, x.shape[1:3], strict=True))
            grown = [max(g, int(side * share + 1e-6)) for g, side in zip(grown, x.shape[1:3], strict=True)]
        if tuple(grown) != x.shape[1:3]:
            shape = (x.shape[0], *grown, x.shape[3])
            if self.interpolation == "bicubic" and not self.antialias:
                rows, columns = map(_sharp_cubic, x.shape[1:3], grown)
                x = jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns).astype(x.dtype)
            else:
                x = jax.image.resize(x, shape, METHODS[self.interpolation], self.antialias)
        top, left = round((grown[0] - height) / 2), round((grown[1] - width) / 2)
        return x[:, top : top + height, left : left + width]


def _sharp_cubic(size: int, to: int, a: float = -0.75) -> np.ndarray:
    """`[to, size]`: Keys' cubic convolution, four pixels for each, the border repeated."""
    source = (np.arange(to)[:, None] + 0.5) * size / to - 0.5
    taps = np.floor(source) + np.arange(-1, 3)
    d = np.abs(source - taps)
    weights = np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, a * (((d - 5) * d + 8) * d - 4))
    matrix = np.zeros((to, size), np.float32)
    np.add.at(matrix, (np.arange(to)[:, None], np.clip(taps, 0, size - 1).astype(int)), weights)
    return matrix


@dataclass(frozen=True)
class _Seen:
    """The static part of a preprocessed predict."""

    preprocessing: Preprocessing

    def __call__(self, predict: Predict, images: Array) -> Array:
        logits, offset = predict(self.preprocessing.see(images)), self.preprocessing.label_offset
        return logits if logits.shape[-1] == self.preprocessing.num_classes else logits[..., offset:]
