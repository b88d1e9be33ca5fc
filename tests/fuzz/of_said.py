"""What others say: configs with values that nobody meant, and answers of any service."""

import functools
import itertools
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzz.base import EDITS, Property, answers, edited
from tests.study import tiny
from transferjax.predicts.http import HttpTarget, ServiceError
from transferjax.study import config, views
from transferjax.study.mistakes import Mistakes
from transferjax.study.said import plain

IMAGES = np.zeros((1, 4, 4, 3), np.uint8)
ODD = st.sampled_from(
    [
        *((), None, -1, 0, 1, 2.5, float("nan"), float("inf"), 1e30, 10**20, True, object, b"x"),
        *("", "linf", "nonsense", {}, {"x": 1}, (1,), ("8",), ("ST",), []),
    ]
)


@functools.cache
def _config() -> dict[str, Any]:
    return plain(tiny.get_config())


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    )
    return [place, *itertools.chain.from_iterable(_places(inner, (*place, key)) for key, inner in entries)]


def _changed(value: Any, place: tuple, new: Any) -> Any:
    if not place:
        return new
    first, *rest = place
    if isinstance(value, dict):
        return {
            key: _changed(inner, tuple(rest), new) if key == first else inner for key, inner in value.items()
        }
    if isinstance(value, tuple):
        return tuple(
            _changed(inner, tuple(rest), new) if i == first else inner for i, inner in enumerate(value)
        )
    return value  # what an earlier change put there has no such place


def configs(changes: list[tuple[tuple, Any]], directory: Path) -> None:
    """A config with values that nobody meant is a study, or all that is wrong with it, one line each."""
    changed = _config()
    for place, value in changes:
        changed = _changed(changed, place, value)
    try:
        config.read(changed, views.VIEWS)
    except Mistakes as error:
        lines = error.lines
    else:
        return
    assert lines
    assert all(line.strip() and "\n" not in line and len(line) < 600 for line in lines), lines


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: application/json\r\n\r\n[[0.25, 0.75]]"
STATUSES = [b"200 OK", b"302 Found", b"429 Slow", b"500 Bad", b"999 ?", b"abc", b"200", b"100 Continue", b""]
HEADERS = [
    *(b"Content-Length: %s\r\n" % length for length in (b"5", b"-1", b"x", b"99999999999")),
    *(b"Retry-After: %s\r\n" % wait for wait in (b"nan", b"inf", b"86400")),
    *(b"Location: %s\r\n" % place for place in (b"file:///etc/passwd", b"//[", b"http://127.0.0.1:9/")),
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"X: " + b"y" * 70_000,
    b"Set-Cookie: a\r\n" * 200,
    b"\xff: \xff\r\n",
]
BODIES = [
    *(b"", b"[[0.25, 0.75]]", b"5\r\n[[1]]\r\n0\r\n\r\n", b"fffffffff\r\nx", b"-1\r\n", b"\x1f\x8b\x08"),
]
ANSWERS = st.builds(
    lambda status, headers, body: b"HTTP/1.1 " + status + b"\r\n" + b"".join(headers) + b"\r\n" + body,
    st.sampled_from(STATUSES),
    st.lists(st.sampled_from(HEADERS), max_size=4),
    st.sampled_from(BODIES),
)


class _Service:
    """Says to everybody what it was told to say, and hangs up."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/predict"
        self.answer = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            caller, _ = self.listener.accept()
            with caller:
                try:
                    caller.settimeout(1.0)
                    asked = b""
                    while b"\r\n\r\n" not in asked and (more := caller.recv(65536)):
                        asked += more
                    caller.sendall(self.answer)
                    caller.shutdown(socket.SHUT_WR)
                    while caller.recv(65536):  # a reset would take the answer along
                        pass
                except OSError:
                    pass


_service = functools.cache(_Service)


def services(answer: bytes | list, directory: Path) -> None:
    """Whatever a service sends is an answer or a ServiceError."""
    service = _service()
    service.answer = edited(GOOD, answer) if isinstance(answer, list) else answer
    target = HttpTarget(
        service.url, lambda body, count: [0] * count, attempts=2, timeout=2.0, sleep=lambda s: None
    )
    answers(lambda: target(IMAGES), ServiceError)


PROPERTIES = {
    "configs": Property(
        st.deferred(
            lambda: st.lists(st.tuples(st.sampled_from(_places(_config())), ODD), min_size=1, max_size=3)
        ),
        configs,
        30,
    ),
    "answers of a service": Property(ANSWERS | EDITS, services, 60),
}
