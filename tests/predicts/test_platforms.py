"""Recognition services, against a local server that reads and answers in their formats."""

import base64
import json
from urllib.parse import parse_qs

import cv2
import numpy as np
import pytest
from hostile import Server, http

from transferjax.metrics import transfer_success
from transferjax.predicts.http import HttpTarget, ServiceError
from transferjax.predicts.platforms import aliyun, aws, azure, baidu, google
from transferjax.study.services import read_record, record_answers

IMAGES = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 120, 250)])
VOCABULARY = {"Night": 0, "dusk": 1, "Day": 2}
WORDS = ("night", "Dusk", "Day")
OTHER = 3


def seen(data):
    """What the server says of one encoded image: a surer word that nobody asked for, then the right one."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return [("square", 0.99), (WORDS[int(pixels.mean() // 86)], 0.9), ("Day", 0.1)]


def answered(kind, body, headers):
    """The service's answer to a request in its format."""
    if kind == "azure":
        assert headers["content-type"] == "application/octet-stream"
        return {"tags": [{"name": word, "confidence": score} for word, score in seen(body)]}
    if kind == "aws":
        assert headers["x-amz-target"] == "RekognitionService.DetectLabels"
        data = base64.b64decode(json.loads(body)["Image"]["Bytes"])
        labels = [{"Name": w, "Confidence": 100 * s, "Categories": [{"Name": "-"}]} for w, s in seen(data)]
        return {"Labels": labels, "LabelModelVersion": "3.0"}
    if kind == "baidu":
        data = base64.b64decode(parse_qs(body.decode())["image"][0])
        return {"result": [{"keyword": word, "score": score, "root": "-"} for word, score in seen(data)]}
    if kind == "aliyun":
        asked = parse_qs(body.decode())
        assert asked["Action"] == ["TaggingImage"]
        data = base64.b64decode(asked["ImageURL"][0].removeprefix("https://store/"))
        tags = [{"Confidence": 100 * score, "Value": word} for word, score in seen(data)]
        return {"RequestId": "8AC7", "Data": {"Tags": tags}}
    requests = json.loads(body)["requests"]
    assert all(one["features"] == [{"type": "LABEL_DETECTION"}] for one in requests)
    found = [seen(base64.b64decode(one["image"]["content"])) for one in requests]
    return {
        "responses": [
            {"labelAnnotations": [{"mid": "/m/1", "description": w, "score": s} for w, s in words]}
            for words in found
        ]
    }


def good(request):
    kind = request.line.split()[1].strip("/")
    return json.dumps(answered(kind, request.body, request.headers)).encode()


@pytest.fixture
def server():
    with Server(good) as server:
        yield server


def hosted(image):
    return f"https://store/{base64.b64encode(image).decode()}"


def target(server, make, **options):
    more = (hosted,) if make is aliyun else ()
    return HttpTarget(f"http://{server.host}/{make.__name__}", *make(VOCABULARY, OTHER, *more), **options)


@pytest.mark.parametrize(("make", "requests"), [(azure, 3), (aws, 3), (baidu, 3), (aliyun, 3), (google, 1)])
def test_every_service_is_asked_and_understood(server, make, requests, tmp_path):
    service = target(server, make)
    record = record_answers(service, IMAGES, tmp_path / "api.safetensors")
    assert record.classes(IMAGES).tolist() == [0, 1, 2]
    assert len(server.requests) == requests
    assert read_record(record.path).classes(IMAGES[1:]).tolist() == [1, 2]
    images, labels = IMAGES.astype(np.float32) / 255, np.array([0, 0, 1])
    assert transfer_success(service, images, labels) == pytest.approx(2 / 3)
    # of the second image "Dusk" and "Day" were named, of the third "Day" alone
    assert transfer_success(service, images, np.array([0, 2, 0]), top_k=2) == pytest.approx(1 / 3)


def test_aliyun_hosts_an_image_once(server):
    put = []
    service = HttpTarget(
        f"http://{server.host}/aliyun",
        *aliyun(VOCABULARY, OTHER, lambda png: (put.append(png), hosted(png))[1]),
    )
    for _ in range(2):
        assert service(IMAGES).argmax(-1).tolist() == [0, 1, 2]
    assert len(put) == len(server.requests) == 3


@pytest.mark.parametrize("make", [azure, aws, baidu, aliyun, google])
def test_another_answer_is_an_error_with_its_beginning(server, make):
    for said in ({"error_code": 110, "error_msg": "Access token invalid"}, {"odd": "Access token invalid"}):
        server.plan = [http(json.dumps(said).encode())]
        with pytest.raises(ServiceError, match=r"answered something else: .*Access token invalid"):
            target(server, make)(IMAGES[:1])


def test_google_may_see_nothing_and_may_refuse_an_image(server):
    server.plan = [http(b'{"responses": [{}]}')]
    assert target(server, google)(IMAGES[:1]).argmax(-1) == [OTHER]
    server.plan = [http(b'{"responses": [{"error": {"code": 3, "message": "Bad image data."}}]}')]
    with pytest.raises(ServiceError, match=r"refused an image: .*Bad image data"):
        target(server, google)(IMAGES[:1])
