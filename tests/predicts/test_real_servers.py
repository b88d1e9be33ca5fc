"""Inference servers as they are installed: LitServe and MLServer, each with a net that sees the mean colour.

They are installed here, into `.venv-servers`: what they bring is not what data sets bear.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.connections import connections
from transferjax.metrics import transfer_success
from transferjax.predicts import HttpTarget, ServiceError, instances, multipart, open_inference, ranked
from transferjax.transport import TransportError, answer, opened

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
UNIT = IMAGES.astype(np.float32) / 255
COLOURS = UNIT.mean((1, 2))
NAMES = ("red", "green", "blue")
SERVERS = ("litserve>=0.2.10", "mlserver>=1.7", "numpy", "pillow")

LITSERVE = """
import sys
import litserve
import numpy as np
from PIL import Image

class Colours(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        if "instances" in request:
            return np.array(request["instances"])
        return np.asarray(Image.open(request["file"].file)) / 255

    def predict(self, x):
        return x.mean((-3, -2))

    def encode_response(self, y):
        if y.ndim == 2:
            return {"predictions": y.tolist()}
        return {"seen": [{"label": n, "score": s} for n, s in zip(("red", "green", "blue"), y.tolist())]}

if __name__ == "__main__":
    litserve.LitServer(Colours(), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
"""

MLSERVER = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Colours(MLModel):
    async def predict(self, payload):
        y = NumpyCodec.decode_input(payload.inputs[0]).mean((1, 2))
        said = {"scores": y, "class": y.argmax(-1)[:, None]}
        outputs = [NumpyCodec.encode_output(name, array) for name, array in said.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def running(command, folder, ready):
    """A server in a process of its own, once `ready` answers; ended with all its workers."""
    log = folder / "log"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        pool, end = connections(), time.monotonic() + 90
        while True:
            with contextlib.suppress(TransportError):
                answer(pool, "GET", ready, timeout=5, max_bytes=1000)
                break
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{command} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def python():
    """An interpreter that has the servers."""
    place = Path(__file__).parents[2] / ".venv-servers"
    binary, done = place / "bin" / "python", place / "installed.txt"
    with filelock.FileLock(f"{place}.lock"):
        if not (done.is_file() and done.read_text() == "\n".join(SERVERS)):
            install = [binary, "-m", "pip", "install", "--quiet", "--retries=0", *SERVERS]
            for command in ([sys.executable, "-m", "venv", place], install):
                ended = subprocess.run(command, capture_output=True, text=True)
                if ended.returncode:
                    why = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
                    pytest.skip(f"{', '.join(SERVERS)} cannot be installed: {' '.join(why)}")
            done.write_text("\n".join(SERVERS))
    return str(binary)


@pytest.fixture(scope="module")
def litserve(python, tmp_path_factory):
    folder, (port,) = tmp_path_factory.mktemp("litserve"), free_ports(1)
    (folder / "app.py").write_text(LITSERVE)
    with running([python, "app.py", str(port)], folder, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}/predict"


@pytest.fixture(scope="module")
def mlserver(python, tmp_path_factory):
    folder, (port, grpc, metrics) = tmp_path_factory.mktemp("mlserver"), free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    (folder / "model-settings.json").write_text('{"name": "colours", "implementation": "colours.Colours"}')
    (folder / "colours.py").write_text(MLSERVER)
    command = [python, "-c", "from mlserver.cli.main import main; main()", "start", "."]
    with running(command, folder, f"http://127.0.0.1:{port}/v2/models/colours/ready"):
        yield f"http://127.0.0.1:{port}/v2/models/colours/infer"


def test_instances_of_litserve(litserve, tmp_path):
    service = HttpTarget(litserve, *instances(), concurrency=4, cache=tmp_path)
    np.testing.assert_allclose(service(IMAGES), COLOURS, rtol=1e-5)
    labels = jnp.asarray(COLOURS.argmax(-1))
    assert service.check(IMAGES, labels) == 1
    inside = jax.jit(lambda x, y: transfer_success(service.as_predict(3), x, y))
    assert inside(jnp.asarray(UNIT), (labels + 1) % 3) == 1
    assert service.spent == len(IMAGES)


def test_a_form_and_names_of_litserve(litserve):
    service = HttpTarget(litserve, ranked(NAMES, "seen"), multipart("file"))
    np.testing.assert_allclose(service(IMAGES[:3]), COLOURS[:3], rtol=1e-6)


def test_litserve_fails_on_what_it_cannot_read(litserve):
    service = HttpTarget(litserve, ranked(NAMES, "seen"), attempts=2, backoff=0)
    with pytest.raises(ServiceError, match=r"failed 2 times; the last time: HTTP 500 Internal Server Error"):
        service(IMAGES[:1])


def test_open_inference_of_mlserver(mlserver):
    service = HttpTarget(mlserver, *open_inference("x", "scores", batch_size=16), concurrency=2)
    np.testing.assert_allclose(service(IMAGES), COLOURS, rtol=1e-5)
    classes = HttpTarget(mlserver, *open_inference("x", "class"), num_classes=3)
    np.testing.assert_array_equal(classes(UNIT), np.eye(3)[COLOURS.argmax(-1)])


def test_mlserver_zips_its_answers(mlserver):
    body, headers = open_inference("x").encode(IMAGES)
    with opened(connections(), "POST", mlserver, body=body, headers=headers, timeout=30) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert json.loads(response.body(1 << 20))["model_name"] == "colours"


def test_mlserver_refuses_what_it_does_not_know(mlserver):
    service = HttpTarget(mlserver.replace("colours", "other"), *open_inference("x"))
    with pytest.raises(ServiceError, match=r"refused: HTTP 404 Not Found: .*other"):
        service(IMAGES[:1])
    with pytest.raises(ServiceError, match=r"several outputs; there are 'scores', 'class': name one"):
        HttpTarget(mlserver, *open_inference("x"))(IMAGES[:1])
