"""Studies and their stores: what a store keeps, finds damaged, explains and lets go."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from small import attacked, network, verdicts

from transferjax import data
from transferjax.data.records import Layout, Record, write_prepared
from transferjax.study import binding, upkeep
from transferjax.study.content import forget_facts
from transferjax.study.plan import make_plan
from transferjax.study.printed import seconds
from transferjax.study.resolve import Context
from transferjax.study.run import Done, Local, run
from transferjax.study.specs import Data
from transferjax.study.store import ARRAYS, PROVENANCE, SPEC, Corrupt, Store, Unwritable


@pytest.fixture(scope="module")
def specs():
    """A network, an attack on it, and what it says of that."""
    net = network()
    return [net, images := attacked((net,)), verdicts(net, images)]


@pytest.fixture(scope="module")
def whole(one_device, specs, tmp_path_factory):
    """A store that has them; tests take copies."""
    store = Store(tmp_path_factory.mktemp("whole"))
    assert len(run(specs[2:], store, Local(Context(store, checkpoint_epochs=1))).made) == 3
    return store


@pytest.fixture
def store(whole, tmp_path):
    return Store(shutil.copytree(whole.root, tmp_path / "store"))


def demand(store, *wanted, say=lambda text: None, read=lambda: None):
    return run(wanted, store, Local(Context(store, checkpoint_epochs=1)), say, read=read)


def checksums(store):
    return {entry.key: entry.provenance["checksum"] for entry in store.entries()}


def arrays_of(store, spec):
    return store.path(spec) / ARRAYS


DAMAGES = {
    "the length of the header": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "the header": lambda content: content[:12] + bytes([content[12] ^ 32]) + content[13:],
    "the last byte": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "an end that is cut off": lambda content: content[:-7],
    "nothing left": lambda content: b"",
}


class TestDamage:
    @pytest.mark.parametrize("kind", DAMAGES)
    def test_a_result_is_cut_or_a_byte_of_it_is_flipped(self, store, specs, kind):
        """You see: "Network … is damaged (its checksum differs): it is made again".
        Do: nothing: it is made again with the same bits.
        """
        for spec in specs:
            arrays_of(store, spec).write_bytes(DAMAGES[kind](arrays_of(store, spec).read_bytes()))
            with pytest.raises(Corrupt, match=f"{spec.kind} {spec.key} is damaged"):
                store.get(spec)

    @pytest.mark.parametrize("file", [ARRAYS, PROVENANCE])
    def test_a_file_of_a_result_is_gone_or_nonsense(self, store, specs, file):
        """You see: "Network … is damaged (…): it is made again".
        Do: nothing.
        """
        (store.path(specs[0]) / file).write_text("[]")
        (store.path(specs[1]) / file).unlink()
        for spec in specs[:2]:
            with pytest.raises(Corrupt):
                store.get(spec)

    @pytest.mark.parametrize("place", range(3))
    def test_a_view_that_reads_it_has_it_made_again_with_the_same_bits(self, store, whole, specs, place):
        spec, said, read = specs[place], [], []
        arrays_of(store, spec).write_bytes(b"x" + arrays_of(store, spec).read_bytes()[1:])
        outcome = demand(store, specs[2], spec, say=said.append, read=lambda: read.append(store.get(spec)))
        assert list(outcome.made) == [spec.key]
        assert spec.key not in outcome.found
        assert said == [f"{spec.kind} {spec.key} is damaged (its checksum differs): it is made again"]
        assert len(read) == 1
        assert checksums(store) == checksums(whole)

    def test_a_damaged_result_is_what_others_are_made_of(self, store, whole, specs):
        """You see: "Network … is damaged (…): it is made again", before what needs it.
        Do: nothing.
        """
        net, images, said = specs[0], specs[1], []
        arrays_of(store, net).write_bytes(b"")
        store.discard(images.kind, images.key)
        outcome = demand(store, images, say=said.append)
        assert set(outcome.made) == {net.key, images.key}
        assert f"Network {net.key} is damaged" in said[0]
        assert checksums(store) == checksums(whole)

    @pytest.mark.parametrize("note", ["", "[]", "{}"])
    def test_the_note_of_what_others_are_made_of_is_damaged(self, store, specs, note):
        """You see: nothing; what it took to make is not in the sum.
        Do: nothing.
        """
        (store.path(specs[0]) / PROVENANCE).write_text(note)
        took = seconds(specs[2:], store)
        assert {specs[1], specs[2]} <= set(took)

    def test_arrays_come_in_the_order_of_their_names(self, store, specs):
        """Whatever order the file's reader has: tables have their columns by it."""
        names = list(store.get(specs[2]))
        assert len(names) > 2
        assert names == sorted(names)

    def test_the_disk_does_not_answer(self, store, specs, monkeypatch):
        """You see: what the system says ("Too many open files"), for what needs it; no result is thrown away.
        Do: the same command later.
        """

        def refuse(path):
            raise OSError(errno.EMFILE, "Too many open files", str(path))

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            store.get(specs[0])
        outcome = demand(store, attacked(specs[0], eps=8 / 255))
        ((_, why),) = outcome.failed.values()
        assert "Too many open files" in why
        assert store.has(specs[0])

    def test_what_failed_before_the_damage_was_found_is_not_tried_again(self, tmp_path):
        net, other = network(seed=1), network(seed=2)
        blocked, tries = verdicts(net), []

        def execute(groups):
            for group in groups:
                tries.append(group.members[0])
                if group.members[0] == net:
                    yield group, Done(failed={net.key: "no"})
                elif group.members[0] == other:
                    damage = ("Network", other.key, "why") if tries.count(other) == 1 else None
                    yield group, Done([] if damage else [other.key], damaged=damage)

        outcome = run([net, other, blocked], Store(tmp_path), execute, lambda text: None)
        assert tries.count(net) == 1
        assert tries.count(other) == 2
        assert list(outcome.blocked) == [blocked.key]


def test_a_full_disk_ends_the_run_and_makes_no_more(tmp_path, specs, one_device, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Unwritable, match=f"cannot write {tmp_path}.*No space left on device; make room"):
        demand(Store(tmp_path), specs[2])
    assert not list(Store(tmp_path).entries())


class TestData:
    def save(self, path, change=lambda images: images):
        for split in ("train", "test"):
            source = data.load("digits", split).subset(64)
            images = change(np.array(source.images))
            data.save(data.Dataset(images, source.labels, source.class_names), path, split)

    def demanded(self, path):
        forget_facts()
        net = network(data=Data(name=str(path), split="train"))
        images = attacked(net, data=Data(name=str(path), count=32))
        return net, verdicts(net, images)

    def test_elsewhere_they_are_the_same_and_one_pixel_makes_them_others(self, tmp_path, one_device, capsys):
        self.save(tmp_path / "here")
        store, (net, before) = Store(tmp_path / "store"), self.demanded(tmp_path / "here")
        assert len(demand(store, before).made) == 3
        (tmp_path / "here").rename(tmp_path / "there")
        assert not make_plan([self.demanded(tmp_path / "there")[1]], store).missing

        def one_pixel(images):
            images[40, 3, 3] ^= 1
            return images

        self.save(tmp_path / "changed", one_pixel)
        changed, after = self.demanded(tmp_path / "changed")
        plan = make_plan([after], store)
        assert {spec.kind for spec in plan.missing.values()} == {"Network", "Adversarial", "Verdicts"}
        assert not plan.found
        store.write_study("digits", [before], {"ST (seed 0)": net})
        upkeep.why(store, "ST", {"ST (seed 0)": changed})
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"ST (seed 0): {changed.key}, needed by no study"
        assert said[1].strip() == "missing"
        contents = f'data.content: "{net.data.content}" there, "{changed.data.content}" here'
        assert [line.strip() for line in said[3:]] == [
            f"differs from {net.key[:12]} ST (seed 0) in",
            contents,
        ]

    def test_records_in_any_number_of_shards_are_the_same(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRANSFERJAX_CACHE_DIR", str(tmp_path / "cache"))
        images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
        records = [
            Record(cv2.imencode(".png", image)[1].tobytes(), i % 10, "") for i, image in enumerate(images)
        ]
        layout = Layout(tuple(map(str, range(10))), (32, 32, 3), "png", "")
        one = tmp_path / "one/cifar10/3.0.2"
        write_prepared(one, "cifar10", {"train": records, "test": records}, layout, progress=False)
        other = shutil.copytree(one, tmp_path / "other/cifar10/3.0.2")
        info = json.loads((other / "dataset_info.json").read_text())
        for split in info["splits"]:
            name = f"cifar10-{split['name']}.array_record"
            (whole,) = other.glob(f"{name}-*")
            reader = ArrayRecordReader(str(whole))
            every = reader.read(0, reader.num_records())
            whole.unlink()
            split["shardLengths"] = ["4", "3", "2"]
            for number, part in enumerate((every[:4], every[4:7], every[7:])):
                writer = ArrayRecordWriter(str(other / f"{name}-{number:05d}-of-00003"), "group_size:1")
                for record in part:
                    writer.write(record)
                writer.close()
        (other / "dataset_info.json").write_text(json.dumps(info))
        keys = []
        for place in ("one", "other"):
            monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / place))
            forget_facts()
            keys.append(binding.bound(Data(name="cifar10")).key)
        assert len(list((tmp_path / "cache/datasets").iterdir())) == 2  # both were read
        assert keys[0] == keys[1]


def old(path):
    for place in (path, *path.rglob("*")):
        os.utime(place, (time.time() - 1e6,) * 2)


class TestGarbage:
    def test_checkpoints_that_a_study_still_needs_stay_however_old(self, store, specs):
        net = specs[0]
        unfinished, dropped = network(epochs=2.0), network(epochs=3.0)
        for spec in (net, unfinished, dropped):
            (store.scratch(spec.key) / "2").mkdir(parents=True, exist_ok=True)
        old(store.root)
        store.write_study("a", [*specs, unfinished.replace(epoch=1.0)], {})
        store.write_study("b", [dropped], {})
        assert {path.name for path in store.leftovers() if path.parent.name == "scratch"} == {net.key}
        found = {path.name for path in store.leftovers(without="b") if path.parent.name == "scratch"}
        assert found == {net.key, dropped.key}
        with store.lock(net.key):
            assert net.key not in {path.name for path in store.leftovers()}

    def test_killed_runs_left_what_nobody_needs(self, store, specs):
        """You see: nothing, but the room that it takes.
        Do: `gc`: it removes what is older than a day, and spares what runs write now.
        """
        store.write_study("a", specs, {})
        before = checksums(store)
        left = [
            store.root / f"objects/Network/.{specs[0].key}.abc.tmp",
            store.root / "trash/0123/Network-0123",
            store.root / "studies/.a.xyz.json",
        ]
        for path in left[:2]:
            path.mkdir(parents=True)
        left[2].write_text("{")
        assert list(store.studies()) == ["a"]
        upkeep.gc(store, 86400.0)
        assert all(path.exists() for path in left)
        old(store.root)
        upkeep.gc(store, 86400.0)
        assert not any(path.exists() for path in left)
        assert not list(store.root.glob("locks/*"))
        assert checksums(store) == before

    def test_a_held_lock_stays(self, store):
        with store.lock("group"):
            old(store.root)
            upkeep.gc(store, 0.0)
            assert (store.root / "locks/group").exists()

    def test_the_note_of_a_study_is_damaged(self, store, specs, capsys):
        """You see: "…/one.json is damaged: run its study again, or remove it", from `gc`, which then removes
        nothing.
        Do: that.
        """
        store.write_study("all", specs, {})
        store.write_study("one", specs[:1], {})
        upkeep.gc(store, 0.0, drop="all", dry=True)
        assert {line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]} == {
            spec.key for spec in specs[1:]
        }
        assert len(checksums(store)) == 3
        (store.root / "studies/one.json").write_text("{}")
        with pytest.raises(ValueError, match=r"one\.json is damaged"):
            upkeep.gc(store, 0.0, drop="all")
        assert len(checksums(store)) == 3


class TestWhy:
    def test_what_a_study_called_so_and_is_missing(self, store, specs, capsys):
        other = network(seed=7)
        store.write_study("a", specs, {"SAM (seed 7)": other, "ST (seed 0)": specs[0]})
        upkeep.why(store, "SAM", {})
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"SAM (seed 7): {other.key}, needed by no study"
        assert said[1].strip() == "missing"
        assert [line.strip() for line in said[3:]] == [
            f"differs from {specs[0].key[:12]} ST (seed 0) in",
            "seed: 0 there, 7 here",
        ]

    def test_a_key_what_it_needs_and_who_needs_it(self, store, specs, capsys):
        store.write_study("a", specs, {"ST (seed 0)": specs[0]})
        upkeep.why(store, specs[1].key[:8], {})
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"{specs[1].key}: {specs[1].key}, needed by a"
        assert said[3].strip() == f"needs Network {specs[0].key[:12]} ST (seed 0): there"

    def test_a_result_cannot_be_read_when_it_is_listed(self, store, specs, capsys):
        """You see: "(cannot be read)" in its line of `ls`; "it cannot be read" from `why`.
        Do: run its study again: it makes it again.
        """
        (store.path(specs[0]) / SPEC).write_text("{")
        (store.path(specs[1]) / PROVENANCE).unlink()
        upkeep.ls(store)
        said = capsys.readouterr().out.splitlines()
        assert sum("(cannot be read)" in line for line in said) == 2
        upkeep.why(store, specs[0].key, {})
        assert "it cannot be read" in capsys.readouterr().out

    def test_why_is_asked_about_a_name_that_nothing_has(self, store, specs):
        """You see: "nothing is called 'TS'; did you mean …?", or all names.
        Do: take one of them.
        """
        store.write_study("a", specs, {"ST (seed 0)": specs[0]})
        with pytest.raises(ValueError, match="nothing is called 'TS'"):
            upkeep.why(store, "TS", {})
