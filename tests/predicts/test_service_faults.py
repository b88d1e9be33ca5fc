"""Services"""

import gc
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time

import numpy as np
import pytest
from hostile import Server, drip, http, silent

from transferjax.predicts.answers import check_no_error
from transferjax.predicts.formats import scores
from transferjax.predicts.http import BudgetExceeded, ServiceError
from transferjax.predicts.rankings import ranked

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
COLOURS = IMAGES.reshape(3, -1, 3).mean(1)
HEAD = b"HTTP/1.1 200 OK\r\n"


def tried_again(server, target, fault, reason, **options):
    """Once, with success; and where it never ends, until the tries are used up, with the reason."""
    server.plan = [fault]
    service, waits = target(**options)
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert (len(server.requests), waits) == (2, [1.0])
    server.plan = [fault] * 2
    with pytest.raises(ServiceError, match=f"failed 2 times; the last time: .*{reason}"):
        target(attempts=2, **options)[0](IMAGES[:1])
    assert len(server.requests) == 4


def not_tried_again(server, target, fault, reason, **options):
    server.plan = [fault]
    service, waits = target(**options)
    with pytest.raises(ServiceError, match=f"predict refused: .*{reason}"):
        service(IMAGES[:1])
    assert (len(server.requests), waits) == (1, [])


def test_nobody_listens(target):
    """You see: "failed 5 times; the last time: Connection refused", after tries with growing waits.
    Do: look at the address, or start the service; the same call continues.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    service, waits = target(url=url, attempts=3)
    with pytest.raises(ServiceError, match=r"failed 3 times; the last time: Connection refused$"):
        service(IMAGES[:1])
    assert waits == [1.0, 2.0]


def test_the_service_is_overloaded(server, target):
    """You see: nothing, if a later try succeeds: statuses 408, 425, 429 and 5xx are tried again.
    Do: set per_second, if it happens often.
    """
    server.plan = [http(status="503 Busy"), http(status="429 Slow down", Retry_After="7")]
    server.plan += [lambda connection: None, http(status="500 Oops")]
    service, waits = target(backoff=0.5)
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert waits == [0.5, 7.0, 2.0, 4.0]


def test_the_service_refuses(server, target):
    """You see: "refused: HTTP 403 …" at once, with the beginning of what it says.
    Do: what it says; most often the key is wrong.
    """
    not_tried_again(server, target, http(b"bad key", "403 Forbidden"), "HTTP 403 Forbidden: b'bad key'")


def test_the_service_says_nothing(server, target):
    """You see: "no whole answer within 30 s", after all tries.
    Do: raise timeout, if the service is that slow.
    """
    tried_again(server, target, silent, r"no whole answer within 0.4 s", timeout=0.4)


def test_the_service_sends_its_headers_a_byte_at_a_time(server, target):
    """You see: "no whole answer within 30 s": timeout holds for the whole of a try.
    Do: raise timeout, if the service is that slow.
    """
    start = time.monotonic()
    tried_again(server, target, drip(HEAD + b"X-A: "), "no whole answer within 0.4 s", timeout=0.4)
    assert time.monotonic() - start < 3


def test_the_service_sends_its_answer_a_byte_at_a_time(server, target):
    """You see: "no whole answer within 30 s": timeout holds for the whole of a try.
    Do: raise timeout, if the service is that slow.
    """
    tried_again(
        server,
        target,
        drip(HEAD + b"Content-Length: 1000\r\n\r\n"),
        "no whole answer within 0.4 s",
        timeout=0.4,
    )


def test_an_answer_without_a_length_never_ends(server, target):
    """You see: "no whole answer within 30 s"; what came until then is not taken for the answer.
    Do: ask the service's owner.
    """
    tried_again(
        server, target, drip(HEAD + b"\r\n[[1,2,3]]", one=b" "), "no whole answer within 0.4 s", timeout=0.4
    )


def test_the_service_asks_for_patience_for_ever(server, target):
    """You see: "no whole answer within 30 s": endless "100 Continue" are no answer.
    Do: ask the service's owner.
    """
    fault = drip(one=b"HTTP/1.1 100 Continue\r\n\r\n")
    tried_again(server, target, fault, "(no whole answer within 0.4 s|RemoteDisconnected)", timeout=0.4)


def test_the_answer_is_cut_short(server, target):
    """You see: nothing, if a later try succeeds; else "the connection closed after 5 of 100 bytes".
    Do: run the same call again.
    """
    fault = HEAD + b"Content-Length: 100\r\n\r\n[[1, "
    tried_again(server, target, fault, "(the connection closed after 5 of 100 bytes|IncompleteRead)")


def test_chunks_are_cut_short_or_have_no_sizes(server, target):
    """You see: nothing, if a later try succeeds; else "IncompleteRead".
    Do: run the same call again.
    """
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for body in (b"5\r\n[[1", b"zz\r\n[[1, 2]]\r\n0\r\n\r\n", b"-5\r\n[[1]]\r\n"):
        server.requests.clear()
        tried_again(server, target, head + body, "")


def test_the_first_line_is_not_http(server, target):
    """You see: nothing, if a later try succeeds; else "BadStatusLine" with what came.
    Do: look at the address: another program may listen there.
    """
    for line in (b"220 mail.example.org ESMTP\r\n", b"HTTP/1.1 OK\r\n\r\n", b"\xff\xfe\x00\r\n\r\n", b"\n"):
        server.requests.clear()
        tried_again(server, target, line, "")


def test_the_connection_closes_without_a_word(server, target):
    """You see: nothing, if a later try succeeds; else "RemoteDisconnected".
    Do: run the same call again.
    """
    tried_again(server, target, b"", "closed connection without response")


def test_more_headers_than_anyone_sends(server, target):
    """You see: "got more than 100 headers", or a line that is too long, after all tries.
    Do: look at the address.
    """
    tried_again(server, target, HEAD + b"X-A: 1\r\n" * 200 + b"\r\n", "more than 100 headers")
    server.requests.clear()
    tried_again(server, target, HEAD + b"X-A: " + b"1" * 70_000 + b"\r\n\r\n", "line")


@pytest.mark.parametrize("length", ["many", "-1", "1e3", "9" * 5000, "\u0663"])
def test_a_content_length_that_is_no_number(server, target, length):
    """You see: "a Content-Length of 'many'", after all tries.
    Do: ask the service's owner.
    """
    fault = HEAD + f"Content-Length: {length}\r\n\r\n[[1, 2, 3]]".encode()
    tried_again(server, target, fault, "(a Content-Length of|[Cc]ontent-[Ll]ength)")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_answer_with_two_lengths(server, target):
    """You see: "Content-Length contained multiple unmatching values", after all tries.
    Do: ask the service's owner.
    """
    fault = HEAD + b"Content-Length: 5, 6\r\n\r\n[[1, 2, 3]]"
    tried_again(server, target, fault, "Content-Length contained multiple unmatching values")
    gc.collect()  # urllib3 1.26 leaves the socket to it


@pytest.mark.parametrize("wait", ["nan", "inf", "-inf", "1e999", "soon"])
def test_retry_after_is_no_time(server, target, wait):
    """You see: nothing; the usual wait is kept.
    Do: nothing.
    """
    server.plan = [http(status="503 Busy", Retry_After=wait)]
    service, waits = target()
    service(IMAGES[:1])
    assert waits == [1.0]


@pytest.mark.parametrize("wait", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_is_a_day(server, target, wait):
    """You see: "the next try, 86400 s later, would be beyond the deadline of 300 s", at once.
    Do: come back then, or raise deadline.
    """
    server.plan = [http(status="429 Slow down", Retry_After=wait)]
    service, waits = target()
    with pytest.raises(ServiceError, match=r"429 Slow down.* would be beyond the deadline of 300 s"):
        service(IMAGES[:1])
    assert waits == []


def test_all_tries_together_take_too_long(server, target):
    """You see: "would be beyond the deadline of 300 s": it bounds all tries of a request with their waits.
    Do: run the same call again later; answers so far are kept.
    """
    server.plan = [http(status="503 Busy")] * 9
    now = [0.0]
    service, _ = target(
        attempts=9, deadline=10, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    with pytest.raises(ServiceError, match="8 s later, would be beyond the deadline of 10 s"):
        service(IMAGES[:1])
    assert len(server.requests) == 4


def test_the_service_redirects(server, target):
    """You see: "a redirect to 'http://…', not followed: keys and images are for this host alone".
    Do: if you trust that address, ask it yourself.
    """
    for status in ("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"):
        server.requests.clear()
        with Server() as other:
            fault = http(status=status, Location=f"{other.url}?key=secret")
            reason = rf"HTTP {status}, a redirect to '{other.url}', not followed"
            not_tried_again(server, target, fault, reason, headers={"Authorization": "Key 1"})
            assert not other.requests
    server.requests.clear()
    not_tried_again(server, target, http(status="302 Found", Location="http://[bad"), "not followed")


def test_an_answer_of_gigabytes(server, target):
    """You see: "the answer has … bytes, and at most 67108864 are read", before memory is full.
    Do: raise max_bytes, if the service needs that many.
    """
    announced = HEAD + b"Content-Length: 2000000000\r\n\r\n"
    not_tried_again(
        server, target, announced, "the answer has 2000000000 bytes, and at most 67108864 are read"
    )
    server.requests.clear()
    endless = drip(HEAD + b"\r\n", one=b"x" * 10_000, every=0)
    not_tried_again(server, target, endless, "at most 100000 are read", max_bytes=100_000)


def test_a_zipped_answer_that_unfolds_to_gigabytes(server, target):
    """You see: "the answer has more when unzipped, and at most 67108864 are read", before memory is full.
    Do: ask the service's owner.
    """
    bomb = gzip.compress(bytes(50_000_000))
    fault = http(bomb, Content_Encoding="gzip")
    not_tried_again(server, target, fault, "more when unzipped", max_bytes=1_000_000)


def test_an_encoding_that_nobody_asked_for(server, target):
    """You see: "an answer encoded as 'br': nobody asked for that".
    Do: ask the service's owner.
    """
    for encoding in ("br", "gzip, gzip", "compress"):
        server.requests.clear()
        not_tried_again(server, target, http(b"x", Content_Encoding=encoding), f"encoded as '{encoding}'")


def test_a_zipped_answer_is_damaged(server, target):
    """You see: nothing, if a later try succeeds; else "the answer's gzip is cut short", or "is no gzip".
    Do: run the same call again.
    """
    whole = gzip.compress(b"[[1, 2, 3]]")
    for bad, reason in ((whole[:-5], "cut short"), (b"[[1, 2, 3]]", "is no gzip"), (whole * 2, "goes on")):
        server.requests.clear()
        tried_again(server, target, http(bad, Content_Encoding="gzip"), reason)


def test_retries_use_up_the_budget(server, target):
    """You see: "3 of 3 images were sent, …; raise the budget": each try counts.
    Do: raise budget, if you want to pay for more.
    """
    server.plan = [http(status="503 Busy")] * 15
    service, _ = target(budget=3)
    with pytest.raises(
        BudgetExceeded, match=r"3 of 3 images were sent, and the next request has 1 .*503 Busy"
    ):
        service(IMAGES)
    assert len(server.requests) == 3


def test_the_budget_is_used_up(server, target):
    """You see: "2 of 2 images were sent, and the next request has 1", before that request.
    Do: raise budget, if you want to pay for more; answers so far are kept.
    """
    service, _ = target(budget=2, batch_size=2)
    with pytest.raises(BudgetExceeded, match="2 of 2 images were sent, and the next request has 1"):
        service(IMAGES)
    assert len(server.requests) == 1
    service.budget = 3
    assert len(service(IMAGES)) == 3
    assert len(server.requests) == 2


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_later_request_fails(server, target, concurrency):
    """You see: the error of the request that failed.
    Do: run the same call again: answers that came are kept, in memory or in cache, and not asked for again.
    """
    plain, broken = server.good, {"on": True}

    def good(request):
        if broken["on"] and len(server.requests) == 3:
            time.sleep(0.1)
            raise OSError  # hangs up
        return plain(request)

    server.good = good
    service, _ = target(attempts=1, concurrency=concurrency)
    with pytest.raises(ServiceError, match="failed 1 times"):
        service(IMAGES)
    broken["on"] = False
    np.testing.assert_allclose(service(IMAGES), COLOURS, rtol=1e-6)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "document",
    [
        {"error_code": 0, "error_msg": "SUCCESS", "result": [1]},
        {"errorcode": "0", "errormsg": "OK", "tags": []},
        {"error": 0.25, "ray": 0.75},
        {"error": None, "predictions": [[1, 2]]},
    ],
)
def test_an_answer_that_says_it_has_no_error_is_none(document):
    check_no_error(json.dumps(document).encode())


@pytest.mark.parametrize(
    "document",
    [
        {"error": "model is loading"},
        {"errors": [{"code": 3}]},
        {"error_code": 110, "error_msg": "token invalid"},
        {"predictions": [[1, 2, 3]], "error": "only half of it"},
        {"message": "quota exceeded", "code": 8},
        {"detail": "not found"},
        {"status": "error", "result": None},
        {"success": False},
        {"__type": "ThrottlingException"},
        [{"error": "bad image"}],
    ],
    ids=lambda document: next(iter(document if isinstance(document, dict) else document[0])),
)
def test_an_error_with_status_200(server, target, tmp_path, document):
    """You see: "the service answered something else: … an error (the answer is kept in ….rejected)".
    Do: what it says, then run the same call again: it is asked for anew.
    """
    server.plan = [http(json.dumps(document).encode())]
    service, _ = target(
        cache=tmp_path, parse=lambda body, n: [[1, 2, 3]] if b"error" in body else json.loads(body)
    )
    with pytest.raises(
        ServiceError, match=r"answered something else: .*an error \(the answer is kept in .*rejected"
    ):
        service(IMAGES[:1])
    assert [path.suffix for path in tmp_path.iterdir()] == [".rejected"]
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("[[1, NaN, 3]]", "finite scores for each image; got nan"),
        ("[[1, 1e999, 3]]", "got inf"),
        ("[[1, 1e39, 3]]", "got inf"),
        ("[[1, null, 3]]", "got object"),
        ("[[1, 2]]", "a row of 3 finite scores for each image; got 2"),
        ("[[[1, 2, 3]]]", r"shape \(1, 1, 3\)"),
        ("[3]", "classes in 3 … 3"),
        ("[-1]", "classes in -1 … -1"),
        ("[0.5]", r"got float64 of shape \(1,\)"),
        ("[true]", "got bool"),
        ('["cat"]', "got <U3.*cat"),
        ("[]", "parse gave 0 answers for 1 images"),
        ("[[1, 2, 3], [1, 2, 3]]", "parse gave 2 answers for 1 images"),
        ("<html>busy</html>", "Expecting value.*<html>"),
        ("[" * 100_000, "recursion"),
        ("", "Expecting value"),
        ("9" * 5000, "digits"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_an_answer_that_is_no_prediction(server, target, body, reason):
    """You see: what was expected, what came, and where it is kept.
    Do: look at it; a parser that is mended reads it without a new request, else it is asked for anew.
    """
    server.plan = [http(body.encode())]
    service, _ = target(num_classes=3)
    with pytest.raises(ServiceError, match=reason):
        service(IMAGES[:1])
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert len(server.requests) == 2


def test_the_parser_has_a_bug(server, target, tmp_path):
    """You see: "parse failed with KeyError: …", and where the answer is kept.
    Do: mend the parser and run the same call again: the answer is not paid for twice.
    """
    service, _ = target(cache=tmp_path, parse=lambda body, n: {}["scores"])
    for _ in range(2):
        with pytest.raises(
            ServiceError, match=r"parse failed with KeyError: 'scores'; body: .* kept in .*rejected"
        ):
            service(IMAGES[:1])
    service.parse = lambda body, n: json.loads(body) * 2
    with pytest.raises(ServiceError, match="2 answers for 1 images"):
        target(cache=tmp_path, parse=service.parse, budget=1)[0](IMAGES[:1])
    asked = len(server.requests)
    service.parse = lambda body, n: json.loads(body)
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert asked == len(server.requests) == 2
    service.num_classes = 5  # an accepted answer is not bought again, whoever reads it how
    with pytest.raises(ServiceError, match=r"a row of 5 .*\.answer"):
        service(IMAGES[:1])
    assert len(server.requests) == 2


def test_the_parser_looks_for_a_field_that_is_not_there(server, target, tmp_path):
    """You see: "expected the field 'scores', got the fields 'output'", and where the answer is kept.
    Do: name the right one and run the same call again: the answer is not paid for twice.
    """
    plain = server.good
    server.good = lambda request: b'{"output": ' + plain(request) + b"}"
    for _ in range(2):
        with pytest.raises(
            ServiceError,
            match=r"expected the field 'scores', got the fields 'output'.* kept in .*rejected, and",
        ):
            target(cache=tmp_path, parse=scores("scores"))[0](IMAGES[:1])
    right, _ = target(cache=tmp_path, parse=scores("output"))
    np.testing.assert_allclose(right(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert len(server.requests) == 1


def test_the_service_is_surest_of_a_name_that_nobody_knows(server, target):
    """You see: "the service is surest of 'five', which the names have not got, but 'fife'".
    Do: correct the names, or give other=, which leaves unknown ones out; the answer is not paid for twice.
    """
    server.good = lambda request: b'[{"label": "five", "score": 0.96}, {"label": "one", "score": 0.01}]'
    service, _ = target(parse=ranked(["one", "fife"]))
    for _ in range(2):
        with pytest.raises(ServiceError, match="surest of 'five', which the names have not got, but 'fife'"):
            service(IMAGES[:1])
    service.parse = ranked(["one", "five"])
    assert service(IMAGES[:1]).argmax(-1) == [1]
    assert len(server.requests) == 1


def test_answers_of_one_call_are_not_alike(server, target):
    """You see: "the answers are not alike".
    Do: give num_classes, so that the wrong one is told from the right one.
    """
    server.plan = [http(b"[[1, 2]]")]
    with pytest.raises(ServiceError, match="not alike"):
        target()[0](IMAGES)


@pytest.mark.parametrize(
    "harm", [lambda b: b"", lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[70:]]
)
def test_a_kept_answer_is_emptied_or_damaged(server, target, tmp_path, harm):
    """You see: a warning that names the file, which is put aside as .damaged.
    Do: nothing: the image is asked for anew.
    """
    service, _ = target(cache=tmp_path)
    service(IMAGES[:1])
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(harm(kept.read_bytes()))
    with pytest.warns(UserWarning, match=f"{kept.name} is damaged .* asked for anew"):
        np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    service(IMAGES[:1])
    assert len(server.requests) == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".answer", ".damaged"}


def test_a_kept_list_of_images_is_damaged(server, target, tmp_path):
    """You see: a warning that names the file, which is put aside as .damaged.
    Do: nothing: its images are asked for anew, unless they are asked for in the same groups.
    """
    target(cache=tmp_path, batch_size=3)[0](IMAGES)
    (kept,) = tmp_path.glob("*.images")
    kept.write_bytes(kept.read_bytes()[:-1])
    service, _ = target(cache=tmp_path)
    with pytest.warns(UserWarning, match=f"{kept.name} is damaged .* asked for anew"):
        np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert len(server.requests) == 2


def test_answers_cannot_be_kept(target, tmp_path):
    """You see: "cache='…' cannot hold answers" before anything is asked.
    Do: name a directory that can be written to.
    """
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"cache='.*file' cannot hold answers: (File exists|Not a directory)"
    ):
        target(cache=str(tmp_path / "file"))


def test_the_disk_is_full_when_an_answer_comes(server, target, tmp_path):
    """You see: "an answer came, and cannot be kept in …".
    Do: make room; the answer stays in memory, and the same call of the same target does not ask for it again.
    """
    service, _ = target(cache=tmp_path / "answers")
    shutil.rmtree(tmp_path / "answers")
    (tmp_path / "answers").write_text("in the way")
    with pytest.raises(ServiceError, match="an answer came, and cannot be kept in"):
        service(IMAGES[:1])
    np.testing.assert_allclose(service(IMAGES[:1]), COLOURS[:1], rtol=1e-6)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "data:,x",
        "predict",
        "http://",
        "http://h:99999/",
        "http://a b/",
        "http://h/\n",
    ],
)
def test_an_address_that_is_not_http(server, target, url):
    """You see: "expected an http or https address, got 'file:///…'".
    Do: give one.
    """
    with pytest.raises(ValueError, match="expected an http or https address, got"):
        target(url=url)
    service, _ = target()
    service.url = url
    with pytest.raises(ValueError, match="expected an http or https address, got"):
        service(IMAGES[:1])


def test_a_key_that_no_header_can_hold(target):
    """You see: "the header 'Authorization' must be one line of Latin-1 text"; the key is not shown.
    Do: strip it: a key read from a file ends in a line break.
    """
    for key in ("secret\n", "secret\r\nX-Other: 1", "sécret€", b"secret", None):
        with pytest.raises(ValueError, match="the header 'Authorization' must be one line") as caught:
            target(headers={"Authorization": key})
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"'example\.org' contains credentials: send them as a header"):
        target(url="http://me:secret@example.org/")


def test_keys_in_an_address_stay_out_of_errors(server, target):
    """You see: addresses without what follows their question mark.
    Do: nothing.
    """
    server.plan = [http(status="403 Forbidden")]
    with pytest.raises(ServiceError) as caught:
        target(url=server.url + "?key=secret")[0](IMAGES[:1])
    assert "secret" not in str(caught.value)


def test_pixels_are_nan_or_out_of_range(server, target):
    """You see: "images contain NaN", or the range they lie in; nothing is sent.
    Do: look at where they come from.
    """
    images = IMAGES.astype(np.float32) / 255
    images[0, 0, 0, 0] = np.nan
    service, _ = target()
    for bad, reason in (
        (images, "NaN"),
        (np.where(np.isnan(images), np.inf, images), "infinite"),
        (images * 0 + 255, "NaN"),
    ):
        with pytest.raises(ValueError, match=f"images must be uint8, or floats in .*{reason}"):
            service(bad)
    with pytest.raises(ValueError, match="divide by 255"):
        service(IMAGES.astype(np.float32))
    assert not server.requests


@pytest.fixture
def https(tmp_path):
    """A server with a certificate that nobody signed, and that certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    command = ["openssl", *options.split(), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Server(lambda request: b"[[1, 2, 3]]", tls) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        yield server, certificate


def test_the_certificate_is_not_trusted(https, target):
    """You see: "refused: its certificate: …" at once; nothing is sent.
    Do: if you trust it, pass tls=ssl.create_default_context(cafile="certificate.pem").
    """
    server, certificate = https
    service, waits = target(url=server.url)
    with pytest.raises(
        ServiceError, match=r"refused: its certificate: self.signed certificate: pass an SSLContext"
    ):
        service(IMAGES[:1])
    assert (server.requests, waits) == ([], [])
    trusting, _ = target(url=server.url, tls=ssl.create_default_context(cafile=certificate))
    assert trusting(IMAGES[:1]).tolist() == [[1, 2, 3]]
    server.plan = [drip(HEAD + b"\r\n[[1", one=b" ")]
    with pytest.raises(ServiceError, match=r"no whole answer within 0\.4 s"):
        target(url=server.url, tls=trusting.tls, attempts=1, timeout=0.4)[0](IMAGES[1:2])


def test_the_other_side_does_not_speak_tls(server, target):
    """You see: "failed 5 times; the last time: …WRONG_VERSION_NUMBER…".
    Do: look at the address: http, or another port.
    """
    with pytest.raises(ServiceError, match="failed 1 times"):
        target(url=server.url.replace("http:", "https:"), attempts=1, timeout=0.4)[0](IMAGES[:1])


def test_urllib3_is_not_installed(target, monkeypatch):
    """You see: "HTTP needs urllib3: pip install 'transferjax[http]'".
    Do: that.
    """
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'transferjax\[http\]'"):
        target()
