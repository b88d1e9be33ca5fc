"""Formats: what is sent, byte for byte where a standard says so, and what every form of answer means."""

import base64
import email.parser
import email.policy
import io
import json

import cv2
import numpy as np
import pytest
from hostile import Server
from PIL import Image

from transferjax.metrics import fooled
from transferjax.predicts import formats
from transferjax.predicts.answers import ServiceError, UnknownNames
from transferjax.predicts.http import HttpTarget
from transferjax.predicts.rankings import ranked

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
UNIT = IMAGES.astype(np.float32) / 255
NAMES = ("tench", "Goldfish", "shark", "ray")


def said(parse, answer, count=1):
    return np.asarray(parse(json.dumps(answer).encode(), count))


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_tensors():
    np.testing.assert_array_equal(formats.as_tensor()(IMAGES), UNIT)
    np.testing.assert_array_equal(formats.as_tensor("uint8", "NCHW")(IMAGES), IMAGES.transpose(0, 3, 1, 2))
    x = formats.as_tensor("float16", mean=(0.1, 0.2, 0.3), std=0.5)(IMAGES)
    assert x.dtype == np.float16
    np.testing.assert_allclose(x, (UNIT - [0.1, 0.2, 0.3]) / 0.5, atol=2e-3)
    for bad in (
        {"layout": "CHW"},
        {"dtype": "uint8", "mean": 0.5},
        {"dtype": "complex64"},
        {"dtype": "float99"},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            formats.as_tensor(**bad)


def test_open_inference_sends_tensors_and_reads_the_output():
    parse, encode, _, _ = formats.open_inference("x", tensor=formats.as_tensor(layout="NCHW"))
    body, headers = encode(IMAGES)
    assert headers == {"Content-Type": "application/json"}
    (sent,) = json.loads(body)["inputs"]
    assert (sent["name"], sent["shape"], sent["datatype"]) == ("x", [2, 3, 4, 5], "FP32")
    np.testing.assert_array_equal(np.float32(sent["data"]).reshape(2, 3, 4, 5), UNIT.transpose(0, 3, 1, 2))
    scores = {"name": "y", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
    np.testing.assert_array_equal(said(parse, {"outputs": [scores]}, 2), [[1, 2, 3], [4, 5, 6]])
    classes = {"name": "y", "shape": [2, 1], "datatype": "INT64", "data": [[7], [8]]}
    assert said(parse, {"outputs": [classes]}, 2).tolist() == [7, 8]
    both = {"outputs": [scores, {**classes, "name": "label"}]}
    assert json.loads(formats.open_inference(output="label").encode(IMAGES)[0])["outputs"] == [
        {"name": "label"}
    ]
    assert said(formats.open_inference(output="label").parse, both, 2).tolist() == [7, 8]
    for bad in (both, {"outputs": []}, {"outputs": [{**scores, "shape": [2, 4]}]}, {"outputs": 3}, [], None):
        with pytest.raises(
            ServiceError, match=r"(several outputs; there are 'y', 'label'|answered something else)"
        ):
            said(parse, bad, 2)
    with pytest.raises(UnknownNames, match=r"several outputs; there are 'y', 'label': name one, as output="):
        said(parse, both, 2)
    with pytest.raises(UnknownNames, match=r"no output 'odd'; there are 'y', 'label'"):
        said(formats.open_inference(output="odd").parse, both, 2)


def test_instances_and_predictions():
    parse, encode, _, _ = formats.instances(signature_name="serving_default")
    body = json.loads(encode(IMAGES)[0])
    assert body.pop("signature_name") == "serving_default"
    np.testing.assert_array_equal(np.float32(body["instances"]), UNIT)
    assert said(parse, {"predictions": [[1, 2], [3, 4]]}, 2).tolist() == [[1, 2], [3, 4]]
    assert said(parse, {"predictions": [1, 2]}, 2).tolist() == [1, 2]
    fields = formats.instances(lambda image: {"b64": formats.base64_png(image)}, answer="scores")
    entries = json.loads(fields.encode(IMAGES)[0])["instances"]
    np.testing.assert_array_equal(decoded(base64.b64decode(entries[1]["b64"])), IMAGES[1])
    assert said(fields.parse, {"predictions": [{"scores": [1, 2], "class": 1}]}).tolist() == [[1, 2]]
    for bad in ({"predictions": [{"logits": [1]}]}, {"outputs": []}, {"predictions": 3}):
        with pytest.raises(ServiceError, match="answered something else"):
            said(fields.parse, bad)
    with pytest.raises(
        UnknownNames, match="expected the field 'scores', got the fields 'logits', 'id'; body"
    ):
        said(fields.parse, {"predictions": [{"logits": [1], "id": 2}]})
    with pytest.raises(
        UnknownNames, match="has the fields 'scores', 'id': name that of the scores, as answer="
    ):
        said(parse, {"predictions": [{"scores": [1], "id": 2}]})


def test_fields_that_are_not_there():
    """The parser's to learn; what has no fields at all is asked for again."""
    for answer, there in (({"b": 1}, "the fields 'b'"), ({"a": {"c": 1}}, "the fields 'c'"), ([1], "a list")):
        with pytest.raises(UnknownNames, match=f"expected the field '[ab]', got {there}; body: "):
            said(formats.scores("a", "b"), answer)
    for nothing in ({}, None, [], {"a": None}, {"a": {}}):
        with pytest.raises(ServiceError) as caught:
            said(formats.scores("a", "b"), nothing)
        assert not isinstance(caught.value, UnknownNames)


def test_forms_are_the_same_for_the_same_images():
    """As the standard library's reader of MIME sees them."""
    encode = formats.multipart("photo", "a.png", {"top": "5"})
    body, headers = encode(IMAGES)
    assert (body, headers) == encode(IMAGES.copy())
    message = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body
    parts = list(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(message).iter_parts())
    assert [p.get_param("name", header="content-disposition") for p in parts] == ["top", "photo", "photo"]
    assert parts[0].get_content().strip() == "5"
    assert [p.get_filename() for p in parts] == [None, "a.png", "a.png"]
    np.testing.assert_array_equal([decoded(p.get_content()) for p in parts[1:]], IMAGES)


def test_raw_bytes():
    body, headers = formats.raw_bytes("image/png")(IMAGES[:1])
    np.testing.assert_array_equal(decoded(body), IMAGES[0])
    assert headers == {"Content-Type": "image/png"}
    assert formats.raw_bytes(write=np.ndarray.tobytes)(IMAGES[:1])[0] == IMAGES[0].tobytes()
    with pytest.raises(ValueError, match="one image a request; got 2"):
        formats.raw_bytes()(IMAGES)


@pytest.mark.parametrize(
    "answer",
    [
        [{"label": "shark", "score": 0.5}, {"label": "tench", "score": 0.3}, {"label": "cat", "score": 0.2}],
        [{"label": "tench", "score": 0.3}, {"label": "shark", "score": 0.5}],
        {"SHARK": 0.5, "tench": 0.3},
        [["shark", 0.5], ["tench", 0.3]],
        ["shark", "cat", "tench"],
        [{"class_name": "shark", "probability": "0.5"}, {"class_name": " Tench", "probability": "0.3"}],
        [{"name": "shark", "class": 2, "confidence": 0.5}, {"name": "tench", "class": 0, "confidence": 0.3}],
        [{"id": "7", "name": "tench", "value": 0.3}, {"id": "2", "name": "shark", "value": 0.5}],
        [{"confidence": 30, "value": "tench"}, {"confidence": 50, "value": "shark"}],
        {"displayNames": ["tench", "shark"], "confidences": [0.3, 0.5], "ids": ["1", "2"]},
        {
            "label": "shark",
            "confidences": [{"label": "shark", "confidence": 0.5}, {"label": "tench", "confidence": 0.3}],
        },
    ],
    ids=lambda answer: str(answer)[:24],
)
def test_every_way_to_name_classes(answer):
    """One image's, and each of two images'; the second place is the tench's, and the others are below."""
    parse = ranked(NAMES, "found")
    one = said(parse, {"found": answer})
    assert np.argsort(-one[0], kind="stable")[:2].tolist() == [2, 0]
    assert max(one[0, [1, 3]]) < one[0, 0]
    np.testing.assert_array_equal(said(parse, {"found": [answer, answer]}, 2), np.concatenate([one, one]))


def test_a_png_keeps_its_channels_in_order():
    for channels in (1, 3, 4):
        image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
        read = np.asarray(Image.open(io.BytesIO(formats.png(image))))
        np.testing.assert_array_equal(read.reshape(image.shape), image)


def test_the_surest_known_name_counts():
    names = {"A": 0, "b": 1, "beta": 1}
    row = said(ranked(names, other=3), [["a", 0.2], ["B", 0.1], ["beta", 0.4], ["c", 0.9]])[0]
    assert (row.argmax(), row[1], len(row)) == (1, 0.4, 4)
    assert said(ranked(names, other=3), [["c", 0.9]]).argmax() == 3
    assert said(ranked(names, other=3), []).argmax() == 3
    assert said(ranked(names), {"label": "b"}).argmax() == 1
    assert said(ranked(names), {"label": "b", "confidences": None}).argmax() == 1  # Gradio's of a class alone
    assert said(ranked(names), [{"label": 3, "name": "b", "score": 0.9}])[0].tolist() == pytest.approx(
        [-0.1, 0.9]
    )
    assert said(ranked(names, num_classes=9), ["b"]).shape == (1, 9)
    assert said(ranked(names, other=3), [["c", 0.9], ["a", 0.2]]).argmax() == 0
    with pytest.raises(UnknownNames, match=r"surest of 'c', which the names have not got: correct or add it"):
        said(ranked(names), [["a", 0.2], ["c", 0.9]])
    with pytest.raises(UnknownNames, match=r"surest of 'Beto', which the names have not got, but 'beta': "):
        said(ranked(names), ["Beto", "b"])
    with pytest.raises(UnknownNames, match="names nothing: give other="):
        said(ranked(names), [])
    with pytest.raises(UnknownNames, match="expected names with scores, got the fields 'out', 'id'"):
        said(ranked(names), {"out": [1, 2], "id": 3})
    with pytest.raises(ServiceError, match="not finite"):
        said(ranked(names), [["a", float("nan")]])
    for bad in ([3], [{"odd": "a"}], [["a", 1, "c"]], {"a": "much"}, 3):
        with pytest.raises(ServiceError, match="answered something else"):
            said(ranked(names), bad)
    for bad, why in (
        ({}, "vocabulary is empty"),
        ("zero", "got the text 'zero'"),
        (["a", "b", "A "], "the name 'A ' stands for the classes 0 and 2: drop one"),
        ({"a": 0, "A": 1}, "the name 'A' stands for the classes 0 and 1"),
        ([0, 1], "names must be text"),
        ({"a": "0"}, "classes whole numbers; got 'a' for '0'"),
    ):
        with pytest.raises(ValueError, match=why):
            ranked(bad)
    with pytest.raises(ValueError, match=r"0 … 1; got 0 … 3"):
        ranked(names, other=3, num_classes=2)


def test_one_name_for_each_of_several_images():
    """Where there are as many as images; otherwise it is said of one image."""
    parse = ranked(NAMES, "found")
    for answer in (
        [{"label": "shark"}, {"label": "ray", "score": 0.9}, {"label": "shark"}],
        ["shark", "ray", "shark"],
        [["shark", 0.9], ["ray", 0.8], ["shark", 0.7]],
    ):
        assert said(parse, {"found": answer}, 3).argmax(-1).tolist() == [2, 3, 2]
        assert said(parse, {"found": answer}, 1).shape == said(parse, {"found": answer}, 4).shape == (1, 4)


def test_top_k_success():
    """A class that was not named is not among the k surest, however many there are."""
    row = said(ranked(NAMES), [["shark", 0.5], ["tench", 0.3]])
    labels = np.array([0, 1, 2, 3])
    for k, missed in ((1, [1, 1, 0, 1]), (2, [0, 1, 0, 1])):
        success = fooled(lambda x: row.repeat(4, 0), UNIT[:1].repeat(4, 0), labels, top_k=k)
        np.testing.assert_array_equal(success, np.array(missed, bool))
        aimed = fooled(lambda x: row.repeat(4, 0), UNIT[:1].repeat(4, 0), labels, labels, top_k=k)
        np.testing.assert_array_equal(aimed, ~np.array(missed, bool))
    with pytest.warns(UserWarning, match=r"top_k=3, but of no image more than 2 classes .* those of top_k=2"):
        success = fooled(lambda x: row.repeat(4, 0), UNIT[:1].repeat(4, 0), labels, top_k=3)
    np.testing.assert_array_equal(success, np.array([0, 1, 0, 1], bool))
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"top_k must lie in 1 … 3.*got {k}"):
            fooled(lambda x: row, UNIT[:1], labels[:1], top_k=k)


@pytest.fixture
def app():
    """What a Gradio app with an image and a label does."""
    said = {"label": "ray", "confidences": [{"label": "ray", "confidence": 0.9}]}

    def good(request):
        method, path, _ = request.line.split()
        if method == "GET":
            assert path == "/gradio_api/call/predict/4fa1"
            assert "content-type" not in request.headers
            return server.stream.encode()
        image, other = json.loads(request.body)["data"]
        assert (other, image["meta"]) == (5, {"_type": "gradio.FileData"})
        np.testing.assert_array_equal(decoded(base64.b64decode(image["url"].partition(",")[2])), IMAGES[0])
        return json.dumps({"event_id": server.event}).encode()

    with Server(good) as server:
        server.event = "4fa1"
        server.stream = f"event: heartbeat\ndata: null\n\nevent: complete\ndata: {json.dumps([said, 7])}\n\n"
        server.url = f"http://{server.host}/gradio_api/call/predict"
        yield server


def test_gradio_is_asked_in_two_steps(app):
    service = HttpTarget(app.url, *formats.gradio(ranked(NAMES), 5), attempts=1)
    assert service(IMAGES[:1]).argmax(-1) == [3]
    assert service.spent == 1
    app.stream = "event: error\ndata: null\n\n"
    with pytest.raises(ServiceError, match=r"the app did not answer: b'event: error"):
        HttpTarget(app.url, *formats.gradio(ranked(NAMES), 5))(IMAGES[:1])
    app.event = "../../other"
    with pytest.raises(ServiceError, match=r"expected the name of an event; got '../../other'"):
        HttpTarget(app.url, *formats.gradio(ranked(NAMES), 5))(IMAGES[:1])


def test_the_second_step_stays_on_the_host(app):
    elsewhere = formats.gradio(ranked(NAMES), 5)._replace(then=lambda url, body: "http://example.org/x?key=1")
    with pytest.raises(ServiceError, match=r"http://example.org/x is on another host than .*: not asked"):
        HttpTarget(app.url, *elsewhere)(IMAGES[:1])
