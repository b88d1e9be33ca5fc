"""Keys of either style draw the same, wherever a key is taken; what is no key is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferjax import attacks, defences, metrics, models, predicts, random, training
from transferjax.attacks import inputs, projections
from transferjax.attacks.inspection import robustness_flags
from transferjax.training import augment
from transferjax.training.objective import objective
from transferjax.training.penalties import jacobian
from transferjax.typing import Batch

IMAGES = jnp.asarray(
    np.random.default_rng(0).random((2, 8, 8, 1)), jnp.float32
)  # two: like a raw key's words
LABELS = jnp.array([1, 0])
BATCH = Batch(IMAGES, jax.nn.one_hot(LABELS, 3))
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(64, 3)), jnp.float32)
MATRIX = jnp.diag(jnp.arange(1.0, 7.0))


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


PREDICT = jax.tree_util.Partial(linear, WEIGHTS)
STEP = training.make_train_step(
    objective(lambda v, keys, x: (linear(v["params"], x), {}), penalties=(jacobian(0.1),)),
    optax.sgd(0.1),
    predictor=lambda variables: PREDICT,
    transforms=(augment.cutout(2),),
)
STATE = STEP.init({"params": WEIGHTS}, BATCH)
CLEANER = defences.make_purifier_step(
    defences.Denoiser(widths=(2, 2), depth=1),
    lambda purify, keys, x, y: random.sample(jax.random.uniform, keys).mean(),
    optax.sgd(0.1),
)
NET = models.build("cifar_resnet18", 3, width=2, blocks=(1,))
VARIABLES = jax.jit(NET.init)(jax.random.key(2), IMAGES)


def product(v):
    return MATRIX @ v


def square(w):
    return (w**2).sum()


SINGLE = {  # key -> arrays
    "bootstrap_interval": lambda k: metrics.bootstrap_interval(k, jnp.arange(5.0), resamples=8),
    "top_eigenvalues": lambda k: metrics.top_eigenvalues(k, product, 6, steps=2),
    "trace": lambda k: metrics.trace(k, lambda v: v**3, 6, samples=3),
    "xtrace": lambda k: metrics.xtrace(k, product, 6, samples=4),
    "trace_plus_plus": lambda k: metrics.trace_plus_plus(k, product, 6, samples=6),
    "spectral_measure": lambda k: metrics.spectral_measure(k, product, 6, samples=2, steps=2),
    "average_sharpness": lambda k: metrics.average_sharpness(k, square, jnp.ones(3), 0.1, samples=2),
    "worst_case_sharpness": lambda k: metrics.worst_case_sharpness(k, square, jnp.ones(3), 0.1, steps=1),
    "train_update": lambda k: STEP.update(STATE, k, BATCH).params,
    "purifier_init": lambda k: CLEANER.init(k, IMAGES).variables,
    "replace_head": lambda k: models.replace_head(NET, VARIABLES, 2, k)[1],
}
EITHER = {  # one key, or one per example
    "per_example": lambda k: random.sample(jax.random.uniform, random.per_example(k, 2)),
    "fold_in": lambda k: jax.random.key_data(random.fold_in(k, jnp.arange(2))),
    "pgd": lambda k: attacks.pgd(0.1, 1)(k, PREDICT, IMAGES, LABELS),
    "square": lambda k: attacks.square(0.1, 1)(k, PREDICT, IMAGES, LABELS),
    "choose_targets": lambda k: attacks.choose_targets("random", k, PREDICT(IMAGES), LABELS),
    "expected_gradient_norm": lambda k: metrics.expected_gradient_norm(k, PREDICT, IMAGES, LABELS, 0.1, 2),
    "random_directions": lambda k: metrics.random_directions(k, IMAGES),
    "cutout": lambda k: augment.cutout(2)(k, BATCH, PREDICT),
    "mixup": lambda k: augment.mixup()(k, BATCH, PREDICT),
    "crop_flip": lambda k: augment.crop_flip(1)(k, BATCH, PREDICT),
    "certify": lambda k: defences.certify(PREDICT, k, IMAGES, guess=2, samples=3, sigma=9.0),
    "smoothed": lambda k: defences.smoothed(PREDICT, k, samples=2)(IMAGES),
    "resize_and_pad": lambda k: defences.resize_and_pad(PREDICT, k, resize_back=True)(IMAGES),
    "random_affine": lambda k: defences.random_affine(PREDICT, k, samples=1)(IMAGES),
    "nips_r3": lambda k: defences.nips_r3(PREDICT, k)(IMAGES),
    "ghost_dropout": lambda k: predicts.ghost_dropout(models.predictor(NET, VARIABLES), k)(IMAGES),
    "stochastic": lambda k: attacks.Stochastic(
        lambda keys, x: PREDICT(x) + random.sample(jax.random.normal, keys, (3,)), k
    )(IMAGES),
}
BATCHES = {  # one per example
    "sample": lambda k: random.sample(jax.random.uniform, k),
    "uniform_start": lambda k: projections.uniform("linf", 0.1)(k, IMAGES),
    "diversity": lambda k: inputs.diversity(0.5, 1.0)(k, IMAGES, 0),
}
NEW, OLD = jax.random.key(5), jax.random.PRNGKey(5)
TWO_NEW, TWO_OLD = jax.random.split(NEW), jax.random.split(OLD)


def assert_same(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", SINGLE | EITHER)
def test_one_key_of_the_old_style(name):
    function = (SINGLE | EITHER)[name]
    assert_same(function(OLD), function(NEW))


@pytest.mark.parametrize("name", EITHER | BATCHES)
def test_two_keys_of_the_old_style_are_two_keys(name):
    """`uint32 [2]` is one key, and `[2, 2]` are two, however many images there are."""
    function = (EITHER | BATCHES)[name]
    assert_same(function(TWO_OLD), function(TWO_NEW))


@pytest.mark.parametrize("name", SINGLE)
def test_several_keys_where_one_is_expected(name):
    for keys in (TWO_OLD, TWO_NEW):
        with pytest.raises(ValueError, match=r"expected one key.*got keys of shape \(2,\)"):
            SINGLE[name](keys)


BAD = {
    "int": (0, r"got int 0"),
    "none": (None, "got NoneType None"),
    "float": (jnp.zeros(2), r"got float32 \(2,\)"),
    "seeds": (jnp.arange(2), r"got int32 \(2,\)"),
    "words": (jnp.zeros(3, jnp.uint32), r"got uint32 \(3,\)"),
    "list": ([0, 1], r"got list \[0, 1\]"),
}


@pytest.mark.parametrize("name", SINGLE | EITHER)
def test_what_is_no_key(name):
    for key, message in BAD.values():
        with pytest.raises(ValueError, match=r"expected one key.*jax\.random\.key\(0\).*" + message):
            (SINGLE | EITHER)[name](key)


def test_old_keys_inside_of_transformations():
    draw = EITHER["per_example"]
    expected = draw(NEW)
    assert_same(jax.jit(draw)(OLD), expected)
    assert_same(jax.vmap(draw)(OLD[None])[0], expected)
    assert_same(jax.pmap(draw, devices=jax.devices()[:1])(OLD[None])[0], expected)


def test_numbers_of_keys():
    with pytest.raises(ValueError, match=r"one key, or 3 keys .*got shape \(2,\)"):
        random.per_example(TWO_OLD, 3)
    with pytest.raises(ValueError, match=r"one per example, such as random\.per_example"):
        random.sample(jax.random.uniform, OLD)
    flags = robustness_flags(PREDICT, IMAGES, LABELS, OLD)
    assert flags == robustness_flags(PREDICT, IMAGES, LABELS, NEW)


def test_longer_keys_of_another_generator():
    with jax.default_prng_impl("rbg"):
        assert_same(EITHER["per_example"](jax.random.PRNGKey(5)), EITHER["per_example"](jax.random.key(5)))
