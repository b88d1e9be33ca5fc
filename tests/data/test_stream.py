"""Data sets: streams of the same crops whatever the threads or a break; folders and tables of images."""

import shutil
import sys
import threading
import time
from dataclasses import replace
from itertools import islice

import chex
import cv2
import jax
import numpy as np
import pytest

from transferjax import data
from transferjax.data.crops import whole
from transferjax.data.prepare import prepare
from transferjax.data.stream import ImageStream

pytest.importorskip("grain")

CLASSES = ("cat", "dog")


def encode(picture, suffix=".png"):
    return cv2.imencode(suffix, picture[..., ::-1])[1].tobytes()


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*rng.integers(12, 24, 2), 3), np.uint8) for _ in range(11)]


@pytest.fixture
def stream(pictures):
    labels = np.arange(11) % 2
    crop = data.random_resized_crop()
    return ImageStream(
        [encode(picture) for picture in pictures], labels, CLASSES, 8, crop, "tiny", "f", threads=3
    )


@pytest.fixture
def folder(tmp_path, pictures):
    for i, picture in enumerate(pictures):
        path = tmp_path / "pets" / "train" / CLASSES[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture))
    (path.parent / "notes.txt").write_text("not an image")
    return tmp_path / "pets"


def host(batches, count=None):
    return [jax.tree.map(np.asarray, batch) for batch in islice(batches, count)]


def same(a, b):
    chex.assert_trees_all_equal(a, b)


class TestTraining:
    def test_batches_are_those_of_the_data_set_in_memory_in_the_same_order(self, stream):
        memory = stream.to_dataset()
        for a, b in zip(
            host(data.train_batches(stream, 4, seed=1), 5),
            host(data.train_batches(memory, 4, seed=1), 5),
            strict=True,
        ):
            same((a.labels, a.indices, a.weights), (b.labels, b.indices, b.weights))
            assert a.images.shape == b.images.shape == (4, 8, 8, 3)

    def test_threads_do_not_matter(self, stream):
        alone = host(data.train_batches(replace(stream, threads=1), 4, seed=1), 6)
        same(host(data.train_batches(stream, 4, seed=1), 6), alone)

    def test_resuming_continues_the_same_run(self, stream):
        whole = host(data.train_batches(stream, 4, seed=1), 6)
        same(host(data.train_batches(stream, 4, seed=1, start_step=4), 2), whole[4:])

    def test_shards_make_up_the_global_batch(self, stream):
        parts = [host(data.train_batches(stream, 4, seed=1, shard=(i, 2)), 3) for i in range(2)]
        joined = [jax.tree.map(lambda *x: np.concatenate(x), *both) for both in zip(*parts, strict=True)]
        same(joined, host(data.train_batches(stream, 4, seed=1), 3))

    def test_crops_change_with_the_step_and_the_seed(self, stream):
        one = stream.subset([3])
        crops = [batch.images.tobytes() for batch in host(data.train_batches(one, 1, seed=1), 4)]
        crops += [batch.images.tobytes() for batch in host(data.train_batches(one, 1, seed=2), 4)]
        assert len(set(crops)) == 8

    def test_a_break_leaves_no_threads(self, stream):
        before = set(threading.enumerate())  # others' threads may end meanwhile
        batches = data.train_batches(stream, 4, seed=1)
        next(batches)
        ours = set(threading.enumerate()) - before
        assert ours
        del batches
        deadline = time.monotonic() + 5
        while any(thread.is_alive() for thread in ours) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(thread.is_alive() for thread in ours)

    def test_an_image_of_a_stream_is_damaged(self, stream):
        """You see: "tiny, image 6: cannot decode an image of 6 bytes".
        Do: prepare the data set again.
        """
        images = list(stream.encoded)
        images[6] = b"broken"
        with pytest.raises(ValueError, match="tiny, image 6: cannot decode an image of 6 bytes"):
            host(data.eval_batches(replace(stream, encoded=images), 4))


class TestEvaluation:
    def test_center_crops_in_order(self, stream, pictures):
        stream = replace(stream, crop=data.center_crop())
        batches = host(data.eval_batches(stream, 4))
        images = np.concatenate([batch.images for batch in batches])[:11]
        for picture, crop in zip(pictures, images, strict=True):
            out = np.empty((8, 8, 3), np.uint8)
            data.center_crop()(picture, np.zeros(0), out)
            np.testing.assert_array_equal(crop, out)
        same(stream.to_dataset().images, images)
        assert sum(batch.weights.sum() for batch in batches) == 11


class TestDescription:
    def test_is_a_source_like_a_data_set(self, stream):
        memory = stream.to_dataset()
        for attribute in ("num_classes", "image_shape", "class_names", "name", "fingerprint"):
            assert getattr(stream, attribute) == getattr(memory, attribute)
        assert len(stream) == len(memory) == 11

    def test_subsets_of_subsets(self, stream):
        stream = replace(stream, crop=data.center_crop())
        part, memory = (
            stream.subset(7, seed=3).subset([5, 1]),
            stream.to_dataset().subset(7, seed=3).subset([5, 1]),
        )
        same((part.to_dataset().images, part.labels), (memory.images, memory.labels))
        assert replace(stream, crop=data.center_crop(0.5)).fingerprint not in (
            stream.fingerprint,
            replace(stream, crop=data.center_crop(0.6)).fingerprint,
        )
        assert part.fingerprint not in (stream.fingerprint, stream.subset(7, seed=3).fingerprint)
        with pytest.raises(ValueError, match="cannot take 12 examples of tiny, which has 11"):
            stream.subset(12)

    def test_labels_of_a_stream_are_no_classes(self, stream):
        """You see: "labels 0 … 2, but 2 classes", or "size and threads must be at least 1, got 0 and 3".
        Do: give what it asks for.
        """
        with pytest.raises(ValueError, match="labels 0 … 2, but 2 classes"):
            replace(stream, labels=np.array([0, 2]))
        with pytest.raises(ValueError, match="size and threads must be at least 1, got 0 and 3"):
            replace(stream, size=0)

    def test_grain_is_not_installed(self, stream, monkeypatch):
        """You see: "streams need Grain: pip install 'transferjax[imagenette]'".
        Do: that.
        """
        monkeypatch.setitem(sys.modules, "grain", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'transferjax\[imagenette\]'"):
            next(data.eval_batches(stream, 4))


class TestFolder:
    def test_classes_are_folders(self, folder, pictures):
        stream = data.image_folder(folder, "train", size=8)
        assert stream.class_names == CLASSES
        np.testing.assert_array_equal(np.bincount(stream.labels), [6, 5])
        order = [*range(0, 11, 2), *range(1, 11, 2)]
        out = np.empty((8, 8, 3), np.uint8)
        for index, image in zip(order, stream.to_dataset().images, strict=True):
            whole(pictures[index], np.zeros(0), out)
            np.testing.assert_array_equal(image, out)

    def test_images_stay_as_they_are(self, tmp_path, capsys):
        pixels = np.random.default_rng(1).integers(0, 256, (3, 6, 9, 3), np.uint8)
        for i, image in enumerate(pixels):
            (tmp_path / f"c{i}").mkdir()
            (tmp_path / f"c{i}" / "a.png").write_bytes(encode(image))
        np.testing.assert_array_equal(data.load(str(tmp_path), "").images, pixels)
        assert "3 images of 3 classes, 6 x 9, as they are" in capsys.readouterr().out
        data.load(str(tmp_path), "", size=6)
        said = capsys.readouterr().out
        assert "6 x 9: whole, resized to 6 x 6, 3 of them lose their aspect ratio (crop=… cuts" in said
        cut = data.load(str(tmp_path), "", size=6, crop=1.0)
        np.testing.assert_array_equal(cut.images, pixels[:, :, 1:7])
        others = [
            data.load(str(tmp_path), "", **more) for more in ({}, {"size": 6}, {"size": 6, "crop": 0.5})
        ]
        assert len({dataset.fingerprint for dataset in (cut, *others)}) == 4
        assert "the middle, 1 of the shorter side, resized to 6 x 6\n" in capsys.readouterr().out

    def test_greyscale_and_transparent_images_are_counted(self, tmp_path, capsys):
        rng = np.random.default_rng(1)
        (tmp_path / "c").mkdir()
        for channels in (1, 3, 4):
            pixels = rng.integers(0, 256, (8, 8, channels), np.uint8)
            for suffix in ("png", "jpg", "webp", "bmp")[: 3 if channels == 4 else 4]:
                if (channels, suffix) != (4, "jpg"):
                    cv2.imwrite(str(tmp_path / "c" / f"{channels}.{suffix}"), pixels)
        for options in ({}, {"size": 4}):
            data.load(tmp_path, **options)
            said = capsys.readouterr().out
            assert "10 images of 1 classes, 8 x 8" in said
            assert said.endswith("; made RGB: 2 grey, 2 with transparency\n")
        for path in (tmp_path / "c").iterdir():
            if not path.name.startswith("3"):
                path.unlink()
        data.load(tmp_path)
        assert capsys.readouterr().out.endswith("4 images of 1 classes, 8 x 8, as they are\n")

    def test_the_split_may_be_left_out_where_there_is_but_one(self, folder, tmp_path):
        own = tmp_path / "own"
        for name in ("a", "test"):  # classes, although one of them is called so
            (own / name).mkdir(parents=True)
            (own / name / "x.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
        assert data.load(own).class_names == ("a", "test")
        assert data.source(str(own)).class_names == ("a", "test")
        own.rename(tmp_path / "train")
        (tmp_path / "two").mkdir()
        (tmp_path / "train").rename(tmp_path / "two" / "train")
        assert data.load(tmp_path / "two").class_names == ("a", "test")
        with pytest.raises(FileNotFoundError, match=r"two/val is not a folder; .*; it has train"):
            data.load(tmp_path / "two", "val")
        shutil.copytree(tmp_path / "two" / "train", tmp_path / "two" / "val")
        with pytest.raises(
            ValueError, match=r"two has the splits \['train', 'val'\]: say which, .*split='val'"
        ):
            data.load(tmp_path / "two")
        with pytest.raises(ValueError, match=r"digits has the splits \['train', 'test'\]: say which"):
            data.load("digits")
        data.save(data.load(tmp_path / "two", "val"), tmp_path / "kept", "all")
        assert data.load(tmp_path / "kept").name == "val"

    def test_a_path_that_is_not_there(self, tmp_path):
        (tmp_path / "small").mkdir()
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*/smal; did you mean .*/small\?"):
            data.load(str(tmp_path / "smal"))
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*/no/photos \(nor .*/no\)$"):
            data.load(tmp_path / "no" / "photos")
        with pytest.raises(ValueError, match=r"unknown data set 'imagenette/160px'.*imagenette/160px-v2"):
            data.load("imagenette/160px")

    def test_square_images_of_the_size_asked_for_are_not_changed(self, tmp_path):
        pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "a.png").write_bytes(encode(pixels))
        np.testing.assert_array_equal(data.load(str(tmp_path), "", size=32).images[0], pixels)

    def test_images_of_a_folder_have_several_sizes(self, folder):
        """You see: "images before it … x … (height x width): give size=…".
        Do: that.
        """
        with pytest.raises(ValueError, match=r"images before it \d+ x \d+ \(height x width\): give size="):
            data.load(str(folder), "train")
        with pytest.raises(ValueError, match=r"crop=0.5 cuts squares of different sizes .* give size"):
            data.load(str(folder), "train", crop=0.5)

    def test_load_and_source_take_its_path(self, folder):
        memory, streamed = data.load(str(folder), "train", size=8), data.source(str(folder), "train", size=8)
        assert isinstance(memory, data.Dataset)
        assert isinstance(streamed, ImageStream)
        same(memory.labels, streamed.labels)

    def test_a_folder_of_images_is_not_there_or_empty(self, folder, tmp_path):
        """You see: "… is not a folder; expected …/val/<class>/<image>", or "no images in …".
        Do: correct the path.
        """
        with pytest.raises(FileNotFoundError, match=r"val is not a folder; expected .*val/<class>/<image>"):
            data.image_folder(folder, "val")
        (tmp_path / "empty" / "class").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"no images in .*empty"):
            data.image_folder(tmp_path / "empty")

    def test_hidden_names_are_not_there_at_any_level(self, folder, pictures):
        """Editors' and systems' folders made classes, whose labels moved all others; their files failed."""
        before = data.image_folder(folder, "train", size=8)
        train = folder / "train"
        for name in (".ipynb_checkpoints", ".git", "__MACOSX", "$RECYCLE.BIN", "@eaDir"):
            (train / name).mkdir()
            (train / name / "0.png").write_bytes(b"no class")
            (train / "cat" / name).mkdir()
            (train / "cat" / name / "0.png").write_bytes(b"no image")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden.jpg"):
            (train / name).write_bytes(b"no folder")
            (train / "dog" / name).write_bytes(b"no image")
        after = data.image_folder(folder, "train", size=8)
        same((after.labels, after.to_dataset().images), (before.labels, before.to_dataset().images))
        assert (after.class_names, after.fingerprint) == (CLASSES, before.fingerprint)

    @pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
    def test_one_byte_of_one_image_is_another_data_set(self, folder, place):
        """The fingerprint of a folder is that of every byte, not of names and sizes."""
        before = data.image_folder(folder, "train", size=8).fingerprint
        file = next((folder / "train").rglob("*.png"))
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 1
        file.write_bytes(content)
        assert data.image_folder(folder, "train", size=8).fingerprint != before

    def test_a_hidden_folder_above_is_the_users_choice(self, folder, tmp_path):
        folder.rename(tmp_path / ".pets")
        assert len(data.load(str(tmp_path / ".pets"), "train", size=8)) == 11

    def test_links_of_a_folder_go_in_circles(self, folder, tmp_path):
        """You see: nothing: each image is read once.
        Do: nothing.
        """
        train, more = folder / "train", tmp_path / "more"
        before = data.image_folder(folder, "train").labels
        (train / "loop").symlink_to(train)
        (train / "above").symlink_to(tmp_path)
        (train / "dog" / "self").symlink_to(train / "dog")
        (train / "dog" / "up").symlink_to(train)
        (train / "dog" / "nowhere").symlink_to(train / "dog" / "nowhere")
        np.testing.assert_array_equal(data.image_folder(folder, "train").labels, before)
        more.mkdir()
        (train / "cat" / "00.png").rename(more / "00.png")
        (more / "back").symlink_to(train / "cat")
        (more / "root").symlink_to(train)
        (train / "cat" / "more").symlink_to(more)
        np.testing.assert_array_equal(data.image_folder(folder, "train").labels, before)
        (train / "cow").symlink_to(more)
        np.testing.assert_array_equal(np.bincount(data.image_folder(folder, "train").labels), [6, 6, 5])

    @pytest.mark.parametrize("content", [b"", b"GIF89a no image", b"half"])
    def test_an_image_in_a_folder_is_damaged(self, folder, pictures, content):
        """You see: "…/train/dog/03.png: cannot decode an image of 60 bytes".
        Do: mend the image, or remove it.
        """
        path = folder / "train" / "dog" / "03.png"
        path.write_bytes(encode(pictures[3])[:60] if content == b"half" else content)
        reason = f"{path}: cannot decode an image of {len(path.read_bytes())} bytes"
        with pytest.raises(ValueError, match=reason):
            data.load(str(folder), "train", size=8)
        with pytest.raises(ValueError, match=reason):
            list(data.eval_batches(data.source(str(folder), "train", size=8).subset([7, 0], seed=None), 2))

    def test_a_class_of_a_folder_has_no_images(self, folder, pictures):
        """You see: a warning: "no images in bird; each still counts as a class", or "not read, as not
        ['.bmp', …]: bird/0.gif".
        Do: remove the folder, or convert the images.
        """
        (folder / "train" / "bird").mkdir()
        with pytest.warns(UserWarning, match=r"train: no images in bird; each still counts as a class"):
            stream = data.image_folder(folder, "train")
        assert stream.class_names == ("bird", *CLASSES)
        (folder / "train" / "bird" / "0.gif").write_bytes(b"GIF89a")
        with (
            pytest.warns(UserWarning, match="no images in bird"),
            pytest.warns(UserWarning, match=r"train: not read, as not \['\.bmp', .*\]: bird/0\.gif"),
        ):
            data.image_folder(folder, "train")


class TestNIPS2017:
    @pytest.fixture
    def table(self, tmp_path, pictures):
        rows = ["ImageId,URL,TrueLabel,TargetClass"]
        for i, picture in enumerate(pictures):
            (tmp_path / f"image{i}.png").write_bytes(encode(picture))
            rows.append(f"image{i},http://x,{i + 1},{1000 - i}")
        path = tmp_path / "images.csv"
        path.write_text("\n".join(rows) + "\n")
        return path

    def test_labels_count_from_zero(self, table, pictures):
        dataset, targets = data.nips2017(table, table.parent, size=10)
        np.testing.assert_array_equal(dataset.labels, np.arange(11))
        np.testing.assert_array_equal(targets, 999 - np.arange(11))
        assert dataset.num_classes == 1000
        shrunk = cv2.resize(pictures[4], (10, 10), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(dataset.images[4], shrunk)

    def test_a_damaged_file_is_named_by_its_path(self, table):
        path = table.parent / "image4.png"
        path.write_bytes(b"no image")
        with pytest.raises(ValueError, match=f"{path}: cannot decode an image of 8 bytes"):
            data.nips2017(table, table.parent)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("TargetClass", "Target", r"lacks the columns \['TargetClass'\]"),
            (",1,1000", ",0,1000", "TrueLabel of image0 is '0', expected 1 … 1000"),
            (",1,1000", ",1,1001", "TargetClass of image0 is '1001'"),
            (",1,1000", ",x,1000", "TrueLabel of image0 is 'x'"),
            (",1,1000", ",²,1000", "TrueLabel of image0 is '²'"),
            ("image3,", "gone,", "no gone.png, .jpg or .jpeg in"),
            ("image3,", "image2,", "images.csv has several rows of image2: expected one for each image"),
        ],
    )
    def test_the_table_of_the_nips_2017_images_is_wrong(self, table, old, new, message):
        """You see: "TrueLabel of image0 is '0', expected 1 … 1000", "lacks the columns ['TargetClass']", or
        "no gone.png, .jpg or .jpeg in …".
        Do: get images.csv and the images again.
        """
        table.write_text(table.read_text().replace(old, new, 1))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            data.nips2017(table, table.parent)

    def test_a_table_without_rows_is_no_data_set(self, table):
        table.write_text(table.read_text().partition("\n")[0] + "\n")
        with pytest.raises(ValueError, match=r"images\.csv has no rows"):
            data.nips2017(table, table.parent)

    def test_a_spreadsheets_mark_is_no_name(self, table):
        table.write_text(table.read_text(), encoding="utf-8-sig")
        assert len(data.nips2017(table, table.parent, size=10)[0]) == 11


class TestPrepared:
    NAME = "imagenette/160px-v2"

    @pytest.fixture
    def home(self, tmp_path, tiny_imagenette):
        with pytest.warns(UserWarning, match="not the official archive"):
            prepare(self.NAME, archive=tiny_imagenette[0], data_dir=tmp_path / "tfds")
        return tmp_path / "tfds"

    def test_sources_crop_at_random_and_load_takes_the_middle(self, home):
        stream = data.source(self.NAME, "train", data_dir=home, size=16)
        memory = data.load(self.NAME, "train", data_dir=home, size=16)
        assert (len(stream), stream.image_shape, stream.class_names[3]) == (30, (16, 16, 3), "chain saw")
        same(stream.labels, memory.labels)
        assert isinstance(stream, ImageStream)
        middle = replace(stream, crop=data.center_crop()).to_dataset()
        same(middle.images, memory.images)
        assert not np.array_equal(stream.to_dataset().images, memory.images)

    def test_sizes_are_cached_apart(self, home):
        for size in (16, 12, 16):
            memory = data.load(self.NAME, "validation", data_dir=home, size=size)
            assert memory.images.shape == (20, size, size, 3)

    def test_the_test_split_is_called_validation(self, home):
        same(data.load(self.NAME, "test", data_dir=home, size=8).images,
             data.load(self.NAME, "validation", data_dir=home, size=8).images)  # fmt: skip

    def test_large_splits_stay_on_disk(self, home, monkeypatch):
        small = data.source(self.NAME, "train", data_dir=home, size=16)
        monkeypatch.setattr("transferjax.data.tfds.KEEP_IN_MEMORY", 1000)
        large = data.source(self.NAME, "train", data_dir=home, size=16)
        assert isinstance(small.encoded, list)
        assert not isinstance(large.encoded, list)
        same(*(next(data.train_batches(stream, 8, seed=0)) for stream in (small, large)))

    def test_the_scale_of_crops_is_an_option(self, home):
        full = data.source(self.NAME, "test", data_dir=home, size=16, scale=(1.0, 1.0))
        wide = data.source(self.NAME, "test", data_dir=home, size=16, scale=(0.01, 0.02))
        # a hundredth of the area, enlarged, is smoother than all of it
        pixels = [stream.to_dataset().images.astype(int) for stream in (full, wide)]
        roughness = [np.abs(np.diff(images, axis=1)).mean() for images in pixels]
        assert roughness[1] < 0.5 * roughness[0]

    def test_options_that_it_does_not_have(self, home):
        with pytest.raises(TypeError, match=r"has no options \['padding'\]; it has \['scale', 'size'\]"):
            data.source(self.NAME, "train", data_dir=home, padding=4)


def test_small_images_are_trained_on_from_memory():
    assert isinstance(data.source("digits", "train"), data.Dataset)


def test_real_imagenette():
    try:
        stream = data.source("imagenette/160px-v2", "test", size=64)
    except FileNotFoundError as error:
        pytest.skip(f"real ImageNette: {error}")
    assert (len(stream), stream.num_classes, stream.class_names[0]) == (3925, 10, "tench")
    first, again = (next(data.train_batches(stream, 32, seed=0)) for _ in range(2))
    assert first.images.shape == (32, 64, 64, 3)
    same(first, again)
    assert len(set(np.asarray(first.labels).tolist())) > 4
    assert "tensorflow" not in sys.modules
