"""The soak's own instruments: what it would not see, it could not report."""

import random
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests import soak
from tests.study import small
from transferjax.study.specs import Measure
from transferjax.study.store import ARRAYS, Store


@pytest.fixture
def stores(tmp_path):
    """Two equal stores of two results."""
    one = Store(tmp_path / "one")
    net = small.network()
    specs = [Measure(call={"name": name}, of=(net,), data=small.TEST) for name in ("smoothness", "bound")]
    for number, spec in enumerate(specs):
        one.put(spec, {"values": np.arange(4.0) + number}, {})
    return one, Store(shutil.copytree(one.root, tmp_path / "other")), specs


def test_equal_stores_differ_nowhere(stores):
    """Nothing refused, nothing different."""
    one, other, _ = stores
    assert soak.differences(other, one) == ([], [])


def test_a_flipped_bit_is_refused_by_name(stores):
    """Exactly one bit changes, and the result that has it says that it is damaged."""
    one, other, (spec, _) = stores
    path = other.path(spec) / ARRAYS
    before = np.frombuffer(path.read_bytes(), np.uint8)
    soak.flip(path, random.Random(0))
    after = np.frombuffer(path.read_bytes(), np.uint8)
    assert np.unpackbits(before ^ after).sum() == 1
    assert soak.differences(other, one) == ([f"Measure {spec.key}"], [])


def test_what_differs_in_silence_or_is_missing_is_told(stores):
    """A result with a checksum of its own that holds another number is the worst of all."""
    one, other, (spec, lost) = stores
    other.discard("Measure", spec.key)
    other.discard("Measure", lost.key)
    other.put(spec, {"values": np.array([0.0, 1.0, 2.0, 3.0000001])}, {})
    refused, different = soak.differences(other, one)
    assert refused == []
    assert sorted(different) == sorted([f"Measure {spec.key}", f"Measure {lost.key}: missing"])


def test_what_is_made_of_the_refused_is_forgotten_with_it(tmp_path):
    """Of an intermediate result alone nothing would be asked again, and so it would stay missing."""
    store, net, other = Store(tmp_path), small.network(), small.network(seed=1)
    made = Measure(call={"name": "smoothness"}, of=(net,), data=small.TEST)
    for spec in (net, made, other):
        store.put(spec, {"values": np.arange(4.0)}, {})
    soak.forget(store, {net.key})
    assert [entry.key for entry in store.entries()] == [other.key]


def test_a_full_disk_lasts_for_a_while(tmp_path, monkeypatch):
    """Writes of a running process fail, and go through again afterwards."""
    code = f"""if True:
        import sys
        for line in sys.stdin:
            try:
                with open({str(tmp_path / "file")!r}, "wb") as file:
                    file.write(bytes(1 << 20))
                print("written", flush=True)
            except OSError as error:
                print(error.strerror, flush=True)
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    cast = soak.Cast(tmp_path, "")
    cast.processes["client"] = process
    full, done = threading.Event(), threading.Event()
    monkeypatch.setattr(soak.time, "sleep", lambda seconds: (full.set(), done.wait(30)))
    filler = threading.Thread(target=soak.fill_disk, args=(cast, "client", random.Random(0)))

    def written():
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        assert written() == "written"
        filler.start()
        full.wait(30)
        assert written() == "File too large"
        done.set()
        filler.join()
        assert written() == "written"
    finally:
        done.set()
        cast.end()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
