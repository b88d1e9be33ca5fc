"""What a service answered: kept as it came, told from an error, and checked before it counts.

Raw answers are written before they are read, so that a bug in a parser costs no second request. One that is
no prediction stays `.rejected`: it is read again first, and asked for anew only if it still is none.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from transferjax.files import write_bytes


class ServiceError(RuntimeError):
    """A service that kept failing, refused, or answered what is no prediction."""


class Rejected(ServiceError):
    """An answer that came, and is none: asking again may help."""


class UnknownNames(ServiceError):
    """An answer that names nothing the parser knows: the parser has to learn, and there is no one to ask."""


class Kept(NamedTuple):
    body: bytes
    accepted: bool


class Answers:
    """Raw answers by name, in a directory with their checksums, or else in memory.

    Args:
        directory: made if absent; None keeps answers as long as this object.

    Raises:
        ValueError: a directory that cannot be written to.
    """

    def __init__(self, directory: str | Path | None):
        self._memory: dict[str, Kept] = {}
        self.directory = None if directory is None else Path(directory)
        if self.directory is not None:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                write_bytes(self.directory / ".writable", b"").unlink()
            except OSError as error:
                raise ValueError(f"cache={str(directory)!r} cannot hold answers: {error.strerror}") from error

    def get(self, name: str) -> Kept | None:
        """The answer of that name; a damaged file is put aside with a warning, and there is none."""
        if name in self._memory or self.directory is None:
            return self._memory.get(name)
        for accepted in (True, False):
            path = self._path(name, accepted)
            if path.is_file():
                checksum, _, body = path.read_bytes().partition(b"\n")
                if checksum == _checksum(body):
                    return Kept(body, accepted)
                aside = path.replace(path.with_suffix(path.suffix + ".damaged"))
                warnings.warn(
                    f"the kept answer {path} is damaged ({aside.stat().st_size} bytes): it is {aside.name} "
                    "now, and asked for anew",
                    stacklevel=2,
                )
        return None

    def put(self, name: str, body: bytes) -> None:
        """Keeps an answer that nobody has read yet.

        Raises:
            ServiceError: it cannot be written; it stays in memory.
        """
        if self.directory is None:
            self._memory[name] = Kept(body, False)
            return
        path = self._path(name, False)
        try:
            write_bytes(path, _checksum(body) + b"\n" + body)
        except OSError as error:
            self._memory[name] = Kept(body, False)
            raise ServiceError(f"an answer came, and cannot be kept in {path}: {error.strerror}") from error

    def accept(self, name: str) -> None:
        """Says that the answer of that name is a prediction."""
        if name in self._memory:
            self._memory[name] = Kept(self._memory[name].body, True)
        elif self.directory is not None and self._path(name, False).exists():
            self._path(name, False).replace(self._path(name, True))

    def place(self, name: str) -> str:
        """Where it lies, for messages."""
        if name in self._memory or self.directory is None:
            return "memory"
        return str(next((p for a in (True, False) if (p := self._path(name, a)).exists()), self.directory))

    def _path(self, name: str, accepted: bool) -> Path:
        return (self.directory or Path()) / f"{name}.{'answer' if accepted else 'rejected'}"


CREDENTIALS = re.compile(
    r"(auth|authorization|key|token|cookie|secret|signature)($|[-_])|(^|[-_])(date|nonce|sig)($|[-_])"
)
"""Names of headers and of an address's fields that say who asks and when, and not what is asked."""


def name_of(url: str, headers: Mapping[str, str], pixels: np.ndarray, body: bytes) -> str:
    """The hash of what is asked, whoever asks: address, headers, pixels, body."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if _says_what(pair[0])]
    address = parts._replace(query=urlencode(query)).geturl()
    sent = sorted((name.lower(), value) for name, value in headers.items() if _says_what(name))
    asked = hashlib.sha256(repr((address, sent, pixels.shape, len(body))).encode())
    asked.update(body + pixels.tobytes())
    return asked.hexdigest()


def _says_what(name: str) -> bool:
    return not CREDENTIALS.search(name.lower())


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


ERRORS = ("error", "errors", "errorcode", "errormsg", "errormessage", "exception", "fault")
REMARKS = {
    "message",
    "msg",
    "detail",
    "details",
    "code",
    "status",
    "reason",
    "path",
    "timestamp",
    "requestid",
}


def check_no_error(body: bytes) -> None:
    """A body that is no error document: `{"error": …}` comes with status 200 too.

    Raises:
        Rejected: with the beginning of the body.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return  # not JSON: the parser's to say
    for one in said if isinstance(said, list) else [said]:
        if isinstance(one, dict) and _is_error(one):
            raise Rejected(f"the service answered something else: {body[:200]!r}, an error")


def _is_error(document: dict[str, Any]) -> bool:
    fields = {name.lower().replace("_", ""): value for name, value in document.items()}
    if any(fields.get(name) and not isinstance(fields[name], float) for name in ERRORS):
        return True  # a float would be the score of a class of that name
    failed = str(fields.get("status", "")).lower() in ("error", "failed", "failure", "fail")
    only_remarks = set(fields) <= REMARKS and bool(fields.keys() & {"message", "msg", "detail", "details"})
    return "__type" in document or failed or fields.get("success") is False or only_remarks


def checked(answers: Sequence[Any], count: int, num_classes: int | None) -> np.ndarray:
    """Classes `[count]`, int32, or logits `[count, K]`, float32, from one answer per image.

    Args:
        answers: a class, or a row of scores, for each image.
        count: of images.
        num_classes: K, if it is known.

    Raises:
        Rejected: another number of answers, what is no number, NaN, infinity, another K, no such class.
    """
    if len(answers) != count:
        raise Rejected(f"parse gave {len(answers)} answers for {count} images")
    expected = f"a class or a row of {num_classes or 'K'} finite scores for each image"
    try:
        found = np.asarray(answers)
    except ValueError:
        raise Rejected(f"expected {expected}; got rows of different lengths") from None
    if found.ndim == 1 and found.dtype.kind in "iu":
        if found.min() < 0 or found.max() >= (num_classes or 2**31):
            raise Rejected(f"expected {expected}; got classes in {found.min()} … {found.max()}")
        return found.astype(np.int32)
    if found.ndim != 2 or found.dtype.kind not in "iuf" or found.shape[1] < 2:
        raise Rejected(f"expected {expected}; got {found.dtype} of shape {found.shape}: {answers[0]!r:.60}")
    if found.shape[1] != (num_classes or found.shape[1]):
        raise Rejected(f"expected {expected}; got {found.shape[1]}")
    with np.errstate(over="ignore"):
        rows = found.astype(np.float32)
    if not np.isfinite(rows).all():
        raise Rejected(f"expected {expected}; got {rows[~np.isfinite(rows)][0]}")
    return rows
