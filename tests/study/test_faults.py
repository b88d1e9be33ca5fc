"""Studies and their stores: full disks, no memory, a wish to stop; and that nothing is lost by it."""

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
from transferjax.study.run import Local, run
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


def test_the_disk_is_full_when_a_result_is_kept(fresh):
    """You see: "cannot write …: No space left on device; make room there, then the same command continues";
    what was made stays.
    Do: that.
    """
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
def test_the_disk_is_full_when_a_checkpoint_is_kept(fresh, where, monkeypatch):
    """You see: "cannot keep a checkpoint in … (…): make room there, or choose another place; then the same
    command continues".
    Do: that.
    """
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


def test_the_store_is_a_file(fresh):
    """You see: "cannot write …: Not a directory; expected a directory: choose another place", before anything
    is made.
    Do: that.
    """
    fresh.store.root.write_text("no store")
    with pytest.raises(Unwritable, match=r"cannot write .*store.*expected a directory: choose another place"):
        run([network()], fresh.store, Local(fresh))
    with pytest.raises(Unwritable, match="expected a directory"):
        fresh.store.write_study("name", [], {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_the_store_is_read_only(fresh):
    """You see: "cannot write …: Permission denied; it needs the right to write there: choose another place,
    or change the permissions".
    Do: that.
    """
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
def test_the_device_has_no_memory_left(fresh, monkeypatch, spec, advice):
    """You see: "out of memory (…): training.remat=True takes less and changes nothing; …", or, of an attack,
    "--config.batch_size=32 changes no result, …".
    Do: that; what else was made stays.
    """
    kind = type(spec).__name__
    if kind != "Network":
        make(fresh, network())
    monkeypatch.setitem(making.MAKERS, kind, greedy)
    assert re.match(rf"MemoryError: out of memory \(.*{advice}", failure(fresh, spec))


def test_a_study_is_asked_to_stop(fresh):
    """You see: "stopped; the same command continues"; of a training the step is kept, and nothing that is
    half made.
    Do: the same command.
    """
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
