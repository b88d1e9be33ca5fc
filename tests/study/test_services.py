"""Services: answers that were bought once are never asked for twice, never lost, never made up."""

import json
import shutil

import numpy as np
import pytest
from hostile import Server
from small import TEST, attacked, failure, make, network, verdicts

from transferjax import data
from transferjax.predicts.http import HttpTarget
from transferjax.study import binding
from transferjax.study.resolve import Context
from transferjax.study.run import Local, run
from transferjax.study.services import read_record, record_answers
from transferjax.study.specs import Service, Verdicts
from transferjax.study.store import Store

IMAGES = data.load("digits", "test").subset(32).images


class Seller:
    """Says how bright an image is, and counts what it was asked."""

    def __init__(self, fail_after=10**9):
        self.asked, self.fail_after = 0, fail_after

    def __call__(self, images):
        if self.asked + len(images) > self.fail_after:
            raise ConnectionError("out of money")
        self.asked += len(images)
        return (10 * images.mean((1, 2, 3))).astype(int)


def brightness(images):
    return (10 * images.astype(np.float32) / 255).mean((1, 2, 3)).astype(int)


def test_nothing_is_asked_for_twice(tmp_path):
    seller, path = Seller(), tmp_path / "answers.safetensors"
    record_answers(seller, IMAGES[:20], path)
    assert seller.asked == 20
    record_answers(seller, np.concatenate([IMAGES, IMAGES]), path)
    assert seller.asked == 32
    np.testing.assert_array_equal(read_record(path).classes(IMAGES[::-1]), brightness(IMAGES)[::-1])
    assert len(read_record(path)) == 32


def test_what_was_answered_before_a_failure_is_kept(tmp_path):
    path = tmp_path / "answers.safetensors"
    with pytest.raises(ConnectionError):
        record_answers(Seller(fail_after=20), IMAGES, path, batch_size=8)
    seller = Seller()
    record_answers(seller, IMAGES, path, batch_size=8)
    assert seller.asked == 16


def test_logits_are_answers_too_and_nonsense_is_not(tmp_path):
    path = tmp_path / "answers.safetensors"
    record_answers(lambda images: np.eye(10)[[3] * len(images)], IMAGES[:4], path)
    assert read_record(path).classes(IMAGES[:4]).tolist() == [3, 3, 3, 3]
    for answers in (["cat", "dog"], [0.5, 0.5], [1]):
        with pytest.raises(ValueError, match="a class or a row of logits for each of 2 images"):
            record_answers(lambda images, answers=answers: answers, IMAGES[4:6], path)
    with pytest.raises(ValueError, match="finite logits for each of 2 images; got nan"):
        record_answers(lambda images: [[1.0, np.nan]] * 2, IMAGES[4:6], path)
    assert len(read_record(path)) == 4


def test_the_record_of_answers_is_damaged_or_gone(tmp_path):
    """You see: "… is damaged, or no record of answers (…)", or "no record of answers at …"; for other images
    "28 of 32 images have no recorded answer in …".
    Do: put back a copy of the record, or ask the service again: record_answers.
    """
    path = tmp_path / "answers.safetensors"
    with pytest.raises(FileNotFoundError, match="no record of answers"):
        read_record(path)
    record_answers(Seller(), IMAGES[:4], path)
    with pytest.raises(ValueError, match=r"^28 of 32 images have no recorded answer in "):
        read_record(path).classes(IMAGES)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_record(path)


def test_a_service_over_http_is_asked_once_for_each_image(tmp_path):
    with Server(lambda request: json.dumps([len(server.requests)]).encode()) as server:
        target = HttpTarget(server.url, parse=lambda body, count: json.loads(body))
        for _ in range(2):
            record = record_answers(target, IMAGES[:3], tmp_path / "answers.safetensors")
    assert len(server.requests) == 3
    assert record.classes(IMAGES[:3]).tolist() == [1, 2, 3]


@pytest.fixture
def bought(context, tmp_path):
    """A service's verdicts on clean and on attacked images, bought."""
    images = attacked(network())
    make(context, images)
    service = Service(name="api", record=str(tmp_path / "answers.safetensors"))
    seller = Seller()
    record_answers(seller, context.arrays(images)["images"], service.record)
    record_answers(seller, IMAGES, service.record)
    shutil.copytree(context.store.root, tmp_path / "store")
    return Context(Store(tmp_path / "store"), batch_size=64), service, images


def test_verdicts_of_a_service_come_from_its_record(bought):
    context, service, images = bought
    clean, hit = make(context, verdicts(service), verdicts(service, images))
    np.testing.assert_array_equal(clean["classes"], brightness(IMAGES))
    np.testing.assert_array_equal(hit["classes"], brightness(context.arrays(images)["images"]))
    assert set(hit) == {"classes", "labels", "aims"}
    other = attacked(network(), eps=8 / 255)
    assert failure(context, verdicts(service, other)).startswith(
        "ValueError: 32 of 32 images have no recorded"
    )


def test_the_name_is_the_service_wherever_its_record_lies(bought):
    _, service, images = bought
    assert verdicts(service, images).key == verdicts(service.replace(record="elsewhere"), images).key
    assert verdicts(service, images).key != verdicts(service.replace(name="api2"), images).key


def test_garbage_spares_what_was_bought(bought):
    context, service, images = bought
    spec, unpaid = verdicts(service, images), verdicts(network(), images)
    make(context, spec, unpaid)
    context.store.remove(context.store.garbage(min_age=-1))
    assert context.store.has(spec)
    assert context.store.has(images)  # what it was asked about
    assert not context.store.has(unpaid)
    assert not context.store.has(network())


def test_a_stored_answer_of_a_service_is_damaged(bought, tmp_path):
    """You see: "Verdicts … is damaged (…)": it lies in damaged/ of the store, and is read anew from the
    record of answers.
    Do: nothing; keep the record of answers.
    """
    context, service, images = bought
    spec = verdicts(service, images)
    make(context, spec)
    file = context.store.path(spec) / "arrays.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    context.forget()
    with pytest.raises(ValueError, match="damaged"):
        context.store.get(spec)
    context.store.discard("Verdicts", spec.key)
    (tmp_path / "answers.safetensors").unlink()  # the record is lost as well
    said = []
    outcome = run([spec], context.store, Local(context), said.append)
    assert "no record of answers" in outcome.failed[spec.key][1]
    assert (tmp_path / "store" / "damaged" / f"Verdicts-{spec.key}" / "arrays.safetensors").is_file()


def test_a_service_is_a_target_and_nothing_else():
    with pytest.raises(ValueError, match="match any of the expected tags"):
        attacked(Service(name="api"))
    assert binding.bound(Verdicts(target=Service(name="api"), images=TEST)).target.name == "api"
