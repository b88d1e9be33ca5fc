"""Prediction services, with a local server that fails in all the ways that services do."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.predicts.http import BudgetExceeded, HttpTarget, ServiceError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def server():
    """A service that gives the mean colour of every image; `faults` are answered first."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.requests.append((time.monotonic(), dict(self.headers), body))
            if self.server.faults:
                fault = self.server.faults.pop(0)
                if fault == "drop":
                    return self.connection.close()
                if fault == "slow":
                    time.sleep(1.0)
                    return None
                status, headers = fault
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                return None
            encoded = [base64.b64decode(text) for text in json.loads(body)["images"]]
            pixels = [cv2.imdecode(np.frombuffer(e, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for e in encoded]
            answer = json.dumps([p.mean((0, 1)).tolist() for p in pixels]).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)
            return None

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.faults = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def target(server):
    def make(**options):
        waits = []
        settings = {"sleep": waits.append, "timeout": 0.4} | options
        http = HttpTarget(
            f"http://127.0.0.1:{server.server_port}/predict", lambda body, n: json.loads(body), **settings
        )
        return http, waits

    return make


def test_every_image_gets_its_answer(server, target):
    """In order, whatever the batch; floats are the same images as bytes."""
    expected = IMAGES.reshape(5, -1, 3).mean(1)
    for batch_size in (1, 2, 5):
        http, _ = target(batch_size=batch_size)
        np.testing.assert_allclose(http(IMAGES), expected)
        np.testing.assert_allclose(http(jnp.asarray(IMAGES / 255, jnp.float32)), expected)
    assert len(server.requests) == 2 * (5 + 3 + 1)


def test_faults_are_tried_again(server, target):
    server.faults += [(503, {}), (429, {"Retry-After": "7"}), "drop", (500, {})]
    http, waits = target(attempts=5, backoff=0.5)
    np.testing.assert_allclose(http(IMAGES[:1])[0], IMAGES[0].reshape(-1, 3).mean(0))
    assert waits == [0.5, 7.0, 2.0, 4.0]
    assert http.spent == 1


def test_timeouts_are_tried_again(server, target):
    server.faults += ["slow"]
    http, waits = target(attempts=2)
    assert len(http(IMAGES[:1])) == 1
    assert waits == [1.0]


def test_a_dead_service(target):
    http, waits = target(attempts=3)
    http.url = "http://127.0.0.1:1/"
    with pytest.raises(ServiceError, match="failed 3 times; the last time"):
        http(IMAGES[:1])
    assert waits == [1.0, 2.0]


def test_refusals_are_not_tried_again(server, target):
    server.faults += [(403, {})]
    http, waits = target()
    with pytest.raises(ServiceError, match="refused: HTTP 403"):
        http(IMAGES[:1])
    assert not waits


def test_the_cache_spares_requests(server, target, tmp_path):
    http, _ = target(cache=tmp_path)
    first = http(IMAGES)
    asked = len(server.requests)
    other, _ = target(cache=tmp_path, budget=0)
    assert other(IMAGES) == first
    assert len(server.requests) == asked
    with pytest.raises(BudgetExceeded):
        other(255 - IMAGES)


def test_the_cache_tells_models_apart_and_not_who_asks(server, target, tmp_path):
    for headers, asked in (
        ({"X-Model": "a", "Authorization": "Key 1"}, 5),
        ({"X-Model": "a", "Authorization": "Key 2", "X-Api-Key": "3"}, 5),
        ({"X-Model": "b"}, 10),
    ):
        http, _ = target(cache=tmp_path, headers=headers)
        http(IMAGES)
        assert len(server.requests) == asked


def test_answers_that_cannot_be_parsed_are_not_kept(server, target, tmp_path):
    http, _ = target(cache=tmp_path)
    http.parse = lambda body, n: []
    with pytest.raises(ServiceError, match="parse gave 0 answers for 1 images"):
        http(IMAGES[:1])
    http.parse = lambda body, n: json.loads(body)
    assert len(http(IMAGES[:1])) == 1
    assert len(server.requests) == 2


def test_the_budget_stops_before_it_is_exceeded(server, target, tmp_path):
    http, _ = target(budget=3, batch_size=2, cache=tmp_path)
    with pytest.raises(BudgetExceeded, match="2 of 3 images were sent, and the next request has 2"):
        http(IMAGES)
    assert len(server.requests) == 1
    http.budget = 5
    assert len(http(IMAGES)) == 5
    assert len(server.requests) == 3


def test_the_rate_is_kept(server, target):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    http, _ = target(per_second=4, sleep=sleep, clock=lambda: now[0])
    http(IMAGES)
    assert now[0] == pytest.approx(1.0)


def test_headers_are_sent(server, target):
    http, _ = target(headers={"Authorization": "Key 1"})
    http(IMAGES[:1])
    assert server.requests[0][1]["Authorization"] == "Key 1"


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"attempts": 0}, {"per_second": 0.0}])
def test_bad_settings(bad, target):
    with pytest.raises(ValueError, match=next(iter(bad))):
        target(**bad)


def test_bad_images(target):
    http, _ = target()
    for bad in (IMAGES[0], IMAGES.astype(np.float32), IMAGES.astype(int)):
        with pytest.raises(ValueError, match="images must be"):
            http(bad)
