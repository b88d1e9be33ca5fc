"""Handwritten digits that come with scikit-learn: real images without a download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from transferjax import extras
from transferjax.data.dataset import Dataset

SPLITS = ("train", "test")


def digits(split: str, *, size: int = 8, interpolation: str = "bilinear") -> Dataset:
    """1,797 handwritten digits, grey, 8 x 8; every fifth of each class is held out.

    The images are in the order in which they were collected, writer by writer, so that every writer is in
    both splits: 1,442 images for training, 355 for testing.

    Args:
        split: "train" or "test".
        size: height and width in pixels to resize to.
        interpolation: "nearest" or "bilinear", used when size is not 8.

    Raises:
        ValueError: another split, size or interpolation.

    Reference: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
    """
    if split not in SPLITS:
        raise ValueError(f"digits has the splits {SPLITS}, not {split!r}")
    table = _table()
    labels = table[:, -1].astype(np.int32)
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # stored as 0 … 16
    rank = np.zeros_like(labels)  # how many of its class come before
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    chosen = (rank % 5 == 4) == (split == "test")
    pixels = np.stack([_resize(image, size, interpolation) for image in images[chosen]])
    return Dataset(pixels[..., None], labels[chosen], tuple("0123456789"), "digits")


def _table() -> np.ndarray:
    """The file `[1797, 65]` of pixels and labels; to import scikit-learn itself takes a second."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError("the digits lie in scikit-learn: pip install scikit-learn")
    with gzip.open(Path(found.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)


def _resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    if interpolation not in ("nearest", "bilinear") or size < 1:
        raise ValueError(
            f"expected interpolation 'nearest' or 'bilinear' and size >= 1, got {interpolation!r}, {size}"
        )
    if image.shape == (size, size):
        return image
    cv2 = extras.load("cv2", "digits of another size")

    modes = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
    return cv2.resize(image, (size, size), interpolation=modes[interpolation])
