"""Prepares data sets for TFDS without TensorFlow: the official archive -> an ArrayRecord directory.

    python -m transferjax.data.prepare cifar10
    python -m transferjax.data.prepare imagenette/160px-v2 --archive=imagenette2-160.tgz

The result is what `tfds.data_source(name)` and `transferjax.data.load(name, split)` read. Archives are read
as a stream, never unpacked; a run that is interrupted continues its download and leaves nothing half done.
"""

import argparse
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from transferjax.data.dataset import permutation
from transferjax.data.download import download, mismatch
from transferjax.data.records import Layout, Record, write_prepared
from transferjax.data.storage import cache_dir
from transferjax.data.tfds import CLASS_NAMES, WNIDS, find_prepared, tfds_dir
from transferjax.files import hidden

Member = tuple[PurePosixPath, bytes]
Splits = dict[str, list[Record]]

CIFAR_FOLDER = PurePosixPath("cifar-10-batches-bin")
CIFAR_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue planes
LARGEST_MEMBER = 64 << 20


@dataclass(frozen=True)
class Recipe:
    """Where a data set comes from and how its archive is read."""

    layout: Layout
    sha256: str
    version: str
    read: Callable[[Iterator[Member]], Splits]


def prepare(
    name: str, *, archive: str | Path | None = None, data_dir: str | Path | None = None, progress: bool = True
) -> Path:
    """Downloads (or reads) the official archive of `name` and writes the TFDS directory.

    Args:
        name: one of `RECIPES`.
        archive: a local copy of the official archive; default: download it to the cache directory, where it
            is removed again when all is done.
        data_dir: default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        progress: whether to show bars (on a terminal).

    Returns:
        The directory of the prepared version; at once if it is there already.

    Raises:
        ValueError: unknown name, or an archive that is not what it should be.
        DownloadError: no network, or a file other than the official one.
        FileExistsError: something else is where the result belongs.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe for {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if done := find_prepared(name, data_dir):
        return done
    target = tfds_dir(data_dir) / name / recipe.version
    if target.exists():
        raise FileExistsError(f"{target} exists, but is not a prepared data set; move it away first")
    if archive is not None:
        source = Path(archive)
        if wrong := mismatch(source, {"sha256": recipe.sha256}):
            warnings.warn(f"{source} is not the official archive: {wrong}; reading it", stacklevel=2)
    else:
        source = cache_dir() / "downloads" / recipe.layout.url.rsplit("/", 1)[-1]
        download(recipe.layout.url, source, sha256=recipe.sha256, progress=progress)
    splits = recipe.read(members(source, progress))
    write_prepared(target, name, splits, recipe.layout, progress)
    if archive is None:
        source.unlink()
    return target


def members(archive: Path, progress: bool = True) -> Iterator[Member]:
    """The regular files of a tar archive, as (path, content), read in one pass.

    Raises:
        ValueError: damaged, or with a member that has no business in a data set (a link, a device, a path
            that leads out of the archive, an absurd size, the name of another one).
    """
    hidden, seen = None if progress else True, set[PurePosixPath]()
    try:
        with (
            archive.open("rb") as file,
            tqdm.wrapattr(
                file, "read", total=archive.stat().st_size, desc=f"read {archive.name}", disable=hidden
            ) as raw,
            tarfile.open(fileobj=raw, mode="r|gz") as tar,
        ):
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isdir():
                    continue
                if not member.isreg() or path.is_absolute() or ".." in path.parts:
                    raise ValueError(f"refused: {member.name!r} is not a plain file inside of the archive")
                if path in seen:
                    raise ValueError(f"refused: {member.name!r} is in it twice")
                seen.add(path)
                if member.size > LARGEST_MEMBER:
                    raise ValueError(f"refused: {member.name!r} has {member.size} bytes")
                content = tar.extractfile(member)
                yield path, content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{archive}: {error or type(error).__name__}") from error


def read_cifar10(files: Iterator[Member]) -> Splits:
    """The binary version of CIFAR-10 as PNG records, in the order of the files.

    Reference: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    import cv2

    contents = {path.name: content for path, content in files if path.parent == CIFAR_FOLDER}
    splits: Splits = {}
    for split, names in CIFAR_FILES.items():
        records: list[Record] = []
        for name in names:
            data = np.frombuffer(contents.get(name, b""), np.uint8)
            if not data.size or data.size % CIFAR_RECORD:
                raise ValueError(f"expected {CIFAR_FOLDER / name} with records of {CIFAR_RECORD} bytes each")
            for row in data.reshape(-1, CIFAR_RECORD):
                image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                _, png = cv2.imencode(".png", image[..., ::-1])  # OpenCV counts blue, green, red
                records.append(Record(png.tobytes(), int(row[0]), f"{split}_{len(records):05d}"))
        splits[split] = records
    return splits


def read_imagenette(files: Iterator[Member]) -> Splits:
    """`imagenette2*/{train,val}/<wnid>/<name>.JPEG`, shuffled: the archive goes class by class."""
    splits: Splits = {"train": [], "validation": []}
    for path, content in files:
        if path.suffix == ".JPEG" and len(path.parts) == 4 and not any(map(hidden, path.parts)):
            _, folder, wnid, _ = path.parts
            if wnid not in WNIDS or folder not in ("train", "val"):
                raise ValueError(f"expected train or val and one of the ten classes, got {path}")
            split = "train" if folder == "train" else "validation"
            splits[split].append(Record(content, WNIDS.index(wnid)))
    for split, records in splits.items():
        if not records:
            raise ValueError(f"no images for {split}: expected <folder>/{{train,val}}/<class>/<name>.JPEG")
        splits[split] = [records[row] for row in permutation(0, 0, len(records))]
    return splits


def _imagenette(folder: str, sha256: str) -> Recipe:
    url = f"https://s3.amazonaws.com/fast-ai-imageclas/{folder}.tgz"
    return Recipe(Layout(WNIDS, (None, None, 3), "jpeg", url), sha256, "1.0.0", read_imagenette)


CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
RECIPES = {
    "cifar10": Recipe(
        Layout(CLASS_NAMES["cifar10"], (32, 32, 3), "png", CIFAR10_URL),
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "3.0.2",
        read_cifar10,
    ),
    "imagenette/160px-v2": _imagenette(
        "imagenette2-160", "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5"
    ),
    "imagenette/320px-v2": _imagenette(
        "imagenette2-320", "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"
    ),
    "imagenette/full-size-v2": _imagenette(
        "imagenette2", "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd"
    ),
}
"""The checksums are those of TFDS."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="transferjax prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--archive", help="a local copy of the official archive, instead of a download")
    parser.add_argument("--data_dir", help="default $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    options = parser.parse_args(arguments)
    try:
        print(prepare(options.name, archive=options.archive, data_dir=options.data_dir))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
