"""Configs and flags: goals aim at the right classes, and never at the label."""

import jax
import numpy as np
import pytest
from small import TEST, attacked, failure, make, network, verdicts

from transferjax import data
from transferjax.study import binding, resolve
from transferjax.study.content import sha256
from transferjax.study.mistakes import Mistakes
from transferjax.study.resolve import classes_of
from transferjax.study.specs import Goal, build

IMAGES = data.load("digits", "test").subset(32)
LABELS = np.asarray(IMAGES.labels)


def aims(context, **goal):
    return classes_of(context, binding.bound(Goal(**goal)), binding.bound(TEST))


def test_untargeted_and_next(context):
    np.testing.assert_array_equal(aims(context), LABELS)
    np.testing.assert_array_equal(aims(context, aim="next"), (LABELS + 1) % 10)


def test_random_is_uniform_over_the_other_classes_and_hangs_on_the_seed_alone(context):
    one, two = (aims(context, aim="random", seed=seed) for seed in (0, 1))
    assert not np.any(one == LABELS)
    assert not np.array_equal(one, two)
    assert set(one) >= set(range(8))
    np.testing.assert_array_equal(one, aims(context, aim="random", seed=0))
    assert one[:6].tolist() == FIRST  # a stream that no version of NumPy changes


FIRST = [1, 5, 4, 0, 5, 8]


def test_least_likely_of_a_network(context):
    net = network()
    make(context, net)
    logits = np.array(context.predict(net)(data.to_float(jax.numpy.asarray(IMAGES.images))))
    logits[np.arange(32), LABELS] = np.inf
    found = aims(context, aim="least_likely", of=net)
    np.testing.assert_array_equal(found, logits.argmin(-1))
    assert not np.any(found == LABELS)


def test_classes_in_a_file(context, tmp_path):
    right, file = (LABELS + 3) % 10, tmp_path / "targets.npy"
    np.save(file, right)
    goal = binding.bound(Goal(aim="file", file=str(file)))
    images = attacked(network(), goal=goal)
    found = make(context, images)
    np.testing.assert_array_equal(found["aims"], right)
    np.save(file, (LABELS + 4) % 10)
    other = attacked(network(), goal=goal, eps=16 / 255)
    assert "another file than the study named" in failure(context, other)
    assert attacked(network(), goal=Goal(aim="file", file=str(file))).key != images.key


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (LABELS[:5], "expected 32 integer classes"),
        ((LABELS + 3) % 10 + 0.5, "expected 32 integer classes"),
        (LABELS + 5, "but the data has 10"),
        (np.where(np.arange(32) == 7, LABELS, (LABELS + 1) % 10), "target of image 7 is its label"),
    ],
)
def test_a_file_of_targets_does_not_fit_the_data(context, tmp_path, classes, message):
    """You see: "expected 32 integer classes; got …", "classes 5 … 14, but the data has 10", or "target of
    image 7 is its label".
    Do: write another one.
    """
    np.save(tmp_path / "targets.npy", classes)
    with pytest.raises(ValueError, match=message):
        aims(context, aim="file", file=str(tmp_path / "targets.npy"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip file", b"\x93NUMPY\x01\x00", b"text"])
def test_a_file_of_targets_is_empty_or_cut(tmp_path, content):
    """You see: "…/targets.npy holds no array of NumPy (…)".
    Do: write it again with numpy.save, one class for each image.
    """
    (tmp_path / "targets.npy").write_bytes(content)
    goal = Goal(aim="file", file=str(tmp_path / "targets.npy"))
    goal = goal.replace(sha256=sha256(goal.file))
    with pytest.raises(ValueError, match=r"targets\.npy holds no array of NumPy"):
        resolve._from_file(goal, np.zeros(3, int), 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aim": "next", "seed": 3}, "reads no `seed`"),
        ({"aim": "least_likely"}, "needs `of`"),
        ({"aim": "file"}, "needs `file`"),
    ],
)
def test_a_goal_lacks_what_its_aim_needs(fields, message):
    """You see: "aim 'file' needs `file`, …", or "aim 'next' reads no `seed`: leave it out".
    Do: that.
    """
    with pytest.raises(Mistakes, match=message):
        build(Goal, fields, "goal")


def test_attacks_reach_for_their_goal(context):
    """A step towards the target lowers its loss, a step from the label raises the label's."""
    net = network()
    clean, away, towards = make(context, verdicts(net), attacked(net), attacked(net, goal=Goal(aim="next")))

    def loss(images, classes):
        logits = context.predict(net)(data.to_float(jax.numpy.asarray(images)))
        return float(-jax.nn.log_softmax(logits)[np.arange(32), classes].mean())

    assert loss(away["images"], LABELS) > loss(IMAGES.images, LABELS)
    assert loss(towards["images"], (LABELS + 1) % 10) < loss(IMAGES.images, (LABELS + 1) % 10)
    assert clean["classes"].shape == (32,)
