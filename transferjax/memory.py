"""Out of memory: what to change, where XLA says how many bytes it could not have."""

from collections.abc import Iterator
from contextlib import contextmanager


def out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device had no memory left."""
    said = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower()


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Says what to change where memory runs out in the block.

    Raises:
        MemoryError: instead of what XLA, NumPy or the system raised.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "")
        raise MemoryError(f"out of memory ({first[:120]}): {advice}") from error
