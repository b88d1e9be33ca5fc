"""The train step: what moves, what is remembered, what it compiles to; schedules and exact evaluation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferjax import models, training
from transferjax.training import parallel
from transferjax.training.augment import crop_flip
from transferjax.training.objective import objective
from transferjax.training.penalties import input_gradient
from transferjax.training.rules import look_sam, sam
from transferjax.typing import Batch

SHAPE, K = (8, 8, 1), 4
KEY = jax.random.key(0)


def make(rules=(), transforms=(), optimizer=None, penalties=(), wrap=lambda forward: forward):
    net = models.build("cifar_resnet18", K, width=4, blocks=(1,))
    forward = lambda variables, keys, images: models.train_apply(net, variables, images)  # noqa: E731
    step = training.make_train_step(
        objective(wrap(forward), penalties=penalties),
        optimizer or training.sgd(0.1),
        predictor=lambda variables: models.predictor(net, variables),
        rules=rules,
        transforms=transforms,
    )
    return net, step


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(K, size=16)
    images = rng.random((16, *SHAPE)) * 0.3 + labels[:, None, None, None] / 6
    return Batch(jnp.asarray(images, jnp.float32), jax.nn.one_hot(labels, K))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(make()[0].init)(KEY, jnp.zeros((1, *SHAPE)))


def test_training_learns_and_moves_batch_statistics(batch, variables):
    _, step = make()
    state, update = step.init(variables, batch), jax.jit(step.update)
    losses = []
    for _ in range(15):
        state = update(state, KEY, batch)
        losses.append(float(state.memory["metrics"]["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 15
    before, after = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(state.variables["batch_stats"])
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    assert update._cache_size() == 1


@pytest.mark.parametrize("run", [jax.jit, lambda update: update])
def test_pixels_of_bytes_are_no_batch(batch, variables, run):
    _, step = make()
    bytes_ = batch._replace(images=(batch.images * 255).astype(jnp.uint8))
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]; got uint8: data.to_float\(images\)"):
        run(step.update)(step.init(variables, batch), KEY, bytes_)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"rules": sam(0.05)}, r"rules must be a tuple of rules, \(rule,\) for one"),
        ({"transforms": crop_flip(1)}, r"transforms must be a tuple of transforms, \(transform,\) for one"),
        ({"penalties": input_gradient(1.0)}, r"penalties must be a tuple of penalties, \(penalty,\) for one"),
    ],
)
def test_one_part_is_a_tuple_of_one(part, message):
    with pytest.raises(ValueError, match=message):
        make(**part)


def test_a_rule_with_memory_keeps_one_compilation(batch, variables):
    _, step = make(rules=(look_sam(0.05, every=2),))
    state, update = step.init(variables, batch), jax.jit(step.update)
    for _ in range(3):
        state = update(state, KEY, batch)
    assert update._cache_size() == 1
    assert int(state.memory["look_sam"]["step"]) == 3


def test_the_state_is_arrays_and_the_same_seed_gives_the_same_state(batch, variables):
    _, step = make(rules=(sam(0.05),), transforms=(crop_flip(1),))
    update = jax.jit(step.update)
    runs = []
    for _ in range(2):
        state = step.init(variables, batch)
        for _ in range(2):
            state = update(state, KEY, batch)
        runs.append(jax.tree.leaves(state))
    assert all(isinstance(leaf, jax.Array) for leaf in runs[0])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_step_draws_anew(batch, variables):
    seen = []

    def spy(keys, batch, predict):
        seen.append(jax.random.key_data(keys))
        return batch

    _, step = make(transforms=(spy,))
    state = step.init(variables, batch)
    for _ in range(2):
        state = step.update(state, KEY, batch)
    keys = np.concatenate(seen)
    assert len(np.unique(keys, axis=0)) == 2 * len(batch.images)


def test_transforms_see_the_network_in_evaluation_mode(batch, variables):
    net, _ = make()
    logits = []

    def spy(keys, batch, predict):
        logits.append(predict(batch.images))
        return batch

    _, step = make(transforms=(spy,))
    step.update(step.init(variables, batch), KEY, batch)
    np.testing.assert_array_equal(logits[0], models.predictor(net, variables)(batch.images))


@pytest.mark.parametrize("penalties", [(), (input_gradient(0.5),)], ids=["first order", "second order"])
def test_rematerialization_changes_no_step(batch, variables, penalties):
    steps = [make(penalties=penalties, wrap=wrap)[1] for wrap in (lambda f: f, training.rematerialized)]
    states = [jax.jit(step.update)(step.init(variables, batch), KEY, batch) for step in steps]
    chex.assert_trees_all_close(*states, rtol=1e-4, atol=1e-5)


def test_rematerialization_keeps_less(batch, variables):
    net = make()[0]
    logits = lambda params: models.train_apply(net, variables | {"params": params}, batch.images)[0]  # noqa: E731

    def kept(function):
        pullback = jax.eval_shape(lambda params: jax.vjp(function, params)[1], variables["params"])
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept(training.rematerialized(logits)) < 0.5 * kept(logits)


def test_several_states_step_together_as_each_alone(batch, variables):
    _, step = make(rules=(sam(0.05),))
    keys = [jax.random.key(seed) for seed in (1, 2)]
    batches = [batch, Batch(batch.images[::-1], batch.targets[::-1])]
    start = step.init(variables, batch)
    starts = [jax.tree.map(lambda x, c=c: c * x, start) for c in (1, 2)]  # copies: `together` reuses memory
    alone = [jax.jit(step.update)(*parts) for parts in zip(starts, keys, batches, strict=True)]
    both = parallel.together(step.update)(starts, keys, batches)
    chex.assert_trees_all_close(alone, both, rtol=1e-4, atol=1e-5)


def test_step_decay():
    """Where two decays come at one step, as of a short training, both count."""
    rate = training.step_decay(0.8, at=(4, 8, 8), factor=0.5)
    np.testing.assert_allclose([rate(step) for step in (0, 3, 4, 7, 8, 99)], [0.8, 0.8, 0.4, 0.4, 0.1, 0.1])


def test_warmup_cosine_has_the_endpoints_of_the_official_schedule():
    rate = training.warmup_cosine(0.1, warmup=10, steps=110)
    assert rate(0) == 0
    assert rate(5) == pytest.approx(0.05)
    assert rate(10) == pytest.approx(0.1)
    assert rate(60) == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * 0.5)))
    assert rate(110) == pytest.approx(0, abs=1e-9)
    assert training.warmup_cosine(0.1, warmup=0, steps=10)(0) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="warmup=10"):
        training.warmup_cosine(0.1, warmup=10, steps=10)


def test_triangular_is_two_lines():
    rate = training.triangular(0.4, steps=100, start=0.25, end=0.1, at=0.2)
    lines = np.interp(np.arange(120), [0, 20, 100], [0.1, 0.4, 0.04])
    np.testing.assert_allclose([rate(step) for step in range(120)], lines, rtol=1e-5)
    for wrong in ({"at": 0.0}, {"at": 1.0}, {"start": -1}, {"steps": 1}):
        with pytest.raises(ValueError, match="the peak between the first and the last step"):
            training.triangular(0.4, **{"steps": 100, **wrong})


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    """v ← μ v + g + λw; w ← w − η v, or − η (g + λw + μ v) with Nesterov."""
    opt = training.sgd(0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    w = ours = 2.0
    v, state = 0.0, opt.init(jnp.float32(ours))
    for g in (1.0, -0.5, 0.25):
        d = g + 0.01 * w
        v = 0.9 * v + d
        w -= 0.1 * (d + 0.9 * v if nesterov else v)
        updates, state = opt.update(jnp.float32(g), state, jnp.float32(ours))
        ours = optax.apply_updates(jnp.float32(ours), updates)
    assert float(ours) == pytest.approx(w, rel=1e-6)


def test_evaluation_counts_every_example_once():
    logits = jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [9.0, 0.0]])
    labels = jnp.array([0, 1, 0, 1])
    parts = [
        training.evaluate(lambda x: x, logits[i : i + 2], labels[i : i + 2], jnp.array(mask))
        for i, mask in [(0, [True, True]), (2, [True, False])]
    ]
    result = training.mean_of(parts)
    assert result["accuracy"] == pytest.approx(2 / 3)
    log_p = jax.nn.log_softmax(logits)
    assert result["loss"] == pytest.approx(-float(log_p[0, 0] + log_p[1, 1] + log_p[2, 0]) / 3, rel=1e-6)
    with pytest.raises(ValueError, match="empty"):
        training.mean_of([])
