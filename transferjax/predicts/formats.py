"""How services are asked and what they answer: pixels -> a body, an answer's body -> classes or scores.

    HttpTarget(url, *open_inference("input-0"))                    MLServer, KServe, Triton
    HttpTarget(url, *instances())                                  TensorFlow Serving, Vertex, MLflow
    HttpTarget(url, ranked(names), multipart("file"))              a form, and names with scores for an answer
    HttpTarget(url, *gradio(ranked(names)))                        a Gradio app

A format is `(parse, encode, batch_size, then)`, the settings of `HttpTarget` after the address.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transferjax import extras
from transferjax.predicts.answers import ServiceError, UnknownNames

Encode = Callable[[Sequence[np.ndarray]], tuple[bytes, dict[str, str]]]
"""uint8 images -> `(body, headers)`, bytes and a dict, always the same for the same images.
Each image is encoded by itself too: its answer is kept under that."""

Parse = Callable[[bytes, int], Sequence[Any]]
"""(the answer's body, number of images) -> for each image a class, or a row of scores."""

Then = Callable[[str, bytes], str]
"""(address, the first answer's body) -> the address, on the same host, where the answer will be."""

JSON = {"Content-Type": "application/json"}


def png(image: np.ndarray) -> bytes:
    """One uint8 image `[H, W, C]` as a PNG."""
    cv2 = extras.load("cv2", "images as PNG")
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1], slice(None))  # OpenCV's is BGR
    return cv2.imencode(".png", image[..., order])[1].tobytes()


def base64_png(image: np.ndarray) -> str:
    """One uint8 image as a PNG in base64."""
    return base64.b64encode(png(image)).decode()


def as_json(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
    """The body `{"images": [base64 PNG, …]}`: a plain default for services of one's own."""
    return json.dumps({"images": [base64_png(image) for image in images]}).encode(), dict(JSON)


class Format(NamedTuple):
    """What `HttpTarget` needs to know of a service, in the order of its settings."""

    parse: Parse
    encode: Encode = as_json
    batch_size: int = 1
    then: Then | None = None


Tensor = Callable[[Sequence[np.ndarray]], np.ndarray]
"""uint8 images `[H, W, C]` -> the array `[B, …]` that a model is fed."""


def as_tensor(
    dtype: str = "float32",
    layout: str = "NHWC",
    mean: float | Sequence[float] = 0,
    std: float | Sequence[float] = 1,
) -> Tensor:
    """Images as the array a model takes: floats `(x / 255 - mean) / std`, or bytes as they are for "uint8".

    Raises:
        ValueError: another layout than NHWC and NCHW; a mean or std with uint8.
    """
    if layout not in ("NHWC", "NCHW"):
        raise ValueError(f"layout must be 'NHWC' or 'NCHW'; got {layout!r}")
    try:
        known = np.dtype(dtype) in DATATYPES
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DATATYPES))}; got {dtype!r}")
    if np.dtype(dtype).kind != "f" and (np.any(mean) or np.any(np.asarray(std) != 1)):
        raise ValueError(f"mean and std are for floats; got dtype {dtype!r}")

    def make(images: Sequence[np.ndarray]) -> np.ndarray:
        x = np.stack(images)
        if np.dtype(dtype).kind == "f":
            x = (x.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        return x.astype(dtype) if layout == "NHWC" else x.astype(dtype).transpose(0, 3, 1, 2)

    return make


DATATYPES = {
    np.dtype("float16"): "FP16",
    np.dtype("float32"): "FP32",
    np.dtype("float64"): "FP64",
    np.dtype("uint8"): "UINT8",
    np.dtype("int32"): "INT32",
    np.dtype("int64"): "INT64",
}


UNIT = as_tensor()


def open_inference(
    input: str = "input-0", output: str | None = None, tensor: Tensor = UNIT, batch_size: int = 32
) -> Format:
    """The Open Inference Protocol, version 2: `POST …/v2/models/NAME/infer`.

    Args:
        input: the tensor's name; what the model calls it stands at `GET …/v2/models/NAME`.
        output: the name of the one with logits or classes; None if there is one output alone.
        tensor: see `as_tensor`.
        batch_size: images a request.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        x = tensor(images)
        one = {"name": input, "shape": x.shape, "datatype": DATATYPES[x.dtype], "data": x.ravel().tolist()}
        asked = {"inputs": [one], **({"outputs": [{"name": output}]} if output else {})}
        return json.dumps(asked).encode(), dict(JSON)

    def parse(body: bytes, count: int) -> Sequence[Any]:
        outputs = at(body, "outputs")
        named = {one["name"]: one for one in outputs}
        if named and (output not in named if output else len(named) > 1):
            wrong = f"no output {output!r}" if output else "several outputs"
            raise UnknownNames(f"{wrong}; there are {', '.join(map(repr, named))}: name one, as output=")
        found = named[output or outputs[0]["name"]]
        data = np.asarray(found["data"]).reshape(found["shape"])
        return list(data[:, 0] if data.shape[1:] == (1,) and data.dtype.kind in "iu" else data)

    return Format(_understanding(parse), encode, batch_size)


def instances(
    instance: Callable[[np.ndarray], Any] | None = None,
    answer: str | None = None,
    batch_size: int = 32,
    **parameters: Any,
) -> Format:
    """`{"instances": […]}` -> `{"predictions": […]}`: TensorFlow Serving, Vertex, MLflow, KServe's version 1.

    Args:
        instance: uint8 image -> its entry, as JSON has it; nested floats `[H, W, C]` in [0, 1] by default,
            `lambda image: {"b64": base64_png(image)}` where the model decodes images itself.
        answer: the field of each prediction with its scores, where a prediction is an object. Where it names
            classes: `instances()._replace(parse=ranked(names, "predictions"))`.
        batch_size: images a request.
        parameters: more of the body's fields, such as `signature_name`.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        entries = [instance(image) for image in images] if instance else UNIT(images).tolist()
        return json.dumps({"instances": entries, **parameters}).encode(), dict(JSON)

    def parse(body: bytes, count: int) -> Sequence[Any]:
        found = at(body, "predictions")
        if answer is None and isinstance(found, list) and found and isinstance(found[0], dict):
            fields = ", ".join(map(repr, found[0]))
            raise UnknownNames(f"a prediction has the fields {fields}: name that of the scores, as answer=")
        return found if answer is None else [within(one, answer, body) for one in found]

    return Format(_understanding(parse), encode, batch_size)


def multipart(
    field: str = "file", filename: str = "image.png", fields: Mapping[str, str] | None = None
) -> Encode:
    """A form with one PNG for each image, as browsers send it; the boundary depends on the content alone.

    Args:
        field: the name of the images.
        filename: of each.
        fields: the form's other entries.
    """

    def part(name: str, more: str, content: bytes) -> bytes:
        return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        more = f'; filename="{filename}"\r\nContent-Type: image/png'
        parts = [part(name, "", value.encode()) for name, value in (fields or {}).items()]
        parts += [part(field, more, png(image)) for image in images]
        boundary = "transferjax-" + hashlib.sha256(b"".join(parts)).hexdigest()[:32]
        line = f"--{boundary}\r\n".encode()
        body = b"".join(line + one for one in parts) + f"--{boundary}--\r\n".encode()
        return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    return encode


def raw_bytes(
    content_type: str = "application/octet-stream", write: Callable[[np.ndarray], bytes] = png
) -> Encode:
    """The image's bytes as they are, one image a request.

    Args:
        content_type: what the body is called.
        write: uint8 image -> bytes; a PNG by default, `np.ndarray.tobytes` for bare pixels.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        if len(images) != 1:
            raise ValueError(f"raw bytes hold one image a request; got {len(images)}: batch_size=1")
        return write(images[0]), {"Content-Type": content_type}

    return encode


def gzipped(encode: Encode) -> Encode:
    """The same body, compressed, for services that take that."""

    def compressed(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        body, headers = encode(images)
        return gzip.compress(body, mtime=0), {**headers, "Content-Encoding": "gzip"}

    return compressed


def gradio(parse: Parse, *others: Any) -> Format:
    """A Gradio app's two steps: `POST …/gradio_api/call/NAME` gives an event, whose address gives the answer.

    Args:
        parse: reads the first output, as JSON: `ranked(names)` for a `Label`.
        others: the values of the inputs after the image.
    """

    def encode(images: Sequence[np.ndarray]) -> tuple[bytes, dict[str, str]]:
        file = {"url": f"data:image/png;base64,{base64_png(images[0])}", "meta": {"_type": "gradio.FileData"}}
        return json.dumps({"data": [file, *others]}).encode(), dict(JSON)

    def then(url: str, body: bytes) -> str:
        event = at(body, "event_id")
        if not re.fullmatch(r"[\w-]+", event):
            raise ServiceError(f"expected the name of an event; got {event!r:.60}")
        return f"{url.rstrip('/')}/{event}"

    def read(body: bytes, count: int) -> Sequence[Any]:
        events = re.findall(r"event: (\w+)\r?\ndata: (.*)", body.decode())
        complete = [data for kind, data in events if kind == "complete"]
        if not complete:
            raise ServiceError(f"the app did not answer: {body[-200:]!r}")
        return parse(json.dumps(json.loads(complete[-1])[0]).encode(), count)

    return Format(_understanding(read), encode, 1, then)


def at(body: bytes, *path: str | int) -> Any:
    """What lies in a JSON body under these keys and indices.

    Raises:
        ServiceError: nothing, or another kind of body.
        UnknownNames: a field that its object has not got.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _something_else(body) from None
    for step in path:
        found = within(found, step, body)
    return found


def within(found: Any, step: str | int, body: bytes) -> Any:
    """What a part of a JSON body has under a key or an index; errors as those of `at`."""
    try:
        return found[step]
    except (LookupError, TypeError):
        if not found or isinstance(step, int):
            raise _something_else(body) from None
    fields = ", ".join(repr(name) for name in list(found)[:9]) if isinstance(found, dict) else ""
    there = f"the fields {fields}" if fields else f"a {type(found).__name__}"
    raise UnknownNames(
        f"the service answered something else: expected the field {step!r}, got {there}; body: {body[:200]!r}"
    )


def _something_else(body: bytes) -> ServiceError:
    return ServiceError(f"the service answered something else: {body[:200]!r}")


def scores(*path: str | int) -> Parse:
    """Classes, or rows of scores, one for each image, in a list under these keys of a JSON body."""
    return lambda body, count: at(body, *path)


def _understanding(parse: Parse) -> Parse:
    """A parser whose format is known: what it cannot read is no such answer, and no bug."""

    def read(body: bytes, count: int) -> Sequence[Any]:
        try:
            return parse(body, count)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise _something_else(body) from error

    return read
