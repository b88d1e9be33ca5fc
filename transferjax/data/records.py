"""Writes what TFDS reads: ArrayRecord shards of `tf.train.Example`, without TensorFlow."""

import json
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from transferjax import extras
from transferjax.data.storage import atomic_directory


class Record(NamedTuple):
    """One labelled image: encoded bytes, class, and an id where the data set has one."""

    image: bytes
    label: int
    id: str = ""


class Layout(NamedTuple):
    """What a data set looks like: class names, (height, width, channels) with None where they vary, the
    encoding ("png" or "jpeg"), and the address it comes from."""

    labels: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    encoding: str
    url: str


def write_prepared(
    target: Path, name: str, splits: dict[str, list[Record]], layout: Layout, progress: bool = True
) -> None:
    """Writes a TFDS directory: one ArrayRecord shard per split, `features.json`, `dataset_info.json`.

    Args:
        target: `<data_dir>/<name>/<version>`; appears when everything is written.
        name: "dataset" or "dataset/config".
        splits: the records of each split, in their final order.
        layout: what the records have in common.
        progress: whether to show a bar (on a terminal).

    Raises:
        FileExistsError: `target` is there already.
        ValueError: a label of no class.
    """
    for split, records in splits.items():
        wrong = next(
            (row for row, record in enumerate(records) if not 0 <= record.label < len(layout.labels)), None
        )
        if wrong is not None:
            expected = f"expected 0 … {len(layout.labels) - 1}"
            raise ValueError(
                f"image {wrong} of {name} {split} has the label {records[wrong].label}, {expected}"
            )
    tfds = extras.load("tensorflow_datasets", "prepared data sets")
    from array_record.python.array_record_module import ArrayRecordWriter

    dataset, _, config = name.partition("/")
    hidden = None if progress else True
    with atomic_directory(target) as directory:
        for split, records in splits.items():
            shard = directory / f"{dataset}-{split}.array_record-00000-of-00001"
            writer = ArrayRecordWriter(str(shard), "group_size:1")  # single records are read at random
            for record in tqdm(records, f"write {name} {split}", unit="image", disable=hidden):
                writer.write(_example(record))
            writer.close()
        image = tfds.features.Image(shape=layout.image_shape, encoding_format=layout.encoding)
        features = {"image": image, "label": tfds.features.ClassLabel(names=list(layout.labels))}
        if any(record.id for records in splits.values() for record in records):
            features["id"] = tfds.features.Text()
        tfds.features.FeaturesDict(features).save_config(str(directory))
        info = _info(dataset, config, target.name, splits, layout.url)
        (directory / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n")


def _example(record: Record) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record.image)
    feature["label"].int64_list.value.append(record.label)
    if record.id:
        feature["id"].bytes_list.value.append(record.id.encode())
    return example.SerializeToString(deterministic=True)


def _info(dataset: str, config: str, version: str, splits: dict[str, list[Record]], url: str) -> dict:
    """`dataset_info.json`; numbers are strings there, as in the JSON form of any 64-bit protocol buffer."""
    return {
        "name": dataset,
        **({"configName": config} if config else {}),
        "version": version,
        "fileFormat": "array_record",
        "location": {"urls": [url]},
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(len(record.image) for record in records)),
                "shardLengths": [str(len(records))],
            }
            for split, records in splits.items()
        ],
        "supervisedKeys": {
            "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]},
        },
    }
