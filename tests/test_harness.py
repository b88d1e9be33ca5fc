"""The benchmarks' harness: contenders in processes of their own take turns; the page is the results'."""

import itertools
import os
import time
from pathlib import Path

import pytest

from transferjax import xla

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def sleeper(seconds, log):
    import os

    def call():
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {os.environ.get('MARK', '-')}\n")
        time.sleep(seconds)

    return call


def flags(log):
    import os

    import transferjax  # noqa: F401

    Path(log).write_text(os.environ.get("XLA_FLAGS", ""))
    return lambda: None


def breaks():
    raise OSError("nothing here")


def test_contenders_take_turns_in_processes_of_their_own(tmp_path):
    from harness import Contender, compare

    log, ballast = tmp_path / "log", b"x" * (600 << 20)
    contenders = [
        Contender("slow", sleeper, {"seconds": 0.2, "log": str(log)}, {"MARK": "a"}),
        Contender("fast", sleeper, {"seconds": 0.1, "log": str(log)}),
    ]
    found = compare(contenders, rounds=3)
    assert list(found) == ["slow", "fast"]
    for name, least in (("slow", 0.2), ("fast", 0.1)):
        low, high = found[name]["quartiles_s"]
        assert least <= low <= found[name]["median_s"] <= high
        assert found[name]["first_s"] >= least
        assert 0 < found[name]["peak_mib"] < 400  # its own, not the largest of the process that started it
    del ballast
    said = [line.split() for line in log.read_text().splitlines()]
    assert len({pid for pid, _ in said}) == 2
    assert str(os.getpid()) not in {pid for pid, _ in said}
    assert {mark for _, mark in said} == {"a", "-"}
    changes = sum(before != after for (before, _), (after, _) in itertools.pairwise(said))
    assert changes == 1 + 4  # after the first calls the order turns around in every round


def chatty(log):
    print("what a library says")
    return sleeper(0.0, log)


def test_a_contender_that_breaks_is_named_and_the_others_go_on(capfd, tmp_path):
    """Whatever they print."""
    from harness import Contender, compare
    from page import _cases, draw

    found = compare(
        [Contender("broken", breaks), Contender("sound", chatty, {"log": str(tmp_path / "log")})], 1
    )
    assert found["broken"] == {"failed": "the process of 'broken' ended with 1: see above"}
    assert found["sound"]["median_s"] >= 0
    said = capfd.readouterr().err
    assert "nothing here" in said
    assert "what a library says" in said
    table = _cases({"case": found})
    assert table[2].startswith("| case | broken | failed |")
    assert "| 1.00 |" in table[3]
    draw({"question": "", "cases": {"case": found}}, tmp_path / "x.png")


def test_times_are_of_one_unit_of_work(tmp_path):
    from harness import Contender, compare

    some = {"seconds": 0.1, "log": str(tmp_path / "log")}
    found = compare([Contender("one", sleeper, some), Contender("eight", sleeper, some, work=8)], rounds=1)
    assert found["one"]["median_s"] > 4 * found["eight"]["median_s"]


def test_a_childs_fusions_are_its_own(monkeypatch, tmp_path):
    """This process has chosen; a contender that leaves XLA as it is does not inherit that."""
    from harness import Contender, compare

    monkeypatch.setenv("XLA_FLAGS", xla.FUSIONS)
    log = {name: str(tmp_path / name) for name in ("ours", "default")}
    compare([Contender("ours", flags, {"log": log["ours"]})], 1)
    compare([Contender("default", flags, {"log": log["default"]}, {xla.SWITCH: "default"})], 1)
    assert [xla.FUSIONS in Path(path).read_text() for path in log.values()] == [True, False]


def test_names_and_rounds_are_checked():
    from harness import Contender, compare

    with pytest.raises(ValueError, match="at least one round"):
        compare([Contender("a", breaks)], rounds=0)
    with pytest.raises(ValueError, match="names that differ"):
        compare([Contender("a", breaks), Contender("a", breaks)], rounds=1)


def test_a_benchmark_goes_on_where_it_was(tmp_path, monkeypatch):
    """With `--resume`: the same commit, settings, machine; never of a changed checkout."""
    import harness

    said, log = {"commit": "1", "device": "cpu", "load": 0.1}, tmp_path / "log"
    monkeypatch.setattr(harness, "where", lambda: said)
    cases = {
        name: [harness.Contender("sleeper", sleeper, {"seconds": 0.0, "log": str(log)})] for name in "ab"
    }

    def ran(names: str, *flags: str) -> bool:
        """Whether anything was timed."""
        log.unlink(missing_ok=True)
        read = harness.parser("").parse_args(["--rounds=1", f"--out={tmp_path / 'x.json'}", *flags])
        harness.run("x", "How long?", {name: cases[name] for name in names}, read)
        return log.exists()

    assert ran("a")
    said["load"] = 2.0
    assert not ran("a", "--resume")
    assert ran("ab", "--resume")
    assert not ran("ab", "--resume")
    assert ran("ab", "--resume", "--rounds=2")
    said["commit"] = "2-dirty"
    assert ran("ab", "--resume", "--rounds=2")
    assert ran("ab", "--resume", "--rounds=2")
    said["commit"] = "2"
    assert ran("ab", "--resume", "--rounds=2")
    assert ran("ab", "--rounds=2")
    (tmp_path / "x.json").write_text("half of it")
    with pytest.raises(ValueError, match=r"holds no results .*remove it, or leave --resume out"):
        ran("ab", "--resume")


def test_the_page_is_made_from_the_results():
    from page import RESULTS, markdown, pictured, read

    results = read()
    assert (BENCHMARKS / "README.md").read_text() == markdown(results)
    for name, report in results.items():
        assert pictured(report) == (RESULTS / f"{name}.png").exists()


def test_rows_are_points_where_axes_are_named(tmp_path):
    from page import draw, markdown, pictured

    report = {
        "question": "How soon?",
        **{"packages": {}, "device": "cpu", "cores": 2, "load": 0.0, "commit": "1", "time": "now"},
        **{"settings": {}, "rows": {"ST": {"s": 3.0, "%": 70}, "SAM": {"s": 9.0, "%": 80}}},
    }
    assert "![" not in markdown({"fast": report})
    assert not pictured(report)
    drawn = {**report, "axes": ["s", "%"]}
    assert "![How soon?](results/fast.png)" in markdown({"fast": drawn})
    draw(drawn, tmp_path / "fast.png")
    assert (tmp_path / "fast.png").stat().st_size > 5000
