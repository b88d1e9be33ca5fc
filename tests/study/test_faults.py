"""What the machine does to a study: full disks, no memory, signals; and that nothing is lost by it."""

import os
import re
import resource
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from small import attacked, failure, make, network

from transferjax.files import Unwritable
from transferjax.stopping import Stopped
from transferjax.study import make as making
from transferjax.study import resolve
from transferjax.study.run import Local, run
from transferjax.study.specs import Goal
from transferjax.study.store import Store
from transferjax.training import checkpoint

ROOM = "make room there"


@contextmanager
def full_disk(size):
    """No file grows beyond so many bytes: for who writes as if there were no room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def fresh(context, tmp_path):
    """The module's context, on a store of the test's own."""
    return replace(context, store=Store(tmp_path / "store"))


def test_a_full_disk_is_one_line_and_what_was_made_stays(fresh):
    """The disk is full when a result is kept: one line with the place; with room again the run goes on."""
    first, second = network(), network(seed=1)
    make(fresh, first)
    with (
        full_disk(1000),
        pytest.raises(Unwritable, match=f"cannot write .*Network/{second.key}.*{ROOM}") as said,
    ):
        run([first, second], fresh.store, Local(fresh))
    assert "\n" not in str(said.value)
    assert fresh.store.has(first)
    assert not fresh.store.has(second)
    assert not list((fresh.store.root / "objects" / "Network").glob(".*"))
    make(fresh, first, second)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of writes on their way
@pytest.mark.parametrize("where", ["before", "in the midst"])
def test_a_full_disk_under_a_checkpoint_is_one_line(fresh, where, monkeypatch):
    """The disk is full when a checkpoint is kept: one line; with room again the training goes on."""
    spec, often = network(epochs=3.0), replace(fresh, checkpoint_epochs=1)
    full = full_disk(100)
    if where == "before":
        full = nullcontext()
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with full, pytest.raises(Unwritable, match=f"cannot keep .*checkpoint.* in .*{ROOM}") as said:
        run([spec], often.store, Local(often))
    assert "\n" not in str(said.value)
    monkeypatch.undo()
    make(often, spec)


def test_a_store_that_is_a_file_is_refused(fresh):
    """`--store` names a file: refused by name, before anything is made."""
    fresh.store.root.write_text("no store")
    with pytest.raises(Unwritable, match=r"cannot write .*store.*expected a directory: choose another place"):
        run([network()], fresh.store, Local(fresh))
    with pytest.raises(Unwritable, match="expected a directory"):
        fresh.store.write_study("name", [], {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_is_read_only_is_refused(fresh):
    """`--store` is a directory without the right to write: one line that says so."""
    fresh.store.root.mkdir(mode=0o500)
    with pytest.raises(Unwritable, match="needs the right to write there"):
        run([network()], fresh.store, Local(fresh))


def greedy(context, members):
    yield members[0], {"arrays": {"a": np.asarray(jnp.zeros((1 << 45,)))}}


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        (network(seed=7), r"training\.remat=True .* a smaller training\.batch_size than 32"),
        (attacked((network(),)), r"--config\.batch_size=32 changes no result, .*`chunk`"),
    ],
)
def test_out_of_memory_names_what_to_change(fresh, monkeypatch, spec, advice):
    """The device has no memory left: the message names the batch size, `chunk` or `remat` to change."""
    kind = type(spec).__name__
    if kind != "Network":
        make(fresh, network())
    monkeypatch.setitem(making.MAKERS, kind, greedy)
    assert re.match(rf"MemoryError: out of memory \(.*{advice}", failure(fresh, spec))


def test_who_is_asked_to_stop_stops_at_the_next_step(fresh):
    """Asked to stop in a training or in an attack: nothing half made is kept, and the next run goes on."""
    net = network(epochs=3.0)
    images = attacked((net,))
    asked = replace(
        fresh, checkpoint_epochs=1, stopped=lambda: bool(list(fresh.store.root.glob("scratch/*/*")))
    )
    with pytest.raises(Stopped):
        run([net], asked.store, Local(asked))
    assert not fresh.store.has(net)
    make(replace(fresh, checkpoint_epochs=1), net)
    assert fresh.store.entry(net).provenance["steps"] < 6
    with pytest.raises(Stopped):
        run([images], fresh.store, Local(replace(fresh, stopped=lambda: True)))
    assert not fresh.store.has(images)
    make(fresh, images)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip file", b"\x93NUMPY\x01\x00", b"text"])
def test_targets_in_a_file_that_holds_none_are_refused(tmp_path, content):
    """A file of target classes that is empty or truncated: an error with its name."""
    (tmp_path / "targets.npy").write_bytes(content)
    goal = Goal(aim="file", file=str(tmp_path / "targets.npy"))
    goal = goal.replace(sha256=resolve.sha256(goal.file))
    with pytest.raises(ValueError, match=r"targets\.npy holds no array of NumPy"):
        resolve._from_file(goal, np.zeros(3, int), 10)
