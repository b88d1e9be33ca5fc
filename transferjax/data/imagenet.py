"""ImageNet's 1,000 classes by their names.

`imagenet.csv` has a line for each class, in the order of the logits: its WordNet id and its names in WordNet,
as timm's `imagenet_synset_to_lemma.txt` has them; two of torchvision's `_IMAGENET_CATEGORIES` more.
"""

import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def imagenet_indices(class_names: Iterable[str]) -> tuple[int, ...]:
    """The logits of a net for ImageNet that are these classes, in their order.

    For `predicts.Preprocessing(classes=…)` and `models.select_classes`, of the `class_names` of a `Dataset`.
    Case, spaces, hyphens and underscores do not matter: "English_springer" is "English springer". A WordNet
    id is a name too, alone or before one: "n01440764", "n01440764-tench".

    Raises:
        ValueError: a name of no class (with those that are like it), of several, or two names of one class.
    """
    found: dict[int, str] = {}
    for name in class_names:
        index = _index(str(name))
        if index in found:
            raise ValueError(f"{found[index]!r} and {name!r} are one class of ImageNet, {_shown(index)}")
        found[index] = str(name)
    return tuple(found)


@functools.cache
def _classes() -> list[list[str]]:
    """The WordNet id and the names of each class."""
    lines = (Path(__file__).parent / "imagenet.csv").read_text(encoding="utf-8").splitlines()
    return [line.split(",") for line in lines]


@functools.cache
def _by_name() -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Classes by their first name, and by any."""
    first, every = defaultdict(list), defaultdict(list)
    for index, (wnid, *names) in enumerate(_classes()):
        first[_plain(names[0])].append(index)
        for name in dict.fromkeys(map(_plain, (wnid, *names, ",".join(names)))):
            every[name].append(index)
    return dict(first), dict(every)


def _index(name: str) -> int:
    first, every = _by_name()
    wnid = re.match(r"n\d{8}(?!\d)", name)
    plain = wnid[0] if wnid else _plain(name)
    found = first.get(plain) or every.get(plain, [])
    if len(found) == 1:
        return found[0]
    if found:
        several = " and ".join(map(_shown, found))
        raise ValueError(f"{name!r} are several classes of ImageNet: {several}; write the WordNet id")
    near = [every[other][0] for other in difflib.get_close_matches(plain, every, n=3)]
    hint = f"did you mean {', '.join(map(_shown, dict.fromkeys(near)))}?" if near and not wnid else ""
    raise ValueError(
        f"{name!r} is no class of ImageNet's 1000; {hint or 'expected names of WordNet or its ids'}"
    )


def _shown(index: int) -> str:
    wnid, *names = _classes()[index]
    return f"{wnid} ({', '.join(names[:2])}: {index})"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
