"""Files of weights: all formats, and none that can do harm."""

import collections
import hashlib
import io
import json
import os
import pickle
import zipfile

import chex
import jax
import numpy as np
import pytest
from torch_files import torch_zip

from transferjax import models
from transferjax.models.weights.bounds import UnsafeFile
from transferjax.models.weights.convert import main
from transferjax.models.weights.formats import load, read_tensors, save, unwrap
from transferjax.models.weights.pickles import read_pickled_tensors

NAME, OPTIONS = "cifar_resnet18", {"width": 2, "blocks": (1, 1)}
FLAGS = [f"--model={NAME}", "--option=width=2", "--option=blocks=(1,1)"]


@pytest.fixture(scope="module")
def module():
    return models.build(NAME, num_classes=3, **OPTIONS)


@pytest.fixture(scope="module")
def variables(module):
    rng = np.random.default_rng(0)
    shapes = models.abstract_variables(module)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("name", ["net.safetensors", "net.npz", "net"])
def test_round_trip(tmp_path, module, variables, name):
    path = save(variables, tmp_path / name)
    assert_equal(load(NAME, path, **OPTIONS), variables)
    save(jax.tree.map(lambda leaf: leaf + 1, variables), path)  # replaces
    assert_equal(load(module, path), jax.tree.map(lambda leaf: leaf + 1, variables))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_file_of_weights_is_of_no_known_kind_or_not_there(tmp_path, variables):
    """You see: "cannot read weights from 'net.h5': …; expected .safetensors, .npz, what PyTorch saves (…), or
    an Orbax directory", or "no weights at …".
    Do: save the weights as one of these, or correct the path.
    """
    with pytest.raises(ValueError, match=r"cannot write weights as '\.h5'"):
        save(variables, tmp_path / "net.h5")
    (tmp_path / "net.h5").touch()
    with pytest.raises(ValueError, match=r"cannot read weights from 'net\.h5'"):
        read_tensors(tmp_path / "net.h5")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_tensors(tmp_path / "absent.npz")


@pytest.mark.parametrize("name", ["net.safetensors", "net.npz", "net.pth"])
def test_a_file_of_weights_is_cut_or_has_other_bytes(tmp_path, variables, name):
    """You see: "… is truncated or corrupt: BadZipFile: …", "… is not (or no longer) one of PyTorch's files",
    or, of .npz, "… holds objects: File is not a zip file".
    Do: get the file again; where it is downloaded, give its sha256, since .safetensors does not protect its
    values.
    """
    path = tmp_path / name
    if name == "net.pth":
        torch = pytest.importorskip("torch")
        torch.save({k: torch.from_numpy(v) for k, v in models.to_torch(variables).items()}, path)
    else:
        save(variables, path)
    whole = path.read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated|corrupt|not \(or no longer\)"):
            read_tensors(path)
    for position in range(10, len(whole) - 100, len(whole) // 7):
        damaged = bytearray(whole)
        damaged[position : position + 64] = b"\xff" * 64
        path.write_bytes(damaged)
        try:
            found = read_tensors(path)
        except ValueError as error:
            message = str(error)
        else:  # safetensors do not protect values, and a zip file has bytes that mean nothing
            message = f"{path} is as good as new"
            assert found.keys() == models.to_torch(variables).keys()
            if name != "net.safetensors":
                assert_equal(found, models.to_torch(variables))
        assert str(path) in message


def test_pytorchs_own_files(tmp_path, variables):
    torch = pytest.importorskip("torch")
    expected = models.to_torch(variables)
    tensors = collections.OrderedDict((k, torch.from_numpy(v)) for k, v in expected.items())
    tensors._metadata = {"": {"version": 1}}
    tensors["conv1.weight"] = torch.nn.Parameter(tensors["conv1.weight"])
    checkpoint = {"epoch": 3, "lr": 0.1, "best": None, "steps": [1, 2], "ema": False, "state_dict": tensors}
    parallel = {f"module.{k}": v for k, v in tensors.items()}
    for content in (tensors, checkpoint, parallel, {"model_state_dict": parallel}):
        path = tmp_path / "net.pth"
        torch.save(content, path)
        assert_equal(read_tensors(path), expected)


def test_pytorchs_views_and_types(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "expanded": base[:1].expand(3, 6),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        **{str(t): base.to(t) for t in (torch.float16, torch.float64, torch.int8, torch.bool)},
        "bfloat16": base.bfloat16(),
    }
    torch.save(content, tmp_path / "net.pt")
    found = read_pickled_tensors(tmp_path / "net.pt")
    for name, value in content.items():
        expected = value.float().numpy() if name == "bfloat16" else value.numpy()
        np.testing.assert_array_equal(found[name].astype(expected.dtype), expected)
        assert found[name].flags.owndata


class Hostile:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_file_of_weights_wants_to_run_a_program(tmp_path, protocol):
    """You see: "… holds a call of …mkdir; only tensors in plain containers are read, and nothing in it is
    run".
    Do: do not use the file; if you trust it, save its state dict alone: torch.save(net.state_dict(), …).
    """
    trap = tmp_path / "trap"
    program = pickle.dumps({"state_dict": Hostile(trap)}, protocol=protocol)
    with pytest.raises(UnsafeFile, match="nothing in it is run"):
        read_tensors(torch_zip(tmp_path / "net.pth", program))
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(program)
    with pytest.raises(ValueError, match=r"before PyTorch 1\.6"):
        read_tensors(plain)
    archive = tmp_path / "net.npz"
    np.savez(archive, weight=np.array([Hostile(trap)], dtype=object))
    with pytest.raises(ValueError, match="holds objects"):
        read_tensors(archive)
    assert not trap.exists()
    pickle.loads(program)  # the trap is a real one
    assert trap.exists()


class Program:
    """A pickle with `torch` names in it, without torch."""

    def __init__(self, *arguments, kind="FloatStorage", tag="storage"):
        self.arguments, self.kind, self.tag = arguments, kind, tag

    def dumps(self) -> bytes:
        storage = pickle.dumps((self.tag, "KIND", "0", "cpu", 4), protocol=2)[2:-1]
        storage = storage.replace(b"X\x04\x00\x00\x00KIND", b"ctorch\n" + self.kind.encode() + b"\n")
        rest = b"".join(pickle.dumps(a, protocol=2)[2:-1] for a in self.arguments)
        return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"Q" + rest + b"tR."


def read_program(tmp_path, program):
    values = np.arange(4, dtype=np.float32)
    return read_pickled_tensors(torch_zip(tmp_path / "net.pth", program, [values]))


def test_a_tensor_without_torch(tmp_path):
    np.testing.assert_array_equal(
        read_program(tmp_path, Program(0, (2, 2), (1, 2)).dumps()), [[0, 2], [1, 3]]
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program(1, (4,), (1,)), "ends at 4 in a storage of 4 values"),
        (Program(0, (2, 2), (1, 10**12)), "ends at"),
        (Program(0, (-1,), (1,)), "a tensor of shape"),
        (Program(3, (2,), (-1,)), "a tensor of shape"),
        (Program(0, (2, 2), (1,)), "a tensor of shape"),
        (Program(0, (2,), (1,), kind="Evil"), "a persistent id of 'storage' torch.Evil"),
        (Program(0, (2,), (1,), tag="module"), "a persistent id of 'module'"),
    ],
)
def test_a_tensor_lies_outside_of_its_storage(tmp_path, program, message):
    """You see: "ends at 4 in a storage of 4 values", "a tensor of shape …", or "a persistent id of …";
    "nothing in it is run".
    Do: do not use the file, or save its state dict anew.
    """
    with pytest.raises(UnsafeFile, match=message):
        read_program(tmp_path, program.dumps())


def test_a_pickle_is_no_program_or_its_archive_is_odd(tmp_path):
    """You see: "net.pth is truncated or corrupt: …", or "net.pth holds the compressed entry …", "… numbers in
    big-endian order".
    Do: save it anew with torch.save, on a little-endian machine.
    """
    for program in (
        b"",
        b".",
        b"R.",
        b"}q",
        b"}(K\x01u.",
        b"K\x01\x86.",
        b"t.",
        b"h\x05.",
        b"]K\x01s.",
    ):
        with pytest.raises(ValueError, match=r"net\.pth"):
            read_program(tmp_path, program)
    good = Program(0, (4,), (1,)).dumps()
    with pytest.raises(UnsafeFile, match="compressed entry"):
        read_pickled_tensors(torch_zip(tmp_path / "net.pth", good, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UnsafeFile, match="big-endian"):
        read_pickled_tensors(torch_zip(tmp_path / "net.pth", good, byteorder=b"big"))
    with pytest.raises(ValueError, match="corrupt: KeyError"):
        read_pickled_tensors(torch_zip(tmp_path / "net.pth", good))  # without its storage


def test_a_file_holds_no_state_dict():
    """You see: "no state dict found: expected name -> array, or that under …; got …".
    Do: save net.state_dict(), or name its place with entry=….
    """
    with pytest.raises(ValueError, match=r"no state dict found.*\['epoch', 'weights'\]"):
        unwrap({"epoch": 1, "weights": {"a": 1}})
    with pytest.raises(ValueError, match="got list"):
        unwrap([1])


def test_tensors_of_a_safetensors_file_overlap(tmp_path):
    """You see: "net.safetensors is truncated or corrupt: … invalid offset for tensor".
    Do: save it anew from its source.
    """
    path = tmp_path / "net.safetensors"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="invalid offset for tensor"):
        read_tensors(path)


def test_safetensors_are_what_the_library_reads_and_writes(tmp_path, variables):
    library = pytest.importorskip("safetensors.numpy")
    path = save(variables, tmp_path / "net.safetensors")
    assert_equal(library.load_file(path), models.to_torch(variables))
    library.save_file(models.to_torch(variables), path, metadata={"format": "pt"})
    assert_equal(load(NAME, path, **OPTIONS), variables)


def test_convert_replaces_the_head(tmp_path, variables, capsys):
    source, target = save(variables, tmp_path / "net.npz"), tmp_path / "start"
    main([str(source), str(target), *FLAGS, "--num_classes=7"])
    assert "wrote" in capsys.readouterr().out
    found = load(NAME, target, **OPTIONS)
    assert found["params"]["linear"]["kernel"].shape == (4, 7)
    assert float(np.abs(found["params"]["linear"]["kernel"]).max()) > 0
    del found["params"]["linear"]
    assert_equal(
        found, {**variables, "params": {k: v for k, v in variables["params"].items() if k != "linear"}}
    )


def test_convert_keeps_a_head_that_fits(tmp_path, variables):
    source, target = save(variables, tmp_path / "net.npz"), tmp_path / "net.safetensors"
    main([str(source), str(target), *FLAGS, "--num_classes=3"])
    assert_equal(load(NAME, target, **OPTIONS), variables)


def test_weights_are_of_another_net(tmp_path, variables):
    """You see: "this state dict does not fit CifarResNet …", with the names and shapes that differ.
    Do: name the net, and the options, that they were trained with.
    """
    source = save(variables, tmp_path / "net.npz")
    with pytest.raises(SystemExit, match="error: this state dict does not fit CifarResNet"):
        main([str(source), str(tmp_path / "out.npz"), f"--model={NAME}"])
    with pytest.raises(SystemExit, match=r"error: .*refused"):
        main(["http://127.0.0.1:9/net.npz", str(tmp_path / "out.npz"), *FLAGS])
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("option", ["width", "width=", "=8"])
def test_an_option_is_no_option(tmp_path, variables, option):
    """You see: "--option width: expected NAME=VALUE, such as width=32 or padding=SAME".
    Do: that.
    """
    source = save(variables, tmp_path / "net.npz")
    with pytest.raises(SystemExit, match=f"--option {option}: expected NAME=VALUE"):
        main([str(source), str(tmp_path / "out.npz"), f"--model={NAME}", "--option", option])


def test_an_option_may_be_a_word(tmp_path, variables):
    source = save(variables, tmp_path / "net.npz")
    main([str(source), str(tmp_path / "out.npz"), *FLAGS, "--option", "padding=SAME"])


def test_convert_downloads(tmp_path, variables, monkeypatch):
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    buffer = io.BytesIO()
    np.savez(buffer, **models.to_torch(variables))
    content = buffer.getvalue()
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            """Breaks off half way, the first time."""
            asked = self.headers.get("Range")
            requests.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(content[start:] if asked else content[: len(content) // 2])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("TRANSFERJAX_CACHE_DIR", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights/net.npz?download=1"
        sha256 = hashlib.sha256(content).hexdigest()
        main([url, str(tmp_path / "net.npz"), *FLAGS, f"--sha256={sha256}"])
        assert requests == [None, f"bytes={len(content) // 2}-"]
        assert_equal(load(NAME, tmp_path / "net.npz", **OPTIONS), variables)
        main([url, str(tmp_path / "again.npz"), *FLAGS, f"--sha256={sha256}"])
        assert len(requests) == 2  # from the cache
        with pytest.raises(SystemExit, match=r"error: .*sha256"):
            main([url, str(tmp_path / "wrong.npz"), *FLAGS, "--sha256=" + "0" * 64])
        server.shutdown()


def test_a_download_that_is_no_weights_is_asked_for_again(tmp_path, variables, monkeypatch):
    """As the page of a network that wants a password first."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    buffer = io.BytesIO()
    np.savez(buffer, **models.to_torch(variables))
    answers = [b"<html>please log in</html>", buffer.getvalue()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = answers.pop(0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("TRANSFERJAX_CACHE_DIR", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [f"http://127.0.0.1:{server.server_port}/net.npz", str(tmp_path / "net.npz"), *FLAGS]
        with pytest.raises(SystemExit, match="web page"):
            main(command)
        main(command)
        server.shutdown()
    assert not answers
    assert_equal(load(NAME, tmp_path / "net.npz", **OPTIONS), variables)


def test_checksums_and_entries_are_of_files(tmp_path, variables):
    source, directory, out = tmp_path / "net.npz", tmp_path / "net", str(tmp_path / "out.npz")
    models.save(variables, source)
    models.save(variables, directory)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    main([str(source), out, *FLAGS, f"--sha256={sha256.upper()}"])
    for what, flag, why in (
        (source, "--sha256=" + "0" * 64, f"is not the expected file: sha256 {sha256}"),
        (directory, f"--sha256={sha256}", "is a directory, which has no sha256"),
        (directory, "--entry=model_ema", "is an Orbax directory, which has no entry 'model_ema'"),
    ):
        with pytest.raises(SystemExit, match=why):
            main([str(what), out, *FLAGS, flag])
