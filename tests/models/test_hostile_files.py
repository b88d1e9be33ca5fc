"""Files of weights: small ones that ask for more than they have are refused at once, by name."""

import io
import json
import pickle
import time
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from torch_files import (
    Storage,
    Tensor,
    legacy_head,
    legacy_save,
    torch_pickle,
    torch_save,
    torch_zip,
)

from transferjax import models
from transferjax.models.weights.bounds import UnsafeFile
from transferjax.models.weights.formats import read_tensors
from transferjax.models.weights.pickles import read_pickled_tensors

SECONDS = 5.0
"""What an honest file of that size takes is milliseconds; a machine that does other things may pause."""


def refused(path, match, kind=UnsafeFile):
    begin = time.monotonic()
    with pytest.raises(kind, match=match) as caught:
        read_tensors(path)
    assert time.monotonic() - begin < SECONDS
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def doubling(times):
    """A tuple that holds the one before twice, so many times: 2 ** times values when written out."""
    return b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


SELF = b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s."
DOUBLED = doubling(90)
PROGRAMS = {
    "a dict that is its own state_dict": (SELF, "a dict inside of itself"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "a list inside of itself"),
    "tuples that double": (b"\x80\x02}X\x05\x00\x00\x00model" + DOUBLED + b"s.", "written out in full"),
    "as a key": (b"\x80\x02}" + DOUBLED + b"K\x01s.", "a dict with the key"),
    "as the name of a function": (b"\x80\x02" + DOUBLED + b"X\x01\x00\x00\x00f\x93.", "the name"),
    "as a shape": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00" + DOUBLED + b"K\x01\x85tR.",
        "a tensor of shape",
    ),
    "as the name of a storage": (
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + DOUBLED
        + b"X\x03\x00\x00\x00cpuK\x04tQ.",
        "a storage called",
    ),
    "as arguments": (b"\x80\x02ctorch\nSize\n" + DOUBLED + b"\x85R.", "written out in full"),
    "lists a thousand deep": (b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".", "nested more than 100 deep"),
    "a hundred thousand arguments": (
        b"\x80\x02ctorch\ndevice\n(" + b"K\x01" * 100_000 + b"tq\x00R0"
        + b"ctorch\ndevice\nh\x00R0" * 2000 + b"N.",
        "a call of torch.device",
    ),
    "an instruction longer than the file": (b"\x80\x02\x8d" + b"\xff" * 7 + b"\x3fabc", "truncated|corrupt"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_pickle_in_a_pth_file_holds_itself_or_unfolds_without_end(tmp_path, name):
    """You see: "net.pth holds a list inside of itself", "containers nested more than 100 deep", or "more than
    … values, written out in full", at once; "nothing in it is run".
    Do: do not use the file, or save its state dict alone: torch.save(net.state_dict(), …).
    """
    program, match = PROGRAMS[name]
    path = torch_zip(tmp_path / "net.pth", program, [np.arange(4, dtype=np.float32)])
    refused(path, match, ValueError)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_pickle_in_an_old_pth_file(tmp_path, name):
    """You see: the same errors, at once; a file is old that PyTorch before 1.6 wrote.
    Do: the same.
    """
    program, match = PROGRAMS[name]
    (tmp_path / "net.pth").write_bytes(legacy_head() + program + pickle.dumps(["0"], protocol=2))
    refused(tmp_path / "net.pth", f"{match}|a persistent id|truncated", ValueError)


def test_a_tensor_repeats_one_value_a_billion_times(tmp_path):
    """You see: "more than … bytes of arrays in … bytes", before memory is full.
    Do: do not use the file.
    """
    values = np.zeros(1, np.float32)
    for write in (torch_save, legacy_save):
        bomb = {"weight": Tensor(Storage("0", values), 0, (1 << 14, 1 << 14), (0, 0))}
        refused(write(bomb, tmp_path / "net.pth"), "bytes of arrays in")


def test_views_of_one_storage_add_up_to_many_times_the_file(tmp_path):
    """You see: "more than … bytes of arrays in … bytes"; weights that are tied are one array, and read.
    Do: save the tensors as copies of their own.
    """
    values = np.arange(1 << 20, dtype=np.float32)
    same = {f"layer{i}": Tensor(Storage("0", values), 0, values.shape, (1,)) for i in range(200)}
    found = read_tensors(torch_save(same, tmp_path / "tied.pth"))
    assert len({id(array) for array in found.values()}) == 1
    shifted = {f"layer{i}": Tensor(Storage("0", values), i, (len(values) - 200,), (1,)) for i in range(200)}
    refused(torch_save(shifted, tmp_path / "net.pth"), "bytes of arrays in")


def test_entries_of_a_pth_file_overlap(tmp_path):
    """You see: "entries that overlap: they have more bytes than the file".
    Do: do not use the file.
    """
    path = torch_save({"a": np.zeros(50_000, np.float32)}, tmp_path / "net.pth")
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    with zipfile.ZipFile(path) as archive:
        last = archive.infolist()[1]
    begin = content.index(b"PK\x01\x02", start + 1)
    size = content.index(b"PK\x01\x02", begin + 1) - begin
    record = content[begin : begin + size]
    end = content.index(b"PK\x05\x06")
    more = b"".join(record.replace(last.filename.encode(), f"archive/data/{i}".encode()) for i in range(1, 9))
    directory = content[start:end] + more
    count = (len(zipfile.ZipFile(path).infolist()) + 8).to_bytes(2, "little")
    tail = content[end : end + 8] + 2 * count + len(directory).to_bytes(4, "little") + content[end + 16 :]
    path.write_bytes(content[:start] + directory + tail)
    refused(path, "entries that overlap")


def npy_header(descr, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def test_an_npz_file_unpacks_to_a_hundred_times_its_size(tmp_path):
    """You see: "more than … bytes of arrays in … bytes", before it is unpacked.
    Do: do not use the file, or save it without compression: numpy.savez.
    """
    path = tmp_path / "net.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("weight.npy", "w") as file,
    ):
        file.write(npy_header("<f4", (16 << 20,)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    refused(path, "bytes of arrays in", ValueError)


def test_an_npz_that_compresses_well_is_read(tmp_path):
    """Zeros of a fresh head compress to little: an honest compressed `.npz` is read."""
    arrays = {"weight": np.zeros((1000, 1000), np.float32), "bias": np.ones(3, np.float32)}
    np.savez_compressed(tmp_path / "net.npz", **arrays)
    found = read_tensors(tmp_path / "net.npz")
    assert {name: array.shape for name, array in found.items()} == {"weight": (1000, 1000), "bias": (3,)}


@pytest.mark.parametrize(
    ("descr", "shape", "match"),
    [
        ("<f4", (1 << 40,), "announces float32"),
        ("<f4", (3,), "announces float32"),
        ("|O", (2,), "holds objects"),
        ("<U2", (1,), "expected numbers"),
    ],
)
def test_a_header_in_an_npz_file_announces_what_does_not_follow(tmp_path, descr, shape, match):
    """You see: "weight.npy announces float32 (3,), and has 8 bytes", or "weight.npy is object, expected
    numbers".
    Do: get the file again, or save it anew from its source.
    """
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("weight.npy", npy_header(descr, shape) + bytes(8))
    refused(tmp_path / "net.npz", match, ValueError)


def test_an_npz_file_has_one_name_twice(tmp_path):
    """You see: "'weight.npy' is in it 2 times".
    Do: save it anew: nobody knows which of the two counts.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ones(2, np.float32))
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("weight.npy", buffer.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("weight.npy", buffer.getvalue())
    refused(tmp_path / "net.npz", "is in it 2 times", ValueError)


def safetensors(path, header, size=4):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    return path


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "a name twice": (
        f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}'.encode(),
        "'a' is in it 2 times",
    ),
    "a negative size": ({"a": {**ENTRY, "shape": [-1]}}, "`-1`, expected usize"),
    "an unknown type": ({"a": {**ENTRY, "dtype": "Q7"}}, "'a' has the type 'Q7'; expected F64, F32"),
    "a list": ([1], "truncated or corrupt"),
    "nesting": (b"[" * 100_000, "truncated or corrupt"),
    "more than there is": ({"a": {**ENTRY, "shape": [2], "data_offsets": [0, 8]}}, "truncated or corrupt"),
    "a shape that overflows": ({"a": {**ENTRY, "shape": [1 << 40, 1 << 40]}}, "overflow"),
    "a gap": ({"a": {**ENTRY, "data_offsets": [4, 8]}}, "truncated or corrupt"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_file_contradicts_itself(tmp_path, name):
    """You see: "net.safetensors is truncated or corrupt: …": a name twice, a negative size, an unknown type
    ("'a' has the type 'Q7'; expected F64, …"), nesting, a gap.
    Do: get the file again, or save it anew from its source.
    """
    header, match = HEADERS[name]
    refused(safetensors(tmp_path / "net.safetensors", header), match, ValueError)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("U32", np.uint32)],
)
def test_safetensors_of_every_type_are_read(tmp_path, kind, dtype):
    """Numbers of eight to sixty-four bits."""
    count = 4 // np.dtype(dtype).itemsize
    path = safetensors(tmp_path / "net.safetensors", {"a": {**ENTRY, "dtype": kind, "shape": [count]}})
    (found,) = read_tensors(path).values()
    np.testing.assert_array_equal(found, np.zeros(count, dtype), strict=True)


def test_a_name_of_a_tensor_goes_on_and_on(tmp_path):
    """You see: "a tensor with a name of 140001 characters".
    Do: do not use the file.
    """
    path = torch_save({"module." * 20_000 + "a": np.zeros(2, np.float32)}, tmp_path / "net.pth")
    refused(path, "a name of 140001 characters", ValueError)


def test_weights_are_nan_or_infinite(tmp_path):
    """You see: a warning: "not finite, so whatever trained them diverged: conv1.weight, …".
    Do: take the weights of an earlier step; a net with these answers NaN.
    """
    options = {"width": 2, "blocks": (1,)}
    shapes = models.abstract_variables(models.build("cifar_resnet18", num_classes=3, **options))
    tensors = models.to_torch(jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes))
    tensors["conv1.weight"][0, 0, 0, 0] = np.nan
    tensors["linear.bias"][0] = np.inf
    path = torch_save(tensors, tmp_path / "net.pth")
    with pytest.warns(UserWarning, match=r"not finite, .*diverged: conv1\.weight, linear\.bias"):
        models.load("cifar_resnet18", path, **options)


def test_shared_containers_of_honest_checkpoints_are_read(tmp_path):
    """What an optimizer's groups share, and a state dict named twice, is no bomb."""
    betas, weights = (0.9, 0.999), {"a": np.ones(2, np.float32)}
    groups = [{"betas": betas, "lr": 0.1} for _ in range(200)]
    path = torch_save({"model": weights, "net": weights, "groups": groups}, tmp_path / "net.pth")
    np.testing.assert_array_equal(read_tensors(path)["a"], 1)
    program, _ = torch_pickle({"a": [betas] * 50}, legacy=False)
    assert read_pickled_tensors(torch_zip(tmp_path / "other.pth", program))["a"][49] == betas


@pytest.mark.parametrize("option", [{"blocks": (1, 10**20)}, {"blocks": 10**6}])
def test_a_net_of_more_layers_than_anyone_has(option):
    """You see: "blocks must be at most 1000; got …".
    Do: look at the option.
    """
    with pytest.raises(ValueError, match="blocks must be at most 1000; got"):
        models.build("cifar_resnet18", **option)


def test_an_npz_file_needs_a_later_version_of_zip(tmp_path):
    """You see: "net.npz is truncated, corrupt, or holds objects: zip file version 6.4".
    Do: get the file again, or save it anew with numpy.savez.
    """
    np.savez(tmp_path / "net.npz", a=np.ones(3))
    content = (tmp_path / "net.npz").read_bytes()
    place = content.index(b"PK\x01\x02") + 6
    (tmp_path / "net.npz").write_bytes(content[:place] + b"\x40" + content[place + 1 :])
    refused(tmp_path / "net.npz", "truncated, corrupt, or holds objects: zip file version", ValueError)
