"""PyTorch's files, read without PyTorch and without running anything.

Since 1.6, `torch.save` writes a zip file: a pickle of everything but the numbers, and an entry for each
storage. Before, it wrote pickles one after another (a magic number, a version, the byte order, everything but
the numbers, the storages' keys), and the storages behind them.

A pickle is a program for a small stack machine, and Python's interpreter of it can call any function. The
interpreter here knows only the instructions that state dicts need; a function is a name, and only the few
names in `_CALLS` mean something. Everything else is refused. (One file, long as it is: what keeps it safe is
read as a whole.)
"""

import functools
import os
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

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


_INERT = (
    *(
        "argparse.Namespace",
        "collections.Counter",
        "collections.defaultdict",
        "torch.device",
        "_codecs.encode",
    ),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "pathlib.PosixPath"),
    "pytorch_lightning.utilities.parsing.AttributeDict",
    *(f"{package}.utilities.data.AttributeDict" for package in ("lightning_fabric", "lightning.fabric")),
)
"""What training checkpoints keep beside the weights. Becomes an empty dict, whatever it was."""
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2")
_CALLS: dict[tuple[str, ...], Callable[..., Any]] = {
    **{("torch._utils", name): _tensor for name in _TENSORS},
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): lambda pairs=(): dict(pairs),
    ("torch", "Size"): tuple,
    **{tuple(name.rsplit(".", 1)): lambda *_: {} for name in _INERT},
}
# What a legacy file's pickle is run with before its storages are known.
_WITHOUT_NUMBERS = _CALLS | {("torch._utils", name): lambda *_: None for name in _TENSORS}
_MARK = object()


class _Machine:
    """The stack machine; `load` opens a persistent id, which is how a pickle names a storage."""

    def __init__(
        self, load: Callable[[Any], Any], calls: Mapping[tuple[str, ...], Callable] = _CALLS
    ) -> None:
        self.load, self.calls = load, calls
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes | IO[bytes]) -> Any:
        """What a pickle makes; of a file, the position is behind the pickle then."""
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
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING":
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
            case "REDUCE" | "NEWOBJ":
                arguments = pop()
                push(self.call(pop(), arguments))
            case "BUILD":  # attributes, such as an OrderedDict's `_metadata`: of no use here
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

    def call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, _Name) or name not in self.calls:
            raise UnsafeFile(f"a call of {name}")
        return self.calls[name](*arguments)


def read_pickled_tensors(path: str | Path) -> Any:
    """What `torch.save` wrote, with NumPy arrays for tensors; runs nothing from the file.

    Args:
        path: a file of any version of PyTorch since 0.2.

    Returns:
        Nested dicts, lists, tuples, numbers, strings and arrays.

    Raises:
        UnsafeFile: the file holds more than tensors in plain containers, or calls a function.
        ValueError: not such a file, truncated, or corrupt.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        with Path(path).open("rb") as file:
            if _is_legacy(file):
                return _read_legacy(file)
    except UnsafeFile as error:
        raise UnsafeFile(
            f"{path} holds {error}; only tensors in plain containers are read, and nothing in it is run. "
            "If you trust it, save its state dict alone with PyTorch: torch.save(net.state_dict(), …)"
        ) from error
    except Exception as error:
        raise ValueError(f"{path} is truncated or corrupt: {type(error).__name__}: {error}") from error
    raise ValueError(
        f"{path} is not (or no longer) one of PyTorch's files: no zip file, nor pickles that begin with its "
        "magic number, as before PyTorch 1.6. Other pickles cannot be read safely: save the state dict "
        "with torch.save, safetensors or numpy.savez"
    )


_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def _is_legacy(file: IO[bytes]) -> bool:
    """Whether a file begins with the pickled magic number."""
    head = file.read(32)
    file.seek(0)
    return head.startswith(b"\x80") and _MAGIC.to_bytes(10, "little") in head


def _read_legacy(file: IO[bytes]) -> Any:
    """Two runs of the pickle: the first learns which storages there are, the second has them."""
    size = os.fstat(file.fileno()).st_size
    plain = _Machine(_no_storage)
    magic, version, system = plain.run(file), plain.run(file), plain.run(file)
    if (magic, version) != (_MAGIC, _PROTOCOL) or system.get("little_endian") is not True:
        raise UnsafeFile(f"the protocol {version} with {system}, not {_PROTOCOL} of a little-endian system")
    start, kinds = file.tell(), dict[str, tuple[str, int]]()

    def note(persistent_id: Any) -> None:
        kind, key, _, count, *_ = _storage_id(persistent_id)
        if kinds.setdefault(key, (kind, count)) != (kind, count):
            raise UnsafeFile(f"storage {key} as {count} {kind} and as {kinds[key]}")

    _Machine(note, _WITHOUT_NUMBERS).run(file)
    storages, keys, end = dict[str, np.ndarray](), plain.run(file), file.tell
    for key in map(str, keys):
        kind, count = kinds[key]
        dtype = np.dtype(_DTYPES[kind])
        if int.from_bytes(file.read(8), "little") != count or count * dtype.itemsize > size - end():
            raise ValueError(f"storage {key} should have {count} values")
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)

    def load(persistent_id: Any) -> _Storage:
        _, key, _, _, *view = _storage_id(persistent_id)
        values = storages[key]
        if view and view[0] is not None:  # (its own key, where it begins, how long it is)
            _, offset, length = view[0]
            values = values[offset : offset + length]
        return _Storage(values)

    file.seek(start)
    return _Machine(load).run(file)


def _no_storage(persistent_id: Any) -> Any:
    raise UnsafeFile("a storage where none belongs")


def _storage_id(persistent_id: Any) -> tuple:
    """(type, key, device, number of values, …) of a storage."""
    tag, kind, key, *rest = persistent_id
    if tag != "storage" or not isinstance(kind, _Name) or kind.name not in _DTYPES:
        raise UnsafeFile(f"a persistent id of {tag} {kind}")
    return (kind.name, str(key), *rest)


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
        kind, key, *_ = _storage_id(persistent_id)
        return storage(kind, key)

    return _Machine(load).run(archive.read(programs[0]))
