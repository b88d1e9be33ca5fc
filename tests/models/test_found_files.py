"""Files of weights: as they are found in the wild.

The files are written here as `torch.save` writes them, without PyTorch.
"""

import argparse
import collections
import contextlib
import json
import os
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from torch_files import Storage, Tensor, legacy_save, torch_save

from transferjax import models
from transferjax.models.weights.bounds import UnsafeFile
from transferjax.models.weights.convert import main
from transferjax.models.weights.formats import load, read_tensors, save, unwrap
from transferjax.models.weights.names import own_tensors
from transferjax.models.weights.pickles import read_pickled_tensors

NAME, OPTIONS = "cifar_resnet18", {"width": 2, "blocks": (1, 1)}
FLAGS = [f"--model={NAME}", "--option=width=2", "--option=blocks=(1,1)"]
FILES = (Path(__file__).parents[1] / "golden").glob("*.state_dict.json")
GOLDEN = {path.name.removesuffix(".state_dict.json"): path for path in FILES}
GOLDEN = {name: path for name, path in GOLDEN.items() if name.removeprefix("torchvision.") in models.ZOO}


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    shapes = models.abstract_variables(models.build(NAME, num_classes=3, **OPTIONS))
    return models.to_torch(jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes))


def under(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def shifted(tensors):
    """The same net with other weights: an average, say."""
    return {name: np.asarray(value + 1) for name, value in tensors.items()}


def assert_loads(path, tensors, **options):
    found = models.to_torch(load(NAME, path, **options, **OPTIONS))
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("write", [torch_save, legacy_save])
@pytest.mark.parametrize(
    "suffix", [".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".t7", ".PTH", ".pkl", ".safetensors", ""]
)
def test_content_counts_and_not_the_name(tmp_path, tensors, write, suffix):
    assert_loads(write(tensors, tmp_path / f"net{suffix}"), tensors)


def test_other_formats_under_other_names(tmp_path, tensors):
    variables = load(NAME, torch_save(tensors, tmp_path / "net.pth"), **OPTIONS)
    for suffix in (".npz", ".safetensors", ".NPZ", ".SafeTensors"):
        path = save(variables, tmp_path / f"net{suffix}")
        assert_loads(path, tensors)
        assert_loads(path.rename(tmp_path / "weights.bin"), tensors)


WRAPPERS = ["model_state", "state_dict", "model", "net", "params", "params_ema", "ema_state_dict",
            "model_ema", "state_dict_ema", "my_resnet"]  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_entries_of_training_checkpoints(tmp_path, tensors, name):
    """Beside the optimizer's state and what else is kept."""
    momenta = {i: {"momentum_buffer": value, "step": 3} for i, value in enumerate(tensors.values())}
    groups = [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1], "nesterov": False, "foreach": None}]
    content = {
        "epoch": 3,
        "best": np.float64(0.9),
        "args": argparse.Namespace(lr=0.1),
        name: collections.OrderedDict(tensors),
        "optimizer": {"state": momenta, "param_groups": groups},
        "scheduler": {"milestones": collections.Counter([30, 60]), "base_lrs": [0.1], "gamma": 0.1},
        "scaler": {"scale": 65536.0},
    }
    for write in (torch_save, legacy_save):
        assert_loads(write(content, tmp_path / "net.ckpt"), tensors)


def test_of_the_net_and_its_average_the_one_that_was_taken_is_said(tmp_path, tensors):
    path = torch_save({"model": tensors, "model_ema": shifted(tensors)}, tmp_path / "net.pth")
    with pytest.warns(UserWarning, match="took the weights of 'model', not their average: entry='model_ema'"):
        assert_loads(path, tensors)
    assert_loads(
        path, shifted(tensors) | {k: v for k, v in tensors.items() if "tracked" in k}, entry="model_ema"
    )
    with pytest.warns(UserWarning, match="entry='model_ema' takes that"):
        main([str(path), str(tmp_path / "net.npz"), *FLAGS])
    main([str(path), str(tmp_path / "ema.npz"), *FLAGS, "--entry=model_ema"])
    one, other = (read_tensors(tmp_path / name)["linear.bias"] for name in ("net.npz", "ema.npz"))
    np.testing.assert_array_equal(one + 1, other)
    with pytest.raises(ValueError, match=r"net\.pth: no entry 'ema'; got \['model', 'model_ema'\]"):
        read_tensors(path, "ema")
    with pytest.raises(ValueError, match=r"several state dicts are in it, \['a', 'b'\]"):
        unwrap({"a": tensors, "b": tensors})


STATISTICS = {"mean": np.float32([[0.5]] * 3), "std": np.float32([[0.25]] * 3)}
FOUND = {  # what is in the file besides the net, where the net is, and what is said
    "DataParallel": ("module.", {}, None),
    "torch.compile": ("_orig_mod.", {}, None),
    "all of them": ("module._orig_mod.model.", {}, None),
    "SWA": ("module.", {"n_averaged": np.array(7)}, "left out, as not of the net: n_averaged"),
    "criterion": ("", {"criterion.weight": np.ones(3)}, "left out, as not of the net: criterion.weight"),
    "Lightning": ("model.", {"loss_fn.weight": np.ones(3)}, "left out, as not of the net: loss_fn.weight"),
    "Lightning metric": ("net.", {"acc.total": np.ones(())}, "prefix 'net.' .* left out.*: acc.total"),
    "thop": ("", {"total_ops": np.ones(1), "layer1.0.total_params": np.ones(1)}, "total_ops, layer1"),
    "Sequential": ("1.", under("0.", STATISTICS), r"prefix '1\.' .*predictor.*: 0\.mean = \[0\.5, 0"),
    "parallel Sequential": ("module.1.", under("module.0.", STATISTICS), r"0\.std = \[0\.25, 0\.25, 0\.25\]"),
    "buffers": ("", STATISTICS, r"predictor\(mean=…, std=…\): mean = "),
    "any other": ("encoder.backbone.", {"encoder.mask": np.ones((4, 4))}, "prefix 'encoder.backbone.' was"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOUND)
def test_nets_inside_of_others(tmp_path, tensors, kind):
    prefix, extra, said = FOUND[kind]
    path = torch_save(extra | under(prefix, tensors), tmp_path / "net.pth")
    warned = contextlib.nullcontext() if said is None else pytest.warns(UserWarning, match=said)
    with warned:
        assert_loads(path, tensors)


def test_copies_of_a_net(tmp_path, tensors):
    """One that is an average is said not to be taken; equal ones are one; of two others nothing tells."""
    both = under("ema_model.module.", shifted(tensors)) | under("online.", tensors)
    with pytest.warns(UserWarning, match=r"net under 'online\.' was taken, not .* 'ema_model\.module\.'"):
        assert_loads(torch_save(both, tmp_path / "net.pth"), tensors)
    beside = under("ema.", shifted(tensors)) | tensors
    with pytest.warns(UserWarning, match=r"net under '' was taken, not the one under 'ema\.'"):
        assert_loads(torch_save(beside, tmp_path / "net.pth"), tensors)
    twice = under("model.", tensors) | under("attacker.model.", tensors)
    with pytest.warns(UserWarning, match=r"prefix 'model\.' was taken off"):
        assert_loads(torch_save(twice, tmp_path / "net.pth"), tensors)
    two = under("first.", tensors) | under("second.", shifted(tensors))
    with pytest.raises(ValueError, match=r"different weights lie under 'first\.', 'second\.': choose one"):
        load(NAME, torch_save(two, tmp_path / "net.pth"), **OPTIONS)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_net_is_found_under_any_prefix(name):
    """`features.`, `blocks.` and the like are no wrapper's prefix, however many names begin so."""
    weights = {key: np.zeros(shape) for key, shape in json.loads(GOLDEN[name].read_text()).items()}
    module = models.build(name.removeprefix("torchvision."))
    plain = own_tensors(module, weights)
    assert (plain.rest, plain.notes) == ([], [])
    for prefix in ("net.1.", "features.", "1."):
        found = own_tensors(module, under(prefix, weights) | {"criterion.weight": np.zeros(3)})
        assert found.tensors.keys() == plain.tensors.keys()
        assert found.rest == ["criterion.weight"]


def test_missing_and_unexpected_names_are_shown_together(tensors):
    """Thirty missing names do not hide how the file calls them."""
    renamed = {name.replace("bn", "norm").replace("conv", "cnv"): v for name, v in tensors.items()}
    with pytest.raises(ValueError, match="does not fit") as error:
        models.from_torch(NAME, renamed, **OPTIONS)
    lines = str(error.value).split("\n  ")[1:]
    for kind in ("missing", "unexpected"):
        assert 5 <= sum(line.startswith(kind) for line in lines) <= 10
        assert any(line.endswith(f"more {kind}") for line in lines)
    assert "unexpected cnv1.weight of shape (2, 3, 3, 3)" in lines
    without_head = under("model.", {k: v for k, v in tensors.items() if not k.startswith("linear")})
    with pytest.raises(
        ValueError, match=r"missing linear.*\n.*unexpected classifier.weight, which lies elsewh"
    ):
        models.from_torch(NAME, without_head | {"classifier.weight": np.ones((3, 4))}, **OPTIONS)


def test_legacy_views_and_types(tmp_path):
    base = np.arange(24, dtype=np.float32)
    part = Storage("9", base, view=("10", 6, 12))  # how PyTorch wrote storages that are parts of others
    content = {
        "transposed": Tensor(Storage("9", base), 0, (6, 4), (1, 6)),
        "view": Tensor(part, 1, (2, 3), (6, 2)),
        "double": np.float64([1.5, 2]),
        "counter": np.array(7),
        "bytes": np.uint8([[1, 2, 3]]),
        "empty": np.zeros((0, 3), np.float32),
    }
    found = read_pickled_tensors(legacy_save(content, tmp_path / "old.pth"))
    np.testing.assert_array_equal(found.pop("transposed"), base.reshape(4, 6).T)
    np.testing.assert_array_equal(found.pop("view"), [[7, 9, 11], [13, 15, 17]])
    for name, value in found.items():
        np.testing.assert_array_equal(value, content[name], strict=True)


class Hostile:
    """Unpickling this creates a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch_save, legacy_save])
def test_legacy_files_run_nothing_either(tmp_path, tensors, write):
    trap = tmp_path / "trap"
    for content in ({"state_dict": tensors, "hook": Hostile(trap)}, Hostile(trap)):
        with pytest.raises(UnsafeFile, match=r"net\.t7 holds a call of .*mkdir; .*nothing in it is run"):
            read_tensors(write(content, tmp_path / "net.t7"))
    assert not trap.exists()


def test_one_of_the_pickles_in_an_old_pth_file_is_hostile(tmp_path):
    """You see: "… holds a call of …mkdir; … nothing in it is run".
    Do: do not use the file.
    """
    whole = legacy_save({"a": np.ones(2, np.float32)}, tmp_path / "net.pth").read_bytes()
    places = [i + 1 for i, byte in enumerate(whole) if whole[i : i + 3] == b".\x80\x02"]
    assert len(places) == 4
    for place in places:
        trap = pickle.dumps(Hostile(tmp_path / "trap"), protocol=2)
        (tmp_path / "bad.pth").write_bytes(whole[:place] + trap + whole[place:])
        with pytest.raises(UnsafeFile, match=r"a call of .*mkdir"):
            read_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "trap").exists()


def test_an_old_pth_file_is_damaged(tmp_path):
    """You see: "net.pth is truncated or corrupt: ValueError: storage 0 should have 1000 values", or "net.pth
    holds …" with what is wrong.
    Do: get the file again, or save it anew with a later PyTorch.
    """
    values = np.arange(1000, dtype=np.float32)
    path = legacy_save({"a": values}, tmp_path / "net.pth")
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 1, 30, 100):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"net\.pth is truncated or corrupt"):
            read_tensors(path)
    path.write_bytes(whole.replace((1000).to_bytes(8, "little"), (10**15).to_bytes(8, "little")))
    with pytest.raises(ValueError, match="storage 0 should have 1000 values"):
        read_tensors(path)
    for options in ({"little": False}, {"protocol": 1002}):
        with pytest.raises(UnsafeFile, match="the protocol 100"):
            read_tensors(legacy_save({"a": values}, path, **options))
    outside = Tensor(Storage("0", values), 990, (20,), (1,))
    with pytest.raises(UnsafeFile, match="ends at 1009 in a storage of 1000"):
        read_tensors(legacy_save({"a": outside}, path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer to a file in Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", r"an HDF5 file; Keras, .* np\.savez\('net\.npz'"),
        (b"sys_info" + bytes(249) + b"ustar" + bytes(250), "a tar archive"),
        (b"garbage", "truncated, corrupt, or of another format"),
    ],
)
def test_a_file_of_weights_is_something_else(tmp_path, content, message):
    """You see: "cannot read weights from 'net.bin': a web page, not the file that it links to"; or a pointer
    of Git LFS, an HDF5 file, a tar archive.
    Do: what it says: `git lfs pull`, download the file itself, unpack it.
    """
    (tmp_path / "net.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read weights from 'net.bin': {message}"):
        read_tensors(tmp_path / "net.bin")
