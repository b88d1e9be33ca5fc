"""Attacks: what comes in wrong is refused, with and without values, and what is right goes through."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kinds import ATTENTIVE, FLAX, LAYERED, POOLED, SEVERAL
from transferjax import attacks, checks, defences, losses, metrics, models, training
from transferjax.attacks import projections, updates
from transferjax.attacks.catalogue import targeted
from transferjax.attacks.catalogue.auto_attack import one_after_another
from transferjax.attacks.catalogue.auto_attack.apgd import targeted_dlr
from transferjax.models.vit import ViT
from transferjax.predicts import guess_preprocessing
from transferjax.study import registry
from transferjax.training import augment, penalties
from transferjax.training.objective import objective
from transferjax.typing import Batch

B, SIDE, C, K = 4, 8, 3, 4  # as many images as classes: what broadcasts wrongly would go unnoticed
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.random((B, SIDE, SIDE, C)), jnp.float32)
LABELS = jnp.array([0, 3, 1, 2])
LOGITS = jnp.asarray(RNG.normal(size=(B, K)), jnp.float32)
ONE_HOT = jax.nn.one_hot(LABELS, K)
KEY = jax.random.key(0)


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


PREDICT = jax.tree_util.Partial(linear, jnp.asarray(RNG.normal(size=(SIDE * SIDE * C, K)), jnp.float32))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(K)(nn.Conv(2, (3, 3), name="conv")(x).mean((1, 2)))


NET = models.predictor(Net(), Net().init(KEY, IMAGES))
TRANSFORMER = ViT(num_classes=K, image_size=SIDE, patch=4, depth=2, width=8, heads=2, hidden=8)
TOKENS = models.predictor(TRANSFORMER, TRANSFORMER.init(KEY, IMAGES))

NEEDED = {
    **{name: {"pool": IMAGES} for name in POOLED},
    "tpa": {"neighbors": 2},
    **{name: {"layer": "conv"} for name in LAYERED},
    "pna": {"patch": 4},
    "att": {"layer": "blocks.0", "patch": 4},
}
RECIPES = {
    name: registry.ATTACKS.row(name).factory(0.1, **NEEDED.get(name, {})) for name in registry.ATTACKS.rows()
}
ATTACKS = RECIPES | {
    "one_after_another": one_after_another(attacks.fgsm(0.1)),
    "ascend": attacks.ascend(updates.sign(), projections.linf(0.1), steps=1),
}


def surrogate(name):
    if name in ATTENTIVE:
        return TOKENS
    net = NET if name in FLAX else PREDICT
    return (net, net) if name in SEVERAL else net


def attacker(name):
    return lambda x, y: ATTACKS[name](KEY, surrogate(name), x, y)


def with_batch(transform):
    return lambda x, t: transform(KEY, Batch(x, t), PREDICT)


def same(tree):
    return PREDICT


def forward(variables, keys, x):
    return linear(variables["params"], x), {}


WEIGHTS = PREDICT.args[0]
OBJECTIVE = objective(forward)
STEP = training.make_train_step(OBJECTIVE, optax.sgd(0.1), predictor=same)
STATE = STEP.init({"params": WEIGHTS}, Batch(IMAGES, ONE_HOT))
DIRECTIONS = metrics.random_directions(KEY, IMAGES)
MASK = jnp.ones(B, bool)
CLEANER = defences.make_purifier_step(
    defences.Denoiser(widths=(2, 2), depth=1), lambda purify, k, x, y: purify(x).mean(), optax.sgd(0.1)
)
CLEANER_STATE = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(CLEANER.init, KEY, IMAGES))

# (images, classes [B]) -> anything
STRICT = {name: attacker(name) for name in ATTACKS if name != "ascend"} | {
    "input_hessian_eigenvalues": lambda x, y: metrics.input_hessian_eigenvalues(PREDICT, x, y),
    "transferability_bound": lambda x, y: metrics.transferability_bound(PREDICT, PREDICT, x, x, y, 1.0, 1.0),
    "transfer_loss_bound": lambda x, y: metrics.transfer_loss_bound(PREDICT, PREDICT, x, x, y),
    "correct": lambda x, y: metrics.correct(PREDICT, x, y),
    "fooled": lambda x, y: metrics.fooled(PREDICT, x, y),
    "transfer_success": lambda x, y: metrics.transfer_success(PREDICT, x, y),
    "transfer_success_targets": lambda x, y: metrics.transfer_success(PREDICT, x, LABELS, y),
    "grad_cam": lambda x, y: metrics.grad_cam(NET, x, y),
    "evaluate": lambda x, y: training.evaluate(PREDICT, x, y, MASK),
    "weight_matvec": lambda x, y: metrics.weight_matvec(linear, WEIGHTS, x, y).start,
    "robustness_flags": lambda x, y: attacks.inspection.robustness_flags(PREDICT, x, y, KEY, lambda f: f),
    "guess_preprocessing": lambda x, y: guess_preprocessing(PREDICT, x, y),
    "purifier": lambda x, y: CLEANER.update(CLEANER_STATE, KEY, x, y),
}
# (images, classes [B] or probabilities [B, K]) -> anything
SOFT = {
    "ascend": attacker("ascend"),
    "input_gradient": lambda x, y: metrics.input_gradient(PREDICT, x, y),
    "gradient_norm": lambda x, y: metrics.gradient_norm(PREDICT, x, y),
    "expected_gradient_norm": lambda x, y: metrics.expected_gradient_norm(KEY, PREDICT, x, y, 0.1, 2),
    "loss_surface": lambda x, y: metrics.loss_surface(PREDICT, x, y, DIRECTIONS, jnp.arange(2.0)),
    "gradient_similarity": lambda x, y: metrics.gradient_similarity(PREDICT, PREDICT, x, y),
    "similarity_matrix": lambda x, y: metrics.similarity_matrix([PREDICT], x, y),
}
# (images) -> anything
UNLABELLED = {
    "jacobian_norm": lambda x: metrics.jacobian_norm(PREDICT, x),
    "input_hessian_trace": lambda x: metrics.input_hessian_trace(PREDICT, x),
    "weight_trace": lambda x: metrics.weight_trace(linear, WEIGHTS, x, "gauss_newton"),
    "activations": lambda x: metrics.activations(NET, x, "conv"),
    "round_to_8_bits": metrics.round_to_8_bits,
    "ssim": lambda x: metrics.ssim(x, x),
    "l2_distance": lambda x: metrics.l2_distance(x, x),
    "certify": lambda x: defences.certify(PREDICT, KEY, x, guess=2, samples=2, run=lambda f: f),
    "admix_pool": lambda x: attacks.inputs.admix(x),
}
ON_HOST = (
    "robustness_flags",
    "certify",
    "weight_trace",
    "guess_preprocessing",
)  # they look at what they compute
# (logits, classes or probabilities) -> [B]
LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "logit": losses.logit,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "poincare": targeted.poincare,
    "input_gradient_penalty": lambda z, t: penalties.input_gradient(0.1)(KEY, z, t, lambda d: d),
}
# (logits, classes) -> [B]
CLASS_LOSSES = {
    "triplet": lambda z, y: targeted.triplet(z, y, LABELS),
    "triplet_truth": lambda z, y: targeted.triplet(z, LABELS, y),
    "targeted_dlr": lambda z, y: targeted_dlr(LABELS)(z, y),
    "targeted_dlr_targets": lambda z, y: targeted_dlr(y)(z, LABELS),
    "choose_targets": lambda z, y: attacks.choose_targets("next", KEY, z, y),
}
# (images, probabilities [B, K]) -> anything
BATCHES = {
    "objective": lambda x, t: OBJECTIVE(WEIGHTS, {"batch_stats": {}}, KEY, Batch(x, t)),
    "train_init": lambda x, t: STEP.init({"params": WEIGHTS}, Batch(x, t)),
    "train_update": lambda x, t: STEP.update(STATE, KEY, Batch(x, t)),
    "crop_flip": with_batch(augment.crop_flip(1)),
    "mixup": with_batch(augment.mixup()),
    "cutmix": with_batch(augment.cutmix()),
    "cutout": with_batch(augment.cutout(2)),
    "label_smoothing": with_batch(augment.label_smoothing(0.1)),
    "adversarial": with_batch(augment.adversarial(0.1, steps=1)),
}

NEITHER = {  # neither classes nor probabilities
    "column": LABELS[:, None],
    "integer_one_hot": ONE_HOT.astype(int),
    "bool_one_hot": ONE_HOT > 0,
    "float_column": LABELS[:, None].astype(float),
    "float_classes": LABELS.astype(float),
    "bool_classes": LABELS > 0,
    "fewer": LABELS[:1],
    "more": jnp.concatenate([LABELS, LABELS]),
    "scalar": LABELS[0],
    "fewer_probabilities": ONE_HOT[:1],
}
HINTS = {
    "column": r"\(4, 1\).*squeeze\(-1\)",
    "integer_one_hot": r"\(4, 4\).*argmax\(-1\)",
    "float_column": r"squeeze\(-1\)\.astype\(int\)",
    "float_classes": r"float32.*astype\(int\)",
    "bool_classes": r"bool.*astype\(int\)",
    "scalar": r"got .*\(\).*\[None\]",
}


def refused(function, first, second, traced, match):
    """By an error of ours; under tracing every time a program would be compiled."""
    run = jax.eval_shape if traced else lambda f, *args: f(*args)
    with pytest.raises(ValueError, match=match):
        run(function, first, second)


TRACED = pytest.mark.parametrize("traced", [False, True], ids=["values", "traced"])


@TRACED
@pytest.mark.parametrize("name", STRICT)
def test_attacks_and_metrics_take_one_class_per_image(name, traced):
    if not (traced and name in ON_HOST):
        for kind, labels in (NEITHER | {"one_hot": ONE_HOT}).items():
            refused(STRICT[name], IMAGES, labels, traced, "(labels|targets|classes) .*" + HINTS.get(kind, ""))
    if name not in ON_HOST:
        jax.eval_shape(STRICT[name], IMAGES, LABELS)


@TRACED
@pytest.mark.parametrize("name", SOFT)
def test_metrics_of_a_loss_take_classes_or_probabilities(name, traced):
    for kind, labels in NEITHER.items():
        refused(SOFT[name], IMAGES, labels, traced, "(labels|targets) .*" + HINTS.get(kind, ""))
    for labels in (LABELS, ONE_HOT):
        jax.eval_shape(SOFT[name], IMAGES, labels)
    refused(SOFT[name], IMAGES, ONE_HOT[:, :3], True, r"\(4, 3\)")  # once the number of logits is known


@TRACED
@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_classes_or_probabilities(name, traced):
    for kind, targets in (NEITHER | {"fewer_classes": ONE_HOT[:, :3]}).items():
        refused(LOSSES[name], LOGITS, targets, traced, "(labels|targets) must be.*" + HINTS.get(kind, ""))
    for targets in (LABELS, ONE_HOT, np.asarray(LABELS), LABELS.astype(jnp.uint8)):
        assert jax.eval_shape(LOSSES[name], LOGITS, targets).shape in ((B,), ())


@TRACED
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_losses_of_classes_alone(name, traced):
    for kind, labels in (NEITHER | {"one_hot": ONE_HOT}).items():
        refused(CLASS_LOSSES[name], LOGITS, labels, traced, "must .*" + HINTS.get(kind, ""))
    assert jax.eval_shape(CLASS_LOSSES[name], LOGITS, LABELS).shape == (B,)


@TRACED
@pytest.mark.parametrize("name", BATCHES)
def test_training_takes_probabilities(name, traced):
    for targets in (NEITHER | {"classes": LABELS}).values():
        refused(BATCHES[name], IMAGES, targets, traced, "(targets|labels) .*must be")
    jax.eval_shape(BATCHES[name], IMAGES, ONE_HOT)


def test_checks_hold_inside_every_transformation():
    """Where shapes are all there is."""
    column = LABELS[:, None]
    value = lambda z: losses.cross_entropy(z, column).sum()  # noqa: E731
    for run in (jax.grad(value), jax.jit(value), lambda z: jax.vmap(value)(z[None])):
        with pytest.raises(ValueError, match=r"targets must be classes \(4,\).*squeeze"):
            run(LOGITS)
    with pytest.raises(ValueError, match=r"labels must .*squeeze"):
        jax.vmap(lambda x: attacks.fgsm(0.1)(KEY, PREDICT, x, column))(IMAGES[None])


def test_losses_inside_vmap_see_one_example():
    for targets in (LABELS, ONE_HOT):
        np.testing.assert_allclose(
            jax.vmap(losses.cross_entropy)(LOGITS, targets), losses.cross_entropy(LOGITS, targets), rtol=1e-6
        )
    with pytest.raises(ValueError, match="astype"):
        jax.vmap(losses.cross_entropy)(LOGITS, LABELS.astype(float))


@pytest.mark.parametrize("kind", ["column", "float_classes", "bool_classes", "integer_one_hot"])
def test_one_hot_takes_integers_or_probabilities(kind):
    with pytest.raises(ValueError, match="labels must be classes"):
        losses.one_hot(NEITHER[kind], K)
    np.testing.assert_array_equal(losses.one_hot(ONE_HOT, K), ONE_HOT)


@pytest.mark.parametrize("labels", [3, [0, 1, 2, 3], None])
def test_labels_are_no_array(labels):
    """You see: "labels must be an array; got list …: jnp.asarray it".
    Do: that.
    """
    for function in (STRICT["pgd"], STRICT["correct"], SOFT["input_gradient"]):
        with pytest.raises(ValueError, match=r"labels must be an array; got (int 3|list|NoneType)"):
            function(IMAGES, labels)
    with pytest.raises(ValueError, match="targets must be an array"):
        losses.cross_entropy(LOGITS, labels)


def test_a_mask_is_no_mask():
    """You see: "mask must be bool of shape (4,); got …".
    Do: make it so.
    """
    for mask in (MASK[:, None], jnp.ones(B), MASK[:2]):
        with pytest.raises(ValueError, match=r"mask must be bool of shape \(4,\)"):
            training.evaluate(PREDICT, IMAGES, LABELS, mask)
        with pytest.raises(ValueError, match=r"mask must be bool of shape \(4,\)"):
            metrics.transfer_success(PREDICT, IMAGES, LABELS, mask=mask)


def test_logits_without_a_batch_axis_do_not_broadcast():
    for bad in (lambda x: x.mean((1, 2, 3)), lambda x: PREDICT(x)[:, None], lambda x: PREDICT(x)[:1]):
        for function in (metrics.correct, metrics.fooled):
            with pytest.raises(ValueError, match=r"predict must return logits \[B, K\] for 4 images"):
                function(bad, IMAGES, LABELS)


NO_MATTER = ("input_hessian_eigenvalues", "purifier")  # labels, of a piecewise linear net, to this loss


@pytest.mark.parametrize("name", [n for n in STRICT | SOFT if n not in NO_MATTER])
def test_labels_beyond_the_logits(name):
    """You see: "labels lie in 1 … 4, but predict has 4 logits, 0 … 3: these look 1-based; subtract 1".
    Do: that. In a loss they would count for nothing.
    """
    with pytest.raises(ValueError, match=r"lie in 1 … 4, but predict has 4 logits.*1-based"):
        (STRICT | SOFT)[name](IMAGES, LABELS + 1)


def test_labels_below_the_logits():
    with pytest.raises(ValueError, match="lie in -1 … 2"):
        attacks.fgsm(0.1)(KEY, PREDICT, IMAGES, LABELS - 1)


SHAPED = {  # refused by shape and dtype: traced or not
    "uint8": ((IMAGES * 255).astype(jnp.uint8), "got uint8: divide by 255"),
    "integers": (jnp.ones_like(IMAGES, int), "got int32: divide by 255"),
    "one_image": (IMAGES[0], r"\[B, H, W, C\]; got shape \(8, 8, 3\) \(one image"),
    "flat": (IMAGES.reshape(B, -1), r"\[B, H, W, C\]; got shape \(4, 192\)"),
    "channels_first": (IMAGES.transpose(0, 3, 1, 2), r"channels first: x.transpose\(0, 2, 3, 1\)"),
    "no_pixels": (IMAGES[:, :0], r"\(4, 0, 8, 3\): empty"),
    "no_channels": (IMAGES[..., :0], r"\(4, 8, 8, 0\): empty"),
}
VALUED = {  # refused where there are values
    "of_255": (IMAGES * 255, r"must lie in \[0, 1\].*divide by 255"),
    "normalized": ((IMAGES - 0.5) / 0.25, r"must lie in \[0, 1\].*undo the normalization"),
    "nan": (IMAGES.at[1, 2, 3, 0].set(np.nan), "contain NaN"),
    "inf": (IMAGES.at[1, 2, 3, 0].set(np.inf), "contain infinite"),
    "half_of_255": ((IMAGES * 255).astype(jnp.float16), r"must lie in \[0, 1\].*divide by 255"),
    "numpy": (np.asarray(IMAGES * 255), "divide by 255"),
}
NONE = (IMAGES[:0], r"\(0, 8, 8, 3\): empty")
EACH_ALONE = (  # an answer for each image, and so none for none
    *ATTACKS,
    *("ssim", "l2_distance"),
    *("correct", "fooled", "round_to_8_bits", "input_gradient", "gradient_norm", "expected_gradient_norm"),
    *("gradient_similarity", "similarity_matrix", "jacobian_norm", "input_hessian_eigenvalues"),
)
ENTRANCES = STRICT | SOFT | {name: lambda x, y, f=f: f(x) for name, f in UNLABELLED.items()}


@pytest.mark.parametrize("name", ENTRANCES)
def test_images_are_in_other_units_or_another_shape(name):
    """You see: "images must lie in [0, 1]; these lie in …: divide by 255" (or "undo the normalization"),
    "contain NaN", "channels first".
    Do: that.
    """
    legal = {  # whatever the caller's function takes
        "weight_matvec": ("uint8", "integers", "flat"),
        "weight_trace": ("uint8", "integers", "flat"),
        "evaluate": ("flat",),
    }
    for kind, (images, message) in (SHAPED | VALUED).items():
        if kind in legal.get(name, ()):
            continue
        with pytest.raises(ValueError, match=message):
            ENTRANCES[name](images, LABELS[: len(images)])
        if name not in (*ON_HOST, "admix_pool") and kind in SHAPED:
            refused(ENTRANCES[name], images, LABELS[: len(images)], True, message)
    if name not in (*ON_HOST, "admix_pool"):
        jax.eval_shape(ENTRANCES[name], IMAGES * 255, LABELS)


@pytest.mark.parametrize("name", ENTRANCES)
def test_the_batch_is_empty(name):
    """You see: "images must be [B, H, W, C] with at least one of each; got shape (0, 8, 8, 3): empty", of a
    rate or a mean; an attack returns an empty batch, of bfloat16, too.
    Do: give images.
    """
    images, message = NONE
    if name not in EACH_ALONE:
        with pytest.raises(ValueError, match=message):
            ENTRANCES[name](images, LABELS[:0])
        return
    found = ENTRANCES[name](images, LABELS[:0])
    assert found.size == 0
    assert found.dtype == (bool if name in ("correct", "fooled") else images.dtype)
    if name in ATTACKS:
        assert found.shape == images.shape
        half = ENTRANCES[name](images.astype(jnp.bfloat16), LABELS[:0])
        assert half.dtype == jnp.bfloat16


NO_LOGITS = {
    "classes": (lambda x: PREDICT(x).argmax(-1), r"\(4,\)"),
    "one row": (lambda x: PREDICT(x).mean(0), r"\(4,\)"),
    "fewer rows": (lambda x: PREDICT(x)[:2], r"\(2, 4\)"),
}
LOOPS = ("fgsm", "rap", "svre", "po_trip", "ascend")  # every kind of loop and of gradient
AT_ONCE = ("apgd", "apgd_t", "fab", "square", "auto_attack", "one_after_another")  # look before they begin


def attacked(name, predict):
    return ATTACKS[name](KEY, (predict, predict) if name in SEVERAL else predict, IMAGES, LABELS)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in FLAX])
def test_predict_returns_classes_or_one_row(name):
    """You see: "predict must return logits [B, K] for 4 images; got shape (4,)".
    Do: return the logits of each image.
    """
    for predict, shape in NO_LOGITS.values():
        if name == "noise":
            assert np.isfinite(attacked(name, predict)).all()
            continue
        with pytest.raises(ValueError, match=rf"predict must return logits \[B, K\] .* got shape {shape}"):
            attacked(name, predict)


@pytest.mark.parametrize("name", LOOPS + AT_ONCE)
def test_predict_returns_nan(name):
    """You see: "predict returned NaN for 1 of 4 images: look at its weights and normalization", or "predict,
    or the loss, became NaN for 1 of 4 images: …".
    Do: that.
    """
    with pytest.raises(ValueError, match=r"(predict returned|became) NaN for 1 of 4 images"):
        attacked(name, lambda x: PREDICT(x).at[1].set(jnp.nan))


def test_the_attack_ends_in_nan():
    """You see: "the attack ends in NaN for 4 of 4 images: look at the gradient of predict: a norm, a sqrt or
    a division at zero".
    Do: that.
    """
    rooted = lambda x: PREDICT(x) + jnp.sqrt(jnp.abs(x - x)).sum((1, 2))[:, :1]  # noqa: E731
    with pytest.raises(ValueError, match="the attack ends in NaN for 4 of 4 images: look at the gradient"):
        attacked("fgsm", rooted)


@pytest.mark.parametrize("kind", VALUED)
def test_adversarial_images_in_other_units(kind):
    adversarial, message = VALUED[kind]
    if kind == "normalized":
        adversarial, message = 4 * adversarial, r"must lie in \[-1, 2\]"
    with pytest.raises(ValueError, match=rf"adversarial images .*{message}".replace("[0, 1", "[-1, 2")):
        metrics.transferability_bound(PREDICT, PREDICT, IMAGES, adversarial, LABELS, 1.0, 1.0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_images_are_bfloat16_or_half(dtype):
    """You see: nothing: they may exceed [0, 1] by a rounding of their own, and no more ("must lie in [0,
    1]").
    Do: nothing.
    """
    images = np.linspace(0, 1, B * SIDE * SIDE * C).reshape(IMAGES.shape).astype(dtype)
    ulp = float(jnp.finfo(dtype).eps)
    checks.check_images(images)
    checks.check_images(jnp.asarray(images))
    checks.check_images(images * np.asarray(1 + ulp, dtype) - np.asarray(min(ulp, 1e-6), dtype))
    for bad in (images * np.asarray(1 + 4 * max(ulp, 1e-5), dtype), images - np.asarray(0.02, dtype)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            checks.check_images(bad)


@pytest.mark.parametrize("shape", [(2, 3, 3, 1), (2, 1, 1, 7), (2, 1, 9, 2), (2, 32, 32, 4), (2, 2, 2, 5)])
def test_small_and_odd_images_are_not_taken_for_channels_first(shape):
    checks.check_images(np.zeros(shape, np.float32))


GOOD = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD[0], r"must be \[B, H, W, C\]; got shape \(8, 8, 3\)"),
        (GOOD.transpose(0, 3, 1, 2), "channels first"),
        ((GOOD * 255).astype(np.uint8), "got uint8: divide by 255"),
        (GOOD * 255, r"lie in \[.*, 25.*\]: divide by 255"),
        (GOOD * 4 - 2, "undo the normalization"),
        (np.where(GOOD > 0.5, np.nan, GOOD), "contain NaN"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        checks.check_images(images)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 9), st.floats(0, 1), st.floats(0, 1))
def test_images_in_range_pass_and_others_do_not(batch, side, low, high):
    images = np.linspace(low, high, batch * side * side * 3, dtype=np.float32).reshape(batch, side, side, 3)
    checks.check_images(images)
    for bad in (images - low - 0.01, images - low + 1.01):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            checks.check_images(bad)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 2, 10]), r"lie in 1 … 10, but predict has 10 logits, 0 … 9: these look 1-based"),
        (np.array([0, 2, 10]), "must lie in 0 … 9; these lie in 0 … 10"),
        (np.array([-1, 2, 3]), "must lie in 0 … 9; these lie in -1 … 3"),
        (np.array([0.0, 1.0, 2.0]), "must be integers; got float64"),
        (np.eye(10)[:3], r"shape \(3,\), one class per image; got \(3, 10\)"),
    ],
)
def test_labels_are_no_classes(labels, message):
    """You see: "labels lie in 1 … 10, but predict has 10 logits, 0 … 9: these look 1-based; subtract 1", or
    "must be integers; got float64".
    Do: that.
    """
    with pytest.raises(ValueError, match=message):
        checks.check_labels(labels, 3, 10)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 13), min_size=1, max_size=6))
def test_labels_pass_exactly_if_in_range(values):
    labels = np.array(values)
    if labels.min() >= 0 and labels.max() < 10:
        checks.check_labels(labels, len(labels), 10)
    else:
        with pytest.raises(ValueError, match="labels"):
            checks.check_labels(labels, len(labels), 10)


def test_features_are_maps():
    """You see: "features must be [n, D]; got (30, 4, 4, 2): flatten images and maps first".
    Do: that.
    """
    maps = jnp.ones((30, 4, 4, 2))
    for function in (
        lambda x: metrics.frechet_distance(x, x),
        lambda x: metrics.local_intrinsic_dimension(x, x),
        lambda x: metrics.principal_subspace(x, 1),
        lambda x: metrics.off_subspace(x, metrics.principal_subspace(maps.reshape(30, -1), 1)),
    ):
        with pytest.raises(ValueError, match=r"features must be \[n, .*flatten"):
            function(maps)


@pytest.mark.parametrize("name", ["correct", "fooled", "transfer_success"])
def test_the_success_rate_of_a_predict_that_returns_nan(name):
    """You see: "predict returned NaN for 1 of 4 images: look at its weights and normalization"; no rate.
    Do: that.
    """
    metric = getattr(metrics, name)
    with pytest.raises(ValueError, match="predict returned NaN for 1 of 4 images: look at its weights"):
        metric(lambda x: PREDICT(x).at[2].set(jnp.nan), IMAGES, LABELS)
