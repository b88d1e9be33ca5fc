"""Preprocessing as others write it down: conventions by name, and what libraries keep beside their nets.

timm's `pretrained_cfg`, `preprocessor_config.json` of Hugging Face, transforms of torchvision: read from what
they hold, without their libraries.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from transferjax.predicts.preprocessing import METHODS, Preprocessing

_PIL = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_FILES = ("preprocessor_config.json", "config.json")


def read_preprocessing(source: Any) -> Preprocessing:
    """What a net wants to see, by the name of a convention or from what its library wrote down.

    | name | the net sees |
    |---|---|
    | "none" | images in 0 to 1, as they are here |
    | "0..255", "-1..1" | images in that range |
    | "imagenet" | `(x - mean) / std` of ImageNet, as most nets of torchvision and timm |
    | "imagenet-mean" | 0 to 255 less the mean; "imagenet-mean-bgr" is Caffe's, and Keras' ResNet50 and VGG |
    | "clip", "cifar10", "cifar100" | `(x - mean) / std` of these |

    Each with "-bgr" after it for channels in that order, and with "-from-one" for a net that has a logit
    before that of class 0. Case does not matter.

    Args:
        source: a name of the table; `pretrained_cfg` of timm, or the model that has it;
            `preprocessor_config.json` of Hugging Face, as a path, its folder, a dictionary or the image
            processor; a transform of torchvision: `weights.transforms()`, a `Compose`, a list of transforms;
            the fields of a `Preprocessing`. A text that is a name is no path: say `Path("clip")`.

    Raises:
        ValueError: something that no such net sees, such as random crops, named; a text that is neither a
            name nor a file.
        FileNotFoundError: no such file.
    """
    if isinstance(source, str):
        return _named(source) or _from_file(_existing(source))
    if isinstance(source, Path):
        return _from_file(source)
    for attribute in ("pretrained_cfg", "default_cfg"):
        source = getattr(source, attribute, source)
    if not isinstance(source, Mapping) and hasattr(source, "to_dict"):
        source = source.to_dict()
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if hasattr(source, "crop_size") and hasattr(source, "resize_size"):
        return _of_preset(source)
    steps = getattr(source, "transforms", source)
    return _of_steps(list(steps) if isinstance(steps, Iterable) else [steps])


def _existing(source: str) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"there is no file {source!r}")
    near = difflib.get_close_matches(source.lower(), CONVENTIONS, n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(
        f"{source!r} is no convention and no file; {hint}known: {', '.join(_BASES)}, and each with '-bgr'"
    )


def _from_file(path: Path) -> Preprocessing:
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path} holds none of {', '.join(_FILES)}")
        fields = {k: v for file in reversed(found) for k, v in json.loads(file.read_text()).items()}
        return _from_mapping(fields)
    return _from_mapping(json.loads(path.read_text()))


def _from_mapping(fields: Mapping[str, Any]) -> Preprocessing:
    names = fields.get("id2label") or {}
    offset = int(str(names.get("0", names.get(0, ""))).lower() == "background")
    if "pretrained_cfg" in fields:
        return _from_mapping(fields["pretrained_cfg"])
    if fields and set(fields) <= {field.name for field in dataclasses.fields(Preprocessing)}:
        return Preprocessing(**fields)
    if {"do_normalize", "do_resize", "image_mean", "image_processor_type"} & set(fields):
        return replace(_hugging_face(fields), label_offset=offset)
    if "input_size" in fields or "crop_pct" in fields:
        return _timm(fields)
    raise ValueError(
        "expected timm's pretrained_cfg (input_size, …), Hugging Face's preprocessor_config.json (do_resize, "
        f"…) or the fields of Preprocessing; got the entries {sorted(fields)[:12]}"
    )


def _timm(fields: Mapping[str, Any]) -> Preprocessing:
    height, width = fields.get("input_size", (3, 224, 224))[-2:]
    mode = fields.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode!r} is not known here; expected 'center' or 'squash'")
    return Preprocessing(
        size=height if height == width else (height, width),
        crop=fields.get("crop_pct") or 0.875,
        aspect="squash" if mode == "squash" else "keep",
        interpolation=_method(fields.get("interpolation", "bilinear")),
        mean=fields.get("mean", (0.485, 0.456, 0.406)),
        std=fields.get("std", (0.229, 0.224, 0.225)),
        label_offset=int(fields.get("label_offset") or 0),
        num_classes=int(fields.get("num_classes") or 0) if fields.get("label_offset") else 0,
    )


def _hugging_face(fields: Mapping[str, Any]) -> Preprocessing:
    scale = 255 * fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 255.0
    shift = 1.0 if fields.get("rescale_offset") else 0.0
    normalize = fields.get("do_normalize", "image_mean" in fields)
    mean = np.atleast_1d(fields.get("image_mean", 0.5) if normalize else 0.0) + shift
    std = np.atleast_1d(fields.get("image_std", 0.5) if normalize else 1.0)
    if _processor(fields).startswith("EfficientNet") and fields.get("include_top", True):
        if not normalize:
            raise ValueError("include_top without do_normalize is not known here: give one of both")
        std = std**2  # it divides once more, by the same
    return Preprocessing(
        **_hugging_face_size(fields),
        interpolation=_method(fields.get("resample", 2)),
        scale=round(scale, 9),
        mean=tuple(mean),
        std=tuple(std),
        channels="BGR" if fields.get("do_flip_channel_order") else "RGB",
    )


def _processor(fields: Mapping[str, Any]) -> str:
    return str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "")


_BOTH_SIDES = ("DeiT", "EfficientFormer", "Flava", "Perceiver")
"""Processors to which one number is both sides, also before a crop; to the others it is the shorter one."""


def _hugging_face_size(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Size, crop and aspect."""
    if not fields.get("do_resize", "size" in fields):
        if fields.get("do_center_crop"):
            raise ValueError("a crop of so many pixels without a resize depends on the image: give a size")
        return {}
    wanted, cut = fields.get("size", 224), fields.get("crop_size") if fields.get("do_center_crop") else None
    squash = "crop_pct" not in fields and (cut is None or _processor(fields).startswith(_BOTH_SIDES))
    if isinstance(wanted, Mapping):
        squash = "height" in wanted
        if not squash and "shortest_edge" not in wanted:
            raise ValueError(
                f"size {dict(wanted)} is not known here; expected shortest_edge, or height and width"
            )
    resized = _side(wanted)
    if "crop_pct" in fields:  # as ConvNeXt's processor has it
        squash = min(resized) >= 384
        size, crop = resized, 1.0 if squash else fields["crop_pct"] or 1.0
    else:
        size, crop = _cut(resized, None if cut is None else _side(cut))
    return {"size": size, "crop": crop, "aspect": "squash" if squash else "keep"}


def _of_preset(preset: Any) -> Preprocessing:
    size, crop = _cut(_side(preset.resize_size), _side(preset.crop_size))
    return Preprocessing(
        size=size,
        crop=crop,
        interpolation=_method(preset.interpolation),
        antialias=getattr(preset, "antialias", True) is not False,
        mean=preset.mean,
        std=preset.std,
    )


def _of_steps(steps: Sequence[Any]) -> Preprocessing:
    """Of torchvision's transforms, one after another."""
    fields: dict[str, Any] = {}
    resized: tuple[int, ...] | None = None
    cut: tuple[int, int] | None = None
    seen: list[str] = []
    for step in steps:
        kind = type(step).__name__
        if kind in seen or (kind == "Resize" and "CenterCrop" in seen):
            again = "twice" if kind in seen else "after a CenterCrop"
            raise ValueError(
                f"a {kind} {again} is not known here: give a Preprocessing(…) that says what the net sees"
            )
        seen += [kind] * (kind in ("Resize", "CenterCrop", "Normalize"))
        if kind == "Resize":
            squash = isinstance(step.size, Sequence) and len(step.size) == 2
            resized = _side(step.size)
            fields |= {"aspect": "squash" if squash else "keep", "interpolation": _method(step.interpolation)}
            fields["antialias"] = getattr(step, "antialias", True) is not False
        elif kind == "CenterCrop":
            cut = _side(step.size)
        elif kind in ("PILToTensor", "ToImage", "ToImageTensor"):
            fields["scale"] = 255.0
        elif kind in ("ToTensor", "MaybeToTensor", "ConvertImageDtype"):
            fields["scale"] = 1.0
        elif kind in ("ToDtype", "ToImageDtype"):
            fields["scale"] = 1.0 if getattr(step, "scale", True) else fields.get("scale", 255.0)
        elif kind == "Normalize":
            fields |= {name: np.asarray(getattr(step, name), float).ravel() for name in ("mean", "std")}
        else:
            why = (
                "is random, and of training" if "Random" in kind or "Jitter" in kind else "is not known here"
            )
            raise ValueError(
                f"the transform {kind} {why}: give a Preprocessing(…) that says what the net sees"
            )
    if cut is not None and resized is None:
        raise ValueError(
            "a CenterCrop without a Resize depends on the image: give a Preprocessing with a size"
        )
    if resized is not None:
        fields["size"], fields["crop"] = _cut((resized[0], resized[-1]), cut)
    return Preprocessing(**fields)


def _side(size: Any) -> tuple[int, int]:
    """Height and width of 224, [224], (224, 224) and {"height": 224, "width": 224}."""
    if isinstance(size, Mapping):
        return (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2
    size = (size,) if isinstance(size, int) else tuple(size)
    return size[0], size[-1]


def _cut(resized: tuple[int, int], cut: tuple[int, int] | None) -> tuple[tuple[int, int], float]:
    """Size and share of a crop of so many pixels out of so many."""
    if cut is None:
        return resized, 1.0
    high, wide = (c / r for c, r in zip(cut, resized, strict=True))
    if max(high, wide) > 1 or abs(high - wide) > 0.01:
        what = "would pad them" if max(high, wide) > 1 else "takes another share of height than of width"
        raise ValueError(f"a crop of {cut} from images of {resized} {what}, which is not known here")
    return cut, min(high, wide)


def _method(given: Any) -> Any:
    """The name of an interpolation, which PIL numbers and torchvision wraps."""
    name = getattr(given, "value", given)
    name = _PIL.get(name, name) if isinstance(name, int) else str(name).lower()
    if name not in METHODS:
        raise ValueError(f"interpolation {given!r} is not known here; expected one of {', '.join(METHODS)}")
    return name


_BASES = {
    "none": Preprocessing(),
    "0..255": Preprocessing(scale=255.0),
    "-1..1": Preprocessing(mean=0.5, std=0.5),  # type: ignore[arg-type]
    "imagenet": Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "imagenet-mean": Preprocessing(scale=255.0, mean=(123.68, 116.779, 103.939)),
    "clip": Preprocessing(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    "cifar10": Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Preprocessing(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
}
CONVENTIONS: dict[str, Preprocessing] = _BASES | {
    f"{name}-bgr": replace(each, mean=each.mean[::-1], std=each.std[::-1], channels="BGR")
    for name, each in _BASES.items()
}
"""What nets are trained on, by the names that `read_preprocessing` takes."""
FROM_ONE = "-from-one"
"""After the name of a convention: the net's labels begin at one."""


def _named(name: str) -> Preprocessing | None:
    """A convention by its name, in whatever case and with whatever between its words."""
    plain = _plain(name)
    wanted = plain.removesuffix(_plain(FROM_ONE))
    found = next((each for known, each in CONVENTIONS.items() if _plain(known) == wanted), None)
    return found and replace(found, label_offset=int(wanted != plain))


def _plain(name: str) -> str:
    return re.sub(r"[\s_,-]", "", name.lower().replace("…", ".."))
