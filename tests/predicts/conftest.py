"""A service that gives the mean colour of every image, and targets that ask it."""

import base64
import json

import cv2
import numpy as np
import pytest
from hostile import Server

from transferjax.predicts.http import HttpTarget


def mean_colours(request):
    encoded = [base64.b64decode(text) for text in json.loads(request.body)["images"]]
    pixels = [cv2.imdecode(np.frombuffer(e, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for e in encoded]
    return json.dumps([p.mean((0, 1)).tolist() for p in pixels]).encode()


@pytest.fixture
def server():
    with Server(mean_colours) as server:
        yield server


@pytest.fixture
def target(server):
    """`target(**settings) -> (a target that asks the server, the seconds that it waited)`."""

    def make(**options):
        waits = []
        settings = {"url": server.url, "parse": lambda body, n: json.loads(body)}
        return HttpTarget(**settings | {"sleep": waits.append, "timeout": 10} | options), waits

    return make
