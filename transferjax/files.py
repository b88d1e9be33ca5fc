"""Files that are whole or absent: written beside their place, and moved there when they are complete.

What they hold has a checksum. And which of those that lie about are nobody's data.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

DROPPINGS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir",
                       "system volume information", "lost+found"})  # fmt: skip
"""What operating systems leave in folders, in lower case."""


def hidden(name: str) -> bool:
    """Whether a file or folder of that name is no data: `.ipynb_checkpoints`, `._0.png`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in DROPPINGS


class Unwritable(OSError):
    """A place does not take what is written: there is no use in writing more."""


_ROOM = "make room there, then the same command continues"
_RIGHT = "it needs the right to write there: choose another place, or change the permissions"
_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHT),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "expected a directory: choose another place"
    ),
    errno.EIO: "the disk is failing: choose another one",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the place, and the way out, where something cannot be written in the block.

    Raises:
        Unwritable: no room, no right, no directory, no disk.
    """
    try:
        yield
    except (Unwritable, FileExistsError):
        raise
    except OSError as error:
        if error.errno not in _WAYS_OUT:
            raise
        raise Unwritable(f"cannot write {path}: {error.strerror}; {_WAYS_OUT[error.errno]}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends well, else vanishes.

    Its directory is made if it does not exist; its suffix is that of `path`, at which NumPy and OpenCV look.

    Raises:
        Unwritable: says the way out.
    """
    with writing(path):
        directory_at(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            os.chmod(name, 0o644)  # not the private mode of temporary files
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def directory_at(path: Path) -> Path:
    """Makes a directory, if it is not there.

    Raises:
        Unwritable: something else is there, or nothing can be.
    """
    with writing(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as in /proc
            raise Unwritable(
                f"cannot make {path}: nothing can be made there; choose another place"
            ) from error
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes a UTF-8 text file atomically."""
    return write_bytes(path, text.encode())


class Taken(OSError):
    """Another run writes to that directory."""


@contextmanager
def alone(directory: Path, what: str) -> Iterator[None]:
    """The right to write to a directory, which is made if absent; the kernel frees it when its holder dies.

    Args:
        directory: no other process may have it.
        what: is written there; for the error.

    Raises:
        Taken: another one has it.
    """
    directory_at(directory)
    if not os.access(directory, os.W_OK):  # who only reads what is finished disturbs nobody
        yield
        return
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        advice = "let it end, or name another directory"
        raise Taken(f"another run writes its {what} to {directory}: {advice}") from None
    try:
        yield
    finally:
        lock.release()


def reserve(path: Path) -> None:
    """Takes the room that a file of holes needs: a mapped file on a full disk would end the process.

    Raises:
        Unwritable: there is not so much room.
    """
    if hasattr(os, "posix_fallocate") and (size := path.stat().st_size):
        with writing(path), path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def checksum(content: bytes | Path) -> str:
    """The hash of some bytes, or of a file's, by which what is read is known to be what was written."""
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
