"""Archives: official ones become ArrayRecord of TFDS, without TensorFlow."""

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


def test_a_downloaded_archive_is_another_one(official, server, home):
    """You see: "… is not the expected file: sha256 …, expected …"; nothing is written.
    Do: the same command later; or fetch it elsewhere, and pass --archive.
    """
    server.content = server.content[:-1] + b"x"
    with pytest.raises(DownloadError, match="is not the expected file"):
        prepare("cifar10", data_dir=home)
    assert not home.exists()


def test_there_is_no_archive_at_that_place(home, capsys):
    """You see: one line with its name, and exit code 1.
    Do: correct the path.
    """
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
def test_an_archive_has_members_outside_of_itself(tmp_path, home, write_tar, name, member):
    """You see: "refused: '../escape' is not a plain file inside of the archive", for links and devices, too;
    nothing is written.
    Do: do not use the archive.
    """
    archive = write_tar(tmp_path / "hostile.tar.gz", {name: member})
    with pytest.raises(ValueError, match=r"refused: .* is not a plain file inside"):
        prepare("cifar10", archive=archive, data_dir=home)
    assert not home.exists()


def test_a_member_of_an_archive_is_absurdly_large(tmp_path, write_tar, monkeypatch):
    """You see: "refused: 'large' has … bytes", before it is unpacked.
    Do: do not use the archive.
    """
    monkeypatch.setattr(module, "LARGEST_MEMBER", 1000)
    archive = write_tar(tmp_path / "bomb.tar.gz", {"small": bytes(1000), "large": bytes(1001)})
    files = members(archive)
    next(files)
    with pytest.raises(ValueError, match="refused: 'large' has 1001 bytes"):
        next(files)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "ragged"])
def test_an_archive_is_damaged(tmp_path, home, tiny_cifar, write_tar, damage):
    """You see: its name with "unexpected end of data" or "not a gzip file", or "expected
    cifar-10-batches-bin/data_batch_3.bin with records of 3073 bytes each"; nothing is written.
    Do: get the archive again.
    """
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
def test_an_archive_has_other_folders(tmp_path, home, write_tar, path, message):
    """You see: "expected train or val and one of the ten classes, got …", or "no images for validation".
    Do: get the archive that the data set is made of.
    """
    archive = write_tar(tmp_path / "other.tgz", {path: b"x"})
    with pytest.raises(ValueError, match=message):
        prepare("imagenette/160px-v2", archive=archive, data_dir=home)


def test_something_else_lies_where_data_are_to_be_prepared(home):
    """You see: "… exists, but is not a prepared data set; move it away first"; for another name "no recipe
    for 'mnist'; there are cifar10, …".
    Do: what it says.
    """
    with pytest.raises(ValueError, match="no recipe for 'mnist'; there are cifar10"):
        prepare("mnist", data_dir=home)
    (home / "cifar10" / "3.0.2" / "something").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="move it away first"):
        prepare("cifar10", data_dir=home)


def test_an_archive_is_not_the_official_one(tiny_cifar, home):
    """You see: a warning: "… is not the official archive: sha256 …"; it is read.
    Do: nothing, if you mean it.
    """
    with pytest.warns(UserWarning, match="is not the official archive: sha256"):
        prepare("cifar10", archive=tiny_cifar.archive, data_dir=home)


def test_prepare_is_killed(server, tiny_cifar, home, cache):
    """You see: nothing: what is half done lies in the cache of downloads.
    Do: the same command: it goes on from the byte at which it was.
    """
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


def test_a_label_in_an_archive_is_no_class(tiny_cifar, home, tmp_path, write_tar):
    """You see: "image 4 of cifar10 train has the label 200, expected 0 … 9"; nothing is written.
    Do: get the archive again.
    """
    name = "cifar-10-batches-bin/data_batch_2.bin"
    content = bytearray(tiny_cifar.contents[name])
    content[0] = 200
    archive = write_tar(tmp_path / "wrong.tar.gz", tiny_cifar.contents | {name: bytes(content)})
    with pytest.raises(ValueError, match=r"image 4 of cifar10 train has the label 200, expected 0 … 9"):
        prepare("cifar10", archive=archive, data_dir=home)
    assert not list(home.rglob("*array_record*"))


@pytest.mark.parametrize("again", ["", "./"])
def test_an_archive_has_a_member_twice(tiny_cifar, home, tmp_path, again):
    """You see: "refused: '…data_batch_1.bin' is in it twice".
    Do: get the archive again: nobody knows which of the two counts.
    """
    with tarfile.open(tmp_path / "twice.tar.gz", "w:gz") as tar:
        for name, content in [*tiny_cifar.contents.items(), *list(tiny_cifar.contents.items())[:1]]:
            info = tarfile.TarInfo(again + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"refused: '.*data_batch_1\.bin' is in it twice"):
        prepare("cifar10", archive=tmp_path / "twice.tar.gz", data_dir=home)
