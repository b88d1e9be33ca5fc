"""Encoded images -> uint8 squares, with OpenCV. A crop is a pure function of an image and uniform draws."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from transferjax import extras

Crop: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""(image uint8 `[H, W, 3]`, draws in [0, 1) `[DRAWS]`, out uint8 `[S, S, 3]`): fills `out`."""

TRIES = 10
DRAWS = 2 * TRIES + 3


def decode(encoded: bytes) -> np.ndarray:
    """PNG, JPEG, … bytes -> RGB uint8 `[H, W, 3]`, as stored: orientation tags are ignored, as PIL and TF do.

    Raises:
        ValueError: not an image.
    """
    cv2 = extras.load("cv2", "image files")  # slow to import, and who attacks arrays does without

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    if image is None:
        raise ValueError(f"cannot decode an image of {len(encoded)} bytes")
    return image


def colours_of(encoded: bytes) -> str:
    """What `decode` makes RGB of: "grey", "with transparency", "CMYK", by the header; "" for RGB itself.

    Of PNG, JPEG and WebP; of others nothing is known.
    """
    if encoded.startswith(b"\x89PNG"):
        kind, transparent = encoded[25:26], b"tRNS" in encoded[:4096].split(b"IDAT")[0]
        return "with transparency" if kind in (b"\4", b"\6") or transparent else "grey" * (kind == b"\0")
    if encoded[:4] == b"RIFF" and encoded[12:16] == b"VP8X":
        return "with transparency" * bool(encoded[20] & 16)
    if encoded[:4] == b"RIFF" and encoded[12:16] == b"VP8L" and len(encoded) > 24:
        return "with transparency" * bool(encoded[24] & 16)
    place = 2 if encoded.startswith(b"\xff\xd8") else len(encoded)
    while place + 9 < len(encoded):  # JPEG's segments, up to that of the frame
        marker = encoded[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return {1: "grey", 4: "CMYK"}.get(encoded[place + 9], "")
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return ""


def whole(image: np.ndarray, draws: np.ndarray, out: np.ndarray) -> None:
    """The whole image, resized to `out`'s shape if it has another."""
    _resize(image, out)


def center_crop(fraction: float = 0.875) -> Crop:
    """The square in the middle whose side is `fraction` of the shorter side; 0.875 is "resize 256, crop 224".

    Cropping first gives the same region with one interpolation on fewer pixels.

    Raises:
        ValueError: a fraction that is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")

    def crop(image: np.ndarray, draws: np.ndarray, out: np.ndarray) -> None:
        height, width = image.shape[:2]
        side = max(1, round(fraction * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        _resize(image[top : top + side, left : left + side], out)

    return crop


def random_resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), flip: bool = True
) -> Crop:
    """A random window, resized to a square, and its mirror image half of the time.

    The window's share of the area is uniform on `scale`, the logarithm of its aspect ratio uniform on
    `ratio`, its place uniform; after ten windows that do not fit, the largest one in the middle that does.

    Args:
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        flip: whether to mirror left and right with probability 1/2.

    Raises:
        ValueError: bounds that are not positive or not in order.

    Reference: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6; torchvision's
    RandomResizedCrop, the same distribution.
    """
    if any(np.shape(bounds) != (2,) for bounds in (scale, ratio)):
        raise ValueError(f"expected two bounds each of scale and ratio, got {scale} and {ratio}")
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"expected 0 < scale <= 1 and 0 < ratio, both in order, got {scale} and {ratio}")

    def crop(image: np.ndarray, draws: np.ndarray, out: np.ndarray) -> None:
        u: list[float] = draws.tolist()
        top, left, height, width = window(image.shape[0], image.shape[1], scale, ratio, u)
        _resize(image[top : top + height, left : left + width], out)
        if flip and u[-1] < 0.5:
            cv2 = extras.load("cv2", "image files")

            cv2.flip(out, 1, dst=out)

    return crop


def window(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], u: list[float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of `random_resized_crop` from uniform draws."""
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for i in range(TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u[2 * i])
        aspect = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * u[2 * i + 1])
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(u[-3] * (height - h + 1)), int(u[-2] * (width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(image: np.ndarray, out: np.ndarray) -> None:
    if image.shape == out.shape:
        out[...] = image
        return
    cv2 = extras.load("cv2", "image files")

    shrinks = image.shape[0] > out.shape[0] or image.shape[1] > out.shape[1]  # then average, against aliasing
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(image, out.shape[1::-1], dst=out, interpolation=mode)
