"""A web server that can do everything wrong: it says the bytes it is told to, when it is told to."""

import socket
import ssl
import threading
import time
from typing import NamedTuple


class Request(NamedTuple):
    line: str
    headers: dict  # names in lower case
    body: bytes
    time: float


def http(body=b"", status="200 OK", Connection="close", **headers):
    """A proper answer, the connection's last unless told otherwise; `_` in the names of headers is `-`."""
    headers = {k.replace("_", "-"): v for k, v in headers.items()}
    fields = {"Content-Length": len(body), "Connection": Connection, **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def drip(head=b"", one=b"x", every=0.02):
    """`head` at once, then `one` for ever, until the other side hangs up."""

    def send(connection):
        connection.sendall(head)
        while True:
            connection.sendall(one)
            time.sleep(every)

    return send


def silent(connection):
    """Nothing, until the other side hangs up."""
    connection.recv(1)


class Server:
    """Answers each request with the next of `plan`, or with the body `good(request)` when there are no plans.

    A plan is bytes, or a function of the connection, which is closed afterwards. `tls` is an SSLContext.
    """

    def __init__(self, good=lambda request: b"{}", tls=None):
        self.good, self.tls = good, tls
        self.plan, self.requests, self._open = [], [], []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/predict"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            connection.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            with connection, connection.makefile("rb") as file:
                while self._answer(connection, file):
                    pass
        except (OSError, ValueError, ssl.SSLError):
            pass  # the other side hung up, or the test is over

    def _answer(self, connection, file):
        line = file.readline().decode().strip()
        if not line:
            return False
        headers = {}
        while text := file.readline().decode().strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", 0)))
        request = Request(line, headers, body, time.monotonic())
        self.requests.append(request)
        if not self.plan:
            connection.sendall(http(self.good(request), Connection="keep-alive"))
            return True
        fault = self.plan.pop(0)
        if callable(fault):
            fault(connection)
        else:
            connection.sendall(fault)
        # half a goodbye first: to close with something unread would take back what was said
        (connection.unwrap() if self.tls else connection).shutdown(socket.SHUT_WR)
        return False
