"""Official archives -> TFDS ArrayRecord, without TensorFlow."""

import dataclasses
import hashlib
import io
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from transferjax.data import load
from transferjax.data import prepare as module
from transferjax.data.download import DownloadError
from transferjax.data.prepare import main, members, prepare
from transferjax.data.tfds import WNIDS

# a tiny archive is not the official one, which the library says
pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official archive")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "tfds"


@pytest.fixture
def official(monkeypatch, server, tiny_cifar):
    """Makes the tiny archive, on the local server, the official one."""
    server.content = tiny_cifar.archive.read_bytes()
    recipe = module.RECIPES["cifar10"]
    layout = recipe.layout._replace(url=server.url)
    sha256 = hashlib.sha256(server.content).hexdigest()
    recipe = dataclasses.replace(recipe, layout=layout, sha256=sha256)
    monkeypatch.setitem(module.RECIPES, "cifar10", recipe)


def test_cifar10_arrives_pixel_for_pixel(tiny_cifar, home):
    prepare("cifar10", archive=tiny_cifar.archive, data_dir=home)
    for split in ("train", "test"):
        data = load("cifar10", split, data_dir=home)
        np.testing.assert_array_equal(data.images, tiny_cifar.images[split])
        np.testing.assert_array_equal(data.labels, tiny_cifar.labels[split])
        assert data.class_names[3] == "cat"


def test_tfds_reads_it_by_its_name(tiny_cifar, home):
    prepare("cifar10", archive=tiny_cifar.archive, data_dir=home)
    source = tfds.data_source("cifar10", split="test", data_dir=home)
    assert len(source) == 6
    np.testing.assert_array_equal(source[4]["image"], tiny_cifar.images["test"][4])
    assert (source[4]["label"], source[4]["id"]) == (tiny_cifar.labels["test"][4], b"test_00004")
    builder = tfds.builder_from_directory(str(home / "cifar10" / "3.0.2"))
    assert builder.info.features["label"].names[9] == "truck"
    assert builder.info.splits["train"].num_examples == 20
    assert "tensorflow" not in sys.modules


def test_imagenette_keeps_its_jpegs_and_mixes_the_classes(tiny_imagenette, home):
    archive, contents = tiny_imagenette
    prepare("imagenette/160px-v2", archive=archive, data_dir=home)
    decoders = {"image": tfds.decode.SkipDecoding()}
    for split, folder, count in (("train", "train", 30), ("validation", "val", 20)):
        source = tfds.data_source("imagenette/160px-v2", split=split, data_dir=home, decoders=decoders)
        found = sorted((record["image"], WNIDS[record["label"]]) for record in source)
        assert found == sorted(
            (jpeg, path.split("/")[2]) for path, jpeg in contents.items() if f"/{folder}/" in path
        )
        labels = [record["label"] for record in source]
        assert len(labels) == count
        assert len(set(labels[:10])) > 3


def test_what_macos_adds_to_an_archive_is_no_image(tiny_imagenette, home, tmp_path, write_tar):
    _, contents = tiny_imagenette
    extra = {path.rsplit("/", 1)[0] + "/._" + path.rsplit("/", 1)[1]: b"Mac OS X" for path in contents}
    extra["imagenette2-160/train/.ipynb_checkpoints/a.JPEG"] = b"no class"
    prepare("imagenette/160px-v2", archive=write_tar(tmp_path / "mac.tgz", contents | extra), data_dir=home)
    assert len(load("imagenette/160px-v2", "train", data_dir=home, size=4)) == 30


def test_downloads_the_archive_once_and_clears_up(official, server, home, cache, monkeypatch, capsys):
    server.plan = [("drop", 5000)]
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    assert main(["cifar10"]) == 0
    assert capsys.readouterr().out.strip() == str(home / "cifar10" / "3.0.2")
    assert server.requests == [None, "bytes=5000-"]
    assert list((cache / "downloads").iterdir()) == []
    assert main(["cifar10"]) == 0
    assert len(server.requests) == 2
    assert len(load("cifar10", "train")) == 20


def test_a_changed_download_is_refused(official, server, home):
    server.content = server.content[:-1] + b"x"
    with pytest.raises(DownloadError, match="is not the expected file"):
        prepare("cifar10", data_dir=home)
    assert not home.exists()


def test_command_line_reports_errors_without_a_traceback(home, capsys):
    assert main(["cifar10", "--archive=absent.tar.gz", f"--data_dir={home}"]) == 1
    assert "absent.tar.gz" in capsys.readouterr().err


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("../escape", b"x"),
        ("/etc/passwd", b"x"),
        ("cifar-10-batches-bin/../../escape", b"x"),
        ("link", link("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE, "/etc/passwd")),
        ("hard", link("cifar-10-batches-bin/test_batch.bin", tarfile.LNKTYPE, "/etc/passwd")),
        ("device", link("device", tarfile.CHRTYPE, "")),
    ],
)
def test_hostile_members_are_refused(tmp_path, home, write_tar, name, member):
    archive = write_tar(tmp_path / "hostile.tar.gz", {name: member})
    with pytest.raises(ValueError, match=r"refused: .* is not a plain file inside"):
        prepare("cifar10", archive=archive, data_dir=home)
    assert not home.exists()


def test_absurd_sizes_are_refused(tmp_path, write_tar, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_MEMBER", 1000)
    archive = write_tar(tmp_path / "bomb.tar.gz", {"small": bytes(1000), "large": bytes(1001)})
    files = members(archive)
    next(files)
    with pytest.raises(ValueError, match="refused: 'large' has 1001 bytes"):
        next(files)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "ragged"])
def test_damaged_archives_are_refused(tmp_path, home, tiny_cifar, write_tar, damage):
    archive, contents = tiny_cifar.archive, dict(tiny_cifar.contents)
    if damage == "cut":
        archive.write_bytes(archive.read_bytes()[:-5000])
    elif damage == "garbage":
        archive.write_bytes(b"<html>not an archive</html>")
    else:
        name = "cifar-10-batches-bin/data_batch_3.bin"
        contents[name] = contents[name][: 0 if damage == "missing" else -1]
        write_tar(archive, contents)
    with pytest.raises(ValueError, match=r"cifar-10-b"):
        prepare("cifar10", archive=archive, data_dir=home)
    assert not home.exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("imagenette2-160/train/n99999999/a.JPEG", "one of the ten classes, got .*n99999999"),
        (f"imagenette2-160/test/{WNIDS[0]}/a.JPEG", "expected train or val"),
        (f"imagenette2-160/train/{WNIDS[0]}/a.JPEG", "no images for validation"),
    ],
)
def test_other_folders_are_refused(tmp_path, home, write_tar, path, message):
    archive = write_tar(tmp_path / "other.tgz", {path: b"x"})
    with pytest.raises(ValueError, match=message):
        prepare("imagenette/160px-v2", archive=archive, data_dir=home)


def test_unknown_names_and_occupied_places(home):
    with pytest.raises(ValueError, match="no recipe for 'mnist'; there are cifar10"):
        prepare("mnist", data_dir=home)
    (home / "cifar10" / "3.0.2" / "something").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="move it away first"):
        prepare("cifar10", data_dir=home)


def test_says_that_an_archive_is_not_the_official_one(tiny_cifar, home):
    with pytest.warns(UserWarning, match="is not the official archive: sha256"):
        prepare("cifar10", archive=tiny_cifar.archive, data_dir=home)


def test_a_killed_run_is_continued_by_the_same_command(server, tiny_cifar, home, cache):
    server.content = tiny_cifar.archive.read_bytes()
    server.plan = [("stall", 50_000)]
    script = (
        "import sys, dataclasses\nfrom transferjax.data import prepare as module\n"
        "recipe = module.RECIPES['cifar10']\n"
        f"layout = recipe.layout._replace(url={server.url!r})\n"
        f"sha256 = {hashlib.sha256(server.content).hexdigest()!r}\n"
        "module.RECIPES['cifar10'] = dataclasses.replace(recipe, layout=layout, sha256=sha256)\n"
        f"sys.exit(module.main(['cifar10', '--data_dir={home}']))\n"
    )
    part = cache / "downloads" / "file.tar.gz.part"
    with subprocess.Popen([sys.executable, "-c", script]) as killed:
        while not (part.exists() and part.stat().st_size):
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
    assert not home.exists()
    have = part.stat().st_size
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert server.requests == [None, f"bytes={have}-"]
    np.testing.assert_array_equal(load("cifar10", "test", data_dir=home).images, tiny_cifar.images["test"])


def test_a_label_of_no_class_is_refused(tiny_cifar, home, tmp_path, write_tar):
    """`prepare --archive` with a label of 200: refused by name, nothing is written."""
    name = "cifar-10-batches-bin/data_batch_2.bin"
    content = bytearray(tiny_cifar.contents[name])
    content[0] = 200
    archive = write_tar(tmp_path / "wrong.tar.gz", tiny_cifar.contents | {name: bytes(content)})
    with pytest.raises(ValueError, match=r"image 4 of cifar10 train has the label 200, expected 0 … 9"):
        prepare("cifar10", archive=archive, data_dir=home)
    assert not list(home.rglob("*array_record*"))


@pytest.mark.parametrize("again", ["", "./"])
def test_a_member_twice_is_refused(tiny_cifar, home, tmp_path, again):
    """`prepare --archive` with two files of one name: nobody knows which counts, so it is refused."""
    with tarfile.open(tmp_path / "twice.tar.gz", "w:gz") as tar:
        for name, content in [*tiny_cifar.contents.items(), *list(tiny_cifar.contents.items())[:1]]:
            info = tarfile.TarInfo(again + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"refused: '.*data_batch_1\.bin' is in it twice"):
        prepare("cifar10", archive=tmp_path / "twice.tar.gz", data_dir=home)
