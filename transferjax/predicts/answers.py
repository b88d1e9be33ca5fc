"""What a service answered: kept as it came, told from an error, and checked before it counts.

Raw answers are written before they are read, so that a bug in a parser costs no second request. One that is
no prediction stays `.rejected`: it is read again first, and asked for anew only if it still is none.

Requests and images have names: hashes of what is asked. An image's is that of a request for it alone; whose
answers a request for several has is listed in `.images`, so that each is found in whatever company it comes.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
    """An answer without the names of fields or classes that the parser looks for: no use to ask again."""


class Kept(NamedTuple):
    body: bytes
    accepted: bool


class Place(NamedTuple):
    """Where an image's answer lies: in that of the request `name`, in row `row` of `rows`."""

    name: str
    row: int
    rows: int


class Answers:
    """Raw answers by name, in a directory with their checksums, or else in memory.

    Args:
        directory: made if absent; None keeps answers as long as this object.

    Raises:
        ValueError: a directory that cannot be written to.
    """

    def __init__(self, directory: str | Path | None):
        self._memory: dict[str, Kept] = {}
        self._places: dict[str, dict[str, Place]] = {}
        self._listed: set[str] = set()
        self.directory = None if directory is None else Path(directory)
        if self.directory is not None:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                write_bytes(self.directory / ".writable", b"").unlink(missing_ok=True)
            except OSError as error:
                raise ValueError(f"cache={str(directory)!r} cannot hold answers: {error.strerror}") from error

    def get(self, name: str) -> Kept | None:
        """The answer of that name; a damaged file is put aside with a warning, and there is none."""
        if name in self._memory or self.directory is None:
            return self._memory.get(name)
        for accepted in (True, False):
            if (body := _whole(self._path(name, accepted))) is not None:
                return Kept(body, accepted)
        return None

    def places(self, images: Iterable[str]) -> dict[str, list[Place]]:
        """Where the answers of these images lie, by their names; accepted ones first."""
        if self.directory is not None:  # another process may have asked meanwhile
            for path in sorted(self.directory.glob("*.images")):
                if path.stem not in self._listed and (names := _whole(path)) is not None:
                    self._learn(path.stem, names.decode().split())
        found = {}
        for image in images:
            places = {image: Place(image, 0, 1), **self._places.get(image, {})}.values()
            found[image] = [p for accepted in (True, False) for p in places if self._has(p.name, accepted)]
        return found

    def put(self, name: str, body: bytes, images: Sequence[str]) -> None:
        """Keeps an answer that nobody has read yet, of these images.

        Raises:
            ServiceError: it cannot be written; it stays in memory.
        """
        try:
            self.assign(name, images)
            if self.directory is None:
                self._memory[name] = Kept(body, False)
            else:
                write_bytes(self._path(name, False), _with_checksum(body))
        except OSError as error:
            self._memory[name] = Kept(body, False)
            path = self._path(name, False)
            raise ServiceError(f"an answer came, and cannot be kept in {path}: {error.strerror}") from error

    def assign(self, name: str, images: Sequence[str]) -> None:
        """Says which images, in their order, the answer of that name is about."""
        self._learn(name, images)
        if self.directory is not None and list(images) != [name]:
            write_bytes(self.directory / f"{name}.images", _with_checksum("\n".join(images).encode()))

    def accept(self, name: str) -> None:
        """Says that the answer of that name is a prediction."""
        if name in self._memory:
            self._memory[name] = Kept(self._memory[name].body, True)
        elif self.directory is not None:
            with suppress(FileNotFoundError):  # it is accepted already, maybe by another process
                self._path(name, False).replace(self._path(name, True))

    def place(self, name: str) -> str:
        """Where it lies, for messages."""
        if name in self._memory or self.directory is None:
            return "memory"
        return str(next((p for a in (True, False) if (p := self._path(name, a)).exists()), self.directory))

    def _has(self, name: str, accepted: bool) -> bool:
        if name in self._memory:
            return self._memory[name].accepted == accepted
        return self.directory is not None and self._path(name, accepted).is_file()

    def _learn(self, name: str, images: Sequence[str]) -> None:
        self._listed.add(name)
        for row, image in enumerate(images):
            self._places.setdefault(image, {})[name] = Place(name, row, len(images))

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


def _with_checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _whole(path: Path) -> bytes | None:
    """What a file of the cache keeps; a damaged one is put aside with a warning, and keeps nothing."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    body = content.partition(b"\n")[2]
    if content == _with_checksum(body):
        return body
    aside = path.replace(path.with_suffix(path.suffix + ".damaged"))
    warnings.warn(
        f"the kept answer {path} is damaged ({len(content)} bytes): it is {aside.name} now, and asked for "
        "anew",
        stacklevel=4,
    )
    return None


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
    said = [fields.get(name) for name in ERRORS]
    if str(fields.get("errorcode")) == "0":  # whatever its message says, "SUCCESS" for one
        said = []
    if any(value and not isinstance(value, float) for value in said):
        return True  # a float would be the score of a class of that name
    failed = str(fields.get("status", "")).lower() in ("error", "failed", "failure", "fail")
    only_remarks = set(fields) <= REMARKS and bool(fields.keys() & {"message", "msg", "detail", "details"})
    return "__type" in document or failed or fields.get("success") is False or only_remarks


def checked(answers: Sequence[Any], count: int, num_classes: int | None) -> np.ndarray:
    """Classes `[count]`, int32, or logits `[count, K]`, float32, from one answer per image.

    Args:
        answers: a class, or a row of scores, for each image; of one image also its row alone.
        count: of images.
        num_classes: K, if it is known.

    Raises:
        Rejected: another number of answers, what is no number, NaN, infinity, another K, no such class.
    """
    if len(answers) != count:
        answers = [_one_row(answers, count)]
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


def _one_row(answers: Sequence[Any], count: int) -> Sequence[Any]:
    """The scores of one image, if these can be nothing else: whole numbers could be its surest classes."""
    if count == 1 and len(answers) > 1 and all(isinstance(one, float | np.floating | int) for one in answers):
        if any(isinstance(one, float | np.floating) for one in answers):
            return answers
        advice = ": if these are the scores of one image, parse must give [scores]"
    else:
        advice = ": a service that takes one image a request needs batch_size=1" if count > 1 else ""
    raise Rejected(f"parse gave {len(answers)} answers for {count} images{advice}")
