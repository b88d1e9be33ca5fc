"""Configs and flags: on a terminal, where something is wrong, a line; a traceback when asked for."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from transferjax.study import progress, run
from transferjax.study.flags import helped
from transferjax.study.plan import Group, Plan
from transferjax.study.run import Done
from transferjax.study.specs import Data
from transferjax.study.store import Store

ROOT = Path(__file__).parents[2]
ONE, TINY = "tests/study/one_network.py", "tests/study/tiny.py"


def test_the_bar_on_a_terminal(start, tmp_path):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = start(tmp_path, "--views=accuracy", config=ONE, terminal=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"train cifar_resnet18 input_gradient sam seed 0 \d+%", text)
    assert re.search(r"images/s=\d+.*loss=\d", text)
    assert "100%|" in text
    assert "Error" not in text


def test_a_line_a_minute_without_a_terminal(monkeypatch, capsys, tmp_path):
    """What a file or a pipe gets; figures that wait on a device are not asked for in between."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[-1])
    groups = [Group(str(i), [Data(name="digits", split="test")]) for i in range(3)]
    with progress.Bar() as bar:
        bar.begin(Plan({}, {}, groups), Store(tmp_path))
        ends = bar.over(lambda groups: ((group, Done()) for group in groups))(groups)
        for now, images in ((0.0, 0), (20.0, 200), (50.0, 500)):
            clock.append(now)
            bar.progress("train VGG", images, 1000, loss=object())
            assert capsys.readouterr().err == ""
        clock.append(60.0)
        bar.progress("train VGG", 600, 1000, loss=0.25)
        assert capsys.readouterr().err.endswith(
            " 0 of 3 tasks done; train VGG 60%, images/s=10, loss=0.250\n"
        )
        next(ends)
        assert capsys.readouterr().err == ""
        clock.append(120.0)
        next(ends)
        assert capsys.readouterr().err.endswith(" 2 of 3 tasks done; last a Data\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_control_c_and_sigterm_stop_at_the_next_step(number, start, finish, tmp_path):
    """Ctrl-C or SIGTERM: "stopped; the same command continues", the training kept to the step."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, children ignore it too
    process = start(tmp_path, config=TINY)
    while process.poll() is None and not list(tmp_path.glob("scratch/*/[0-9]*")):
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()
    lines = "stops at the next step, within 30 s\nstopped; the same command continues\n"
    assert (process.returncode, out, err) == (128 + number, "", lines)
    (scratch,) = tmp_path.glob("scratch/*")
    newest = max(int(path.name) for path in scratch.iterdir() if path.name.isdigit())
    kept = len(list(Store(tmp_path).entries()))
    code, out, err = finish(tmp_path, "--dry_run", config=TINY)
    assert code == 0
    assert sum(map(int, re.findall(r"(\d+) [A-Z]", out.splitlines()[0]))) == kept
    assert re.search(r"Network: about \d+ s", out)
    assert finish(tmp_path, config=TINY)[0] == 0
    (steps,) = {e.provenance["steps"] for e in Store(tmp_path).entries("Network") if e.key == scratch.name}
    assert steps == 32 - newest


CONFIGS = {
    "nothing.py": (None, "--config: there is no file "),
    "broken.py": ("def get_config(variant=''\n", "config: SyntaxError: "),
    "raises.py": (
        "def get_config(variant=''):\n    return 1 / 0\n",
        "config: ZeroDivisionError: .*line 2 of",
    ),
    "empty.py": ("", "module .* has no attribute 'get_config'"),
    "number.py": ("def get_config(variant=''):\n    return 7\n", "config: expected a ConfigDict; got 7"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_cannot_be_read(finish, tmp_path, name):
    """You see: one line: "--config: there is no file …", "config: SyntaxError: …", or "config:
    ZeroDivisionError: … (line 2 of …)".
    Do: what it says.
    """
    text, message = CONFIGS[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    code, out, err = finish(tmp_path / "store", config=str(tmp_path / name))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert re.match(message, err)
    assert not (tmp_path / "store").exists()


FLAGS = {
    "--views=acuracy": "unknown view 'acuracy'; did you mean accuracy?",
    "--workers=two": "flag --workers=two: invalid literal",
    "--sotre=x": "Unknown command line flag 'sotre'. Did you mean: store",
    "lss": "ValueError: unknown command 'lss'; did you mean ls?",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_or_a_command_is_misspelt(finish, tmp_path, flag):
    """You see: one line: "Unknown command line flag 'sotre'. Did you mean: store", or "unknown command 'lss';
    did you mean ls?".
    Do: what it says.
    """
    code, out, err = finish(tmp_path / "store", flag, config=ONE)
    assert (code, out) == (1, "")
    assert err.startswith(FLAGS[flag])
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()


def test_an_unknown_scalar_of_a_config_is_one_line_with_the_nearest(finish, tmp_path):
    code, out, err = finish(tmp_path / "store", f"--config={ONE}", "--config.batchsize=3", config=None)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("'batchsize' Did you mean \"batch_size\"")


def test_help_is_short_and_the_projects_own(capsys):
    assert helped(["--help"])
    out = capsys.readouterr().out
    for part in ("ls  ", "why KEY|LABEL", "gc", "--dry_run", "--views", "--workers", "examples:"):
        assert part in out
    assert "orbax" not in out.lower()
    assert not helped(["--dry_run"])


def test_a_store_that_is_not_there_is_no_empty_one(finish, tmp_path):
    code, out, err = finish(tmp_path / "nope", "ls", config=None)
    assert (code, out) == (1, "")
    assert err.startswith(f"ValueError: --store={tmp_path}/nope: there is no store; expected")
    assert not (tmp_path / "nope").exists()


def test_a_reader_that_went_away_ends_it_silently(start, tmp_path):
    process = start(tmp_path / "store", "--list", config=ONE)
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert (process.wait(), err) == (128 + signal.SIGPIPE, "")


def test_a_config_has_no_such_variant(finish, tmp_path):
    """You see: "config: ValueError: unknown variant 'smok': use smoke, seeds, … (line … of …)".
    Do: what it says; TRANSFERJAX_TRACEBACK=1 shows where it was raised.
    """
    code, _, err = finish(tmp_path / "store", config="configs/digits.py:smok")
    assert code == 1
    assert re.match(r"config: ValueError: unknown variant 'smok': use smoke, .*\(line \d+ of ", err)
    command = [sys.executable, "-m", "experiments.study", f"--store={tmp_path}", "lss"]
    env = os.environ | {"TRANSFERJAX_TRACEBACK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert "Traceback" in done.stderr
    assert "unknown command 'lss'" in done.stderr


def test_the_store_lies_below_a_file(finish, tmp_path):
    """You see: "Unwritable: cannot write …: Not a directory; expected a directory: choose another place".
    Do: that.
    """
    (tmp_path / "file").write_text("")
    code, out, err = finish(tmp_path / "file/store", config=ONE)
    assert (code, out) == (1, "")
    assert err.startswith("Unwritable: ")
    assert "Not a directory" in err
    assert len(err.splitlines()) == 2


def test_some_views_alone_and_a_config_from_elsewhere(finish, tmp_path):
    """A study's note names what all its views need, so that `gc` keeps it whichever were drawn."""
    config = tmp_path / "mine.py"
    config.write_text(
        "from tests.study import one_network\n"
        "def get_config(variant=''):\n"
        "    c = one_network.get_config()\n"
        "    c.views = (*c.views, ('training', 'training', {'block': 'main'}))\n"
        "    return c\n"
    )
    store = Store(tmp_path / "store")
    code, _, err = finish(store.root, "--views=training", config=str(config))
    assert (code, err) == (0, "")
    assert [entry.kind for entry in store.entries()] == ["Network"]
    assert sorted(store.studies()["mine"]["keys"].values()) == ["Network", "Verdicts"]
    assert (store.root / "studies/mine/training.csv").exists()


def test_the_commit_is_that_of_our_own_repository(tmp_path, monkeypatch):
    """Not that of the one in which we happen to be installed; and none where git is not."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|.*-g[0-9a-f]+(-dirty)?", run._commit())
    package = tmp_path / "venv" / "run.py"
    package.parent.mkdir()
    package.write_text("")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=tmp_path, check=True
        )
    monkeypatch.setattr(run, "__file__", str(package))
    assert run._commit() == "unknown"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run._commit() == "unknown"
