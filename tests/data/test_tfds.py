"""Data sets: prepared by TFDS, the checks before reading, the cache of decoded arrays, and real CIFAR-10."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from transferjax.data import load
from transferjax.data.crops import decode
from transferjax.data.prepare import prepare
from transferjax.data.tfds import fingerprint, prepared, tfds_dir

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official archive")


@pytest.fixture
def home(tmp_path, tiny_cifar):
    prepare("cifar10", archive=tiny_cifar.archive, data_dir=tmp_path / "tfds")
    return tmp_path / "tfds"


@pytest.fixture
def directory(home):
    return home / "cifar10" / "3.0.2"


def cached(cache):
    return sorted(path.name for path in (cache / "datasets").iterdir())


class TestChecks:
    def test_a_data_set_is_not_prepared(self, tmp_path):
        """You see: "cifar10 is not prepared. Run `python -m transferjax.data.prepare cifar10`, or set
        TFDS_DATA_DIR …", at once.
        Do: that.
        """
        start = time.monotonic()
        with pytest.raises(FileNotFoundError, match=r"data\.prepare cifar10.* TFDS_DATA_DIR .*nowhere"):
            load("cifar10", "train", data_dir=tmp_path / "nowhere")
        assert time.monotonic() - start < 1

    def test_in_a_fresh_process_too_and_without_tensorflow(self, home):
        script = (
            "import sys\nfrom transferjax.data import load\n"
            "try:\n    load('cifar10', 'train', data_dir='nowhere')\n"
            "except FileNotFoundError:\n    assert 'tensorflow_datasets' not in sys.modules\n"
            "else:\n    raise SystemExit('no error')\n"
            f"assert len(load('cifar10', 'train', data_dir={str(home)!r})) == 20\n"
            "assert 'tensorflow_datasets' in sys.modules\n"
            "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_an_empty_directory_counts_as_missing(self, home, directory):
        (directory / "dataset_info.json").unlink()
        with pytest.raises(FileNotFoundError, match="cifar10 is not prepared"):
            load("cifar10", "train", data_dir=home)

    def test_tfds_was_killed_while_it_prepared_a_data_set(self, home, directory):
        """You see: nothing: what it left is not taken for a version.
        Do: nothing.
        """
        for name in ("3.0.3.incompleteA1B2", ".ipynb_checkpoints", "._3.0.2"):
            (directory.parent / name).mkdir()
            (directory.parent / name / "dataset_info.json").write_text("{}")
        assert prepared("cifar10", home) == directory

    def test_a_shard_of_prepared_data_is_missing(self, home, directory):
        """You see: "… lacks cifar10-train.array_record-00000-of-00001. Remove it, then run …", for each
        split.
        Do: that.
        """
        next(directory.glob("*train*")).unlink()
        with pytest.raises(FileNotFoundError, match=r"lacks cifar10-train\.array_record-00000-of-00001"):
            load("cifar10", "test", data_dir=home)

    def test_prepared_data_are_in_another_format(self, home, directory):
        """You see: "… is in format 'tfrecord', expected array_record …".
        Do: move it away, then run `python -m transferjax.data.prepare cifar10`.
        """
        info = directory / "dataset_info.json"
        info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
        with pytest.raises(FileNotFoundError, match="format 'tfrecord', expected array_record"):
            load("cifar10", "train", data_dir=home)

    @pytest.mark.parametrize("name", ["*train*", "dataset_info.json", "features.json"])
    @pytest.mark.parametrize("length", [0, 100])
    def test_prepared_data_are_cut(self, home, directory, name, length):
        """You see: "…/3.0.2 (train) is damaged (RuntimeError: ArrayRecord file should be at least 64KB big)",
        or "…/dataset_info.json is damaged (JSONDecodeError: …)".
        Do: remove the directory, then run `python -m transferjax.data.prepare cifar10`.
        """
        (file,) = directory.glob(name)
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"3\.0\.2.* is damaged .*remove .*data\.prepare cifar10"):
            load("cifar10", "train", data_dir=home)

    def test_a_prepared_data_set_has_no_such_split(self, home):
        """You see: "… has the splits ['train', 'test'], not 'validation'".
        Do: take one of them.
        """
        with pytest.raises(ValueError, match=r"splits \['train', 'test'\], not 'validation'"):
            load("cifar10", "validation", data_dir=home)

    def test_the_newest_version_is_taken_by_number(self, home, directory):
        directory.rename(directory.with_name("3.0.10"))
        (home / "cifar10" / "3.0.9").mkdir()
        (home / "cifar10" / "3.0.9" / "dataset_info.json").write_text("{}")
        assert prepared("cifar10", home).name == "3.0.10"

    def test_where_tfds_keeps_its_data(self, monkeypatch):
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
        assert tfds_dir() == tfds_dir("~/tensorflow_datasets")
        monkeypatch.setenv("TFDS_DATA_DIR", "/data")
        assert (str(tfds_dir()), str(tfds_dir("/other"))) == ("/data", "/other")


class TestCache:
    def test_decodes_once(self, home, cache, monkeypatch):
        first = load("cifar10", "train", data_dir=home)
        monkeypatch.setattr("transferjax.data.tfds.stream", None)
        again = load("cifar10", "train", data_dir=home)
        np.testing.assert_array_equal(first.images, again.images)
        np.testing.assert_array_equal(first.labels, again.labels)
        assert (first.name, first.fingerprint) == (again.name, again.fingerprint)
        assert isinstance(again.images.base, np.memmap)
        assert len(cached(cache)) == 1

    def test_what_another_version_kept_is_left_alone(self, home, cache, monkeypatch):
        """Two versions of the library with one cache: no warning, and each finds what it wrote."""
        for version in (1, 2, 1):
            monkeypatch.setattr("transferjax.data.storage.FORMAT", version)
            monkeypatch.setattr("transferjax.data.tfds.FORMAT", version)
            load("cifar10", "train", data_dir=home)
        assert len(cached(cache)) == 2

    def test_the_fingerprint_follows_the_content(self, home, directory, cache):
        before = [fingerprint(directory, split) for split in ("train", "test")]
        shard = next(directory.glob("*train*"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        after = [fingerprint(directory, split) for split in ("train", "test")]
        assert after[0] != before[0]
        assert after[1] == before[1]

    def test_the_same_content_elsewhere_is_not(self, home, cache, tmp_path, tiny_cifar, monkeypatch):
        load("cifar10", "train", data_dir=home)
        prepare("cifar10", archive=tiny_cifar.archive, data_dir=tmp_path / "elsewhere")
        monkeypatch.setattr("transferjax.data.tfds.stream", None)
        load("cifar10", "train", data_dir=tmp_path / "elsewhere")
        assert len(cached(cache)) == 1

    @pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.json"])
    @pytest.mark.parametrize("damage", ["cut", "flipped"])
    def test_decoded_data_are_cut_or_a_byte_of_them_is_flipped(self, home, cache, tiny_cifar, name, damage):
        """You see: a warning: "cifar10 is decoded again: … is damaged …".
        Do: nothing: they are made anew from the prepared data.
        """
        load("cifar10", "test", data_dir=home)
        (file,) = cache.glob(f"datasets/*/test/{name}")
        whole = file.read_bytes()
        place = len(whole) // 2
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        file.write_bytes(whole[:place] if damage == "cut" else flipped)
        with pytest.warns(UserWarning, match=r"cifar10 is decoded again: .*test is damaged"):
            data = load("cifar10", "test", data_dir=home)
        np.testing.assert_array_equal(data.images, tiny_cifar.images["test"])
        np.testing.assert_array_equal(data.labels, tiny_cifar.labels["test"])
        assert file.read_bytes() == whole

    def test_what_another_process_is_writing_meanwhile_stays(self, home, cache):
        """Two processes start together, with nothing decoded: neither takes the other's unfinished files."""
        load("cifar10", "test", data_dir=home)
        (kept,) = cache.glob("datasets/*/test")
        unfinished = kept.with_name(".test.other.tmp")
        kept.rename(unfinished)
        load("cifar10", "test", data_dir=home)
        assert kept.is_dir()
        assert unfinished.is_dir()

    def test_decoded_data_cannot_be_kept(self, home, cache, tiny_cifar):
        """You see: a warning: "cannot keep decoded cifar10 in …"; the data are there all the same, and
        decoded again next time.
        Do: make room, or set TRANSFERJAX_CACHE_DIR to a place that can be written to.
        """
        cache.write_text("a file where the directory should be")
        with pytest.warns(UserWarning, match="cannot keep decoded cifar10 in .*cache"):
            data = load("cifar10", "test", data_dir=home)
        np.testing.assert_array_equal(data.images, tiny_cifar.images["test"])


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_what_is_not_an_image_is_an_error(content):
    with pytest.raises(ValueError, match=f"cannot decode an image of {len(content)} bytes"):
        decode(content)


def test_real_cifar10():
    try:
        data = load("cifar10", "test")
    except FileNotFoundError as error:
        pytest.skip(f"real CIFAR-10: {error}")
    assert (len(data), data.image_shape) == (10_000, (32, 32, 3))
    np.testing.assert_array_equal(np.bincount(data.labels), 1000)
    np.testing.assert_allclose(data.images.mean((0, 1, 2)) / 255, [0.494, 0.485, 0.450], atol=0.01)


def test_one_byte_in_the_middle_is_another_data_set(tmp_path):
    """Decoded arrays are kept under the fingerprint: a change anywhere must not be served stale."""
    splits = [{"name": "train", "shardLengths": ["1"]}]
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"name": "some", "version": "1.0.0", "splits": splits})
    )
    shard = tmp_path / "some-train.array_record-00000-of-00001"
    content = bytearray(1 << 19)
    shard.write_bytes(content)
    before = fingerprint(tmp_path, "train")
    content[1 << 18] = 1
    shard.write_bytes(content)
    assert fingerprint(tmp_path, "train") != before
