"""Data sets: in memory, digits, and what is saved to disk."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.data import Dataset, load, save, to_float
from transferjax.data.dataset import permutation
from transferjax.data.storage import atomic_directory


def small(count=12, classes=3, name="small"):
    images = np.random.default_rng(1).integers(0, 256, (count, 4, 5, 3), np.uint8)
    return Dataset(images, np.arange(count) % classes, ("a", "b", "c")[:classes], name)


def equal(a, b):
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)
    return (a.class_names, a.name, a.fingerprint) == (b.class_names, b.name, b.fingerprint)


class TestDataset:
    def test_describes_itself(self):
        data = small()
        assert (len(data), data.num_classes, data.image_shape) == (12, 3, (4, 5, 3))
        assert data.labels.dtype == np.int32

    def test_is_immutable_without_freezing_the_callers_arrays(self):
        images = np.zeros((2, 4, 4, 3), np.uint8)
        data = Dataset(images, np.array([0, 1]), ("a", "b"))
        for array in (data.images, data.labels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
        images[0] = 1

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (np.zeros((2, 4, 4, 3)), [0, 1], "expected uint8 images .*, got float64"),
            (np.zeros((2, 4, 4), np.uint8), [0, 1], r"got uint8 \(2, 4, 4\)"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0, 1, 1], "expected 2 integer labels"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 1.0], "expected 2 integer labels, got float64"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0, 3], "label 3 is outside of the 2 classes"),
            (np.zeros((2, 4, 4, 3), np.uint8), [-1, 0], "label -1 is outside"),
        ],
    )
    def test_images_or_labels_of_a_data_set_do_not_fit(self, images, labels, message):
        """You see: "expected uint8 images …, got float64", "expected 2 integer labels", or "label 3 is
        outside of the 2 classes".
        Do: make them so.
        """
        with pytest.raises(ValueError, match=message):
            Dataset(images, np.array(labels), ("a", "b"))

    def test_the_fingerprint_is_that_of_the_content(self):
        data = small()
        assert data.fingerprint == small(name="other").fingerprint
        changed = data.images.copy()
        changed[3, 2, 1, 0] ^= 1
        others = {
            Dataset(changed, data.labels, data.class_names).fingerprint,
            Dataset(data.images, data.labels[::-1], data.class_names).fingerprint,
            Dataset(data.images, data.labels, ("a", "b", "d")).fingerprint,
            data.subset(11).fingerprint,
            data.subset(12, seed=0).fingerprint,
        }
        assert len(others | {data.fingerprint}) == 6

    def test_subsets(self):
        data = small()
        np.testing.assert_array_equal(data.subset(5).images, data.images[:5])
        np.testing.assert_array_equal(data.subset(slice(1, None, 4)).labels, data.labels[1::4])
        np.testing.assert_array_equal(data.subset([7, 2]).images, data.images[[7, 2]])
        order = permutation(9, 0, 12)
        np.testing.assert_array_equal(data.subset(5, seed=9).images, data.images[order[:5]])
        halves = [data.subset(which, seed=9) for which in (slice(6), slice(6, None))]
        together = np.concatenate([half.images for half in halves]).reshape(12, -1)
        assert sorted(map(tuple, together)) == sorted(map(tuple, data.images.reshape(12, -1)))

    @pytest.mark.parametrize("count", [0, 13, -1])
    def test_refuses_a_subset_of_another_size(self, count):
        with pytest.raises(ValueError, match=f"cannot take {count} examples of small, which has 12"):
            small().subset(count)


def test_to_float_is_exact_to_rounding_and_inverts():
    levels = jnp.arange(256, dtype=jnp.uint8)
    scaled = jax.jit(to_float)(levels)
    np.testing.assert_allclose(scaled, np.arange(256) / 255, rtol=1e-7)
    assert (scaled.dtype, scaled[0], scaled[-1]) == (jnp.float32, 0, 1)
    np.testing.assert_array_equal(jnp.round(scaled * 255).astype(jnp.uint8), levels)
    np.testing.assert_array_equal(to_float(levels), scaled)
    with pytest.raises(ValueError, match="expected uint8 images, got float32"):
        to_float(scaled)


class TestDigits:
    def test_real_digits_split_by_class(self):
        train, test = load("digits", "train"), load("digits", "test")
        assert (len(train), len(test), train.image_shape) == (1442, 355, (8, 8, 1))
        assert train.class_names == tuple("0123456789")
        counts = np.bincount(train.labels), np.bincount(test.labels)
        np.testing.assert_array_equal(counts[1], (counts[0] + counts[1]) // 5)
        rows = {image.tobytes() for image in test.images}
        assert not rows & {image.tobytes() for image in train.images}

    def test_pixels_are_scikit_learns(self):
        from sklearn.datasets import load_digits

        source = load_digits()
        train = load("digits", "train")
        np.testing.assert_array_equal(train.images[0, ..., 0], np.round(source.images[0] * 255 / 16))
        assert train.images.max() == 255

    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
    def test_can_be_enlarged(self, interpolation):
        small, large = load("digits", "test"), load("digits", "test", size=16, interpolation=interpolation)
        assert large.image_shape == (16, 16, 1)
        blocks = large.images.reshape(-1, 8, 2, 8, 2, 1).mean((2, 4))
        if interpolation == "nearest":
            np.testing.assert_array_equal(large.images, small.images.repeat(2, 1).repeat(2, 2))
        else:  # the mean over a block is a smoothed pixel: close in the mean, and not the same
            assert 1 < np.abs(blocks - small.images).mean() < 32

    def test_bad_options(self):
        with pytest.raises(ValueError, match=r"splits .*not 'validation'"):
            load("digits", "validation")
        with pytest.raises(ValueError, match="got 'cubic', 16"):
            load("digits", "test", size=16, interpolation="cubic")


class TestSaved:
    def test_round_trip(self, tmp_path):
        data = small()
        save(data, tmp_path / "set", "train")
        save(data.subset(4), tmp_path / "set", "test")
        again = load(str(tmp_path / "set"), "train")
        assert equal(data, again)
        assert isinstance(again.images.base, np.memmap)
        assert equal(data.subset(4), load(str(tmp_path / "set"), "test"))

    def test_a_data_set_is_saved_where_one_is(self, tmp_path):
        """You see: "… exists; remove it, or choose another path"; what is there stays.
        Do: that.
        """
        save(small(), tmp_path, "train")
        with pytest.raises(FileExistsError, match="remove it, or choose another path"):
            save(small(4), tmp_path, "train")
        assert len(load(str(tmp_path), "train")) == 12

    def test_a_saved_data_set_has_no_such_split(self, tmp_path):
        """You see: "… holds no split 'train' of a saved data set; it has ['robust']".
        Do: take one of them.
        """
        save(small(), tmp_path, "robust")
        with pytest.raises(FileNotFoundError, match=r"no split 'train' .*\['robust'\]"):
            load(str(tmp_path), "train")

    def test_a_run_is_killed_while_it_saves_a_data_set(self, tmp_path):
        """You see: "… holds no split 'train' of a saved data set; it has ['robust']", as if nothing had been
        saved.
        Do: save it again.
        """
        save(small(), tmp_path / "half", "train")
        (tmp_path / "half" / "train").rename(tmp_path / "half" / ".train.abc.tmp")
        with pytest.raises(FileNotFoundError, match="is not a folder"):
            load(str(tmp_path / "half"), "train")
        save(small(), tmp_path / "half", "robust")
        with pytest.raises(FileNotFoundError, match=r"it has \['robust'\]"):
            load(str(tmp_path / "half"), "train")

    @pytest.mark.parametrize("damage", ["cut", "flipped", "swap", "garbage", "format", "label"])
    def test_a_saved_data_set_is_cut_or_a_byte_of_it_is_flipped(self, tmp_path, damage):
        """You see: "… is damaged (the checksum of images.npy differs); remove it and write it again".
        Do: that.
        """
        save(small(), tmp_path, "train")
        images, manifest = tmp_path / "train" / "images.npy", tmp_path / "train" / "manifest.json"
        if damage == "cut":
            images.write_bytes(images.read_bytes()[:-100])
        elif damage == "flipped":
            content = bytearray(images.read_bytes())
            content[-5] ^= 1
            images.write_bytes(content)
        elif damage == "swap":
            np.save(images, small(9).images)
        elif damage == "garbage":
            manifest.write_text("{")
        elif damage == "format":
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
        else:
            np.save(tmp_path / "train" / "labels.npy", np.full(12, 7))
        with pytest.raises(ValueError, match=r"is damaged .*remove it and write it again"):
            load(str(tmp_path), "train")

    def test_an_interrupted_write_leaves_nothing(self, tmp_path):
        def interrupted():
            with atomic_directory(tmp_path / "data") as directory:
                (directory / "file").write_text("half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert list(tmp_path.glob("[!c]*")) == []

    def test_two_runs_save_one_data_set(self, tmp_path):
        """You see: "… exists already", in the slower one; the other's is whole.
        Do: load what is there.
        """

        def slower():
            with atomic_directory(tmp_path / "data") as directory:
                (directory / "file").write_text("slow")
                with atomic_directory(tmp_path / "data") as other:
                    (other / "file").write_text("fast")

        with pytest.raises(FileExistsError, match="exists already"):
            slower()
        assert (tmp_path / "data" / "file").read_text() == "fast"
        assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_data_set_has_another_name():
    """You see: "unknown data set 'cifar-10': did you mean cifar10, or a directory?"; for an option "cifar10
    has no options ['size']".
    Do: what it says.
    """
    with pytest.raises(ValueError, match=r"unknown data set 'cifar-10': did you mean cifar10"):
        load("cifar-10", "train")
    with pytest.raises(TypeError, match=r"no options \['size'\]"):
        load("cifar10", "train", size=3)
