"""The layers every net is built from, and what all nets share.

Modules carry the names of the PyTorch implementation they port (`layer1.0` is one module's name), so weight
conversion is a walk over the tree: see `transferjax.models.weights`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from transferjax.models.conv import conv_general_dilated
from transferjax.typing import Array

Size = int | tuple[int, int]
Padding = Literal["half", "SAME"]


def _he(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """He's initialization, `N(0, 2 / fan_out)`. The numbers are drawn as one row: XLA on CPU takes four times
    as long to compile a generator of four dimensions, about as long as a convolution for each kernel."""
    height, width, _, features = shape
    row = jax.random.normal(key, (math.prod(shape),), dtype)
    return row.reshape(shape) * jnp.sqrt(jnp.asarray(2 / (height * width * features), dtype))


def pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class Layers:
    """Makes layers with the choices that hold for a whole net.

    Args:
        train: batch normalization uses the batch's statistics, dropout drops.
        dtype: of the computation; None promotes inputs and parameters. Parameters are float32 anyway.
        axis_name: the `pmap` axis over which batch statistics are averaged.
        eps, momentum: of batch normalization (momentum as in Flax: PyTorch's 0.1 is 0.9). All nets here move
            by 0.9, where torchvision's MobileNetV3 has 0.99 and its MNASNet 0.9997; and the variance that is
            kept is the batch's own, as Flax has it, where PyTorch's is n/(n - 1) of that.
        padding: of convolutions that ask for none: "half" of the kernel on each side, as PyTorch has it, or
            "SAME", TensorFlow's, which puts more on the right and below where the stride is 2.
    """

    train: bool = False
    dtype: Any = None
    axis_name: str | None = None
    eps: float = 1e-5
    momentum: float = 0.9
    padding: Padding = "half"

    def conv(
        self,
        features: int,
        kernel: Size = 3,
        stride: int = 1,
        *,
        name: str,
        padding: Size | None = None,
        groups: int = 1,
        bias: bool = False,
        init: Any = _he,
    ) -> nn.Conv:
        """A convolution with symmetric padding, or that of the net where there is none given."""
        kernel = pair(kernel)
        pads = (kernel[0] // 2, kernel[1] // 2) if padding is None else pair(padding)
        return nn.Conv(
            features,
            kernel,
            stride,
            "SAME" if padding is None and self.padding == "SAME" else [(p, p) for p in pads],
            feature_group_count=groups,
            use_bias=bias,
            dtype=self.dtype,
            kernel_init=init,
            conv_general_dilated=conv_general_dilated,
            name=name,
        )

    def norm(self, name: str) -> nn.BatchNorm:
        return nn.BatchNorm(
            use_running_average=not self.train,
            momentum=self.momentum,
            epsilon=self.eps,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name=name,
        )

    def layer_norm(self, name: str, eps: float = 1e-6) -> nn.LayerNorm:
        return nn.LayerNorm(eps, dtype=self.dtype, name=name)

    def group_norm(self, name: str, groups: int) -> nn.GroupNorm:
        return nn.GroupNorm(groups, epsilon=1e-5, dtype=self.dtype, name=name)

    def dense(self, features: int, name: str, bias: bool = True) -> nn.Dense:
        return nn.Dense(features, use_bias=bias, dtype=self.dtype, name=name)

    def dropout(self, x: Array, rate: float) -> Array:
        """x with a share `rate` of its values set to zero and the rest scaled up, in training mode."""
        return nn.Dropout(rate, deterministic=not self.train)(x) if rate else x


class Branch(nn.Module):
    """The identity around what a block adds to its skip connection, so that this can be found from outside.

    Methods that treat residual branches apart look for it (`predicts.surrogates`). A block that computes
    `relu(branch + skip)` says so with a class variable `rectified_sum = True`.
    """

    def __call__(self, x: Array) -> Array:
        return x


class Attended(nn.Module):
    """The identity around an attention's weights `[B, …, n, m]`, so that these can be found too."""

    def __call__(self, weights: Array) -> Array:
        return weights


MARKS = (Branch, Attended)
"""Modules that are no layers."""


class Net(nn.Module):
    """What all nets share: options, input and output; `net.apply(variables, images, train)` gives logits.

    Args:
        num_classes: the width of the logits.
        dtype: of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis for synchronized batch normalization.
        eps: of batch normalization.
        padding: of its convolutions, see `Layers`; "SAME" for weights from TensorFlow.
    """

    num_classes: int = 10
    dtype: Any = None
    axis_name: str | None = None
    eps: float = 1e-5
    padding: Padding = "half"

    image_size: ClassVar[int] = 32  # what the reference was trained on
    stem: ClassVar[str] = "conv1"  # the first layer: knows the number of input channels
    head: ClassVar[str] = "linear"  # the last layer: knows the number of classes
    published: ClassVar[str] = ""  # its weights' file, and whose, if it is neither torchvision's nor timm's

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Normalized images `[B, H, W, C]` -> logits `[B, K]`."""
        if self.padding not in get_args(Padding):
            raise ValueError(f"padding must be one of {', '.join(get_args(Padding))}; got {self.padding!r}")
        layers = Layers(train, self.dtype, self.axis_name, self.eps, padding=self.padding)
        logits = self.forward(layers, images)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def canonical(self, name: str) -> str | None:
        """The name here of a tensor that another library calls `name`; None for one that is of no use."""
        return name

    def remarks(self, names: Collection[str]) -> list[str]:
        """What whoever loads tensors of these names should hear."""
        return []

    def forward(self, layers: Layers, x: Array) -> Array:
        """The net itself, in the terms of `layers`; may make submodules."""
        raise NotImplementedError
