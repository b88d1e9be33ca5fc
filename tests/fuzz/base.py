"""What properties are made of: damaged bytes, and readers that give what is there or their own errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

LONGEST_MESSAGE = 3000


class Property(NamedTuple):
    """Values to try, what must hold of each (in an empty directory), and how many of them a test takes."""

    values: st.SearchStrategy
    check: Callable[[Any, Path], None]
    examples: int


def answers(read: Callable[[], Any], *errors: type[Exception], about: str = "") -> Any:
    """What a reader gives, or None for one of its own errors, which are short."""
    try:
        return read()
    except errors as error:
        said = error
    assert str(said), f"{type(said).__name__} without a word"
    assert len(str(said)) < LONGEST_MESSAGE
    assert about in str(said)
    return None


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]),
        st.binary(min_size=1, max_size=9) | st.sampled_from([bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7]),
    ),
    min_size=1,
    max_size=6,
)


def edited(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """Bytes after some accidents."""
    for where, kind, piece in edits:
        at = int(where * len(content))
        if kind == "replace":
            content = content[:at] + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + len(piece) :]
        elif kind == "cut":
            content = content[:at]
        else:
            content = content[:at] + 2 * content[at : at + 64 * len(piece)] + content[at + 64 * len(piece) :]
    return content
