"""How much a file of weights may come to: a small one that unfolds to gigabytes is refused.

Containers and storages are shared in honest files too (tied weights, views of one buffer), and zeros compress
well. So the measure is the file's own size: `FACTOR` times as much, and a little more, is allowed.
"""

import reprlib
from typing import Any

FACTOR, SLACK = 16, 16 << 20
DEEPEST = 100
"""Containers inside of one another; PyTorch's checkpoints have about six."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
shown = _SHORT.repr
"""A value from a file as an error shows it: its beginning, however much it unfolds to."""


def brief(error: Exception) -> str:
    """What an error says, which may be all of a file's names."""
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:300]} …"


class UnsafeFile(ValueError):
    """The file asks for something that reading weights does not need."""


class Allowance:
    """What a file of `size` bytes may come to, of which readers take."""

    def __init__(self, size: int, what: str = "bytes of arrays") -> None:
        self.size, self.what, self.left = size, what, FACTOR * size + SLACK

    def spend(self, amount: int) -> None:
        """Takes some of it.

        Raises:
            UnsafeFile: there is not so much left.
        """
        self.left -= amount
        if self.left < 0:
            raise UnsafeFile(f"more than {FACTOR * self.size + SLACK} {self.what} in {self.size} bytes")


def check_unfolded(content: Any, size: int) -> None:
    """Refuses containers that hold themselves, are nested deeply, or are long when written out in full.

    A length counts an entry as often as it is reached: tuples that hold the one before twice, double.

    Args:
        content: nested dicts, lists and tuples.
        size: bytes of the pickle that made it.

    Raises:
        UnsafeFile: says which of these it is.
    """
    known: dict[int, tuple[int, int] | None] = {}  # None while it is walked

    def measured(node: Any, depth: int) -> tuple[int, int]:
        """(length, height) of a tree."""
        if not isinstance(node, dict | list | tuple):
            return 1, 0
        if id(node) in known:
            found = known[id(node)]
            if found is None:
                raise UnsafeFile(f"a {type(node).__name__} inside of itself")
            return found
        known[id(node)] = None
        length, height, allowance = 1, 1, Allowance(size, "values, written out in full,")
        for entry in node.values() if isinstance(node, dict) else node:
            below = measured(entry, depth + 1) if depth < DEEPEST else (1, DEEPEST)
            allowance.spend(below[0])
            length, height = length + below[0], max(height, below[1] + 1)
            if height > DEEPEST:
                raise UnsafeFile(f"containers nested more than {DEEPEST} deep")
        known[id(node)] = length, height
        return length, height

    measured(content, 0)
