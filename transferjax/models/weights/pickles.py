"""PyTorch's files, read without PyTorch and without running anything.

Since 1.6, `torch.save` writes a zip file: a pickle of everything but the numbers, and an entry for each
storage. Before, it wrote pickles one after another (a magic number, a version, the byte order, everything but
the numbers, the storages' keys), and the storages behind them.

A pickle is a program for a small stack machine, and Python's interpreter of it can call any function. The
interpreter here knows only the instructions that state dicts need; a function is a name, and only the few
names in `_CALLS` mean something. Everything else is refused.
"""

import functools
import io
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from transferjax.models.weights.bounds import Allowance, UnsafeFile, brief, check_unfolded, shown
from transferjax.models.weights.storages import DTYPES, Storage, are_counts, tensor


class _Name(NamedTuple):
    """A global that a pickle refers to: never resolved, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


def _said(value: Any) -> str:
    return str(value) if isinstance(value, _Name) else shown(value)


def _entries(pairs: Any = ()) -> dict:
    """An OrderedDict of Python 2, which took its entries as an argument."""
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(p, list | tuple) and len(p) == 2 for p in pairs
    ):
        raise UnsafeFile(f"an OrderedDict of {shown(pairs)}")
    return dict(_plain_keys(pairs))


def _plain_keys(pairs: Any) -> Any:
    """Pairs whose first is a word or a number: comparing anything else may take for ever."""
    for key, _ in pairs:
        if not isinstance(key, _SCALARS) and not (
            type(key) is tuple and all(isinstance(k, _SCALARS) for k in key)
        ):
            raise UnsafeFile(f"a dict with the key {shown(key)}")
    return pairs


_SCALARS = (str, bytes, int, float, bool, type(None))


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
    **{("torch._utils", name): tensor for name in _TENSORS},
    ("torch._utils", "_rebuild_parameter"): lambda made, *_: made,
    ("collections", "OrderedDict"): _entries,
    ("torch", "Size"): lambda sizes=(): sizes,
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

    def run(self, file: IO[bytes] | mmap.mmap) -> Any:
        """What a pickle makes; the file's position is behind the pickle then."""
        begin = file.tell()
        for instruction, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            if instruction.name == "STOP":
                made = self.stack.pop()
                check_unfolded(made, file.tell() - begin)
                return made
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
                push(self.name(*self.pop_many("2")))
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
        pairs = list(zip(values[::2], values[1::2], strict=True))
        self.stack[-1].update(_plain_keys(pairs))

    def name(self, module: Any, name: Any) -> _Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafeFile(f"the name {shown(module)}.{shown(name)}")
        return _Name(module, name)

    def call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, _Name) or name not in self.calls:
            raise UnsafeFile(f"a call of {_said(name)}")
        if not isinstance(arguments, tuple) or len(arguments) > 64:
            raise UnsafeFile(f"a call of {name} with {shown(arguments)}")
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
                return _read_archive(archive, Path(path).stat().st_size)
        with Path(path).open("rb") as file:
            if _is_legacy(
                file
            ):  # mapped: an instruction that announces more than there is reads what there is
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    return _read_legacy(content)
    except UnsafeFile as error:
        raise UnsafeFile(
            f"{path} holds {brief(error)}; only tensors in plain containers are read, and nothing in it is "
            "run. If you trust it, save its state dict alone with PyTorch: torch.save(net.state_dict(), …)"
        ) from error
    except Exception as error:
        raise ValueError(f"{path} is truncated or corrupt: {type(error).__name__}: {brief(error)}") from error
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


def _read_legacy(file: mmap.mmap) -> Any:
    """Two runs of the pickle: the first learns which storages there are, the second has them."""
    size, allowance = len(file), Allowance(len(file))
    plain = _Machine(_no_storage)
    magic, version, system = plain.run(file), plain.run(file), plain.run(file)
    if (magic, version) != (_MAGIC, _PROTOCOL) or system.get("little_endian") is not True:
        said = f"{shown(version)} with {shown(system)}"
        raise UnsafeFile(f"the protocol {said}, not {_PROTOCOL} of a little-endian system")
    start, kinds = file.tell(), dict[str, tuple[str, int]]()

    def note(persistent_id: Any) -> None:
        kind, key, _, count, *_ = _storage_id(persistent_id)
        if not are_counts((count,)):
            raise UnsafeFile(f"storage {key} of {shown(count)} values")
        if kinds.setdefault(key, (kind, count)) != (kind, count):
            raise UnsafeFile(f"storage {key} as {count} {kind} and as {kinds[key]}")

    _Machine(note, _WITHOUT_NUMBERS).run(file)
    storages, keys = dict[str, Storage](), plain.run(file)
    for key in keys:
        kind, count = kinds[key if isinstance(key, str) else shown(key)]
        dtype = np.dtype(DTYPES[kind])
        if int.from_bytes(file.read(8), "little") != count or count * dtype.itemsize > size - file.tell():
            raise ValueError(f"storage {key} should have {count} values")
        storages[key] = Storage(np.frombuffer(file.read(count * dtype.itemsize), dtype), allowance)

    def load(persistent_id: Any) -> Storage:
        _, key, _, _, *view = _storage_id(persistent_id)
        whole = storages[key]
        if not view or view[0] is None:
            return whole
        _, offset, length = view[0]  # (its own key, where it begins, how long it is)
        if not are_counts((offset, length)):
            raise UnsafeFile(f"a part of storage {key} at {shown(offset)} of {shown(length)} values")
        return Storage(whole.values[offset : offset + length], allowance)

    file.seek(start)
    return _Machine(load).run(file)


def _no_storage(persistent_id: Any) -> Any:
    raise UnsafeFile("a storage where none belongs")


def _storage_id(persistent_id: Any) -> tuple:
    """(type, key, device, number of values, …) of a storage."""
    if not isinstance(persistent_id, tuple) or not 5 <= len(persistent_id) <= 6:
        raise UnsafeFile(f"a persistent id {shown(persistent_id)}")
    tag, kind, key, *rest = persistent_id
    if tag != "storage" or not isinstance(kind, _Name) or kind.name not in DTYPES:
        raise UnsafeFile(f"a persistent id of {_said(tag)} {_said(kind)}")
    if not isinstance(key, str):
        raise UnsafeFile(f"a storage called {shown(key)}")
    return (kind.name, key, *rest)


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in entries.values()) > size:
        raise UnsafeFile(f"entries that overlap: they have more bytes than the file, {size}")
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

    allowance = Allowance(size)

    @functools.cache
    def content(key: str) -> bytes:
        return archive.read(f"{root}data/{key}")

    @functools.cache
    def storage(kind: str, key: str) -> Storage:
        return Storage(np.frombuffer(content(key), DTYPES[kind]), allowance)

    def load(persistent_id: Any) -> Storage:
        kind, key, *_ = _storage_id(persistent_id)
        return storage(kind, key)

    return _Machine(load).run(io.BytesIO(archive.read(programs[0])))
