"""Two runs at once: on one store, what one of them made again the other one does not throw away."""

import shutil

import numpy as np
import pytest

from tests.study import small
from transferjax.study import run as running
from transferjax.study.plan import group_key
from transferjax.study.run import Local, Outcome, run
from transferjax.study.specs import Measure
from transferjax.study.store import ARRAYS, Corrupt, Missing


@pytest.fixture
def measured(context):
    """A stored result of a small network."""
    spec = Measure(call={"name": "gradient_norm"}, of=(small.network(),), data=small.TEST)
    small.make(context, spec)
    return spec


def flip(store, spec):
    path = store.path(spec) / ARRAYS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_two_runs_find_the_same_damaged_result(context, measured):
    """You see: "Measure … is damaged (its checksum differs): it is made again", by the first of them.
    Do: nothing.
    """
    flip(context.store, measured)
    with pytest.raises(Corrupt) as seen:
        context.store.get(measured)
    context.store.discard("Measure", measured.key)
    context.forget()
    made = small.make(context, measured)  # the other run
    damage = seen.value.kind, seen.value.key, str(seen.value)
    said: list[str] = []
    running._again(context.store, Outcome(), damage, said.append)
    assert said == [f"Measure {measured.key} is damaged (its checksum differs): it is made again"]
    np.testing.assert_array_equal(context.store.get(measured)["values"], made["values"])


@pytest.mark.parametrize("lost", ["flipped", "gone"])
def test_a_result_is_lost_while_it_is_read(context, measured, lost):
    """You see: "… is damaged (…): it is made again".
    Do: nothing.
    """
    wanted, looks = context.store.get(measured)["values"], []

    def read():
        if not looks:
            flip(context.store, measured) if lost == "flipped" else shutil.rmtree(
                context.store.path(measured)
            )
        looks.append(lost)
        context.forget()
        context.arrays(measured)

    outcome = run([measured], context.store, Local(context), read=read, say=lambda line: None)
    assert outcome.damaged == [measured.key]
    assert list(outcome.made) == [measured.key]
    np.testing.assert_array_equal(context.store.get(measured)["values"], wanted)


def test_a_result_is_asked_for_that_is_not_there(context):
    """You see: "Measure … is damaged (it is not in …)", with the store, a FileNotFoundError.
    Do: run the study that makes it.
    """
    spec = Measure(call={"name": "gradient_norm"}, of=(small.network(seed=7),), data=small.TEST)
    with pytest.raises(
        FileNotFoundError, match=f"Measure {spec.key} .*is not in {context.store.root}"
    ) as error:
        context.store.get(spec)
    assert isinstance(error.value, Missing)


def test_all_there_is_to_do_is_made_by_another_run(context, monkeypatch):
    """You see: after ten seconds "waits for another run on this store, which makes Measure …".
    Do: nothing, or end the other run: it may be suspended.
    """
    spec = Measure(call={"name": "gradient_norm"}, of=(small.network(seed=3),), data=small.TEST)
    small.make(context, *spec.of)
    monkeypatch.setattr(running, "WAIT", 0.0)
    lock, said = context.store.lock(group_key(spec)), []

    def say(line):
        said.append(line)
        lock.release()

    with lock:
        outcome = run([spec], context.store, Local(context, say))
    assert said == [f"waits for another run on this store, which makes Measure {spec.key}"]
    assert list(outcome.made) == [spec.key]
    with context.store.lock(group_key(spec)).acquire(timeout=0):  # nobody holds it any more
        pass
