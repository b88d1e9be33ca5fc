"""PyTorch's zip files (`torch.save` since 1.6), read without PyTorch and without running anything.

A pickle is a program for a small stack machine, and Python's interpreter of it can call any function. The
interpreter here knows only the instructions that state dicts need; a function is a name, and only the few
names in `_CALLS` mean something. Everything else is refused.
"""

import functools
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class UnsafeFile(ValueError):
    """The file asks for something that reading weights does not need."""


class _Name(NamedTuple):
    """A global that a pickle refers to: never resolved, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Storage(NamedTuple):
    """The untyped content of one entry of the archive, as numbers of one type."""

    values: np.ndarray


_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A copy of the view that a tensor is of its storage; out of bounds is an error."""
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise UnsafeFile("a tensor without a storage")
    numbers = (offset, *shape, *strides)
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise UnsafeFile(f"a tensor of shape {shape} with strides {strides} at {offset}")
    values = storage.values
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= len(values):
            raise UnsafeFile(f"a tensor that ends at {last} in a storage of {len(values)} values")
    steps = [stride * values.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(values[offset:] if 0 not in shape else values[:0], shape, steps)
    return np.array(view)


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): lambda: {},
    ("torch", "Size"): tuple,
}
_MARK = object()


class _Machine:
    """The stack machine; `load` opens a persistent id, which is how a pickle names a storage."""

    def __init__(self, load: Callable[[Any], Any]) -> None:
        self.load = load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for instruction, argument, _ in pickletools.genops(program):
            if instruction.name == "STOP":
                return self.stack.pop()
            self.step(instruction.name, argument)
        raise UnsafeFile("a pickle without an end")

    def step(self, instruction: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                push(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                push({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[instruction]())
            case "MARK":
                push(_MARK)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop_many(instruction[5:])))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "APPEND" | "APPENDS":
                self.extend(self.pop_many("" if instruction == "APPENDS" else "1"))
            case "SETITEM" | "SETITEMS":
                self.update(self.pop_many("" if instruction == "SETITEMS" else "2"))
            case "GLOBAL":
                push(_Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                push(_Name(*self.pop_many("2")))
            case "REDUCE":
                arguments = pop()
                push(_call(pop(), arguments))
            case "BUILD":  # attributes of an OrderedDict (`_metadata`): of no use here
                pop()
            case "BINPERSID":
                push(self.load(pop()))
            case _:
                raise UnsafeFile(f"the pickle instruction {instruction}")

    def pop_many(self, count: str) -> list[Any]:
        """The last `count` values, or those since the last mark."""
        if count:
            start = len(self.stack) - int(count)
            if start < 0:
                raise UnsafeFile("an instruction without its arguments")
            values = self.stack[start:]
            del self.stack[start:]
            return values
        start = next(i for i in reversed(range(len(self.stack))) if self.stack[i] is _MARK)
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise UnsafeFile(f"appending to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise UnsafeFile(f"setting items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, _Name) or name not in _CALLS:
        raise UnsafeFile(f"a call of {name}")
    return _CALLS[name](*arguments)


def read_pickled_tensors(path: str | Path) -> Any:
    """What `torch.save` wrote to a zip file, with NumPy arrays for tensors; runs nothing from the file.

    Args:
        path: `.pth`, `.pt` or `.pkl`, from PyTorch 1.6 or later.

    Returns:
        Nested dicts, lists, tuples, numbers, strings and arrays.

    Raises:
        UnsafeFile: the file holds more than tensors in plain containers, or calls a function.
        ValueError: not such a file, truncated, or corrupt.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not (or no longer) one of PyTorch's zip files; files from before PyTorch 1.6 "
            "are plain pickles, which cannot be read safely: load and save them again with PyTorch"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except UnsafeFile as error:
        raise UnsafeFile(
            f"{path} holds {error}; only tensors in plain containers are read, and nothing in it is run. "
            "If you trust it, save its state dict alone with PyTorch: torch.save(net.state_dict(), …)"
        ) from error
    except Exception as error:
        raise ValueError(f"{path} is truncated or corrupt: {type(error).__name__}: {error}") from error


def _read_archive(archive: zipfile.ZipFile) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    compressed = [name for name, info in entries.items() if info.compress_type != zipfile.ZIP_STORED]
    if compressed:  # PyTorch never compresses; what unpacks to no more than the file's size is harmless
        raise UnsafeFile(f"the compressed entry {compressed[0]}")
    programs = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise UnsafeFile(f"{len(programs)} data.pkl instead of one")
    root = programs[0].removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    if order != b"little":
        raise UnsafeFile(f"numbers in {order.decode(errors='replace')}-endian order")

    @functools.cache
    def storage(kind: str, key: str) -> _Storage:
        return _Storage(np.frombuffer(archive.read(f"{root}data/{key}"), _DTYPES[kind]))

    def load(persistent_id: Any) -> _Storage:
        tag, kind, key, *_ = persistent_id
        if tag != "storage" or not isinstance(kind, _Name) or kind.name not in _DTYPES:
            raise UnsafeFile(f"a persistent id of {tag} {kind}")
        return storage(kind.name, str(key))

    return _Machine(load).run(archive.read(programs[0]))
