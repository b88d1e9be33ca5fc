"""Recognition services as targets: how Azure, AWS, Baidu, Aliyun and Google are asked, and what they answer.

    target = HttpTarget(url, *google({"tench": 0, "fish": 0, "church": 5}, other=10), headers=…)

They name what they see in words of their own: see `ranked`. Addresses, keys and AWS's signature are the
user's.

Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Table 10.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from urllib.parse import urlencode

import numpy as np

from transferjax.predicts.answers import ServiceError
from transferjax.predicts.formats import JSON, Format, at, base64_png, png, raw_bytes
from transferjax.predicts.rankings import ranked

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def azure(vocabulary: Mapping[str, int], other: int) -> Format:
    """Azure Computer Vision, "tag": `{"tags": [{"name": …, "confidence": …}]}`, one image a request.

    Args:
        vocabulary: word -> class.
        other: the class of answers without any of these words.

    Raises:
        ValueError: an empty vocabulary.
    """
    return Format(ranked(vocabulary, "tags", other=other), raw_bytes())


def aws(vocabulary: Mapping[str, int], other: int) -> Format:
    """AWS Rekognition, DetectLabels: `{"Labels": [{"Name": …, "Confidence": …}]}`, one image a request.

    Args:
        vocabulary, other: as for `azure`.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "RekognitionService.DetectLabels",
        }
        return json.dumps({"Image": {"Bytes": base64_png(images[0])}}).encode(), headers

    return Format(ranked(vocabulary, "Labels", other=other), encode)


def baidu(vocabulary: Mapping[str, int], other: int) -> Format:
    """Baidu, general recognition: `{"result": [{"keyword": …, "score": …}]}`, one image a request.

    Args:
        vocabulary, other: as for `azure`.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        body = urlencode({"image": base64_png(images[0])}).encode()
        return body, dict(FORM)

    return Format(ranked(vocabulary, "result", other=other), encode)


def aliyun(vocabulary: Mapping[str, int], other: int, hosted: Callable[[bytes], str]) -> Format:
    """Aliyun, TaggingImage: `{"Data": {"Tags": [{"Value": …, "Confidence": …}]}}`, one image a request.

    Args:
        vocabulary, other: as for `azure`.
        hosted: puts an image, a PNG, where the service can read it, and says its address: the service takes
            no images. It is asked once for each image, and has to say the same in the next run, or the answer
            is bought again.
    """
    hosted = cache(hosted)

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        body = urlencode({"Action": "TaggingImage", "ImageURL": hosted(png(images[0]))}).encode()
        return body, dict(FORM)

    return Format(ranked(vocabulary, "Data", "Tags", other=other), encode)


def google(vocabulary: Mapping[str, int], other: int) -> Format:
    """Google Vision, label detection, of each image `{"labelAnnotations": [{"description": …, "score": …}]}`.

    Args:
        vocabulary, other: as for `azure`; up to sixteen images a request.
    """
    read = ranked(vocabulary, other=other)

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        features = [{"type": "LABEL_DETECTION"}]
        asked = [{"image": {"content": base64_png(image)}, "features": features} for image in images]
        return json.dumps({"requests": asked}).encode(), dict(JSON)

    def parse(body: bytes, count: int) -> list[np.ndarray]:
        responses = at(body, "responses")
        if errors := [one["error"] for one in responses if "error" in one]:
            raise ServiceError(f"the service refused an image: {errors[0]}")
        # an image in which it sees nothing has no annotations
        seen = [json.dumps(one.get("labelAnnotations", ())).encode() for one in responses]
        return [row for one in seen for row in read(one, 1)]

    return Format(parse, encode, batch_size=16)
