"""Signals: the first asks, the second and the end of the grace do not."""

import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import hashlib, pathlib, sys, time
from transferjax.stopping import Stopped, Stopping
kept = pathlib.Path(sys.argv[1])
with Stopping(float(sys.argv[2])) as stopping:
    kept.write_text("begun")
    BODY
"""
LOOKS = "while not stopping.asked(): time.sleep(0.01)\n    kept.write_text('all')\n    raise Stopped"
DEAF = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"  # minutes without an instruction of Python


@pytest.fixture
def run(tmp_path):
    """(body, grace, signals) -> exit code, errors, what was kept, and the seconds since the first signal."""

    def run(body, grace, *numbers):
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # where it is ignored, children ignore it too
        kept = tmp_path / "kept"
        command = [sys.executable, "-c", SCRIPT.replace("BODY", body), str(kept), str(grace)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (kept.exists() and kept.read_text()):
            time.sleep(0.01)
        time.sleep(0.1)
        begin = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        err = process.communicate(timeout=60)[1]
        return process.returncode, err, kept.read_text(), time.monotonic() - begin

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm(run, number):
    """You see: "stops at the next step, within 30 s", then "stopped; the same command continues", and exit
    code 130 or 143.
    Do: the same command: it goes on from that step.
    """
    code, err, kept, _ = run(LOOKS, 30, number)
    assert (code, kept) == (128 + number, "all")
    assert err == "stops at the next step, within 30 s\nstopped; the same command continues\n"


def test_a_step_is_longer_than_the_grace(run):
    """You see: "stops at the next step, within 30 s"; after these seconds of --grace "stopped; the same
    command continues", without that step.
    Do: the same command: it goes on from the last checkpoint; raise --grace, where steps are that long.
    """
    code, err, kept, seconds = run(DEAF, 1, signal.SIGTERM)
    assert (code, kept) == (128 + signal.SIGTERM, "begun")
    assert err.endswith("stopped; the same command continues\n")
    assert 0.9 < seconds < 10


def test_ctrl_c_twice(run):
    """You see: the end at once, with exit code 130.
    Do: the same command: it goes on from the last checkpoint.
    """
    code, _, _, seconds = run(DEAF, 600, signal.SIGINT, signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert seconds < 10
