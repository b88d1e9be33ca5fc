"""Files of weights: pickles of any instructions, headers of any JSON, and honest files after accidents."""

import functools
import io
import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save as dumps

from tests.fuzz.base import EDITS, Property, answers, edited
from tests.models.torch_files import legacy_bytes, legacy_head, torch_save, torch_zip
from transferjax.models.weights.bounds import FACTOR, SLACK
from transferjax.models.weights.formats import read_tensors

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

    found = answers(lambda: read_tensors(path), ValueError, about=path.name)
    assert not (path.parent / "trap").exists()
    if found is not None:
        arrays = {id(array): array for array in found.values()}.values()
        assert all(isinstance(array, np.ndarray) for array in arrays)
        assert sum(array.nbytes for array in arrays) <= FACTOR * size + SLACK


def pickles(program: bytes, directory: Path) -> None:
    storages = [np.arange(count, dtype=np.float32) for count in (4, 16)]
    reads_weights(torch_zip(directory / "new.pth", program, storages))
    (directory / "old.pth").write_bytes(
        legacy_head() + program + b"\x80\x02]X\x01\x00\x00\x000a." + bytes(24)
    )
    reads_weights(directory / "old.pth")


@functools.cache
def _weights(kind: str) -> bytes:
    buffer, checkpoint = io.BytesIO(), {"state_dict": ARRAYS_OF_A_NET, "epoch": 3}
    match kind:
        case "safetensors":
            return dumps(ARRAYS_OF_A_NET)
        case "old.pth":
            return legacy_bytes(checkpoint)
        case "new.pth":
            torch_save(checkpoint, buffer)
        case "npz":
            np.savez(buffer, **ARRAYS_OF_A_NET)
        case "zipped.npz":
            np.savez_compressed(buffer, **ARRAYS_OF_A_NET)
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


PROPERTIES = {
    "pickle programs": Property(PROGRAMS, pickles, 200),
    "damaged pickles": Property(damaged_weights(["new.pth", "old.pth"]), weights, 100),
    "safetensors headers": Property(
        st.tuples(HEADERS, st.integers(-3, 3), st.binary(max_size=32)), safetensors, 150
    ),
    "damaged safetensors": Property(damaged_weights(["safetensors"]), weights, 100),
    "damaged npz": Property(damaged_weights(["npz", "zipped.npz"]), weights, 100),
}
