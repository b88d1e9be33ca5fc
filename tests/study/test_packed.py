"""Results in one file, out of one store and into another."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from small import attacked, network, verdicts

from transferjax.study.packed import pack, unpack
from transferjax.study.plan import make_plan
from transferjax.study.printed import seconds
from transferjax.study.resolve import Context
from transferjax.study.run import Local, run
from transferjax.study.specs import Network
from transferjax.study.store import ARRAYS, PROVENANCE, Store


@pytest.fixture(scope="module")
def demand():
    """What a network says of clean and of attacked images."""
    net = network()
    return [verdicts(net), verdicts(net, attacked((net,)))]


@pytest.fixture(scope="module")
def store(one_device, demand, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("whole"))
    assert not run(demand, store, Local(Context(store))).failed
    return store


@pytest.fixture
def file(store, demand, tmp_path):
    assert pack(store, demand, tmp_path / "some.tar.xz") == (2, 0)
    return tmp_path / "some.tar.xz"


def test_another_store_has_them_and_nothing_is_left_to_make(store, demand, file, tmp_path):
    other = Store(tmp_path / "other")
    assert unpack(other, file) == (2, 0)
    assert not make_plan(demand, other).missing
    assert not list(other.entries(Network.__name__))
    for spec in demand:
        for name, array in store.get(spec).items():
            np.testing.assert_array_equal(other.get(spec)[name], array)
        assert other.entry(spec).provenance == store.entry(spec).provenance  # when and where it was made too
    assert unpack(other, file) == (0, 2)
    assert unpack(store, file) == (0, 2)


def test_the_same_results_are_the_same_bytes_and_what_is_missing_is_counted(store, demand, file, tmp_path):
    for path in store.root.rglob("*"):
        path.touch()
    more = [*demand[::-1], demand[0], verdicts(network(seed=9))]
    assert pack(store, more, tmp_path / "again.tar.xz") == (2, 1)
    assert (tmp_path / "again.tar.xz").read_bytes() == file.read_bytes()
    with pytest.raises(ValueError, match="has none of the 1 results that are asked for: run it first"):
        pack(store, [verdicts(network(seed=9))], tmp_path / "none.tar.xz")
    with pytest.raises(ValueError, match="nothing to pack: what is asked for is read from files"):
        pack(store, [], tmp_path / "none.tar.xz")
    assert not (tmp_path / "none.tar.xz").exists()


def rewritten(file, change):
    """A pack whose members `change(name, content)` says anew."""
    members = {}
    with tarfile.open(file) as archive:
        for member in archive:
            members |= change(member.name, archive.extractfile(member).read())
    with tarfile.open(file, "w:xz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def turned(name, content):
    return {name: content[:-1] + bytes([content[-1] ^ 1]) if name.endswith(ARRAYS) else content}


DAMAGES = {
    "a flipped bit": (turned, "is not what was packed"),
    "another key": (lambda n, c: {n.replace("/", "/0", 1): c}, "is not what was packed"),
    "a place outside": (lambda n, c: {"../" + n: c}, r"is no pack of results: it holds '\.\./Verdicts"),
    "a file too few": (lambda n, c: {} if n.endswith(PROVENANCE) else {n: c}, "cannot be read here"),
    "a field of another version": (
        lambda n, c: {n: c.replace(b'"target"', b'"victim"')},
        "cannot be read here",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_pack_nothing_is_put(file, damage, tmp_path):
    change, message = DAMAGES[damage]
    rewritten(file, change)
    other = Store(tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        unpack(other, file)
    assert not other.root.exists()


@pytest.mark.parametrize("content", ["cut", "nothing", "text", "zip"])
def test_what_is_no_pack_is_said(file, content, tmp_path):
    whole = file.read_bytes()
    if content == "zip":
        shutil.make_archive(str(tmp_path / "some"), "zip", tmp_path)
        whole = (tmp_path / "some.zip").read_bytes()
    file.write_bytes(
        {"cut": whole[: len(whole) // 2], "nothing": b"", "text": b"hello\n"}.get(content, whole)
    )
    with pytest.raises(ValueError, match="is no pack of results, or a damaged one"):
        unpack(Store(tmp_path / "other"), file)


def test_what_went_into_results_is_said_where_it_is_not(store, demand, file, tmp_path):
    """Neither networks nor images are in a pack; what they took to make is."""
    other = Store(tmp_path / "other")
    unpack(other, file)
    took = seconds(demand, store)
    assert {type(spec).__name__ for spec in took} == {"Adversarial", "Network", "Verdicts"}
    assert all(value > 0 for value in took.values())
    assert seconds(demand, other) == took


def test_seconds_that_cannot_be_read_are_not_zero(store, demand, tmp_path):
    """So that no table has a number that nobody measured."""
    whole = store.entry(demand[0])
    assert whole.seconds > 0
    damaged = whole._replace(path=tmp_path)
    assert damaged.seconds is None
    for text in ("{", "[]", "{}", '{"seconds": null}'):
        (tmp_path / PROVENANCE).write_text(text)
        assert damaged.seconds is None


def test_a_result_without_a_note_is_left_out(store, demand, tmp_path):
    other = Store(tmp_path)
    clean = demand[0]
    other.put(clean, store.get(clean), {})
    assert seconds(demand, other) == {}
