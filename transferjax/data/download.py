"""Downloads that can be trusted: resumed when the line drops, checked, and never half there."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

CHUNK = 1 << 18


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
    progress: bool = True,
) -> Path:
    """Fetches `url` to `path`, which appears only when it is complete and its checksum is right.

    A dropped connection is resumed where it broke off (HTTP Range), as long as it makes progress; so is an
    earlier, interrupted call, if there is a checksum to tell that both parts belong together. A file that is
    there already, and right, is left alone.

    Args:
        url: http or https.
        path: the file to write; the incomplete one is `<path>.part` beside it.
        sha256, md5: expected checksums in hexadecimal; none checks nothing but the length.
        timeout: seconds of silence after which the connection counts as dropped.
        attempts: tries in a row without a new byte after which to give up.
        progress: whether to show a bar (on a terminal).

    Returns:
        `path`.

    Raises:
        DownloadError: no connection, refused by the server, or a wrong checksum.
        ValueError: an address that is not http or https.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected an http or https address, got {url!r}")
    path = Path(path)
    sums = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value}
    if path.exists() and not mismatch(path, sums):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if not sums:
        part.unlink(missing_ok=True)
    resumed = part.exists()
    _fetch_all(url, part, timeout, attempts, progress)
    if resumed and mismatch(part, sums):  # perhaps the old part belonged to another version: start again
        part.unlink()
        _fetch_all(url, part, timeout, attempts, progress)
    if wrong := mismatch(part, sums):
        part.unlink()
        raise DownloadError(f"{url} is not the expected file: {wrong}. It has changed, or was tampered with.")
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


def _fetch_all(url: str, part: Path, timeout: float, attempts: int, progress: bool) -> None:
    """Asks again for what is missing until nothing is."""
    validator, failures = None, 0
    while True:
        before = _size(part)
        try:
            response = _request(url, before, validator, timeout)
            if response is None:
                return
            with response:
                validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
                return _receive(response, part, before, progress)
        except (OSError, http.client.HTTPException) as error:
            reason = _worth_another_try(error, url, part)
        failures = 0 if _size(part) > before else failures + 1
        if failures >= attempts:
            raise DownloadError(_unreachable(url, part, reason))
        time.sleep(min(0.25 * 2**failures, 4.0) if failures else 0)


def _worth_another_try(error: Exception, url: str, part: Path) -> str:
    """The reason to try again; raises where that is pointless."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code < 500:
            raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from error
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        if not _size(part):  # not one byte so far: there is no network, or no such server
            raise DownloadError(_unreachable(url, part, error.reason)) from error
        return str(error.reason)
    if isinstance(error, (ConnectionError, TimeoutError, http.client.HTTPException)):
        return str(error) or type(error).__name__
    raise error  # a full disk, a directory that may not be written to


def _request(url: str, start: int, validator: str | None, timeout: float) -> Any:
    """The response to a request for everything from byte `start` on; None if there is nothing more."""
    headers = {"User-Agent": "transferjax"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator and not validator.startswith("W/"):
            headers["If-Range"] = validator
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return None
        return _request(url, 0, None, timeout)  # our part is longer than the file: of another version


def _receive(response: Any, part: Path, start: int, progress: bool) -> None:
    """Appends the body to `part`; writes it anew if the server sends everything."""
    if response.status != 206:
        start = 0
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise DownloadError(f"{response.url}: asked for bytes from {start}, got another range")
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    hidden = None if progress else True  # None: only where there is no terminal
    bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=hidden)
    with part.open("ab" if start else "wb") as file, bar:
        while chunk := response.read1(CHUNK):  # whatever has arrived, lest a dropped line take it along
            file.write(chunk)
            bar.update(len(chunk))
        written = file.tell()
    if total is not None and written < total:
        raise ConnectionError(f"the connection closed after {written} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(url: str, part: Path, reason: object) -> str:
    return (
        f"cannot download {url}: {reason}. Check the network (or HTTPS_PROXY) and run the same command "
        f"again: it continues where it stopped. Or fetch the file elsewhere and put it at "
        f"{part.with_suffix('')}."
    )
