"""The nets by name."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferjax.models.convnext import ConvNeXt
from transferjax.models.denoised import (
    DenoisedInceptionResNetV2,
    DenoisedInceptionV3,
    DenoisedResNet,
    DenoisedResNeXt,
)
from transferjax.models.densenet import CifarDenseNet, DenseNet
from transferjax.models.googlenet import GoogLeNet
from transferjax.models.inception import CifarInceptionV3, InceptionV3
from transferjax.models.inception_v4 import InceptionResNetV2, InceptionV4
from transferjax.models.layers import Net
from transferjax.models.mobile import (
    EFFICIENTNET_B0,
    EFFICIENTNET_LITE,
    MNASNET,
    MobileNet,
    MobileNetV3,
    scaled,
)
from transferjax.models.pit import PiT
from transferjax.models.regnet import RegNet
from transferjax.models.resnet import CifarResNet, CifarWideResNet, ResNet
from transferjax.models.shufflenet import ShuffleNetV2
from transferjax.models.squeezenet import SqueezeNet
from transferjax.models.swin import Swin
from transferjax.models.vgg import VGG, CifarVGG
from transferjax.models.visformer import Visformer
from transferjax.models.vit import ViT
from transferjax.models.weights.layouts import renamed
from transferjax.models.weights.names import own_tensors
from transferjax.models.weights.torch import import_state_dict, input_channels
from transferjax.models.xception import Xception
from transferjax.random import one_key
from transferjax.typing import Key, PyTree

_RESNET: dict[int, dict[str, Any]] = {
    18: {"blocks": (2, 2, 2, 2)},
    34: {"blocks": (3, 4, 6, 3)},
    50: {"blocks": (3, 4, 6, 3), "bottleneck": True},
    101: {"blocks": (3, 4, 23, 3), "bottleneck": True},
    152: {"blocks": (3, 8, 36, 3), "bottleneck": True},
}
_WIDER: dict[str, dict[str, Any]] = {
    "wide_resnet50_2": {**_RESNET[50], "width_per_group": 128},
    "resnext50_32x4d": {**_RESNET[50], "groups": 32, "width_per_group": 4},
}
_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_DENSENET: dict[int, dict[str, Any]] = {
    121: {"blocks": (6, 12, 24, 16)},
    161: {"blocks": (6, 12, 36, 24), "growth": 48},
    169: {"blocks": (6, 12, 32, 32)},
    201: {"blocks": (6, 12, 48, 32)},
}
_PIT: dict[str, dict[str, Any]] = {
    "pit_ti_224": {"patch": 16, "stride": 8, "blocks": (2, 6, 4), "heads": (2, 4, 8), "head_width": 32},
    "pit_xs_224": {"patch": 16, "stride": 8, "blocks": (2, 6, 4), "heads": (2, 4, 8), "head_width": 48},
    "pit_s_224": {"patch": 16, "stride": 8, "blocks": (2, 6, 4), "heads": (3, 6, 12), "head_width": 48},
    "pit_b_224": {},
}


def _lite(width: float, depth: float, **options: Any) -> Callable[..., Net]:
    return partial(MobileNet, stages=scaled(EFFICIENTNET_B0, width, depth), **options)


ZOO: dict[str, Callable[..., Net]] = {
    # For CIFAR-10, as in the official code of the S&P 2024 paper; wide ResNet and ViT as their targets.
    **{f"cifar_resnet{depth}": partial(CifarResNet, **options) for depth, options in _RESNET.items()},
    **{f"cifar_vgg{depth}": partial(CifarVGG, blocks=blocks) for depth, blocks in _VGG.items()},
    **{f"cifar_densenet{depth}": partial(CifarDenseNet, **options) for depth, options in _DENSENET.items()},
    "cifar_inceptionv3": CifarInceptionV3,
    "cifar_wideresnet28_10": CifarWideResNet,
    "cifar_vit_small": partial(ViT, image_size=32, patch=4, depth=6, width=384, heads=6, hidden=1536),
    # For ImageNet, by timm's names.
    **{f"resnet{depth}": partial(ResNet, **options) for depth, options in _RESNET.items()},
    **{name: partial(ResNet, **options) for name, options in _WIDER.items()},
    **{f"vgg{depth}_bn": partial(VGG, blocks=blocks) for depth, blocks in _VGG.items()},
    **{f"densenet{depth}": partial(DenseNet, **options) for depth, options in _DENSENET.items()},
    "mobilenetv2_100": MobileNet,
    "mobilenetv3_small_100": partial(MobileNetV3, eps=1e-5),
    "mnasnet_100": partial(MobileNet, stages=MNASNET, activation=nn.relu),
    "efficientnet_b0": partial(MobileNet, stages=EFFICIENTNET_B0, activation=nn.silu, squeeze=0.25),
    **{f"efficientnet_lite{size}": _lite(*scales) for size, scales in EFFICIENTNET_LITE.items()},
    **{
        f"tf_efficientnet_lite{size}": _lite(*scales, eps=1e-3, padding="SAME")
        for size, scales in EFFICIENTNET_LITE.items()
    },
    "legacy_xception": Xception,
    "inception_v3": InceptionV3,
    "inception_v4": InceptionV4,
    "inception_resnet_v2": InceptionResNetV2,
    "vit_base_patch16_224": ViT,
    "vit_base_patch32_224": partial(ViT, patch=32),
    "convnext_tiny": ConvNeXt,
    "swin_tiny_patch4_window7_224": Swin,
    **{name: partial(PiT, **options) for name, options in _PIT.items()},
    "visformer_tiny": partial(Visformer, width=192, heads=3, stem_width=16),
    "visformer_small": Visformer,
    "regnetx_032": partial(RegNet, blocks=(2, 6, 15, 2), widths=(96, 192, 432, 1008), group=48, squeeze=0.0),
    "regnetx_160": partial(
        RegNet, blocks=(2, 6, 13, 1), widths=(256, 512, 896, 2048), group=128, squeeze=0.0
    ),
    "regnety_032": RegNet,
    # For ImageNet, behind the high-level guided denoiser.
    "hgd_resnet152": partial(DenoisedResNet, **_RESNET[152]),
    "hgd_resnext101_64x4d": partial(DenoisedResNeXt, **_RESNET[101], groups=64, width_per_group=4),
    "hgd_inception_v3": DenoisedInceptionV3,
    "hgd_inception_resnet_v2": DenoisedInceptionResNetV2,
    # For ImageNet, by torchvision's names.
    "googlenet": GoogLeNet,
    "mobilenet_v3_small": MobileNetV3,
    "shufflenet_v2_x1_0": ShuffleNetV2,
    "squeezenet1_1": SqueezeNet,
}
_TORCHVISION = {
    "mnasnet1_0": "mnasnet_100",
    "mobilenet_v2": "mobilenetv2_100",
    "regnet_x_16gf": "regnetx_160",
    "swin_t": "swin_tiny_patch4_window7_224",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
}
"""What torchvision calls nets that timm has too: either library's files fit."""
ZOO |= {theirs: ZOO[timms] for theirs, timms in _TORCHVISION.items()}


MOST_LAYERS = 1000
_REPEATED = {"blocks", "depth"}
"""Options that say how often something is repeated."""


def build(name: str, num_classes: int = 10, **options: Any) -> Net:
    """The net of that name: `build("cifar_resnet18", width=16)`.

    Args:
        name: a key of `ZOO`; timm's name, or `cifar_` and a name for the CIFAR-10 variants.
        num_classes: the width of the logits.
        options: fields of the net's class, such as `blocks`, `width`, `axis_name`, `dtype`.

    Raises:
        ValueError: an unknown name (the nearest ones are suggested), an unknown option, no classes, or more
            layers than anybody could trace.
    """
    _check_classes(num_classes)
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=4, cutoff=0.4) or sorted(ZOO)
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}?")
    options = {option: _frozen(value) for option, value in options.items()}
    for option in _REPEATED & options.keys():
        counts = options[option] if isinstance(options[option], tuple) else (options[option],)
        if any(isinstance(count, int) and count > MOST_LAYERS for count in counts):
            raise ValueError(
                f"build({name!r}): {option} must be at most {MOST_LAYERS}; got {options[option]}"
            )
    try:
        return ZOO[name](num_classes=num_classes, **options)
    except TypeError as error:
        raise ValueError(f"build({name!r}): {error}") from error


def _check_classes(num_classes: int) -> None:
    whole = isinstance(num_classes, (int, np.integer)) and not isinstance(num_classes, bool)
    if not whole or num_classes < 1:
        raise ValueError(f"num_classes must be a whole number of at least 1; got {num_classes!r}")


def _frozen(value: Any) -> Any:
    """Tuples for lists (from JSON, say): a module must be hashable to be static under `jit`."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def build_for(model: str | Net, state_dict: Mapping[str, Any], **options: Any) -> Net:
    """The net, a module or one of that name, with as many classes as the weights have."""
    module = build(model, **options) if isinstance(model, str) else model
    head = own_tensors(module, state_dict).tensors.get(f"{module.head}.weight")
    return module if head is None else module.clone(num_classes=head.shape[0])


def from_torch(
    model: str | Net, state_dict: Mapping[str, Any], names: Mapping[str, str] | None = None, **options: Any
) -> PyTree:
    """Variables from a PyTorch state dict, every tensor used exactly once.

    Args:
        model: a name, or a module.
        state_dict: name -> array, as `{k: v.numpy() for k, v in net.state_dict().items()}`;
            of Flax or Keras too, `{"conv1/kernel": …}`, kernels HWIO.
        names: the net's names for the file's: of layers, `{"encoder.0": "conv1"}`, or of tensors. What
            does not fit by its own names gets a proposal, in the message.
        options: of `build`, with a name; the number of classes is read from the weights.

    Returns:
        `{"params": …, "batch_stats": …}` for `module.apply`.

    Raises:
        ValueError: lists the tensors that are missing, unexpected, or of another shape.
    """
    state_dict = renamed(state_dict, names or {})
    module = build_for(model, state_dict, **options) if isinstance(model, str) else model
    return import_state_dict(module, state_dict)


def replace_head(module: Net, variables: PyTree, num_classes: int, key: Key) -> tuple[Net, PyTree]:
    """A net for another number of classes: the same weights but for a fresh last layer.

    Args:
        module, variables: the net.
        num_classes: of the new one.
        key: for the new layer's weights.

    Returns:
        the new module and its variables.

    Raises:
        ValueError: no classes.
    """
    _check_classes(num_classes)
    new = module.clone(num_classes=num_classes)
    images = jnp.zeros((1, module.image_size, module.image_size, input_channels(module, variables)))
    # Only the head leaves jit, so XLA drops the rest of the initialization.
    fresh = jax.jit(lambda key: new.init(key, images)["params"][module.head])(one_key(key))
    return new, {**variables, "params": {**variables["params"], module.head: fresh}}


def pretrained(module: Net, state_dict: Mapping[str, Any], fresh: PyTree) -> PyTree:
    """Variables to fine-tune from: weights of the same net, perhaps for other classes.

    Args:
        module: the net.
        state_dict: as in `from_torch`.
        fresh: variables of `module`, whose last layer stays where the weights know another number of classes.

    Raises:
        ValueError: weights that do not fit the net, or for images with another number of channels.
    """
    stored = build_for(module, state_dict)
    variables = import_state_dict(stored, state_dict)
    if stored.num_classes != module.num_classes:
        head = {module.head: fresh["params"][module.head]}
        variables = {**variables, "params": {**variables["params"], **head}}
    found, expected = (input_channels(module, tree) for tree in (variables, fresh))
    if found != expected:
        raise ValueError(f"weights for images with {found} channels, expected {expected}")
    return variables
