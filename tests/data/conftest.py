"""A cache of its own for every test, small official-looking archives, and a web server with faults."""

import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from transferjax.data.tfds import WNIDS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache directory; the user's own is never touched."""
    path = tmp_path / "cache"
    monkeypatch.setenv("TRANSFERJAX_CACHE_DIR", str(path))
    return path


@pytest.fixture
def write_tar():
    """(path, {member name: content, or a TarInfo}) -> path of a tar.gz."""

    def write(path, contents):
        with tarfile.open(path, "w:gz") as tar:
            for name, content in contents.items():
                if isinstance(content, tarfile.TarInfo):
                    tar.addfile(content)
                else:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def tiny_cifar(tmp_path, write_tar):
    """An archive in CIFAR-10's binary layout: 5 x 4 training images, 6 test images, and what is in them."""
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (20, 32, 32, 3), np.uint8)}
    images["test"] = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    labels = {split: rng.integers(0, 10, len(x)).astype(np.uint8) for split, x in images.items()}
    rows = {
        split: np.concatenate([labels[split][:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], 1)
        for split, x in images.items()
    }
    files = {f"data_batch_{i + 1}.bin": rows["train"][4 * i : 4 * i + 4].tobytes() for i in range(5)}
    files["test_batch.bin"] = rows["test"].tobytes()
    files["batches.meta.txt"] = b"airplane\n"
    contents = {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}
    archive = write_tar(tmp_path / "cifar-10-binary.tar.gz", contents)
    return SimpleNamespace(archive=archive, images=images, labels=labels, contents=contents)


@pytest.fixture
def tiny_imagenette(tmp_path, write_tar):
    """An archive in ImageNette's layout, and its content: 3 + 2 images of each class, in turn."""
    rng = np.random.default_rng(0)

    def jpeg():
        pixels = rng.integers(0, 256, (*rng.integers(20, 40, 2), 3), np.uint8)
        return cv2.imencode(".jpg", pixels)[1].tobytes()

    contents = {"imagenette2-160/noisy_imagenette.csv": b"path,noisy_labels_0\n"}
    for folder, count in (("train", 3), ("val", 2)):
        for wnid in WNIDS:
            for i in range(count):
                contents[f"imagenette2-160/{folder}/{wnid}/{wnid}_{i}.JPEG"] = jpeg()
    return write_tar(tmp_path / "imagenette2-160.tgz", contents), contents


class _Server(ThreadingHTTPServer):
    """Serves `content`; every answer follows `plan.pop(0)` while there are plans, then is a good one."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.ranges = True
        self.plan = []  # ("drop", bytes), ("status", code), ("stall", seconds)
        self.requests = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/file.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        kind, value = server.plan.pop(0) if server.plan else ("good", None)
        if kind == "status":
            self.send_error(value)
            return
        start, asked = 0, self.headers.get("Range")
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            last, size = len(server.content) - 1, len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        self.wfile.write(body[:value] if kind in ("drop", "stall") else body)
        if kind == "stall":
            threading.Event().wait(1.0)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
