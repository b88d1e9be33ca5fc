"""What every reader promises of any bytes: what they hold, or an error of its own, soon and in little memory.

Each property is a strategy and a check. The suite tries some cases of each; `python -m tests.fuzz` goes on for as
long as it is told.
"""

import functools
import io
import itertools
import json
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from hypothesis import strategies as st

from tests.models.torch_files import legacy_save, torch_save, torch_zip
from transferjax.data import Dataset, center_crop, open_saved, save
from transferjax.data.records import Layout, Record, write_prepared
from transferjax.data.tfds import CLASS_NAMES, stream
from transferjax.models.weights.bounds import FACTOR, SLACK
from transferjax.models.weights.formats import read_tensors
from transferjax.predicts.http import HttpTarget, ServiceError
from transferjax.study import config, views
from transferjax.study.mistakes import Mistakes
from transferjax.study.store import ARRAYS, PROVENANCE, Corrupt, Store

LONGEST_MESSAGE = 3000


class Property(NamedTuple):
    """Values to try, what must hold of each (in an empty directory), and how many of them a test takes."""

    values: st.SearchStrategy
    check: Callable[[Any, Path], None]
    examples: int


def answers(read: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What a reader gives, or None for one of its own errors, which are short."""
    try:
        return read()
    except errors as error:
        assert str(error), f"{type(error).__name__} without a word"
        assert len(str(error)) < LONGEST_MESSAGE
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


# Weights.

ARRAYS_OF_A_NET = {
    "conv1.weight": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3),
    "bn1.num_batches_tracked": np.array(7),
    "fc.bias": np.ones(3, np.float64),
}
TEXTS = ["state_dict", "model", "storage", "0", "1", "cpu", "fc.bias", "ema"]
GLOBALS = [
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n",
    b"cargparse\nNamespace\n",
    b"cos\nmkdir\n",
    b"cbuiltins\neval\n",
]
NUMBERS = [0, 1, 2, 3, 4, 255, 1 << 20, (1 << 31) - 1]


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def _tuple(numbers: list[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"


STORAGE = st.builds(
    lambda key, count: (
        b"("
        + _text("storage")
        + b"ctorch\nFloatStorage\n"
        + _text(key)
        + _text("cpu")
        + _number(count)
        + b"tQ"
    ),
    st.sampled_from(["0", "1", "2"]),
    st.sampled_from([4, 16, -1]),
)
SIZES = st.lists(st.sampled_from([*NUMBERS, -1]), max_size=4)
TENSOR = st.builds(
    lambda storage, offset, shape, strides: (
        GLOBALS[0] + b"(" + storage + _number(offset) + _tuple(shape) + _tuple(strides) + b"tR"
    ),
    STORAGE,
    st.sampled_from(NUMBERS),
    SIZES,
    SIZES,
)
INSTRUCTIONS = (
    st.sampled_from([bytes([code]) for code in b"}])(NsueatRQb\x85\x86\x87\x81\x93\x94\x88\x89"])
    | st.builds(lambda code, place: bytes([code, place]), st.sampled_from(b"qh"), st.integers(0, 5))
    | st.sampled_from([*GLOBALS, b"\x8a\x01\xff", b"G" + b"\x7f" * 8, b"\x8d" + b"\xff" * 8, b"."])
    | st.sampled_from(TEXTS).map(_text)
    | st.sampled_from([*NUMBERS, -1]).map(_number)
    | STORAGE
    | TENSOR
    | TENSOR.map(lambda tensor: b"(" + _text("fc.bias") + tensor + b"u")
)
PROGRAMS = st.builds(
    lambda begin, steps: b"\x80\x02" + begin + b"".join(steps) + b".",
    st.sampled_from([b"", b"}", b"}q\x00", b"]q\x00", b"K\x01", b"}" + _text("state_dict")]),
    st.lists(INSTRUCTIONS, max_size=40),
)


def reads_weights(path: Path) -> None:
    """Arrays of bounded size, or a ValueError that names the file; nothing is run."""
    size = path.stat().st_size

    def read() -> Any:
        try:
            return read_tensors(path)
        except ValueError as error:
            assert path.name in str(error)
            raise

    found = answers(read, ValueError)
    assert not (path.parent / "trap").exists()
    if found is not None:
        arrays = {id(array): array for array in found.values()}.values()
        assert all(isinstance(array, np.ndarray) for array in arrays)
        assert sum(array.nbytes for array in arrays) <= FACTOR * size + SLACK


def pickles(program: bytes, directory: Path) -> None:
    storages = [np.arange(count, dtype=np.float32) for count in (4, 16)]
    reads_weights(torch_zip(directory / "new.pth", program, storages))
    (directory / "old.pth").write_bytes(
        _legacy_head() + program + b"\x80\x02]X\x01\x00\x00\x000a." + bytes(24)
    )
    reads_weights(directory / "old.pth")


@functools.cache
def _legacy_head() -> bytes:
    buffer = io.BytesIO()
    legacy_save({}, buffer)
    content = buffer.getvalue()
    return content[: content.rindex(b"\x80\x02", 0, content.rindex(b"\x80\x02"))]


@functools.cache
def _weights(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "safetensors":
        from safetensors.numpy import save as dumps

        return dumps(ARRAYS_OF_A_NET)
    writers = {"new.pth": torch_save, "old.pth": legacy_save}
    if kind in writers:
        writers[kind]({"state_dict": ARRAYS_OF_A_NET, "epoch": 3}, buffer)
    else:
        {"npz": np.savez, "zipped.npz": np.savez_compressed}[kind](buffer, **ARRAYS_OF_A_NET)
    return buffer.getvalue()


def damaged_weights(kinds: list[str]) -> st.SearchStrategy:
    return st.tuples(st.sampled_from(kinds), EDITS)


def weights(case: tuple[str, list], directory: Path) -> None:
    kind, edits = case
    path = directory / (kind if "." in kind else f"net.{kind}")
    path.write_bytes(edited(_weights(kind), edits))
    reads_weights(path)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 62) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "F8_E4M3", "F4", "Q1", ""]) | ANY_JSON,
        "shape": st.lists(st.integers(-1, 8), max_size=3) | ANY_JSON,
        "data_offsets": st.lists(st.integers(-1, 32), min_size=2, max_size=2) | ANY_JSON,
        "more": ANY_JSON,
    },
)
HEADERS = st.lists(st.tuples(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES | ANY_JSON), max_size=4)


def safetensors(case: tuple[list, int, bytes], directory: Path) -> None:
    pairs, more, data = case
    header = (
        "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in pairs) + "}"
    ).encode()
    path = directory / "net.safetensors"
    path.write_bytes((len(header) + more).to_bytes(8, "little", signed=True) + header + data)
    reads_weights(path)


# Data.


@functools.cache
def _images() -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    return Dataset(pixels, np.arange(4) % 2, 2, "four images")


def saved_data(case: tuple[str, list], directory: Path) -> None:
    """A saved data set with one damaged file is the same, or refused."""
    name, edits = case
    save(_images(), directory / "data", "train")
    path = directory / "data" / "train" / name
    content = path.read_bytes()
    path.write_bytes(edited(content, edits))
    found = answers(lambda: open_saved(directory / "data", "train"), ValueError)
    if found is not None:
        np.testing.assert_array_equal(found.images, _images().images)
        np.testing.assert_array_equal(found.labels, _images().labels)
        assert (found.class_names, found.fingerprint) == (_images().class_names, _images().fingerprint)


def _prepared(directory: Path) -> Path:
    png = [cv2.imencode(".png", image)[1].tobytes() for image in _images().images]
    records = [Record(content, label, f"train_{label}") for label, content in enumerate(png)]
    layout = Layout(CLASS_NAMES["cifar10"], (32, 32, 3), "png", "https://example.org")
    target = directory / "cifar10" / "3.0.2"
    write_prepared(target, "cifar10", {"train": records}, layout, progress=False)
    return target


def records(case: tuple[str, list], directory: Path) -> None:
    """Prepared data with one damaged file are read, or an error names what it is of."""
    pattern, edits = case
    (path,) = _prepared(directory).glob(pattern)
    path.write_bytes(edited(path.read_bytes(), edits))

    def read() -> None:
        found = stream("cifar10", "train", size=8, crop=center_crop(), data_dir=directory)
        assert found.to_dataset().images.dtype == np.uint8

    answers(read, ValueError, FileNotFoundError)


def stored(case: tuple[str, list], directory: Path) -> None:
    """A stored result with a damaged file is what was stored, or is called damaged."""
    from tests.study import small

    name, edits = case
    store, spec, arrays = Store(directory / "store"), small.network(), {"params/a": np.arange(6.0)}
    store.put(spec, arrays, {"seconds": 1.0})
    path = store.path(spec) / name
    path.write_bytes(edited(path.read_bytes(), edits))
    found = answers(lambda: store.get(spec), Corrupt)
    if found is not None:
        np.testing.assert_array_equal(found.pop("params/a"), arrays["params/a"])
        assert not found
    assert store.entry(spec).readable in (spec, None)


# Configs.

ODD = st.sampled_from(
    [(), None, -1, 0, 1, 2.5, float("nan"), float("inf"), 1e30, "", "linf", "nonsense", True, {}, {"x": 1}, (1,), ("8",),
     ("ST",), [], b"x", 10**20, object]
)  # fmt: skip


@functools.cache
def _config() -> dict[str, Any]:
    from tests.study import tiny
    from transferjax.study.said import plain

    return plain(tiny.get_config())


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    )
    return [place, *itertools.chain.from_iterable(_places(inner, (*place, key)) for key, inner in entries)]


def _changed(value: Any, place: tuple, new: Any) -> Any:
    if not place:
        return new
    first, *rest = place
    if isinstance(value, dict):
        return {
            key: _changed(inner, tuple(rest), new) if key == first else inner for key, inner in value.items()
        }
    if isinstance(value, tuple):
        return tuple(
            _changed(inner, tuple(rest), new) if i == first else inner for i, inner in enumerate(value)
        )
    return value  # what an earlier change put there has no such place


def configs(changes: list[tuple[tuple, Any]], directory: Path) -> None:
    """A config with values that nobody meant is a study, or all that is wrong with it, one line each."""
    changed = _config()
    for place, value in changes:
        changed = _changed(changed, place, value)
    try:
        config.read(changed, views.VIEWS)
    except Mistakes as error:
        assert error.lines
        assert all(line.strip() and "\n" not in line and len(line) < 600 for line in error.lines), error.lines


# Answers of a service.

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: application/json\r\n\r\n[[0.25, 0.75]]"
HEADS = st.builds(
    lambda status, headers, body: b"HTTP/1.1 " + status + b"\r\n" + b"".join(headers) + b"\r\n" + body,
    st.sampled_from([b"200 OK", b"302 Found", b"429 Slow", b"500 Bad", b"999 ?", b"abc", b"200", b"100 Continue", b""]),
    st.lists(
        st.sampled_from(
            [b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: x\r\n", b"Retry-After: nan\r\n",
             b"Content-Length: 99999999999\r\n", b"Retry-After: inf\r\n", b"Retry-After: 86400\r\n",
             b"Transfer-Encoding: chunked\r\n", b"Location: file:///etc/passwd\r\n", b"Location: //[\r\n", b"X: " + b"y" * 70_000,
             b"Set-Cookie: a\r\n" * 200, b"\xff: \xff\r\n", b"Content-Encoding: gzip\r\n"]
        ),
        max_size=4,
    ),
    st.sampled_from([b"", b"[[0.25, 0.75]]", b"5\r\n[[1]]\r\n0\r\n\r\n", b"fffffffff\r\nx", b"-1\r\n", b"\x1f\x8b\x08"]),
)  # fmt: skip


class _Service:
    """Says to everybody what it was told to say, and hangs up."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/predict"
        self.answer = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            caller, _ = self.listener.accept()
            with caller:
                try:
                    caller.settimeout(1.0)
                    asked = b""
                    while b"\r\n\r\n" not in asked and (more := caller.recv(65536)):
                        asked += more
                    caller.sendall(self.answer)
                    caller.shutdown(socket.SHUT_WR)
                    while caller.recv(65536):  # a reset would take the answer along
                        pass
                except OSError:
                    pass


_service = functools.cache(_Service)


def services(answer: bytes | list, directory: Path) -> None:
    """Whatever a service sends is an answer or a ServiceError."""
    service = _service()
    service.answer = edited(GOOD, answer) if isinstance(answer, list) else answer
    target = HttpTarget(
        service.url, lambda body, count: [0] * count, attempts=2, timeout=2.0, sleep=lambda s: None
    )
    answers(lambda: target(_images().images[:1]), ServiceError)


def _emptied(check: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    """The check, in a directory of its own for every case."""

    @functools.wraps(check)
    def emptied(value: Any, directory: Path) -> None:
        place = directory / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        check(value, place)

    return emptied


PROPERTIES = {
    name: Property(values, _emptied(check), examples)
    for name, values, check, examples in (
        ("pickle programs", PROGRAMS, pickles, 400),
        ("damaged pickles", damaged_weights(["new.pth", "old.pth"]), weights, 200),
        ("safetensors headers", st.tuples(HEADERS, st.integers(-3, 3), st.binary(max_size=32)), safetensors, 300),
        ("damaged safetensors", damaged_weights(["safetensors"]), weights, 150),
        ("damaged npz", damaged_weights(["npz", "zipped.npz"]), weights, 200),
        ("saved data", st.tuples(st.sampled_from(["images.npy", "labels.npy", "manifest.json"]), EDITS), saved_data, 100),
        ("ArrayRecord", st.tuples(st.sampled_from(["*array_record*", "*_info.json", "features.json"]), EDITS), records, 40),
        ("stored results", st.tuples(st.sampled_from([ARRAYS, PROVENANCE, "spec.json"]), EDITS), stored, 100),
        (
            "configs",
            st.deferred(lambda: st.lists(st.tuples(st.sampled_from(_places(_config())), ODD), min_size=1, max_size=3)),
            configs,
            40,
        ),
        ("answers of a service", HEADS | EDITS, services, 100),
    )
}  # fmt: skip
