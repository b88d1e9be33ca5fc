"""Models from elsewhere: any JAX function, a PyTorch module, a prediction service.

The first is a full `Predict`. The other two have no gradient: they are targets, for evaluation.
"""

import base64
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from transferjax.checks import check_images
from transferjax.files import write_bytes
from transferjax.typing import Array


class BudgetExceeded(RuntimeError):
    """The next request would go beyond the budget of queries."""


class ServiceError(RuntimeError):
    """A service that kept failing, or answered what makes no sense to try again."""


def png(image: np.ndarray) -> bytes:
    """One uint8 image `[H, W, C]` as a PNG."""
    return cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)[1].tobytes()


def as_json(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
    """The body `{"images": [base64 PNG, …]}`: a plain default for services of one's own."""
    encoded = [base64.b64encode(png(image)).decode() for image in images]
    return json.dumps({"images": encoded}).encode(), {"Content-Type": "application/json"}


Encode = Callable[[Sequence[np.ndarray]], tuple[bytes, dict[str, str]]]
"""uint8 images -> the request's body and headers."""

Parse = Callable[[bytes, int], Sequence[Any]]
"""(the answer's body, number of images) -> one result per image: logits, a label, what the caller wants."""

RETRY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that are worth another try."""


CREDENTIALS = ("authorization", "key", "token", "cookie", "secret")
"""Words in the names of headers that say who asks, and not what is asked."""


@dataclass
class HttpTarget:
    """A prediction service as a target: `target(images)` gives one parsed answer per image.

    Every answer is kept on disk under the hash of its request, so nothing is ever asked (or paid for) twice.

    Args:
        url: to POST to.
        parse: `(body, number of images) -> answers`, written by the user for that service.
        encode: `(uint8 images) -> (body, headers)`; JSON with base64 PNGs by default.
        headers: sent with every request, such as a key.
        batch_size: images per request.
        per_second: requests per second at most; None for no limit.
        attempts: tries per request, with waits that double from `backoff` seconds (or as `Retry-After` says).
        backoff: the first wait, in seconds.
        timeout: of one try, in seconds.
        budget: images that may be sent in the lifetime of this object, cached ones aside; None for no limit.
        cache: a directory for answers; None keeps none.
    """

    url: str
    parse: Parse
    encode: Encode = as_json
    headers: dict[str, str] = field(default_factory=dict)
    batch_size: int = 1
    per_second: float | None = None
    attempts: int = 5
    backoff: float = 1.0
    timeout: float = 30.0
    budget: int | None = None
    cache: str | Path | None = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    spent: int = field(default=0, init=False)
    _last: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.per_second is not None and self.per_second <= 0:
            raise ValueError(f"per_second must be positive, or None for no limit; got {self.per_second}")

    def __call__(self, images: Array | np.ndarray) -> list[Any]:
        """Answers for images `[B, H, W, C]`: uint8, or floats in [0, 1] that are rounded to 8 bits.

        Raises:
            BudgetExceeded: before the request that would go beyond it; answers so far are in the cache.
            ServiceError: the service kept failing, refused, or `parse` gave another number of answers.
        """
        pixels = _to_uint8(np.asarray(images))
        answers: list[Any] = []
        for start in range(0, len(pixels), self.batch_size):
            answers += self._ask(pixels[start : start + self.batch_size])
        return answers

    def _ask(self, pixels: np.ndarray) -> list[Any]:
        body, headers = self.encode(list(pixels))
        path = self._path(body)
        known = path is not None and path.exists()
        answer = (
            path.read_bytes() if path is not None and known else self._request(body, headers, len(pixels))
        )
        parsed = list(self.parse(answer, len(pixels)))
        if len(parsed) != len(pixels):
            raise ServiceError(
                f"parse gave {len(parsed)} answers for {len(pixels)} images; body: {answer[:200]!r}"
            )
        if path is not None and not known:  # kept once it could be parsed
            write_bytes(path, answer)
        return parsed

    def _path(self, body: bytes) -> Path | None:
        if self.cache is None:
            return None
        request = hashlib.sha256(self.url.encode() + b"\0" + body)
        for name, value in sorted(self.headers.items()):
            if not any(word in name.lower() for word in CREDENTIALS):  # such as the version of a model
                request.update(f"\0{name.lower()}: {value}".encode())
        return Path(self.cache) / f"{request.hexdigest()}.answer"

    def _request(self, body: bytes, headers: dict[str, str], count: int) -> bytes:
        if self.budget is not None and self.spent + count > self.budget:
            raise BudgetExceeded(
                f"{self.spent} of {self.budget} images were sent, and the next request has {count}; raise "
                "the budget to go on (answers so far are in the cache, if there is one)"
            )
        self.spent += count
        request = urllib.request.Request(self.url, body, {**headers, **self.headers})
        reason: object = None
        for attempt in range(self.attempts):
            self._keep_the_rate()
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                reason, wait = f"HTTP {error.code} {error.reason}", error.headers.get("Retry-After")
                if error.code not in RETRY:
                    raise ServiceError(f"{self.url} refused: {reason}: {error.read()[:200]!r}") from error
            except (urllib.error.URLError, OSError) as error:  # no connection, a broken one, a timeout
                reason, wait = getattr(error, "reason", error), None
            if attempt + 1 < self.attempts:
                self.sleep(_seconds(wait, self.backoff * 2**attempt))
        raise ServiceError(f"{self.url} failed {self.attempts} times; the last time: {reason}")

    def _keep_the_rate(self) -> None:
        if self.per_second is not None:
            wait = self._last + 1 / self.per_second - self.clock()
            if wait > 0:
                self.sleep(wait)
        self._last = self.clock()


def _seconds(header: str | None, default: float) -> float:
    """`Retry-After` in seconds; its other form, a date, is left to the default."""
    try:
        return max(float(header), 0.0) if header is not None else default
    except ValueError:
        return default


def _to_uint8(images: np.ndarray) -> np.ndarray:
    if images.ndim == 4 and images.dtype == np.uint8:
        return images
    try:
        check_images(images)
    except ValueError as error:
        raise ValueError(f"images must be uint8, or floats in [0, 1]; {error}") from None
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
