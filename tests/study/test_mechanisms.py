"""The laws that every mechanism obeys, in one table over `configs/methods.py`.

Each mechanism is compiled once for one device and once for eight; all laws look at those two runs.
"""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.methods import MECHANISMS, method
from transferjax.study import binding, networks, registry
from transferjax.study.specs import Call, Data, Network, Training
from transferjax.training import parallel
from transferjax.training.averaging import averaged_params
from transferjax.typing import Batch

SHAPE, K, B, STEPS = (8, 8, 1), 4, 16, 3
KEY = jax.random.key(0)
NAMES = [name if name not in ("MU", "CM", "CO", "LS") else f"{name}_1" for name in MECHANISMS]
NAMES += ["SAM&IR", "SAM&JR", "SAM&ER", "MU_5&SAM", "AT&IR"]
# Rows whose pieces other rows have, alone or together.
REPEATED = {"l-SAM", "ASAM", "GSAM", "WASAM", "SAM&JR", "SAM&ER", "MU_5&SAM", "AT&IR"}
ROWS = [pytest.param(name, marks=pytest.mark.slow) if name in REPEATED else name for name in NAMES]


# DRA's own weight drowns the loss of so small a net; ESAM chooses among the examples of its own device.
CHANGED = {"DCG": {"weight": 0.01}, "ESAM": {"gamma": 1.0}}


def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(K, size=B)
    images = rng.random((B, *SHAPE)) * 0.4 + 0.15 * labels[:, None, None, None]
    return Batch(jnp.asarray(images, jnp.float32), jax.nn.one_hot(labels, K))


def make(name, axis_name=None):
    said = [part | {"options": part["options"] | CHANGED.get(name, {})} for part in method(name)]
    parts = tuple(binding.bind(registry.PARTS, Call(**part)) for part in said)
    schedule = Call(name="warmup_cosine", options={"peak": 0.1})
    spec = Network(
        model=Call(name="cifar_vgg11", options={"blocks": (1,), "width": 4}),
        data=Data(name="digits"),
        mean=(0.31,),
        std=(0.38,),
        parts=parts,
        training=Training(epochs=STEPS, batch_size=B, schedule=schedule),
    )
    return networks.train_step(spec, K, 1, axis_name), initial(networks.module_of(spec, K))


@cache
def initial(net):
    """Weights, the same for all mechanisms."""
    return jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))


@cache
def compiled(name):
    """The step, jitted, and its first state."""
    step, variables = make(name)
    return jax.jit(step.update), step.init(variables, batch())


@cache
def one_device(name):
    """The states after 0, 1, … steps, and how often the step was compiled."""
    update, first = compiled(name)
    states = [first]
    for _ in range(STEPS):
        states.append(update(states[-1], KEY, batch()))
    return states, update._cache_size()


@pytest.mark.parametrize("name", ROWS)
def test_training_moves_finite_weights_with_one_compilation(name):
    states, compilations = one_device(name)
    assert compilations == 1
    for before, after in itertools.pairwise(states):
        assert jnp.isfinite(after.memory["metrics"]["loss"])
        assert all(jnp.isfinite(w).all() for w in jax.tree.leaves(after.params))
        moved = jax.tree.map(lambda a, b: (a != b).any(), before.params, after.params)
        assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", ROWS)
def test_the_loss_goes_down(name):
    states, _ = one_device(name)
    losses = [float(state.memory["metrics"]["loss"]) for state in states[1:]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ROWS)
def test_the_same_seed_gives_the_same_weights(name):
    states, _ = one_device(name)
    update, first = compiled(name)
    again = update(first, KEY, batch())
    for a, b in zip(jax.tree.leaves(states[1]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ROWS)
def test_eight_devices_equal_one(name):
    step, variables = make(name, parallel.AXIS)
    shards = parallel.shard(batch())
    state = parallel.replicate(step.init(variables, jax.tree.map(lambda x: x[0], shards)))
    state = parallel.data_parallel(step.update)(state, KEY, shards)
    assert jax.tree.leaves(state.params)[0].shape[0] == jax.device_count() == 8
    expected = one_device(name)[0][1]
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(parallel.unreplicate(state)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ST", "SAM&IR", "LookSAM", "MU_1", "AT"])
def test_compiled_equals_eager(name):
    step, variables = make(name)
    eager = step.update(step.init(variables, batch()), KEY, batch())
    for a, b in zip(jax.tree.leaves(one_device(name)[0][1]), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3)


def test_averages_are_kept_where_a_row_asks_for_them():
    for name in ("ST", "SWA", "EMA"):
        average = averaged_params(one_device(name)[0][-1].opt_state)
        assert (average is not None) == (name != "ST")
