"""Downloads that can be trusted: resumed when the line drops, checked, and never half there."""

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from transferjax.connections import TransportError, connections
from transferjax.transport import REDIRECTS, RETRY, Response, check_address, opened

LARGEST = 1 << 37
HOPS = 5


class DownloadError(OSError):
    """What went wrong with which address, and what to do about it."""


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    timeout: float = 10.0,
    attempts: int = 4,
    slowest: float = 1000.0,
    max_bytes: int = LARGEST,
    progress: bool = True,
) -> Path:
    """Fetches `url` to `path`, which appears only when it is complete and its checksum is right.

    Of several processes one fetches, and the others wait. A dropped connection is resumed where it broke off
    (HTTP Range), as long as it makes progress; so is an earlier, interrupted call, if there is a checksum to
    tell that both parts belong together. A file that is there already, and right, is left alone.

    Args:
        url: http or https.
        path: the file to write; the incomplete one is `<path>.part` beside it.
        sha256, md5: expected checksums in hexadecimal; none checks nothing but the length.
        timeout: seconds of silence after which the connection counts as dropped.
        attempts: tries in a row without a new byte after which to give up. Bytes that came before and were
            lost, because the server starts again from the beginning, are not new.
        slowest: new bytes a second, on the average since the call began, below which to give up; `timeout`
            seconds are for free.
        max_bytes: the largest file that is taken.
        progress: whether to show a bar (on a terminal).

    Returns:
        `path`.

    Raises:
        DownloadError: no connection, refused by the server, too slow, too large, or a wrong checksum.
        ValueError: an address that is not http or https.
    """
    check_address(url)
    path = Path(path)
    sums = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value}
    if path.exists() and not mismatch(path, sums):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part, lock = path.with_name(path.name + ".part"), path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        try:
            if path.exists() and not mismatch(path, sums):  # another process was first
                return path
            return _downloaded(_Fetch(url, part, timeout, attempts, slowest, max_bytes, progress), path, sums)
        finally:
            lock.unlink(missing_ok=True)


def _downloaded(fetch: "_Fetch", path: Path, sums: dict[str, str]) -> Path:
    """One file in its place, which nobody else fetches meanwhile."""
    part = fetch.part
    if not sums:
        part.unlink(missing_ok=True)
    resumed = part.exists()
    fetch.all()
    if resumed and mismatch(part, sums):  # perhaps the old part belonged to another version: start again
        part.unlink()
        replace(fetch).all()
    if wrong := mismatch(part, sums):
        part.unlink()
        raise DownloadError(
            f"{fetch.url} is not the expected file: {wrong}. It has changed, or was tampered with."
        )
    part.replace(path)
    return path


def mismatch(path: Path, sums: dict[str, str]) -> str:
    """What is wrong with the checksums of a file (`{"sha256": …, "md5": …}`); empty if nothing is."""
    for name, expected in sums.items():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, name).hexdigest()
        if found != expected:
            return f"{name} {found}, expected {expected}"
    return ""


@dataclass
class _Fetch:
    """One file on its way: asks again for what is missing until nothing is."""

    url: str
    part: Path
    timeout: float
    attempts: int
    slowest: float
    max_bytes: int
    progress: bool

    def all(self) -> None:
        self._pool, self._validator = connections(), None
        self._began, self._first = time.monotonic(), _size(self.part)
        self._most = self._first  # bytes that were ever there: a server may start again from the beginning
        failures = 0
        while True:
            before = self._most
            try:
                return self._ask(_size(self.part))
            except TransportError as error:
                nowhere = not error.reached and not before
                if nowhere or not error.again:
                    raise DownloadError(self._unreachable(error)) from error
                failures = 0 if self._most > before else failures + 1
                if failures >= self.attempts:
                    raise DownloadError(self._unreachable(error)) from error
            time.sleep(min(0.25 * 2**failures, 4.0) if failures else 0)

    def _ask(self, start: int) -> None:
        """Appends what comes from byte `start` on; writes the file anew if the server sends everything."""
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._validator and not self._validator.startswith("W/"):
                headers["If-Range"] = self._validator
        limits: Any = {"timeout": self.timeout, "each_piece": True, "redirects": HOPS}
        with opened(self._pool, "GET", self.url, headers=headers, **limits) as response:
            if response.status == 416 and start:
                if response.headers.get("Content-Range") == f"bytes */{start}":
                    return  # there is nothing more
                self.part.unlink()  # longer than the file: of another version
                self._most = self._first = 0
                raise TransportError("the part of an earlier download is of another version")
            self._check(response, start)
            self._validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            self._receive(response, start if response.status == 206 else 0)

    def _check(self, response: Response, start: int) -> None:
        said = f"the server says {response.status} {response.reason}"
        if response.status in REDIRECTS:
            raise DownloadError(f"{self.url}: more than {HOPS} redirects, the last to {response.url}")
        if response.status in RETRY:
            raise TransportError(said, status=response.status)
        if response.status not in (200, 206):
            raise DownloadError(f"{self.url}: {said}")
        if response.status == 206:
            sent = response.headers.get("Content-Range", "")
            if not (start and sent.startswith(f"bytes {start}-")):
                raise DownloadError(
                    f"{response.url}: asked for bytes from {start}, got another range, {sent!r}"
                )

    def _receive(self, response: Response, start: int) -> None:
        total = None if response.length is None else start + response.length
        if total is not None and total > self.max_bytes:
            raise DownloadError(f"{self.url} has {total} bytes, and at most {self.max_bytes} are taken")
        hidden = None if self.progress else True  # None: only where there is no terminal
        bar = tqdm(desc=self.part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=hidden)
        with self.part.open("ab" if start else "wb") as file, bar:
            for piece in response.pieces(start):
                file.write(piece)
                bar.update(len(piece))
                self._most = max(self._most, file.tell())
                if file.tell() > self.max_bytes:
                    raise DownloadError(f"{self.url} sends more than {self.max_bytes} bytes")
                self._check_speed()

    def _check_speed(self) -> None:
        took, new = time.monotonic() - self._began, self._most - self._first
        if took > self.timeout and new < self.slowest * (took - self.timeout):
            raise DownloadError(self._unreachable(f"{new} new bytes in {took:.0f} s"))

    def _unreachable(self, reason: object) -> str:
        return (
            f"cannot download {self.url}: {reason}. Check the network (or HTTPS_PROXY) and run the same "
            f"command again: it continues where it stopped. Or fetch the file elsewhere and put it at "
            f"{self.part.with_suffix('')}."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
