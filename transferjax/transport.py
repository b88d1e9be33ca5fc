"""One HTTP request within limits: what a client of services and a download have in common.

Time, size and redirects are bounded; nothing is tried again here. Whatever goes wrong between the first byte
sent and the last one read is one `TransportError`, which says whether another try may help: it may where no
whole answer came, and where the status says that it is a matter of time.
"""

import math
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from transferjax.connections import TransportError, Watch, one_error

PIECE = 1 << 16
RETRY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that are worth another try."""
REDIRECTS = (301, 302, 303, 307, 308)


def check_address(url: str) -> None:
    """An http or https address of a host.

    Raises:
        ValueError: another scheme, no host, a port that is none, credentials or blanks inside.
    """
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        ok = False
    if not ok or not url.isprintable() or " " in url:
        raise ValueError(f"expected an http or https address, got {shown(url)!r}")
    if parts.username is not None:
        raise ValueError(f"the address of {parts.hostname!r} contains credentials: send them as a header")


def check_headers(headers: Mapping[str, str]) -> None:
    """Text that a header can hold, before a layer below quotes a key in its error.

    Raises:
        ValueError: with the name of the header alone.
    """
    for name, value in headers.items():
        text = isinstance(value, str) and value.isprintable() and all(ord(c) < 256 for c in value)
        if not (text and isinstance(name, str) and name.isascii() and name.isprintable() and name.strip()):
            raise ValueError(f"the header {name!r} must be one line of Latin-1 text")


def shown(url: str) -> str:
    """An address as messages may show it: keys in its query stay out of logs."""
    return url.partition("?")[0]


class Response:
    """An answer whose head has come; the body is read in pieces, while time is left.

    Attributes:
        status, reason, headers, url: of the answer, and where it came from; header names in any case.
        whole: whether the body has been read to its end.
    """

    def __init__(self, raw: Any, watch: Watch, url: str, each_piece: bool):
        self.status, self.reason, self.headers, self.url = raw.status, raw.reason or "", raw.headers, url
        self._raw, self._watch, self._each, self.whole = raw, watch, each_piece, False

    @property
    def length(self) -> int | None:
        """Bytes of the body, if it says so.

        Raises:
            TransportError: it says what is no number.
        """
        text = self.headers.get("Content-Length")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise TransportError(f"a Content-Length of {text[:40]!r}")
        return None if text is None else int(text)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """The body as it is sent, each piece as soon as it has arrived.

        Args:
            start: where in a file the body begins, for the message.

        Raises:
            TransportError: it broke off, or took too long.
        """
        # urllib3 1.26 waits for whole pieces; the reader below it does not
        read = getattr(self._raw, "read1", None) or self._raw._fp.read1
        seen, length = 0, self.length
        while True:
            if self._each:
                self._watch.extend()
            with one_error(self._watch):
                piece = read(PIECE)
                if not piece and self._watch.over:
                    raise TimeoutError
            if not piece:
                break
            seen += len(piece)
            yield piece
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        if length is not None and not chunked and seen < length:
            raise TransportError(f"the connection closed after {start + seen} of {start + length} bytes")
        self.whole = True

    def body(self, max_bytes: int) -> bytes:
        """The whole body, unzipped.

        Raises:
            TransportError: more than `max_bytes`, zipped or not, or an encoding that nobody asked for.
        """
        if self.length is not None and self.length > max_bytes:
            raise _too_large(f"{self.length} bytes", max_bytes)
        found = bytearray()
        for piece in self.pieces():
            found += piece
            if len(found) > max_bytes:
                raise _too_large("more", max_bytes)
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return bytes(found)
        if encoding not in ("gzip", "x-gzip"):
            raise TransportError(f"an answer encoded as {encoding!r}: nobody asked for that", again=False)
        return _unzipped(bytes(found), max_bytes)


@contextmanager
def opened(
    pool: Any,
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float,
    each_piece: bool = False,
    redirects: int = 0,
) -> Iterator[Response]:
    """Sends one request and waits for the head of its answer.

    Args:
        pool: see `connections`.
        method, url, body, headers: what to send.
        timeout: seconds for all of it, from the first connection to the last byte of the body.
        each_piece: the time is that to the head, and then again to each piece of the body.
        redirects: how many may be followed; 0 for requests that carry what another host must not see. Then
            an answer that redirects is returned as it is.

    Raises:
        ValueError: see `check_address`.
        TransportError: no answer, or none that is HTTP.
    """
    import urllib3

    headers = {"Accept-Encoding": "gzip", "User-Agent": "transferjax", **(headers or {})}
    check_address(url)
    check_headers(headers)
    with Watch(timeout) as watch:
        for left in range(redirects, -1, -1):
            with one_error(watch):
                raw = pool(url).request(
                    method,
                    url,
                    body=body,
                    headers=headers,
                    timeout=urllib3.Timeout(connect=timeout, read=timeout),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                    enforce_content_length=False,  # our reader counts, in the same words everywhere
                )
            place = raw.headers.get("Location") if raw.status in REDIRECTS else None
            if not (left and place):
                break
            _done(raw, whole=False)
            url = _redirected(url, place)
        response = Response(raw, watch, url, each_piece)
        try:
            yield response
        finally:
            _done(raw, response.whole)


def answer(pool: Any, method: str, url: str, *, timeout: float, max_bytes: int, **request: Any) -> bytes:
    """The body of a good answer; redirects are not followed.

    Args:
        pool, method, url, timeout, request: see `opened`.
        max_bytes: the largest body that is read.

    Raises:
        TransportError: see `opened`; a status other than 2xx, or a body that is too large.
    """
    with opened(pool, method, url, timeout=timeout, **request) as response:
        if 200 <= response.status < 300:
            return response.body(max_bytes)
        after = seconds(response.headers.get("Retry-After"))
        said = f"HTTP {response.status} {response.reason}".strip()
        if response.status in REDIRECTS:
            place = shown(response.headers.get("Location", ""))
            said += f", a redirect to {place!r}, not followed: keys and images are for this host alone"
        else:
            with suppress(TransportError):
                said += f": {next(response.pieces(), b'')[:200]!r}"
        raise TransportError(said, again=response.status in RETRY, status=response.status, after=after)


def seconds(header: str | None) -> float | None:
    """`Retry-After` in seconds from now, a number or a date; None if it is neither."""
    try:
        wait = float(header or "")
    except ValueError:
        try:
            wait = parsedate_to_datetime(header or "").timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(wait, 0.0) if math.isfinite(wait) else None


def _done(raw: Any, whole: bool) -> None:
    """Gives the connection back, closed if something is left that would be taken for the next answer."""
    if not whole:
        raw.close()
        if raw.connection is not None:
            raw.connection.close()
    raw.release_conn()


def _redirected(url: str, place: str) -> str:
    try:
        there = urljoin(url, place)
        check_address(there)
    except ValueError:
        raise TransportError(f"a redirect to {place!r}, which is no http address", again=False) from None
    return there


def _too_large(size: str, max_bytes: int) -> TransportError:
    return TransportError(f"the answer has {size}, and at most {max_bytes} are read", again=False)


def _unzipped(data: bytes, max_bytes: int) -> bytes:
    """One gzip member, in memory that `max_bytes` bounds."""
    one = zlib.decompressobj(wbits=31)
    try:
        found = one.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise TransportError(f"the answer is no gzip: {error}") from error
    if len(found) > max_bytes:
        raise _too_large("more when unzipped", max_bytes)
    if not one.eof or one.unused_data:
        raise TransportError("the answer's gzip is cut short, or goes on after its end")
    return found
