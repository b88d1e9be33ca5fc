"""Recognition services as targets: how Azure, AWS, Baidu and Google are asked, and what they answer.

    service = google({"tench": 0, "fish": 0, "church": 5}, other=10)
    target = HttpTarget(url, service.parse, service.encode, headers=…, batch_size=service.batch_size)

They name what they see in words of their own, so a vocabulary says which words are which class: an answer is
the class of the surest word that is in it, `other` if none is. Addresses, keys and AWS's signature are the
user's.

Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Table 10.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np

from transferjax.predicts.http import Encode, Parse, ServiceError, png


class Platform(NamedTuple):
    """What `HttpTarget` needs to know of a service."""

    encode: Encode
    parse: Parse
    batch_size: int


Words = Iterable[tuple[str, float]]


def class_of(words: Words, vocabulary: Mapping[str, int], other: int) -> int:
    """The class of the surest word that is in the vocabulary, whatever its case; `other` if none is."""
    known = {word.lower(): index for word, index in vocabulary.items()}
    found = [(score, known[word.lower()]) for word, score in words if word.lower() in known]
    return max(found)[1] if found else other


def _base64(image: np.ndarray) -> str:
    return base64.b64encode(png(image)).decode()


def _platform(
    vocabulary: Mapping[str, int],
    other: int,
    encode: Encode,
    words: Callable[[Any], Sequence[Words]],
    batch_size: int = 1,
) -> Platform:
    """A service whose JSON `words` takes apart: words with scores for each image.

    Raises:
        ValueError: an empty vocabulary.
    """
    if not vocabulary:
        raise ValueError("the vocabulary is empty: say which words of the service are which class")

    def parse(body: bytes, count: int) -> list[int]:
        answer = json.loads(body)
        try:
            return [class_of(found, vocabulary, other) for found in words(answer)]
        except (KeyError, TypeError, AttributeError) as error:
            raise ServiceError(f"the service answered something else: {body[:200]!r}") from error

    return Platform(encode, parse, batch_size)


def _pairs(entries: Iterable[Mapping[str, Any]], word: str, score: str) -> list[tuple[str, float]]:
    return [(entry[word], float(entry[score])) for entry in entries]


def azure(vocabulary: Mapping[str, int], other: int) -> Platform:
    """Azure Computer Vision, "tag": `{"tags": [{"name": …, "confidence": …}]}`, one image a request.

    Args:
        vocabulary: word -> class.
        other: the class of answers without any of these words.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        return png(images[0]), {"Content-Type": "application/octet-stream"}

    return _platform(vocabulary, other, encode, lambda a: [_pairs(a["tags"], "name", "confidence")])


def aws(vocabulary: Mapping[str, int], other: int) -> Platform:
    """AWS Rekognition, DetectLabels: `{"Labels": [{"Name": …, "Confidence": …}]}`, one image a request.

    Args:
        vocabulary, other: as for `azure`.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "RekognitionService.DetectLabels",
        }
        return json.dumps({"Image": {"Bytes": _base64(images[0])}}).encode(), headers

    return _platform(vocabulary, other, encode, lambda a: [_pairs(a["Labels"], "Name", "Confidence")])


def baidu(vocabulary: Mapping[str, int], other: int) -> Platform:
    """Baidu, general recognition: `{"result": [{"keyword": …, "score": …}]}`, one image a request.

    Args:
        vocabulary, other: as for `azure`.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        body = urlencode({"image": _base64(images[0])}).encode()
        return body, {"Content-Type": "application/x-www-form-urlencoded"}

    return _platform(vocabulary, other, encode, lambda a: [_pairs(a["result"], "keyword", "score")])


def google(vocabulary: Mapping[str, int], other: int) -> Platform:
    """Google Vision, label detection, of each image `{"labelAnnotations": [{"description": …, "score": …}]}`.

    Args:
        vocabulary, other: as for `azure`; up to sixteen images a request.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        features = [{"type": "LABEL_DETECTION"}]
        asked = [{"image": {"content": _base64(image)}, "features": features} for image in images]
        return json.dumps({"requests": asked}).encode(), {"Content-Type": "application/json"}

    def words(answer: Any) -> list[Words]:
        if errors := [one["error"] for one in answer["responses"] if "error" in one]:
            raise ServiceError(f"the service refused an image: {errors[0]}")
        # an image in which it sees nothing has no annotations
        return [
            _pairs(one.get("labelAnnotations", ()), "description", "score") for one in answer["responses"]
        ]

    return _platform(vocabulary, other, encode, words, batch_size=16)
