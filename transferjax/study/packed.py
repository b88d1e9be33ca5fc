"""Results in one file: what the views of a study read, to be drawn again where nothing was computed.

    <file>.tar.xz:  <kind>/<key>/  arrays.safetensors spec.json provenance.json

A pack holds verdicts and measures, not what they were made of: some hundred kilobytes where networks and
images are gigabytes. What a store has stands for all that went into it, so a study whose results were
unpacked has nothing left to make, and one with more seeds makes only those. Or it holds the networks that
are asked for: others then attack and judge with the same weights, which another machine would not train.
"""

import io
import json
import lzma
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from transferjax.files import checksum, replacing
from transferjax.study import walk
from transferjax.study.specs import STORED, Spec
from transferjax.study.store import ARRAYS, PROVENANCE, SPEC, Store

FILES = (ARRAYS, SPEC, PROVENANCE)
NAME = re.compile(
    rf"({'|'.join(kind.__name__ for kind in STORED)})/(\w+)/({'|'.join(map(re.escape, FILES))})"
)


def pack(store: Store, demand: Iterable[Spec], file: Path) -> tuple[int, int]:
    """Writes what of a demand a store has, each once; the same results are the same bytes.

    Returns:
        How many there are in the file, and how many were missing.

    Raises:
        ValueError: nothing is demanded, or nothing of it is there.
        Corrupt: a result is damaged.
    """
    wanted = {f"{type(spec).__name__}/{spec.key}": spec for spec in demand}
    there = {place: spec for place, spec in sorted(wanted.items()) if store.has(spec)}
    if not wanted:
        raise ValueError("nothing to pack: what is asked for is read from files and never made; copy those")
    if not there:
        raise ValueError(
            f"{store.root} has none of the {len(wanted)} results that are asked for: run it first"
        )
    with replacing(file) as partial, tarfile.open(partial, "w:xz", format=tarfile.GNU_FORMAT) as archive:
        for place, spec in there.items():
            store.get(spec)  # whole, or it raises
            for name in FILES:
                content = (store.path(spec) / name).read_bytes()
                member = tarfile.TarInfo(f"{place}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return len(there), len(wanted) - len(there)


def unpack(store: Store, file: Path) -> tuple[int, int]:
    """Puts what a pack holds into a store, after looking at all of it; what is there stays.

    Returns:
        How many are new, and how many were there.

    Raises:
        ValueError: no pack, a damaged one, or one of a version that knew other fields; nothing is put then.
    """
    results = [_checked(file, place, content) for place, content in _contents(file).items()]
    new = [result for result in results if not store.has(result[0])]
    for spec, arrays, provenance in new:
        store.put(spec, load(arrays), provenance)
    return len(new), len(results) - len(new)


def _contents(file: Path) -> Mapping[str, Mapping[str, bytes]]:
    """`<kind>/<key>` -> the content of its files."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    try:
        with tarfile.open(file, "r:xz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or not NAME.fullmatch(member.name):
                    raise ValueError(f"{file} is no pack of results: it holds {member.name!r}")
                place, _, name = member.name.rpartition("/")
                found[place][name] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{file} is no pack of results, or a damaged one ({error})") from error
    return found


def _checked(file: Path, place: str, content: Mapping[str, bytes]) -> tuple[Spec, bytes, dict]:
    """A result whose key is its spec's, and whose arrays are those that were stored."""
    kind, _, key = place.partition("/")
    try:
        spec, provenance = walk.from_json(content[SPEC].decode()), json.loads(content[PROVENANCE])
        whole = provenance["checksum"] == checksum(content[ARRAYS])
        load(content[ARRAYS])
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{file}: {place} cannot be read here ({type(error).__name__}: {error})") from error
    if not whole or (type(spec).__name__, spec.key) != (kind, key):
        raise ValueError(f"{file}: {place} is not what was packed")
    return spec, content[ARRAYS], provenance
