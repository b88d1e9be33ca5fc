"""Prediction services as targets: asked once for each image, within limits, and answering like any predict.

    service = HttpTarget(url, *open_inference(), num_classes=10, cache="answers", budget=2000)
    service.check(images[:20], labels[:20])                  the clean accuracy, before anything is bought
    transfer_success(service, adversarial, labels)           inside jit: service.as_predict(10)

A service has no gradient: it is a target, for evaluation.
"""

import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import jax
import numpy as np
from tqdm import tqdm

from transferjax.checks import check_labels
from transferjax.connections import TransportError, connections
from transferjax.host import without_gradient
from transferjax.predicts.answers import (
    Answers,
    Rejected,
    ServiceError,
    UnknownNames,
    check_no_error,
    checked,
    name_of,
)
from transferjax.predicts.formats import Encode, Parse, Then, as_json
from transferjax.predicts.settings import as_uint8, check_number, check_settings, sendable
from transferjax.transport import answer, shown
from transferjax.typing import Array, Predict

_Images = dict[str, np.ndarray]
_Rows = dict[str, np.ndarray]
"""Images, and what is said of them, by their names."""


class BudgetExceeded(RuntimeError):
    """The next request would go beyond the budget of queries."""


@dataclass(eq=False, repr=False)
class HttpTarget:
    """A prediction service as a target: `target(images)` gives logits `[B, K]`, or classes `[B]`.

    Every answer is kept as it came, and found for each of its images in whatever order and batches they come:
    nothing is asked (or paid for) twice, and a parser can be mended. Only what is a prediction counts.

    Args:
        url: http or https, to POST to. Redirects are not followed.
        parse: `(body, number of images) -> answers`: for each image a class, or a row of scores.
        encode: `(uint8 images) -> (body, headers)`; JSON with base64 PNGs by default.
        batch_size: images per request.
        then: `(url, first answer) -> url` of the answer itself, for services that take two steps.
        headers: sent with every request, such as a key.
        num_classes: K; classes become one-hot rows then, so that the target answers like any predict.
        per_second: requests per second at most; None for no limit.
        concurrency: requests on their way at the same time.
        attempts: tries per request, with waits that double from `backoff` seconds (or as `Retry-After` says).
        backoff: the first wait, in seconds.
        timeout: of one try, in seconds, from the connection to the last byte.
        deadline: of all tries of a request with their waits, in seconds.
        max_bytes: of an answer; a larger one is an error.
        budget: images that may be sent in the lifetime of this object, once for each try, cached ones aside;
            None for no limit.
        cache: a directory for answers; None keeps them in memory.
        tls: an SSLContext, for authorities and client certificates of one's own.
    """

    url: str
    parse: Parse
    encode: Encode = as_json
    batch_size: int = 1
    then: Then | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    num_classes: int | None = None
    per_second: float | None = None
    concurrency: int = 1
    attempts: int = 5
    backoff: float = 1.0
    timeout: float = 30.0
    deadline: float = 300.0
    max_bytes: int = 1 << 26
    budget: int | None = None
    cache: str | Path | None = None
    tls: ssl.SSLContext | None = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    spent: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_settings(self.url, self.headers, vars(self))
        self._answers = Answers(self.cache)
        self._pool = connections(self.tls, self.concurrency)
        self._lock, self._next = Lock(), float("-inf")
        self._asking = Lock()

    def __repr__(self) -> str:
        """Without what may be a key: values of headers, and what follows the address's question mark."""
        names = ("batch_size", "num_classes", "budget", "cache", "spent")
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"HttpTarget({shown(self.url)!r}, headers={[*self.headers]}, {said})"

    def __call__(self, images: Array | np.ndarray) -> np.ndarray:
        """Answers for images `[B, H, W, C]`: uint8, or floats in [0, 1] that are rounded to 8 bits.

        Returns:
            Logits `[B, K]`, float32; classes `[B]`, int32, if the service names classes and nobody K.

        Raises:
            BudgetExceeded: before the request that would go beyond it; answers so far are kept.
            ServiceError: the service kept failing, refused, or answered what is no prediction.
            ValueError: images that are none, NaN among their pixels.
        """
        return self._ask(images, self.num_classes)

    def as_predict(self, num_classes: int) -> Predict:
        """A `Predict` without gradient, which works inside `jit` too (as a call of the host).

        Args:
            num_classes: K, the width of the logits; classes become one-hot rows.
        """
        check_number("num_classes", num_classes)
        if self.num_classes not in (None, num_classes):
            raise ValueError(f"num_classes must be {self.num_classes}; got {num_classes}")
        return without_gradient(lambda images: self._ask(images, num_classes), num_classes, "a service")

    def check(self, images: Array | np.ndarray, labels: Array | np.ndarray) -> float:
        """The share of images `[B, H, W, C]` that the service gives their labels `[B]`.

        To be asked with a few clean images before many are bought: a wrong order of channels or classes, or
        pixels in another range, show here. What was asked is kept.
        """
        check_labels(labels, len(images), self.num_classes)
        said = self(images)
        if said.ndim == 2:
            check_labels(labels, len(images), said.shape[1])
            said = said.argmax(-1)
        return float((said == np.asarray(labels)).mean())

    def _ask(self, images: Array | np.ndarray, num_classes: int | None) -> np.ndarray:
        if isinstance(images, jax.core.Tracer):
            raise TypeError("a service cannot be traced: inside jit, use service.as_predict(num_classes)")
        pixels = as_uint8(np.asarray(images))
        apart = {image.tobytes(): image for image in pixels}  # equal ones are asked for once
        named = {content: self._encoded([image])[-1] for content, image in apart.items()}
        with self._asking:  # of two that ask for one image, devices or threads, the second finds it kept
            rows = self._kept(named.values(), num_classes)
            wanted = [(name, apart[content]) for content, name in named.items() if name not in rows]
            batches = [dict(wanted[i : i + self.batch_size]) for i in range(0, len(wanted), self.batch_size)]
            for said in self._each(lambda batch: self._said(batch, num_classes), batches):
                rows |= said
        if len({row.shape for row in rows.values()}) > 1:
            raise ServiceError(f"the answers are not alike: {sorted({row.shape for row in rows.values()})}")
        found = np.stack([rows[named[image.tobytes()]] for image in pixels])
        if num_classes is None or found.ndim == 2:
            return found
        return np.eye(num_classes, dtype=np.float32)[found]

    def _encoded(self, images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str], str]:
        """What is sent, and its name; an image's name is that of a request for it alone."""
        body, headers = sendable(self.encode(images))
        return body, headers, name_of(self.url, {**headers, **self.headers}, np.stack(images), body)

    def _each(self, ask: Callable[[_Images], _Rows], batches: Collection[_Images]) -> list[_Rows]:
        """`ask` of each batch, several at a time; after an error no new ones begin, and the others end."""
        hidden = None if len(batches) > 1 else True  # None: only where there is no terminal
        bar = tqdm(
            total=len(batches), desc=urlsplit(self.url).hostname, unit="request", disable=hidden, leave=False
        )

        def counted(batch: _Images) -> _Rows:
            said = ask(batch)
            bar.update()
            bar.set_postfix(sent=self.spent)
            return said

        with bar:
            if self.concurrency == 1:
                return [counted(batch) for batch in batches]
            pool = ThreadPoolExecutor(self.concurrency)
            try:
                asked = [pool.submit(counted, batch) for batch in batches]
                wait(asked, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(cancel_futures=True)
            for one in asked:
                if not one.cancelled():
                    one.result()  # the first error, if there is one
            return [one.result() for one in asked]

    def _kept(self, names: Collection[str], num_classes: int | None) -> _Rows:
        """What kept answers say of images, in whatever company these were asked about."""
        read, rows = dict[str, np.ndarray | None](), _Rows()
        for image, places in self._answers.places(names).items():
            for name, row, count in places:
                if name not in read:
                    read[name] = self._read(name, count, num_classes)
                if (said := read[name]) is not None:
                    rows[image] = said[row]
                    break
        return rows

    def _read(self, name: str, count: int, num_classes: int | None) -> np.ndarray | None:
        """A kept answer, if there is one and it is a prediction."""
        if (kept := self._answers.get(name)) is None:
            return None
        try:
            rows = self._understood(kept.body, name, count, num_classes)
        except Rejected:
            if kept.accepted:
                raise
            return None
        self._answers.accept(name)
        return rows

    def _said(self, batch: _Images, num_classes: int | None) -> _Rows:
        """A new answer, which is kept before it is read; or one from a time when images had no names."""
        body, headers, name = self._encoded(list(batch.values()))
        rows = self._read(name, len(batch), num_classes)
        if rows is not None:
            self._answers.assign(name, list(batch))
        else:
            came = self._request(body, headers, len(batch))
            self._answers.put(name, came, list(batch))
            rows = self._understood(came, name, len(batch), num_classes)
            self._answers.accept(name)
        return dict(zip(batch, rows, strict=True))

    def _understood(self, body: bytes, name: str, count: int, num_classes: int | None) -> np.ndarray:
        """What an answer says: `Rejected` if it is no prediction, ServiceError if `parse` has a bug."""
        kept = f"the answer is kept in {self._answers.place(name)}"
        try:
            check_no_error(body)
            return checked(list(self.parse(body, count)), count, num_classes)
        except UnknownNames as error:
            raise ServiceError(
                f"{shown(self.url)}: {error} ({kept}, and read again without a new request: mend parse, or "
                "delete it to ask anew)"
            ) from error
        except (ServiceError, ValueError, RecursionError) as error:
            begins = "" if repr(body[:200]) in str(error) else f"; body: {body[:200]!r}"
            raise Rejected(f"{shown(self.url)}: {error}{begins} ({kept})") from error
        except Exception as error:
            raise ServiceError(
                f"parse failed with {type(error).__name__}: {error}; body: {body[:200]!r}. {kept}, and read "
                "again without a new request: mend parse, or delete it to ask anew"
            ) from error

    def _request(self, body: bytes, headers: dict[str, str], count: int) -> bytes:
        """One request and its tries: again where no whole answer came or the status is one of `RETRY`."""
        where, end = shown(self.url), None
        failed: TransportError | None = None
        for attempt in range(self.attempts):
            pause = 0.0
            if failed is not None:
                pause = self.backoff * 2 ** min(attempt - 1, 60) if failed.after is None else failed.after
            if end is not None and self.clock() + pause >= end:
                raise ServiceError(
                    f"{where} failed: {failed}; the next try, {pause:g} s later, would be beyond the "
                    f"deadline of {self.deadline:g} s"
                ) from failed
            if pause:
                self.sleep(pause)
            self._keep_the_rate()
            self._spend(count, failed)
            end = self.clock() + self.deadline if end is None else end
            try:
                return self._exchange(body, headers, min(self.timeout, max(end - self.clock(), 0.1)))
            except TransportError as error:
                failed = error
            if not failed.again:
                raise ServiceError(f"{where} refused: {failed}") from failed
        raise ServiceError(f"{where} failed {self.attempts} times; the last time: {failed}") from failed

    def _exchange(self, body: bytes, headers: dict[str, str], timeout: float) -> bytes:
        limits: Any = {"max_bytes": self.max_bytes}
        start = self.clock()
        came = answer(
            self._pool,
            "POST",
            self.url,
            body=body,
            headers={**headers, **self.headers},
            timeout=timeout,
            **limits,
        )
        if self.then is None:
            return came
        there = self.then(self.url, came)
        if urlsplit(there)[:2] != urlsplit(self.url)[:2]:
            raise ServiceError(f"{shown(there)} is on another host than {shown(self.url)}: not asked")
        left = max(timeout - (self.clock() - start), 0.001)
        return answer(self._pool, "GET", there, headers=dict(self.headers), timeout=left, **limits)

    def _spend(self, count: int, failed: Exception | None) -> None:
        with self._lock:
            if self.budget is not None and self.spent + count > self.budget:
                after = f" (the last failed: {failed})" if failed else ""
                raise BudgetExceeded(
                    f"{self.spent} of {self.budget} images were sent, and the next request has {count}"
                    f"{after}; raise the budget to go on (answers so far are kept)"
                )
            self.spent += count

    def _keep_the_rate(self) -> None:
        if self.per_second is not None:
            with self._lock:
                now = self.clock()
                wait = max(self._next - now, 0.0)
                self._next = now + wait + 1 / self.per_second
            if wait:
                self.sleep(wait)
