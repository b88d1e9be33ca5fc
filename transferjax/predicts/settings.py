"""What `HttpTarget` is told, looked at before anything is sent: functions, numbers, pixels."""

import inspect
from collections.abc import Mapping
from math import inf
from numbers import Integral, Real
from typing import Any

import numpy as np

from transferjax.checks import check_images, misfit
from transferjax.predicts.formats import Encode, Format, Parse
from transferjax.transport import check_address, check_headers

ORDER = "HttpTarget(url, ranked(names), multipart('file'))"

_COUNTS = ("batch_size", "attempts", "concurrency", "max_bytes")
NUMBERS: dict[str, tuple[Any, float, float, str]] = {
    **dict.fromkeys(_COUNTS, (Integral, 1, inf, "a whole number, at least 1")),
    **dict.fromkeys(("timeout", "deadline"), (Real, 1e-9, 1e18, "positive seconds")),
    "backoff": (Real, 0, 1e18, "seconds, 0 or more"),
    "per_second": (Real, 1e-18, 1e18, "positive, or None for no limit"),
    "num_classes": (Integral, 2, inf, "a whole number, at least 2, or None if unknown"),
    "budget": (Real, 0, inf, "a number of images, 0 or more, or None for no limit"),
}
"""Setting -> its kind, the least and the greatest that it may be, and the same in words."""


def check_settings(url: str, headers: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Whether a target can be made of this.

    Args:
        url, headers: where, and what goes with it.
        settings: `parse`, `encode`, `then` and the numbers, by name.

    Raises:
        ValueError: with the setting, what was expected and what to write.
    """
    check_address(url)
    check_headers(headers)
    _check_function("parse", settings["parse"], (b"", 1), "(body, number of images) -> answers")
    _check_function("encode", settings["encode"], ([],), "(images) -> (body, headers)")
    if settings["then"] is not None:
        _check_function("then", settings["then"], (url, b""), "(url, first answer) -> url")
    for name in NUMBERS:
        check_number(name, settings[name])


def check_number(name: str, value: Any) -> None:
    """Whether a setting is a number in its range, or None where that means something.

    Raises:
        ValueError: it is not.
    """
    kind, least, most, expected = NUMBERS[name]
    if value is None and "None" in expected:
        return
    if not (isinstance(value, kind) and least <= float(value) <= most):
        raise ValueError(f"{name} must be {expected}; got {value!r}")


def _check_function(name: str, value: Any, arguments: tuple[Any, ...], expected: str) -> None:
    """A function that takes these, and neither a whole format nor what makes such a function."""
    if isinstance(value, Format):
        whole = "a whole format: put a star before it, as in HttpTarget(url, *instances())"
        part = f"a whole format: take its .{name}, or give it alone, as in HttpTarget(url, *instances())"
        raise ValueError(f"{name} must be a function; got {whole if name == 'parse' else part}")
    makes = (getattr(value, "__annotations__", None) or {}).get("return")
    if inspect.isfunction(value) and makes in (Format, Parse, Encode):
        call = f"{'*' if makes is Format else ''}{value.__name__}(…)"
        raise ValueError(f"{name} must be what {value.__name__} makes, not {value.__name__} itself: {call}")
    if misfit(value, arguments):
        raise ValueError(
            f"{name} must be a function {expected}; got {getattr(value, '__qualname__', repr(value)):.60}: "
            f"what reads answers stands before what asks, as in {ORDER}"
        )


def sendable(made: Any) -> tuple[bytes, dict[str, str]]:
    """What an `encode` made: the body and its headers.

    Raises:
        ValueError: something else.
    """
    if isinstance(made, tuple | list) and len(made) == 2:
        body, headers = made
        if isinstance(body, bytes | bytearray) and isinstance(headers, Mapping):
            return bytes(body), dict(headers)
    parts = made if isinstance(made, tuple | list) else [made]
    got = ", ".join(type(part).__name__ for part in parts[:5])
    advice = ": text.encode() makes bytes" if any(isinstance(part, str) for part in parts[:1]) else ""
    raise ValueError(
        "encode must return (body, headers), as (b'…', {'Content-Type': 'application/json'}); "
        f"got {f'({got})' if parts is made else got}{advice}"
    )


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images `[B, H, W, C]` as bytes, floats in [0, 1] rounded to them.

    Raises:
        ValueError: what are no images.
    """
    if images.ndim == 4 and images.dtype == np.uint8 and images.size:
        return images
    try:
        check_images(images)
    except ValueError as error:
        raise ValueError(f"images must be uint8, or floats in [0, 1]; {error}") from None
    return np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
