"""Services that name what they see: names with scores, or in their order, become a row of scores.

A map says which name is which class. Others are left out, the surest one only where there is an
`other`, as Zhang et al. do (S&P 2024, Table 10). Classes that were not named lie below all that were, so that
top-k success counts them as missed.
"""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import numpy as np

from transferjax.predicts.answers import ServiceError, UnknownNames
from transferjax.predicts.formats import Parse, at

NAMES = ("label", "name", "classname", "displayname", "tagname", "keyword", "description", "word", "class",
         "tag", "category", "value")  # fmt: skip
"""What services call a name, in lower case and without underscores; the first of them counts."""
SCORES = ("score", "confidence", "probability", "prob", "value")

Words = Sequence[tuple[str, float]]


def ranked(
    names: Mapping[str, int] | Sequence[str],
    *path: str | int,
    other: int | None = None,
    num_classes: int | None = None,
) -> Parse:
    """A parser of answers that name classes: `[{"label": …, "score": …}, …]`, `{name: score}`, or names.

    Args:
        names: name -> class, whatever its case, or the names in the order of the classes.
        path: the keys in the answer's body under which its names lie: of one image, or of each of several,
            for which one name each is enough.
        other: the class of answers without any of these names. With it unknown names are left out; None
            makes an answer whose surest name is unknown an error: it may be a misspelt one.
        num_classes: K, the width of the rows; by default what `names` and `other` need.

    Returns:
        A parser whose answers are rows `[K]`; `argmax` is the surest known name.

    Raises:
        ValueError: no names, what is no name, one name for two classes, or classes beyond `num_classes`.
    """
    classes = _classes(names)
    known = [*classes.values(), *([] if other is None else [other])]
    width = num_classes or max(2, max(known) + 1)
    if min(known) < 0 or max(known) >= width:
        raise ValueError(f"classes must lie in 0 … {width - 1}; got {min(known)} … {max(known)}")

    def parse(body: bytes, count: int) -> list[np.ndarray]:
        found = at(body, *path)
        try:
            each = count > 1 and isinstance(found, list) and len(found) == count
            said = found if each or not _is_ranking(found) else [found]
            return [row_of(words_of(one), classes, other, width) for one in said]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ServiceError(f"the service answered something else: {body[:200]!r}") from error

    return parse


def _classes(names: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    if isinstance(names, str):
        raise ValueError(
            f"names must be those of all classes, in order, or a map; got the text {names!r:.60}"
        )
    if not names:
        raise ValueError("the vocabulary is empty: say which words of the service are which class")
    classes = dict[str, int]()
    for name, k in names.items() if isinstance(names, Mapping) else ((n, k) for k, n in enumerate(names)):
        if not isinstance(name, str) or not isinstance(k, Integral):
            raise ValueError(f"names must be text, and classes whole numbers; got {name!r:.60} for {k!r:.60}")
        if classes.setdefault(_plain(name), int(k)) != k:
            raise ValueError(
                f"the name {name!r} stands for the classes {classes[_plain(name)]} and {k}: drop one"
            )
    return classes


def row_of(words: Words, classes: Mapping[str, int], other: int | None, width: int) -> np.ndarray:
    """Scores `[width]`: those of the known words, and less than any of them elsewhere.

    Args:
        words: names and their scores.
        classes: name -> class, in lower case; of several names of one class the surest counts.
        other: the class where none is known.
        width: K.

    Raises:
        UnknownNames: no name, or the surest one is not known, and no `other`.
        ServiceError: scores that are not finite.
    """
    if not all(math.isfinite(score) for _, score in words):
        raise ServiceError(f"the scores are not finite: {words[:5]}")
    if other is None:
        _check_surest(words, classes)
    known = [(classes[_plain(word)], score) for word, score in words if _plain(word) in classes]
    known = known or [(other or 0, 0.0)]
    row = np.full(width, min(score for _, score in known) - 1.0)
    for k, score in known:
        row[k] = max(row[k], score)
    return row


def _check_surest(words: Words, classes: Mapping[str, int]) -> None:
    """A misspelt name must not hand its images to the next one."""
    if not words:
        raise UnknownNames("the service names nothing: give other=, the class of such answers")
    word, _ = max(words, key=lambda one: one[1])
    if _plain(word) not in classes:
        near = get_close_matches(_plain(word), classes, n=3)
        like = f", but {', '.join(map(repr, near))}" if near else ""
        raise UnknownNames(
            f"the service is surest of {word!r}, which the names have not got{like}: correct or add it, or "
            "give other= to leave unknown names out"
        )


def words_of(found: Any) -> Words:
    """Names with scores, from what services say of one image; names without scores count in their order."""
    if isinstance(found, str) or _is_pair(found):
        found = [found]
    if isinstance(found, Mapping):
        fields = _fields(found)
        if "displaynames" in fields:  # Vertex
            return list(zip(fields["displaynames"], map(float, fields["confidences"]), strict=True))
        if fields.get("confidences"):  # Gradio's Label
            return words_of(fields["confidences"])
        if not _named(found):
            try:
                return [(name, float(score)) for name, score in found.items()]
            except (TypeError, ValueError):
                there = ", ".join(repr(name) for name in list(found)[:9])
                raise UnknownNames(
                    f"the service answered something else: expected names with scores, got the fields {there}"
                ) from None
        found = [found]
    return [_word(one, -float(place)) for place, one in enumerate(found)]


def _word(one: Any, place: float) -> tuple[str, float]:
    if isinstance(one, str):
        return one, place
    if not isinstance(one, Mapping):
        name, score = one
        return name, float(score)
    fields = _fields(one)
    score = next((fields[name] for name in SCORES if name in fields), place)
    name = next((name for name in NAMES if isinstance(fields.get(name), str)), NAMES[0])
    return fields[name], float(score)


def _is_ranking(found: Any) -> bool:
    """Whether this is said of one image, and not of each of several."""
    if isinstance(found, Mapping | str) or not found:
        return True
    first = found[0]
    if isinstance(first, Mapping):
        return _named(first)
    return isinstance(first, str) or _is_pair(first)


def _is_pair(found: Any) -> bool:
    """Whether this is a name with its score."""
    return (
        isinstance(found, list) and [isinstance(one, str) for one in found] == [True, False]
    ) and not isinstance(found[1], list | dict)


def _named(entry: Mapping[str, Any]) -> bool:
    fields = _fields(entry)
    return any(isinstance(fields.get(name), str) for name in NAMES) and not fields.get("confidences")


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower().replace("_", ""): value for name, value in entry.items()}


def _plain(name: str) -> str:
    return name.strip().lower()
