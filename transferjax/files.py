"""Files that are whole or absent: written beside their place, and moved there when they are complete.

And which of those that lie about are nobody's data.
"""

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends well, else vanishes.

    Its directory is made if it does not exist; its suffix is that of `path`, at which NumPy and OpenCV look.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # not the private mode of temporary files
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


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
    directory.mkdir(parents=True, exist_ok=True)
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
