"""Downloads from a web server that misbehaves."""

import hashlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from transferjax.data.download import DownloadError, download

CONTENT = np.random.default_rng(0).bytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(tmp_path, server):
    server.content = CONTENT
    return tmp_path / "deep" / "file.tar.gz"


def leftovers(target):
    return [path.name for path in target.parent.iterdir() if path != target]


def test_whole_file(server, target):
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert download(server.url, target, sha256=SHA256.upper(), md5=md5) == target
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []


def test_a_file_that_is_right_is_not_fetched_again(server, target):
    download(server.url, target, sha256=SHA256)
    download(server.url, target, sha256=SHA256)
    assert server.requests == [None]
    target.write_bytes(b"spoiled")
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_dropped_connection_is_resumed_where_it_broke_off(server, target):
    server.plan = [("drop", 300_000), ("drop", 1), ("status", 503)]
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=300001-", "bytes=300001-"]


def test_a_server_without_ranges_starts_again(server, target):
    server.ranges = False
    server.plan = [("drop", 300_000)]
    download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_silence_counts_as_a_dropped_connection(server, target):
    server.plan = [("stall", 300_000)]
    download(server.url, target, sha256=SHA256, timeout=0.2)
    assert target.read_bytes() == CONTENT


def test_an_interrupted_call_is_continued_if_a_checksum_can_tell(server, target):
    target.parent.mkdir()
    part = target.with_name("file.tar.gz.part")
    part.write_bytes(CONTENT[:500_000])
    download(server.url, target, sha256=SHA256)
    assert server.requests == ["bytes=500000-"]
    assert target.read_bytes() == CONTENT
    target.unlink()
    part.write_bytes(b"of another version")
    download(server.url, target)
    assert server.requests[1:] == [None]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"of another version", CONTENT + b"longer", b"x" * len(CONTENT)])
def test_a_part_of_another_version_is_fetched_anew(server, target, old):
    target.parent.mkdir()
    target.with_name("file.tar.gz.part").write_bytes(old)
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []


def test_a_complete_part_needs_no_more_bytes(server, target):
    target.parent.mkdir()
    target.with_name("file.tar.gz.part").write_bytes(CONTENT)
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_checksum_leaves_nothing_behind(server, target):
    with pytest.raises(DownloadError, match=f"not the expected file: sha256 {SHA256}, expected 00"):
        download(server.url, target, sha256="00")
    assert leftovers(target) == []
    assert not target.exists()


def test_a_missing_file_is_an_error_at_once(server, target):
    server.plan = [("status", 404)] * 5
    with pytest.raises(DownloadError, match="the server says 404 Not Found"):
        download(server.url, target)
    assert len(server.requests) == 1


def test_gives_up_when_there_is_no_progress(server, target):
    server.plan = [("drop", 100)] + [("drop", 0)] * 10
    with pytest.raises(DownloadError, match=r"closed after 100 of 700000 bytes.*continues where it stopped"):
        download(server.url, target, attempts=2)
    assert len(server.requests) == 3


def test_offline_fails_within_seconds_and_says_what_to_do(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"Connection refused.*put it at .*/file\.tar\.gz\."):
            download(url, tmp_path / "file.tar.gz")
        assert time.monotonic() - start < 2


def test_refuses_addresses_that_are_not_http(tmp_path):
    with pytest.raises(ValueError, match="expected an http or https address, got 'file:///etc/passwd'"):
        download("file:///etc/passwd", tmp_path / "x")


def test_of_two_at_once_one_fetches(server, target):
    """And both have the whole file."""
    with ThreadPoolExecutor(2) as several:
        found = list(several.map(lambda _: download(server.url, target, progress=False), range(2)))
    assert found == [target, target]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert not leftovers(target)
