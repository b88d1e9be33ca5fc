"""Rules outside and inside of a recipe's own, and what an attack tells of its steps."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kinds import FLAX, LAYERED, POOLED
from transferjax import attacks, losses
from transferjax.attacks import inputs
from transferjax.attacks.ascend import ascend
from transferjax.attacks.ensembles import mean_losses
from transferjax.attacks.rules import average, lookahead, variance_tuning
from transferjax.predicts import Snapshots
from transferjax.study.registry import ATTACKS

EPS, SHAPE = 0.1, (3, 4, 4, 2)
KEY = jax.random.key(7)
X = jax.random.uniform(jax.random.key(0), SHAPE)
LABELS = jnp.array([0, 1, 2])
NEEDED = {
    **{name: {"pool": X} for name in POOLED},
    **{name: {"layer": "x"} for name in LAYERED},
}


def net(weights, x):
    first, second = weights
    return jnp.tanh(x.reshape(len(x), -1) @ first) @ second


def predict_of(seed):
    first, second = jax.random.split(jax.random.key(seed))
    return jax.tree_util.Partial(net, (jax.random.normal(first, (32, 8)), jax.random.normal(second, (8, 5))))


A, B = predict_of(1), predict_of(2)


def few(name):
    """An attack of the table with as little work as it takes, and rules that note who was called when."""
    factory = ATTACKS.row(name).factory
    known = inspect.signature(factory).parameters
    cheap = {"steps": 1, "neighbors": 2, "samples": 2, "scales": 2, "inner_steps": 2}
    options = {option: value for option, value in cheap.items() if option in known}
    return lambda **more: factory(EPS, **options, **NEEDED.get(name, {}), **more)


def noting(name, calls):
    def rule(grad_fn):
        def noted(*args):
            calls.append(("begin", name))
            out = grad_fn(*args)
            calls.append(("end", name))
            return out

        return noted

    return rule


RULED = [
    name
    for name in ATTACKS.rows()
    if "outer_rules" in inspect.signature(ATTACKS.row(name).factory).parameters
    and name not in FLAX  # their rules are `with_momentum`'s
]


@pytest.mark.parametrize("name", RULED)
def test_outer_rules_hold_the_inner_ones(name):
    """While tracing: every inner call lies within an outer one, and outer ones are not nested."""
    calls = []
    make = few(name)
    attack = make(outer_rules=(noting("outer", calls),), inner_rules=(noting("inner", calls),))
    jax.eval_shape(attack, KEY, A, X, LABELS)
    depth, seen = 0, set()
    for what, who in calls:
        if who == "outer":
            depth += 1 if what == "begin" else -1
            assert depth in (0, 1)
        else:
            assert depth == 1, f"{name}: the gradient is asked for past the outer rules"
        seen.add(who)
    assert seen == {"outer", "inner"}
    plain = jax.eval_shape(make(), KEY, A, X, LABELS)
    assert plain.shape == X.shape


def test_a_draw_outside_is_one_for_all_neighbours_and_inside_one_for_each():
    """A recipe's average over N: the transform's keys, outside all equal, inside all different."""
    keys = []

    def transform(key, x, number):
        jax.debug.callback(lambda k: keys.append(np.asarray(k)), jax.random.key_data(key))
        return x

    for side, distinct in (("outer_rules", 1), ("inner_rules", 4)):
        keys.clear()
        attack = attacks.vmi_fgsm(EPS, 1, neighbors=3, **{side: (average(transform),)})
        jax.block_until_ready(attack(KEY, A, X[:1], LABELS[:1]))
        jax.effects_barrier()
        last = {k.tobytes() for k in keys}
        assert len(last) == distinct, side


def test_pgn_with_diversity_inside_is_the_chain_written_out():
    di = average(inputs.diversity(0.9, 1.0))
    recipe = attacks.pgn(EPS, 2, neighbors=2, inner_rules=(di,))
    written = attacks.mi_fgsm(
        EPS,
        2,
        outer_rules=(
            average(attacks.rules.uniform_noise(3 * EPS), 2),
            attacks.rules.probe(-EPS / 2, 0.5, 0.5),
            di,
        ),
    )
    np.testing.assert_array_equal(recipe(KEY, A, X, LABELS), written(KEY, A, X, LABELS))
    outside = attacks.pgn(EPS, 2, neighbors=2, outer_rules=(di,))
    assert np.abs(outside(KEY, A, X, LABELS) - written(KEY, A, X, LABELS)).max() > 1e-3


@pytest.mark.parametrize("rule", [lookahead(1.0, 0.05), variance_tuning(0.1, 2)], ids=["ahead", "variance"])
def test_inner_rules_remember_apart_for_each_surrogate(rule):
    """Two surrogates whose gradients are combined by their mean: as if each had its own attack's memory."""
    up = attacks.updates.steepest("l2", 0.05)
    attack = ascend(up, lambda x, x0: x, steps=3, member_rules=(rule,))
    first = attack(KEY, (A, B), X, LABELS)
    swapped = attack(KEY, (B, A), X, LABELS)
    stacked = attack(KEY, Snapshots.stack([A, B]), X, LABELS)
    np.testing.assert_allclose(first, stacked, atol=1e-6)
    shared = ascend(up, lambda x, x0: x, steps=3, ensemble=lambda inner: rule(mean_losses(inner)))
    if rule.__qualname__.startswith("lookahead"):  # draws nothing: the order of surrogates is no matter
        np.testing.assert_allclose(first, swapped, atol=1e-5)
        assert np.abs(first - shared(KEY, (A, B), X, LABELS)).max() > 1e-4
        one = ascend(up, lambda x, x0: x, steps=3, member_rules=(rule,))
        outside = ascend(up, lambda x, x0: x, steps=3, rules=(rule,))
        np.testing.assert_array_equal(one(KEY, A, X, LABELS), outside(KEY, A, X, LABELS))


def test_old_names_of_rules_warn():
    di = average(inputs.diversity())
    with pytest.warns(DeprecationWarning, match="pgn: rules is outer_rules now"):
        assert attacks.pgn(EPS, rules=(di,)) == attacks.pgn(EPS, outer_rules=(di,))
    with pytest.warns(DeprecationWarning, match="svre: member_rules is inner_rules now"):
        attacks.svre(EPS, member_rules=(di,))


@pytest.mark.parametrize("targeted", [False, True])
def test_info_is_what_the_steps_gave(targeted):
    """Row t: loss and success of the images that the attack with t steps returns."""
    make = lambda steps: attacks.bim(EPS, steps, step_size=EPS / 3, targeted=targeted)  # noqa: E731
    images, info = make(3)(KEY, A, X, LABELS, info=True)
    np.testing.assert_array_equal(images, make(3)(KEY, A, X, LABELS))
    assert info.loss.shape == info.success.shape == (4, 3)
    for step in range(4):
        x = make(step)(KEY, A, X, LABELS) if step else X
        np.testing.assert_allclose(info.loss[step], losses.cross_entropy(A(x), LABELS), rtol=1e-5)
        np.testing.assert_array_equal(info.success[step], (A(x).argmax(-1) == LABELS) == targeted)
    better = info.loss[-1] < info.loss[0] if targeted else info.loss[-1] > info.loss[0]
    assert bool(better.all())


def test_info_of_several_surrogates_and_under_jit():
    attack = attacks.mi_fgsm(EPS, 2)
    images, info = attack(KEY, (A, B), X, LABELS, info=True)
    both = jnp.stack([losses.cross_entropy(net(images), LABELS) for net in (A, B)])
    np.testing.assert_allclose(info.loss[-1], both.mean(0), rtol=1e-5)
    fooled = [net(images).argmax(-1) != LABELS for net in (A, B)]
    np.testing.assert_array_equal(info.success[-1], fooled[0] & fooled[1])
    jitted = jax.jit(attack, static_argnames="info")(KEY, (A, B), X, LABELS, info=True)[1]
    np.testing.assert_allclose(jitted.loss, info.loss, rtol=1e-5)


def test_without_info_nothing_is_paid():
    """The program asks the net once a step for the gradient, and not again to look."""
    attack = attacks.bim(EPS, 2)
    programs = [
        str(jax.make_jaxpr(lambda x, i=i: attack(KEY, A, x, LABELS, info=i))(X)) for i in (False, True)
    ]
    assert programs[0].count("tanh") < programs[1].count("tanh")
    plain = str(jax.make_jaxpr(lambda x: attack.run(KEY, A, x, LABELS))(X))
    assert programs[0] == plain


def test_attacks_that_keep_no_account_say_so():
    with pytest.raises(TypeError, match="square gives no info"):
        attacks.square(EPS, 2)(KEY, A, X, LABELS, info=True)
