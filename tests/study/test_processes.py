"""Two processes that talk over the loopback interface train as one process does."""

import socket
import time

import numpy as np

from transferjax.study.plan import group_key
from transferjax.study.store import Store

CONFIG = "tests/study/one_network.py"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def weights(store):
    (entry,) = Store(store).entries("Network")
    return Store(store).get(entry.spec)


def test_two_processes_equal_one(start, tmp_path):
    """Also where another run held the training when they came to it."""
    assert start(tmp_path / "one", config=CONFIG).communicate(timeout=300)[1] == ""
    (entry,) = Store(tmp_path / "one").entries("Network")
    lock = Store(tmp_path / "two").lock(group_key(entry.spec))
    lock.acquire()
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    pair = [
        start(tmp_path / "two", coordinator, "--num_processes=2", f"--process_id={i}", config=CONFIG)
        for i in range(2)
    ]
    while not list(tmp_path.glob("two/studies/*.json")) and all(process.poll() is None for process in pair):
        time.sleep(0.1)
    time.sleep(3)
    assert [process.poll() for process in pair] == [None, None]
    lock.release()
    errors = [process.communicate(timeout=300)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    two, one = (weights(tmp_path / name) for name in ("two", "one"))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-4, rtol=1e-3)
