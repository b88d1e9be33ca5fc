"""Downloads"""

import hashlib
import time

import numpy as np
import pytest
from hostile import Server, drip, http

from transferjax.data.download import DownloadError, download

CONTENT = np.random.default_rng(0).bytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"


@pytest.fixture
def server():
    with Server(lambda request: CONTENT) as server:
        yield server


def test_a_download_starts_again_from_the_beginning_for_ever(server, tmp_path):
    """You see: "cannot download …: the connection closed after 60000 of 200000 bytes", after four tries in
    a row that brought nothing new.
    Do: fetch the file elsewhere and put it where the message says.
    """
    server.plan = [HEAD + CONTENT[: 50_000 + 10_000 * (i % 2)] for i in range(100)]
    with pytest.raises(DownloadError, match=r"closed after \d0000 of 200000 bytes.*put it at .*/file\.tar\."):
        download(server.url, tmp_path / "file.tar", sha256=SHA256)
    assert len(server.requests) == 2 + 4


def test_a_download_starts_again_and_gets_a_byte_further_each_time(server, tmp_path):
    """You see: "cannot download …: 51 new bytes in 10 s".
    Do: fetch the file elsewhere and put it where the message says.
    """
    server.plan = [HEAD + CONTENT[: 1 + i] for i in range(3000)]
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"\d+ new bytes in \d+ s"):
        download(server.url, tmp_path / "file.tar", timeout=0.3, sha256=SHA256)
    assert time.monotonic() - start < 5


def test_a_download_comes_a_byte_at_a_time(server, tmp_path):
    """You see: "cannot download …: 10 new bytes in 10 s".
    Do: the same command later: it continues where it stopped.
    """
    server.plan = [drip(HEAD)] * 100
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"\d+ new bytes in \d+ s"):
        download(server.url, tmp_path / "file.tar", timeout=0.3, sha256=SHA256)
    assert time.monotonic() - start < 5


def test_headers_of_a_download_come_a_byte_at_a_time(server, tmp_path):
    """You see: "cannot download …: no whole answer within 10 s", after four tries.
    Do: fetch the file elsewhere and put it where the message says.
    """
    server.plan = [drip(b"HTTP/1.1 200 OK\r\nX-A: ")] * 100
    with pytest.raises(DownloadError, match=r"no whole answer within 0\.2 s"):
        download(server.url, tmp_path / "file.tar", timeout=0.2, attempts=2)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [
        b"220 mail ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + CONTENT,
        b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
        http(status="429 Slow down"),
    ],
    ids=["no http", "length", "headers", "chunks", "nothing", "busy"],
)
def test_a_download_is_answered_with_garbage(server, tmp_path, fault):
    """You see: nothing, if a later try succeeds; else "cannot download …" with what was wrong.
    Do: the same command later.
    """
    server.plan = [fault]
    assert download(server.url, tmp_path / "file.tar", sha256=SHA256).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_download_is_redirected(server, tmp_path):
    """You see: nothing: five redirects are followed, to http and https alone.
    Do: nothing.
    """
    server.plan = [http(status="302 Found", Location="/elsewhere")] * 5
    assert download(server.url, tmp_path / "file.tar", sha256=SHA256).read_bytes() == CONTENT
    server.plan = [http(status="302 Found", Location="/elsewhere")] * 6
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        download(server.url, tmp_path / "other.tar")
    for place in ("file:///etc/passwd", "http://[bad", "ftp://host/x"):
        server.plan = [http(status="302 Found", Location=place)]
        with pytest.raises(DownloadError, match="which is no http address"):
            download(server.url, tmp_path / "other.tar")


def test_a_download_is_too_large(server, tmp_path):
    """You see: "… has 200000 bytes, and at most 1000 are taken", or "sends more than 1000 bytes".
    Do: raise max_bytes, if the file is that large.
    """
    with pytest.raises(DownloadError, match="has 200000 bytes, and at most 1000 are taken"):
        download(server.url, tmp_path / "file.tar", max_bytes=1000)
    server.plan = [drip(b"HTTP/1.1 200 OK\r\n\r\n", one=bytes(500), every=0.001)]
    with pytest.raises(DownloadError, match="sends more than 1000 bytes"):
        download(server.url, tmp_path / "file.tar", max_bytes=1000)
