"""Recognition services, against a local server that reads and answers in their formats."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import cv2
import numpy as np
import pytest

from transferjax.predicts.http import HttpTarget, ServiceError
from transferjax.predicts.platforms import aws, azure, baidu, class_of, google
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
        assert headers["Content-Type"] == "application/octet-stream"
        return {"tags": [{"name": word, "confidence": score} for word, score in seen(body)]}
    if kind == "aws":
        assert headers["X-Amz-Target"] == "RekognitionService.DetectLabels"
        data = base64.b64decode(json.loads(body)["Image"]["Bytes"])
        return {"Labels": [{"Name": word, "Confidence": 100 * score} for word, score in seen(data)]}
    if kind == "baidu":
        data = base64.b64decode(parse_qs(body.decode())["image"][0])
        return {"result": [{"keyword": word, "score": score, "root": "-"} for word, score in seen(data)]}
    requests = json.loads(body)["requests"]
    assert all(one["features"] == [{"type": "LABEL_DETECTION"}] for one in requests)
    found = [seen(base64.b64decode(one["image"]["content"])) for one in requests]
    return {
        "responses": [
            {"labelAnnotations": [{"description": word, "score": score} for word, score in words]}
            for words in found
        ]
    }


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.requests += 1
            said = self.server.answer or answered(self.path.strip("/"), body, self.headers)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.answer = 0, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def target(server, make, **options):
    platform = make(VOCABULARY, OTHER)
    url = f"http://127.0.0.1:{server.server_port}/{make.__name__}"
    return HttpTarget(url, platform.parse, platform.encode, batch_size=platform.batch_size, **options)


@pytest.mark.parametrize(("make", "requests"), [(azure, 3), (aws, 3), (baidu, 3), (google, 1)])
def test_every_service_is_asked_and_understood(server, make, requests, tmp_path):
    record = record_answers(target(server, make), IMAGES, tmp_path / "api.safetensors")
    assert record.classes(IMAGES).tolist() == [0, 1, 2]
    assert server.requests == requests
    assert read_record(record.path).classes(IMAGES[1:]).tolist() == [1, 2]


@pytest.mark.parametrize("make", [azure, aws, baidu, google])
def test_another_answer_is_an_error_with_its_beginning(server, make):
    server.answer = {"error_code": 110, "error_msg": "Access token invalid"}
    with pytest.raises(ServiceError, match=r"answered something else: .*Access token invalid"):
        target(server, make)(IMAGES[:1])


def test_google_may_see_nothing_and_may_refuse_an_image(server):
    server.answer = {"responses": [{}]}
    assert target(server, google)(IMAGES[:1]) == [OTHER]
    server.answer = {"responses": [{"error": {"code": 3, "message": "Bad image data."}}]}
    with pytest.raises(ServiceError, match=r"refused an image: .*Bad image data"):
        target(server, google)(IMAGES[:1])


def test_the_surest_known_word_counts():
    assert class_of([("a", 0.2), ("B", 0.5), ("c", 0.9)], {"A": 0, "b": 1}, 7) == 1
    assert class_of([("c", 0.9)], {"a": 0}, 7) == 7
    with pytest.raises(ValueError, match="vocabulary is empty"):
        azure({}, 1)
