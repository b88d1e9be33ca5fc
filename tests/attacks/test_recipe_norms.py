"""Every recipe in every norm: where it looks, how far it steps, and where it ends."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentive import attentive
from watch import Watch

from tests.kinds import ATTENTIVE, SEVERAL
from transferjax import attacks, losses, models
from transferjax.attacks import spent
from transferjax.study.registry import ATTACKS

SHAPE, CLASSES, STEPS = (2, 4, 4, 3), 3, 2
BUDGETS = {"linf": 16 / 255, "l2": 3.0}  # 3 is a length, and no 0–255 unit
POOL = np.random.default_rng(1).random((3, *SHAPE[1:])).astype(np.float32)
EVERYWHERE = np.inf  # input transformations look at other images on purpose

# name: (options, how far from the clean image it may look, total of two steps of its default length), in eps
TABLE = {
    "fgsm": ({"steps": None}, 1, 1),
    "pgd": ({"random_start": False}, 1, 2.5),
    "bim": ({}, 1, 1),
    "mi_fgsm": ({}, 1, 1),
    "ni_fgsm": ({}, 2, 1),
    "emi_fgsm": ({"samples": 3, "radius": 1.0}, 1.5, 1),
    "pi_fgsm": ({"beta": 1.0}, 1, 1),
    "dim": ({"rate": 0.75}, EVERYWHERE, 1),
    "tim": ({"kernel_size": 3}, 1, 1),
    "sim": ({"scales": 2}, EVERYWHERE, 1),
    "si_ni_fgsm": ({"scales": 2}, EVERYWHERE, 1),
    "admix": ({"pool": POOL, "samples": 2, "scales": 2}, EVERYWHERE, 1),
    "ssa": ({"samples": 2, "rho": 0.0}, 1 + 1.5, 1),
    "bsr": ({"samples": 2}, EVERYWHERE, 1),
    "vmi_fgsm": ({"neighbors": 2}, 1 + 1.5, 1),
    "vni_fgsm": ({"neighbors": 2}, 2 + 1.5, 1),
    "gnp": ({}, 1 + 0.16, 1),
    "gra": ({"neighbors": 2}, 1 + 3.5, 1),
    "pgn": ({"neighbors": 2}, 1 + 3 + 0.5, 1),
    "awt": ({"neighbors": 2}, 1 + 3 + 0.5, 1),
    "rap": ({"inner_steps": 2}, 1 + 1, 2 / 8),
    "tpa": ({"neighbors": 2, "random_start": False}, 1 + 1.84 + 0.18, 2.9 / 10),
    "logit": ({"kernel_size": 3}, EVERYWHERE, 2 / 8),
    "po_trip": ({}, 1, 1),
    "sia": ({"samples": 2}, EVERYWHERE, 1),
    "anda": ({"side": 2}, EVERYWHERE, 1),
    "decowa": ({"samples": 2}, EVERYWHERE, 1),
    "mumodig": ({"samples": 2}, EVERYWHERE, 1),
    "l2t": ({"pool": POOL, "samples": 2}, EVERYWHERE, 1),
    "ops": ({"neighbors": 2, "samples": 4}, EVERYWHERE, 1),
    "mef": ({"neighbors": 2}, 1 + 2 + 0.15, 2 / 10),
    "fgsra": ({"neighbors": 2, "rho": 0.0}, 1 + 2, 1),
    "logit_margin": ({"kernel_size": 3}, EVERYWHERE, 2 / 8),
    "s4st": ({"kernel_size": 3, "samples": 4}, EVERYWHERE, 2 / 8),
    "fia": ({"layer": "Dense_0", "samples": 4}, EVERYWHERE, 1),
    "bfa": ({"layer": "Dense_0", "samples": 4}, EVERYWHERE, 1),
    "ilpd": ({"layer": "Dense_0"}, EVERYWHERE, 2 / 8),
    "cfm": ({"pool": POOL, "kernel_size": 3}, EVERYWHERE, 2 / 8),
    "everywhere": ({"pool": POOL, "samples": 3, "kernel_size": 3}, EVERYWHERE, 2 / 8),
    "self_universality": ({"layer": "Dense_0"}, EVERYWHERE, 2 / 8),
    "tgr": ({}, 1, 1),
    "pna": ({"patch": 2}, 1, 1),
    "att": ({"layer": "tokens", "patch": 2}, 1, 1),
    "svre": ({"inner_steps": 2}, 1, 1),
    "cwa": ({}, 1, 2 / 5),
    "ada_ea": ({}, 1, 1),
    "smer": ({"inner_steps": 2}, 1, 1),
    "lgv": ({}, 1, 2 / 10),
}
WHOLE = {"pna": {"share": 1.0}, "att": {"prob": 1.0, "low": 1.0, "high": 1.0}}  # no patch is left out
every_recipe = pytest.mark.parametrize("name", TABLE)
AUTO = {"apgd", "apgd_t", "auto_attack", "fab", "square", "noise"}  # with tests of their own


def test_no_recipe_is_forgotten():
    assert set(ATTACKS.rows()) == set(TABLE) | AUTO
    assert all("norm" in inspect.signature(ATTACKS.row(name).factory).parameters for name in ATTACKS.rows())


def make(name, norm, eps=None, **changes):
    options = {"steps": STEPS, "norm": norm, **TABLE[name][0], **changes}
    if options["steps"] is None:
        del options["steps"]
    return ATTACKS.row(name).factory(BUDGETS[norm] if eps is None else eps, **options)


def predict_of(name, net, images):
    if name in ATTENTIVE:
        return attentive(net, jax.random.key(1), images)
    return models.predictor(net, net.init(jax.random.key(1), images))


def surrogates(name, predict):
    return (predict, predict) if name in SEVERAL else predict


def lengths(norm, d):
    """In L∞ the mean over pixels, because `g / mean|g|` is a direction of unit length in that."""
    d = np.abs(d.reshape(len(d), -1))
    return d.mean(-1) if norm == "linf" else np.linalg.norm(d, axis=-1)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(jnp.tanh(nn.Dense(8)(x.reshape(len(x), -1))))


@pytest.fixture(scope="module")
def problem():
    images = 0.3 + 0.4 * jax.random.uniform(jax.random.key(0), SHAPE)
    return images, jnp.array([0, 2])


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (name, norm)
        for name, (_, reach, _) in TABLE.items()
        for norm in BUDGETS
        if norm == "linf" or np.isfinite(reach)  # in the ball of L2 `test_attack_table` finds the others
    ],
)
def test_looks_and_ends_near_the_image(name, norm, problem):
    images, labels = problem
    predict = predict_of(name, Net(), images)
    if (name, norm) == ("pi_fgsm", "l2"):
        with pytest.raises(ValueError, match="which only norm='linf' has; got norm='l2': use mi_fgsm"):
            make(name, norm)
        return
    watch, attack, eps = Watch(), make(name, norm), BUDGETS[norm]
    watched = surrogates(name, jax.tree_util.Partial(watch, predict))
    x = jax.jit(attack)(jax.random.key(2), watched, images, labels)
    asked, seen = watch.spent(len(images)), watch.images
    assert asked == spent(attack, surrogates(name, predict), SHAPE[1:])
    assert asked[1] >= dict(attack.settings).get("steps", 1)
    if np.isfinite(TABLE[name][1]):
        assert max(lengths(norm, p - images).max() for p in seen) <= TABLE[name][1] * eps * (1 + 1e-5)
    d = np.asarray(x - images, np.float64).reshape(len(x), -1)
    assert np.all((np.linalg.norm(d, axis=-1) if norm == "l2" else np.abs(d).max(-1)) <= eps * (1 + 1e-5))
    up = losses.cross_entropy(predict(x), labels) - losses.cross_entropy(predict(images), labels)
    assert up.mean() < 0 if dict(attack.settings)["targeted"] else up.mean() > 0


class Slope(nn.Module):
    """The logits `Σ x / 10` and 1: every gradient of every loss is a constant image, up or down."""

    @nn.compact
    def __call__(self, x):
        total = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.constant(0.1))(x.reshape(len(x), -1))
        return jnp.concatenate([total, jnp.ones_like(total)], -1)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (name, norm)
        for name, (_, reach, _) in TABLE.items()
        for norm in BUDGETS
        if norm == "linf" or (np.isfinite(reach) and name != "pi_fgsm")
    ],
)
def test_steps_are_the_papers(name, norm, problem):
    """Without a projection and with a constant gradient, the way is the steps' number times their length."""
    images, predict = problem[0], predict_of(name, Slope(), problem[0])
    everything = WHOLE.get(name, {})
    attack = make(name, norm, eps=0.05, project=lambda x, x0: x, **everything)
    brighter = 0 if dict(attack.settings)["targeted"] else 1  # towards class 0, or away from class 1
    labels = jnp.full(len(images), 0 if name in ("fia", "bfa") else brighter)  # only z_0 feels a feature
    x = jax.jit(attack)(jax.random.key(0), surrogates(name, predict), images, labels)
    d = np.asarray(x - images)
    way = np.abs(d).max((1, 2, 3)) if norm == "linf" else lengths("l2", d)
    np.testing.assert_allclose(way, 0.05 * TABLE[name][2], rtol=2e-3)


@every_recipe
def test_a_budget_may_be_traced(name, problem):
    images, labels = problem
    predict = predict_of(name, Net(), images)
    for norm in ("linf",) if name == "pi_fgsm" else BUDGETS:
        run = lambda eps, *data: make(name, norm, eps=eps)(*data)  # noqa: B023, E731
        x = jax.eval_shape(run, 0.1, jax.random.key(0), surrogates(name, predict), images, labels)
        assert x.shape == images.shape


def noisy(key, images, **options):
    return attacks.noise(**options)(key, None, images, jnp.zeros(len(images), int)) - images


def test_noise_spends_the_budget(problem):
    """Random signs, or a random direction; of each image's own key, and whatever predict says."""
    images = problem[0]
    d = noisy(jax.random.key(0), images, eps=16 / 255)
    np.testing.assert_allclose(np.abs(d), 16 / 255, rtol=1e-5)
    assert 0.2 < np.mean(d > 0) < 0.8
    d = noisy(jax.random.key(0), images, eps=0.5, norm="l2")
    np.testing.assert_allclose(lengths("l2", d), 0.5, rtol=1e-5)
    assert np.abs(d[0] - d[1]).max() > 0.01
    keys = jax.random.split(jax.random.key(3), len(images))
    whole, second = noisy(keys, images, eps=0.1), noisy(keys[1:], images[1:], eps=0.1)
    np.testing.assert_array_equal(whole[1:], second)
    x = attacks.noise(0.9, targeted=True, quantize=True)(jax.random.key(0), None, images, problem[1])
    assert np.all((x >= 0) & (x <= 1))
    np.testing.assert_allclose(255 * x, np.round(255 * x), atol=1e-4)
