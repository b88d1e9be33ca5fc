"""What is kept and read again: saved and prepared data, and results in a store, after accidents."""

import functools
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st

from tests.fuzz.base import EDITS, Property, answers, edited
from tests.study import small
from transferjax.data import Dataset, center_crop, open_saved, save
from transferjax.data.records import Layout, Record, write_prepared
from transferjax.data.tfds import CLASS_NAMES, stream
from transferjax.study.store import ARRAYS, PROVENANCE, SPEC, Corrupt, Store


@functools.cache
def _images() -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    return Dataset(pixels, np.arange(4) % 2, 2, "four images")


def saved_data(case: tuple[str, list], directory: Path) -> None:
    """A saved data set with one damaged file is the same, or refused."""
    name, edits = case
    save(_images(), directory / "data", "train")
    path = directory / "data" / "train" / name
    content = path.read_bytes()
    path.write_bytes(edited(content, edits))
    found = answers(lambda: open_saved(directory / "data", "train"), ValueError)
    if found is not None:
        np.testing.assert_array_equal(found.images, _images().images)
        np.testing.assert_array_equal(found.labels, _images().labels)
        assert (found.class_names, found.fingerprint) == (_images().class_names, _images().fingerprint)


def _prepared(directory: Path) -> Path:
    png = [cv2.imencode(".png", image)[1].tobytes() for image in _images().images]
    records = [Record(content, label, f"train_{label}") for label, content in enumerate(png)]
    layout = Layout(CLASS_NAMES["cifar10"], (32, 32, 3), "png", "https://example.org")
    target = directory / "cifar10" / "3.0.2"
    write_prepared(target, "cifar10", {"train": records}, layout, progress=False)
    return target


def records(case: tuple[str, list], directory: Path) -> None:
    """Prepared data with one damaged file are read, or an error names what it is of."""
    pattern, edits = case
    (path,) = _prepared(directory).glob(pattern)
    path.write_bytes(edited(path.read_bytes(), edits))

    def read() -> None:
        found = stream("cifar10", "train", size=8, crop=center_crop(), data_dir=directory)
        assert found.to_dataset().images.dtype == np.uint8

    answers(read, ValueError, FileNotFoundError)


def stored(case: tuple[str, list], directory: Path) -> None:
    """A stored result with a damaged file is what was stored, or is called damaged."""
    name, edits = case
    store, spec, arrays = Store(directory / "store"), small.network(), {"params/a": np.arange(6.0)}
    store.put(spec, arrays, {"seconds": 1.0})
    path = store.path(spec) / name
    path.write_bytes(edited(path.read_bytes(), edits))
    found = answers(lambda: store.get(spec), Corrupt)
    if found is not None:
        np.testing.assert_array_equal(found.pop("params/a"), arrays["params/a"])
        assert not found
    assert store.entry(spec).readable in (spec, None)


def _one_of(*names: str) -> st.SearchStrategy:
    """A file, and what happens to it."""
    return st.tuples(st.sampled_from(names), EDITS)


PROPERTIES = {
    "saved data": Property(_one_of("images.npy", "labels.npy", "manifest.json"), saved_data, 60),
    "ArrayRecord": Property(_one_of("*array_record*", "*_info.json", "features.json"), records, 25),
    "stored results": Property(_one_of(ARRAYS, PROVENANCE, SPEC), stored, 60),
}
