"""Studies and their stores: nothing twice, nothing lost, nothing silently wrong."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest

from transferjax.study import cli
from transferjax.study.store import ARRAYS, Store

TINY = "tests/study/tiny.py"


def said(out):
    """The object that `--json` ends with."""
    return json.loads(out.strip().splitlines()[-1])


def checksums(root):
    return {entry.key: entry.provenance["checksum"] for entry in Store(root).entries()}


def times(root, kind="*"):
    return {e.path: e.path.stat().st_mtime_ns for e in Store(root).entries(kind)}


def study(finish, root, *flags, variant="", code=0):
    got, out, err = finish(root, "--json", *flags, config=f"{TINY}:{variant}" if variant else TINY)
    assert got == code, err
    assert "Traceback" not in err
    return said(out), err


@pytest.fixture(scope="module")
def whole(finish, tmp_path_factory):
    """The store of an undisturbed run; tests take copies."""
    root = tmp_path_factory.mktemp("whole") / "store"
    found, err = study(finish, root)
    assert err == "", "quiet when not on a terminal"
    assert found["made"]["Network"] == 3
    assert not found["found"] | found["missing"] | found["failed"]
    return root


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "store")


def test_the_second_run_makes_nothing(finish, whole):
    before, begin = times(whole), os.times()
    found, _ = study(finish, whole)
    end = os.times()
    took = end.children_user + end.children_system - begin.children_user - begin.children_system
    assert took < 10  # seconds of a core, so that what else runs is no matter
    assert not found["made"]
    assert times(whole) == before
    report = (whole / "studies/tiny/report.html").read_text()
    assert "data:image/png;base64," in report
    assert "noise" in report


def test_another_attack_trains_nothing(finish, copy):
    networks = times(copy, "Network")
    planned, _ = study(finish, copy, "--dry_run", variant="attacks=2")
    assert "Network" not in planned["missing"]
    assert planned["missing"]["Adversarial"] == 4  # two surrogates, two goals
    found, _ = study(finish, copy, variant="attacks=2")
    assert found["made"] == planned["missing"]
    assert times(copy, "Network") == networks


def test_a_dry_run_makes_no_store(finish, tmp_path):
    found, _ = study(finish, tmp_path / "store", "--dry_run")
    assert found["missing"]["Network"] == 3
    assert not (tmp_path / "store").exists()


def test_an_epoch_asked_for_later_has_the_bits_of_one_asked_for_first(finish, copy, tmp_path):
    study(finish, copy, variant="epoch=3")
    study(finish, tmp_path / "first", variant="epoch=3")
    late, first = checksums(copy), checksums(tmp_path / "first")
    assert len(first) < len(late)
    assert first.items() <= late.items()


def kill(start, root, moment):
    process = start(root, config=TINY)
    while process.poll() is None and not moment():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def checkpoint_of(root, step):
    return lambda: list((root / "scratch").glob(f"*/{step}"))


def test_a_run_is_killed_and_its_store_is_moved(start, finish, whole, tmp_path):
    """You see: nothing.
    Do: the same command with the new --store: it goes on from the last checkpoint.
    """
    kill(start, tmp_path / "first", checkpoint_of(tmp_path / "first", 16))  # epoch 4 of 8, with 4 steps each
    root = (tmp_path / "first").rename(tmp_path / "store")
    (scratch,) = (root / "scratch").iterdir()
    newest = max(int(path.name) for path in scratch.iterdir() if path.name.isdigit())
    study(finish, root)
    trained = {e.key: e.provenance["steps"] for e in Store(root).entries("Network")}
    assert trained[scratch.name] == 32 - newest
    assert sorted(trained.values())[1:] == [32, 32]
    assert checksums(root) == checksums(whole)


def killed_at_random(start, finish, whole, root, seed):
    begin, wait = time.monotonic(), random.Random(seed).uniform(2, 12)
    kill(start, root, lambda: time.monotonic() > begin + wait)
    study(finish, root)
    assert checksums(root) == checksums(whole)


def test_a_run_is_killed_at_any_moment(start, finish, whole, tmp_path):
    """You see: nothing.
    Do: the same command: all results have the bits of a run that was not killed.
    """
    killed_at_random(start, finish, whole, tmp_path / "store", 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_at_ten_random_moments(start, finish, whole, tmp_path, seed):
    killed_at_random(start, finish, whole, tmp_path / "store", seed)


def test_two_runs_on_one_store(start, whole, tmp_path):
    """You see: nothing: they share the work, and each result is made once.
    Do: nothing.
    """
    root = tmp_path / "store"
    pair = [start(root, "--json", config=TINY) for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    counts = [sum(said(out)["made"].values()) for out, _ in ends]
    assert sum(counts) == len(checksums(whole))
    assert checksums(root) == checksums(whole)


def test_a_network_diverges(finish, whole, tmp_path):
    """You see: "diverged in epoch … (…): try a smaller learning rate, a longer warm-up or …", and exit code
    1; what does not need it is made.
    Do: that.
    """
    root = tmp_path / "store"
    found, err = study(finish, root, variant="peak=1e30", code=1)
    assert len(found["failed"]["Network"]) == 1
    assert err.count("diverged") == 1
    assert found["made"]["Network"] == 2
    both = checksums(root).items() & checksums(whole).items()
    assert len(both) == sum(found["made"].values())  # all that does not need it, and the same bits


KINDS = ("Network", "Adversarial", "Measure", "Verdicts")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_named_and_made_again(finish, copy, whole, kind):
    entry = next(iter(Store(copy).entries(kind)))
    content = bytearray((entry.path / ARRAYS).read_bytes())
    content[np.random.default_rng(0).integers(len(content))] ^= 4
    (entry.path / ARRAYS).write_bytes(content)
    for other in Store(copy).entries():  # somebody has to read it
        if kind in ("Network", "Adversarial") and other.kind == "Verdicts":
            shutil.rmtree(other.path)
    code, out, err = finish(copy, "--json", config=TINY)
    assert code == 0, err
    assert f"{kind} {entry.key} is damaged" in out
    assert said(out)["made"][kind] == 1
    assert checksums(copy) == checksums(whole)


def test_packed_results_draw_the_same_tables_elsewhere(finish, copy, whole, tmp_path):
    """Nothing is made, and the rows are the same."""
    file, other = tmp_path / "tiny.tar.xz", tmp_path / "other"
    code, out, err = finish(copy, "pack", str(file), config=TINY)
    assert (code, err) == (0, "")
    assert f"results in {file}" in out
    code, out, _ = finish(other, "unpack", str(file), config=None)
    assert code == 0
    assert "results put into" in out
    found, _ = study(finish, other)
    assert not sum(found["made"].values())
    for table in (copy / "studies/tiny").glob("*.csv"):
        assert (other / "studies/tiny" / table.name).read_text() == table.read_text()
    code, _, err = finish(other, "pack", config=TINY)
    assert code == 1
    assert "pack: expected one FILE behind it" in err


def test_whoever_unpacks_networks_trains_the_others_alone(finish, copy, tmp_path):
    file, other = tmp_path / "tiny.tar.xz", tmp_path / "other"
    code, _, err = finish(copy, "pack", str(file), "--networks=VGG,willd", config=TINY)
    assert code == 1
    assert "--networks: unknown label 'willd'; did you mean wild?" in err
    code, _, err = finish(copy, "pack", str(file), "--networks=VGG,wild", config=TINY)
    assert (code, err) == (0, "")
    finish(other, "unpack", str(file), config=None)
    brought = {entry.key for entry in Store(other).entries("Network")}
    assert len(brought) == len(list(Store(other).entries())) == 2
    found, _ = study(finish, other)
    assert found["made"]["Network"] == 1
    assert checksums(other) == checksums(copy)


def test_gc_removes_what_a_dropped_study_alone_needed(finish, copy, whole):
    study(finish, copy, variant="attacks=2,eps=16")
    text = (copy / "studies/tiny.json").read_text()
    (copy / "studies/other.json").write_text(text)
    shutil.copy(whole / "studies/tiny.json", copy / "studies/tiny.json")
    extra = checksums(copy).keys() - checksums(whole).keys()
    for dry in (True, False):
        flags = ["gc", "--drop=other", "--min_age_hours=0", *(["--dry_run"] if dry else [])]
        code, out, err = finish(copy, *flags, config=None)
        assert code == 0, err
        assert {line.split()[1] for line in out.splitlines()[:-1]} == extra
    assert checksums(copy) == checksums(whole)
    code, out, _ = finish(copy, "gc", "--min_age_hours=0", config=None)
    assert out == "removes 0 results, 0.0 MB, and checkpoints of 0 trainings\n"
    assert not list((copy / "scratch").iterdir())


def test_gc_spares_what_is_young(finish, copy):
    code, out, _ = finish(copy, "gc", "--drop=tiny", config=None)
    assert (code, out.split(",")[0]) == (0, "removes 0 results")
    assert not (copy / "studies/tiny.json").exists()
    code, _, err = finish(copy, "gc", "--drop=tiny", config=None)
    assert code == 1
    assert err.startswith("ValueError: no study 'tiny'")


def test_why_names_what_a_result_is_and_who_needs_it(finish, whole):
    code, out, err = finish(whole, "why", "VGG (seed 0)", config=None)
    assert code == 0, err
    assert "needed by tiny" in out
    assert "cifar_vgg11" in out
    code, _, err = finish(whole, "why", "VGG (seed 1)", config=None)
    assert code == 1
    assert "VGG (seed 0)" in err
    assert "Traceback" not in err


def test_mistakes_are_said_and_nothing_is_written(finish, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "from tests.study import tiny\n"
        "def get_config(variant=''):\n"
        "    c = tiny.get_config()\n"
        "    label, tags, spec = c.networks[0]\n"
        "    c.networks = ((label, tags, {**spec, 'modle': 1}), *c.networks[1:])\n"
        "    c.attacks = (('PGD', 'pgd', {'stpes': 3}),)\n"
        "    return c\n"
    )
    code, out, err = finish(tmp_path / "store", config=str(file))
    assert code == 1
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 2
    assert "'modle'; did you mean model" in lines[0]
    assert "'stpes'; did you mean steps" in lines[1]
    assert not (tmp_path / "store").exists()


def test_a_name_of_any_length_is_a_files(tmp_path):
    """Of many mechanisms and tables a name is longer than file systems take: it is cut, and told apart."""
    long = "sp2024-cpu,mechanisms=" + "+".join(f"SAM&IR_{i}" for i in range(40))
    names = {cli.shortened(name) for name in (long, long + "+ST", "é" * 300, "sp2024-cpu")}
    assert "sp2024-cpu" in names
    assert len(names) == 4
    for name in names:
        (tmp_path / f".{name}.json.123456.tmp").touch()


def test_a_view_without_rows_leaves_no_page_of_its_last_run(tmp_path):
    names = ("table2.md", "table2.csv", "table2_order.csv", "table2_own.csv", "table20.csv", "report.md")
    for name in names:
        (tmp_path / name).touch()
    cli._forget_page(tmp_path, "table2", {"table2", "table2_own", "table20"})
    assert {path.name for path in tmp_path.iterdir()} == {"table2_own.csv", "table20.csv", "report.md"}
