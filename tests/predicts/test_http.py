"""A service as a target: every image gets its answer, once, and what was asked and by whom is kept apart."""

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile import http

from transferjax.metrics import transfer_success
from transferjax.predicts import formats
from transferjax.predicts.http import BudgetExceeded, HttpTarget, ServiceError
from transferjax.predicts.rankings import ranked
from transferjax.transport import seconds

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
FLOATS = jnp.asarray(IMAGES / 255, jnp.float32)
COLOURS = IMAGES.reshape(5, -1, 3).mean(1)


def one_class(body, n):
    """A service that names a class: the strongest colour."""
    return [int(np.argmax(row)) for row in json.loads(body)]


def test_every_image_gets_its_answer(server, target):
    """In order, whatever the batch; floats are the same images as bytes."""
    for batch_size in (1, 2, 5):
        service, _ = target(batch_size=batch_size)
        np.testing.assert_allclose(service(IMAGES), COLOURS, rtol=1e-6)
        np.testing.assert_allclose(service(FLOATS), COLOURS, rtol=1e-6)
    assert len(server.requests) == 5 + 3 + 1


def test_it_answers_like_any_predict(target):
    labels = jnp.asarray(COLOURS.argmax(-1))
    logits, _ = target()
    classes, _ = target(parse=one_class, num_classes=3)
    for service in (logits, classes, logits.as_predict(3), classes.as_predict(3)):
        assert transfer_success(service, FLOATS, labels) == 0
        assert transfer_success(service, FLOATS, (labels + 1) % 3) == 1
    np.testing.assert_array_equal(classes(IMAGES), np.eye(3)[labels])
    nameless, _ = target(parse=one_class)
    np.testing.assert_array_equal(nameless(IMAGES), labels)
    np.testing.assert_array_equal(nameless.as_predict(3)(FLOATS), np.eye(3)[labels])
    with pytest.raises(ValueError, match=r"logits \[B, K\].*num_classes=K"):
        transfer_success(nameless, FLOATS, labels)


def test_it_works_inside_jit_and_has_no_gradient(server, target):
    service, _ = target(batch_size=5)
    predict = service.as_predict(3)
    inside = jax.jit(lambda predict, x: 2 * predict(x))(predict, FLOATS)
    np.testing.assert_allclose(inside, 2 * COLOURS, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(predict)(FLOATS[:, None])[:, 0], COLOURS, rtol=1e-6)
    assert len(server.requests) == 1
    with pytest.raises(TypeError, match="a service has no gradient: attack a surrogate"):
        jax.grad(lambda x: predict(x).sum())(FLOATS)
    with pytest.raises(TypeError, match=r"inside jit, use service.as_predict"):
        jax.jit(service)(FLOATS)
    with pytest.raises(ServiceError, match="a row of 4 finite scores"):
        service.as_predict(4)(FLOATS)


def test_check_says_how_often_it_is_right(server, target):
    service, _ = target()
    labels = COLOURS.argmax(-1)
    assert service.check(IMAGES, labels) == 1
    labels[:2] = (labels[:2] + 1) % 3
    assert service.check(IMAGES, labels) == 0.6
    assert len(server.requests) == 5
    with pytest.raises(ValueError, match="lie in 7 … 7"):
        service.check(IMAGES, np.full(5, 7))


def test_several_requests_at_a_time(server, target):
    """As many as were asked for, and no more; the answers are in order."""
    together, most, lock, plain = [0], [0], threading.Lock(), server.good
    all_there = threading.Barrier(3)

    def good(request):
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        all_there.wait(5)  # broken unless three are on their way
        with lock:
            together[0] -= 1
        return plain(request)

    server.good = good
    images = np.concatenate([IMAGES, 255 - IMAGES[:1]])
    service, _ = target(concurrency=3)
    np.testing.assert_allclose(service(images), images.reshape(6, -1, 3).mean(1), rtol=1e-6)
    assert most[0] == 3


def test_the_same_image_twice_is_asked_for_once(server, target):
    service, _ = target(concurrency=2)
    np.testing.assert_allclose(service(IMAGES[[0, 1, 0, 0]]), COLOURS[[0, 1, 0, 0]], rtol=1e-6)
    assert len(server.requests) == 2


def test_several_threads_ask_for_one_image_once(server, target):
    service, _ = target(concurrency=1)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: service(IMAGES[:1]), range(8)))
    np.testing.assert_allclose(said, np.broadcast_to(COLOURS[:1], (8, 1, 3)), rtol=1e-6)
    assert (service.spent, len(server.requests)) == (1, 1)


def test_one_directory_serves_many_that_begin_at_once(target, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: target(cache=tmp_path), range(60)))


def test_the_cache_spares_requests(server, target, tmp_path):
    first = target(cache=tmp_path)[0](IMAGES)
    asked = len(server.requests)
    other, _ = target(cache=tmp_path, budget=0)
    np.testing.assert_array_equal(other(IMAGES), first)
    assert len(server.requests) == asked
    with pytest.raises(BudgetExceeded):
        other(255 - IMAGES)


@pytest.mark.parametrize("kept", [True, False])
def test_an_image_is_asked_about_once_in_whatever_company(server, target, tmp_path, kept):
    """In another order, grouping or number, alone, under `vmap`, and by another target of the same cache."""
    images = np.concatenate([IMAGES, 255 - IMAGES])
    colours = images.reshape(10, -1, 3).mean(1)
    service, _ = target(batch_size=4, budget=10, cache=tmp_path if kept else None)
    for first in (slice(5), slice(None), slice(None, None, -1), slice(7, 8)):
        np.testing.assert_allclose(service(images[first]), colours[first], rtol=1e-6)
    service.batch_size = 3
    np.testing.assert_allclose(service(images), colours, rtol=1e-6)
    alone = jax.vmap(service.as_predict(3))(jnp.asarray(images / 255, jnp.float32)[:, None])
    np.testing.assert_allclose(alone[:, 0], colours, rtol=1e-6)
    assert (service.spent, len(server.requests)) == (10, 4)
    if kept:
        other, _ = target(batch_size=5, budget=0, cache=tmp_path)
        np.testing.assert_allclose(other(images[::2]), colours[::2], rtol=1e-6)


def test_rows_that_fill_up_a_batch_are_sent_once(server, target):
    service, _ = target(batch_size=8)
    service(IMAGES[[0, 1, 2, 2, 2, 2, 2, 2]])
    assert (service.spent, len(server.requests)) == (3, 1)


def test_answers_from_before_images_had_names_are_found_where_they_are_grouped_alike(
    server, target, tmp_path
):
    """And for each image from then on."""
    target(batch_size=3, cache=tmp_path)[0](IMAGES)
    for path in tmp_path.glob("*.images"):
        path.unlink()
    service, _ = target(batch_size=3, cache=tmp_path, budget=0)
    service(IMAGES)
    np.testing.assert_allclose(service(IMAGES[::-1]), COLOURS[::-1], rtol=1e-6)
    assert len(server.requests) == 2


def test_a_mended_parser_reads_answers_in_other_groups(server, target, tmp_path):
    broken, _ = target(batch_size=5, cache=tmp_path, parse=lambda body, n: {}["scores"])
    with pytest.raises(ServiceError, match="KeyError"):
        broken(IMAGES)
    service, _ = target(batch_size=2, cache=tmp_path, budget=0)
    np.testing.assert_allclose(service(IMAGES[3:]), COLOURS[3:], rtol=1e-6)


def test_the_cache_tells_models_apart_and_not_who_asks(server, target, tmp_path):
    for headers, query, asked in (
        ({"X-Model": "a", "Authorization": "Key 1"}, "?v=1&key=one", 5),
        (
            {"X-Model": "a", "Authorization": "Key 2", "X-Api-Key": "3", "X-Amz-Date": "today"},
            "?v=1&key=two",
            5,
        ),
        ({"X-Model": "b"}, "?v=1&access_token=three", 10),
        ({"X-Model": "b"}, "?v=2", 15),
    ):
        service, _ = target(cache=tmp_path, headers=headers, url=server.url + query)
        service(IMAGES)
        assert len(server.requests) == asked


def test_the_cache_tells_pixels_apart_that_the_body_does_not(server, target, tmp_path):
    """As where an image was uploaded before and the body only names it."""
    server.good = lambda request: json.dumps([[len(server.requests), 0]]).encode()
    service, _ = target(cache=tmp_path, encode=lambda images: (b"the uploaded one", {}))
    assert service(IMAGES)[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert service(IMAGES)[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_headers_of_the_format_choose_a_model_too(server, target, tmp_path):
    for model in "ab":
        encode = lambda images, model=model: (formats.as_json(images)[0], {"X-Amz-Target": model})  # noqa: E731
        target(cache=tmp_path, encode=encode)[0](IMAGES[:1])
    assert [request.headers["x-amz-target"] for request in server.requests] == ["a", "b"]


def test_the_rate_is_kept(target):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    service, _ = target(per_second=4, sleep=sleep, clock=lambda: now[0])
    service(IMAGES)
    assert now[0] == pytest.approx(1.0)


def test_headers_are_sent_and_connections_kept(server, target):
    service, _ = target(headers={"Authorization": "Key 1"})
    service(IMAGES)
    assert server.requests[0].headers["authorization"] == "Key 1"
    assert len(server._open) == 1


def test_a_proxy_of_the_environment_is_used(server, target, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://me:secret@{server.host}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    service, _ = target(url="http://service.example/predict")
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    (request,) = server.requests
    assert request.line == "POST http://service.example/predict HTTP/1.1"
    assert request.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


def test_zipped_answers_and_bodies(server, target):
    server.plan = [http(gzip.compress(b"[[1, 2, 3]]"), Content_Encoding="gzip")]
    service, _ = target(encode=formats.gzipped(formats.as_json))
    assert service(IMAGES[:1]).tolist() == [[1, 2, 3]]
    (request,) = server.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["accept-encoding"] == "gzip"
    assert gzip.decompress(request.body) == formats.as_json(IMAGES[:1])[0]


def test_chunked_answers(server, target):
    chunks = b"3\r\n[[1\r\n8\r\n, 2, 3]]\r\n0\r\n\r\n"
    server.plan = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks]
    assert target()[0](IMAGES[:1]).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("-3", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 1e9, 1e10),
    ],
)
def test_retry_after_in_both_forms(header, least, most):
    assert least <= seconds(header) <= most


@pytest.mark.parametrize(
    "header", [None, "", "nan", "inf", "-inf", "1e999", "soon", "Wed, 99 Oct 2015", "7 s"]
)
def test_what_is_no_retry_after(header):
    assert seconds(header) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"attempts": 0},
        {"concurrency": 0},
        {"max_bytes": 0},
        {"per_second": 0.0},
        {"per_second": float("nan")},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"deadline": float("nan")},
        {"backoff": -1.0},
        {"num_classes": 1},
        {"num_classes": "10"},
        {"batch_size": 2.5},
        {"timeout": "30"},
        {"budget": -1},
    ],
)
def test_bad_settings(bad, target):
    with pytest.raises(ValueError, match=next(iter(bad))):
        target(**bad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [formats.instances()],
            r"parse must be .* got a whole format: put a star before it, .*\*instances\(\)",
        ),
        ([ranked(["a", "b"]), formats.instances()], r"encode must be .* a whole format: take its \.encode"),
        ([formats.multipart("x"), ranked(["a", "b"])], r"parse must be .* got multipart.* before what asks"),
        ([formats.multipart("x")], r"parse must be a function \(body, number of images\) -> answers"),
        ([ranked], r"what ranked makes, not ranked itself: ranked\(…\)"),
        ([formats.instances], r"what instances makes, not instances itself: \*instances\(…\)"),
        ([len, formats.scores("x")], "parse must be"),
        ([formats.scores("x"), formats.scores("x")], "encode must be .* got scores"),
        ([formats.scores("x"), formats.as_json, 1, "later"], "then must be .* got 'later'"),
        ([None], "parse must be .* got None"),
    ],
)
def test_settings_that_are_no_such_functions(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        HttpTarget("http://localhost/", *settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (b"pixels", "got bytes"),
        ("text", r"got str: text.encode\(\) makes bytes"),
        (("text", {}), r"got \(str, dict\): text.encode"),
        ((b"pixels",), r"got \(bytes\)"),
        (None, "got NoneType"),
    ],
)
def test_an_encode_without_headers(server, target, made, got):
    service, _ = target(encode=lambda images: made)
    with pytest.raises(ValueError, match=rf"encode must return \(body, headers\), as .*{got}"):
        service(IMAGES)
    assert not server.requests


def test_labels_are_looked_at_before_anything_is_sent(server, target):
    with pytest.raises(ValueError, match="these look 1-based"):
        target(num_classes=3)[0].check(IMAGES, np.array([1, 2, 3, 1, 2]))
    assert not server.requests


def test_the_scores_of_one_image_are_understood_without_a_list_around_them(server, target):
    """Whole numbers could be its surest classes."""
    server.good = lambda request: b'{"output": [0.5, 2, 0.25]}'
    service, _ = target(parse=formats.scores("output"))
    assert service(IMAGES[:2]).tolist() == [[0.5, 2, 0.25]] * 2
    server.good = lambda request: b'{"output": [5, 2, 1]}'
    with pytest.raises(
        ServiceError, match=r"3 answers for 1 images: if .* of one image, parse must give \[scores"
    ):
        service(IMAGES[2:3])
    with pytest.raises(ServiceError, match=r"3 answers for 2 images: .* needs batch_size=1"):
        target(parse=formats.scores("output"), batch_size=2)[0](IMAGES[3:])


def test_it_does_not_show_keys(server):
    service = HttpTarget(server.url + "?key=secret", formats.scores("x"), headers={"X-Api-Key": "secret"})
    assert "secret" not in repr(service)
    assert f"HttpTarget('{server.url}', headers=['X-Api-Key'], batch_size=1" in repr(service)
    with pytest.raises(ValueError, match=r"got 'ftp://host/'$"):
        HttpTarget("ftp://host/?key=secret", formats.scores("x"))


def test_bad_images(target):
    service, _ = target()
    for bad in (IMAGES[0], IMAGES.astype(np.float32), IMAGES.astype(int), IMAGES[:0]):
        with pytest.raises(ValueError, match="images must be"):
            service(bad)
    with pytest.raises(ValueError, match="num_classes must be 3; got 4"):
        target(num_classes=3)[0].as_predict(4)
