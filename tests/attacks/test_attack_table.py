"""Every attack of the table x norm x goal x dtype; a new row is in all of these without a word."""

import inspect
from dataclasses import replace
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentive import attentive

from tests.kinds import ATTENTIVE, FLAX, LAYERED, POOLED, SEVERAL
from transferjax import attacks, models
from transferjax.losses import cross_entropy
from transferjax.predicts.snapshots import Snapshots
from transferjax.predicts.stochastic import Stochastic
from transferjax.random import sample
from transferjax.study.registry import ATTACKS

SHAPE, CLASSES = (3, 4, 4, 3), 4
EPS = {"linf": 0.1, "l2": 0.5}
FEW = {"steps": 1, "neighbors": 2, "samples": 2, "scales": 2, "inner_steps": 2, "queries": 3}
FEW |= {"target_classes": 2, "kernel_size": 3, "side": 2}
NEEDED = {name: {"pool": np.full((1, *SHAPE[1:]), 0.5, np.float32)} for name in POOLED}
NEEDED |= {name: {"layer": "mix"} for name in LAYERED}
NEEDED |= {"att": {"layer": "tokens", "patch": 2}, "pna": {"patch": 2}}
ONLY_LINF = ("pi_fgsm",)  # its step spreads what the sign of a pixel cuts off
UNMOVED = ("apgd", "apgd_t", "fab", "square", "auto_attack")  # leave what is fooled already as it is
LABELS = jnp.array([0, 1, 3])


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return 4 * nn.Dense(CLASSES, name="head")(jnp.tanh(nn.Dense(6, name="mix")(x.reshape(len(x), -1))))


X = 0.2 + 0.6 * jax.random.uniform(jax.random.key(0), SHAPE)
PREDICT = models.predictor(Net(), Net().init(jax.random.key(1), X))
TRANSFORMER = attentive(Net(), jax.random.key(1), X)
OPTIONS = {name: inspect.signature(ATTACKS.row(name).factory).parameters for name in ATTACKS.rows()}
GOALS = {name: (False, True) if "targeted" in OPTIONS[name] else (False,) for name in ATTACKS.rows()}
CASES = [
    pytest.param(name, norm, targeted, id=f"{name}-{norm}-{'targeted' if targeted else 'untargeted'}")
    for name in ATTACKS.rows()
    for norm, targeted in product(EPS, GOALS[name])
    if not (norm == "l2" and name in ONLY_LINF)
]


def make(name, norm, targeted, **more):
    few = {option: value for option, value in FEW.items() if option in OPTIONS[name]} | more
    goal = {"targeted": targeted} if "targeted" in OPTIONS[name] else {}
    return ATTACKS.row(name).factory(EPS[norm], norm=norm, **few, **goal, **NEEDED.get(name, {}))


def surrogates(name):
    if name in ATTENTIVE:
        return TRANSFORMER
    return (PREDICT, PREDICT) if name in SEVERAL else PREDICT


def test_the_table_holds_attacks_alone():
    """And all that `attacks` offers: nothing passes for one because it is a function of that package."""
    made = {name: make(name, "linf", GOALS[name][-1]) for name in ATTACKS.rows()}
    assert all(isinstance(attack, attacks.Recipe) for attack in made.values())
    offered = {
        n for n in attacks.__all__ if "Recipe" in str(getattr(getattr(attacks, n), "__signature__", ""))
    }
    assert offered == set(ATTACKS.rows())


@pytest.mark.parametrize(("name", "norm", "targeted"), CASES)
def test_in_the_ball_and_the_same_in_another_batch(name, norm, targeted):
    """Images of half precision too: a bfloat16 near 1 has steps of 1/255, and must be rounded inwards."""
    made, predict = make(name, norm, targeted), surrogates(name)
    attack = replace(made, run=jax.jit(made.run))
    keys = jax.random.split(jax.random.key(2), len(X))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        clean = X.astype(dtype)
        x = attack(keys, predict, clean, LABELS)
        assert x.dtype == dtype
        assert np.all((x >= 0) & (x <= 1))
        d = (np.asarray(x, np.float64) - np.asarray(clean, np.float64)).reshape(len(x), -1)
        lengths = np.abs(d).max(-1) if norm == "linf" else np.linalg.norm(d, axis=-1)
        assert np.all(lengths <= EPS[norm] * (1 + 1e-5))
        assert np.any(lengths > 0) or name in UNMOVED
    order = jnp.array([2, 0, 1])
    x, again = (attack(keys[o], predict, X[o], LABELS[o]) for o in (jnp.arange(3), order))
    np.testing.assert_allclose(again, x[order], atol=1e-6)
    assert attack.run._cache_size() == 1


@pytest.mark.parametrize(("name", "norm", "targeted"), CASES)
def test_the_dtype_of_the_images_is_kept(name, norm, targeted):
    """Whatever the net computes in; looks at the types alone."""
    attack, key = make(name, norm, targeted), jax.random.key(0)
    for images, weights in ((jnp.float32, jnp.bfloat16), (jnp.bfloat16, jnp.float32), (jnp.float64,) * 2):
        with jax.enable_x64(jnp.float64 in (images, weights)):
            nets = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, weights), surrogates(name))  # noqa: B023
            x = jax.eval_shape(attack, key, nets, jax.ShapeDtypeStruct(SHAPE, images), LABELS)
            assert (x.shape, x.dtype) == (SHAPE, images), (images, weights)


@pytest.mark.parametrize("name", ATTACKS.rows())
def test_it_takes_several_nets_or_says_that_it_takes_one(name):
    attack = make(name, "linf", GOALS[name][-1])
    assert attack.alone == ATTACKS.row(name).alone
    net = surrogates(name)[0] if name in SEVERAL else surrogates(name)
    for several in ((net, net), [net] * 3, Snapshots.stack([net, net])):
        if attack.alone:
            with pytest.raises(TypeError, match=rf"{name} takes one predict; got [23]: .*mean_logits"):
                attack(jax.random.key(0), several, X, LABELS)
        else:
            assert jax.eval_shape(attack, jax.random.key(0), several, X, LABELS).shape == SHAPE


@pytest.mark.parametrize("name", ["po_trip", "tgr"])
def test_a_net_twice_is_that_net(name):
    """Of attacks that change the surrogate, and draw nothing."""
    attack, net = make(name, "linf", True), surrogates(name)
    one, two = (attack(jax.random.key(0), predict, X, LABELS) for predict in (net, (net, net)))
    np.testing.assert_allclose(one, two, atol=1e-6)


def noisy(predict, keys, x):
    return predict(x + 0.3 * sample(jax.random.normal, keys, x.shape[1:], x.dtype))


@pytest.mark.parametrize("name", ["po_trip", "self_universality", "ilpd", "fia", "bfa", "cfm"])
def test_a_random_net_draws_for_each_example(name):
    """Of attacks that change the surrogate: by its key, wherever it stands in the batch."""
    net = Stochastic(jax.tree_util.Partial(noisy, PREDICT), jax.random.key(5))
    attack, keys = make(name, "linf", True), jax.random.split(jax.random.key(2), len(X))
    order = jnp.array([2, 0, 1])
    x, again = (attack(keys[o], net, X[o], LABELS[o]) for o in (jnp.arange(3), order))
    np.testing.assert_allclose(again, x[order], atol=1e-6)


@pytest.mark.parametrize("name", [*FLAX, *SEVERAL])
def test_what_knows_layers_or_several_nets_climbs_and_stays_where_all_is_flat(name):
    """The loss grows, or falls towards a target; where no gradient is, nothing but the start moves."""
    targeted = OPTIONS[name]["targeted"].default
    several, recipe = surrogates(name), make(name, "linf", targeted, steps=3)
    attack = jax.jit(recipe)
    net = several[0] if isinstance(several, tuple) else several

    def loss(x):
        return float(cross_entropy(net(x), LABELS).mean())

    up = loss(attack(jax.random.key(2), several, X, LABELS)) - loss(X)
    assert up < 0 if targeted else up > 0
    flat = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if leaf.ndim > 1 else leaf, several)  # kernels
    still, again = (attack(jax.random.key(2), flat, X, labels) for labels in (LABELS, LABELS[::-1]))
    np.testing.assert_array_equal(still, again)
    assert np.isfinite(still).all()
    if not dict(recipe.settings).get("random_start"):
        np.testing.assert_allclose(still, X, atol=1e-7)
