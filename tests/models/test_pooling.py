"""Pooling against Flax's, whose derivatives XLA makes: values, first and second derivatives, ties."""

from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.models.pooling import avg_pool, max_pool

WINDOWS = {  # size, stride, padding -> the nets that have them
    "VGG": (2, 2, 0),
    "ResNet": (3, 2, 1),
    "SqueezeNet": (3, 2, 0),
    "GoogLeNet": (3, 1, 1),
    "stride over the window": (2, 3, 0),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def images(ties: bool, seed: int = 0):
    """`[2, 9, 8, 3]`; with `ties` of a few values, most of them 0 as behind a ReLU."""
    x = jax.random.normal(jax.random.key(seed), (2, 9, 8, 3), jnp.float64)
    return jnp.maximum(jnp.round(x), 0) if ties else x


def flax(pool, size, stride, padding):
    return lambda x: pool(x, (size, size), (stride, stride), [(padding, padding)] * 2)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("ours", "theirs"), [(max_pool, nn.max_pool), (avg_pool, nn.avg_pool)])
def test_value_and_gradient_are_those_of_flax(ours, theirs, ties, window):
    x = images(ties)
    (value, pull), (expected, expected_pull) = (
        jax.vjp(pool, x) for pool in (lambda x: ours(x, *window), flax(theirs, *window))
    )
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    cotangent = jax.random.normal(jax.random.key(1), value.shape, jnp.float64)
    np.testing.assert_allclose(*pull(cotangent), *expected_pull(cotangent), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_products_with_the_hessian_are_those_of_flax(window):
    """Of a curved function of what was pooled, forward over reverse and reverse over reverse."""
    x, direction = images(ties=False), images(ties=False, seed=2)

    def loss(pool, x):
        return jnp.sum(jnp.sin(pool(x * x)))

    gradients = [
        jax.grad(partial(loss, pool)) for pool in (lambda x: max_pool(x, *window), flax(nn.max_pool, *window))
    ]
    forward = [jax.jvp(gradient, (x,), (direction,))[1] for gradient in gradients]
    np.testing.assert_allclose(*forward, rtol=1e-12, atol=1e-14)
    reverse = jax.grad(lambda x: jnp.vdot(gradients[0](x), direction))(x)
    np.testing.assert_allclose(reverse, forward[0], rtol=1e-12, atol=1e-14)


def test_of_equal_values_the_first_has_the_gradient():
    """As in PyTorch: row by row; the rest has none, so that a window's gradients add up to one."""
    found = jax.grad(lambda x: max_pool(x, 2).sum())(jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(found, np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2)])
def test_the_last_window_may_stick_out(size, stride):
    """`ceil`: where the image is padded with what never wins until the windows fit."""
    x = images(ties=False)
    padded = jnp.pad(
        x, [(0, 0), *((0, -(n - size) % stride) for n in x.shape[1:3]), (0, 0)], constant_values=-99
    )
    np.testing.assert_array_equal(max_pool(x, size, stride, ceil=True), max_pool(padded, size, stride))


def test_padding_is_not_counted_where_it_is_not_meant():
    x = images(ties=False)
    counted = nn.avg_pool(x, (3, 3), (2, 2), [(1, 1)] * 2, count_include_pad=False)
    np.testing.assert_allclose(avg_pool(x, 3, 2, 1, count_pad=False), counted, rtol=1e-14)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_what_leads_to_a_cotangent_is_not_fused_into_its_windows(pool):
    """Which would compute it once for each place of a window; XLA does not fuse over a branch."""
    x, y = jnp.ones((2, 6, 6, 3)), jnp.ones((2, 3, 3, 3))
    compiled = jax.jit(lambda x, y: jax.vjp(lambda x: pool(x, 2), x)[1](jnp.tanh(y))[0]).lower(x, y).compile()
    assert " conditional(" in compiled.as_text()
    np.testing.assert_allclose(compiled(x, y).sum(), jnp.tanh(y).sum(), rtol=1e-6)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_other_platforms_have_their_own(pool):
    """Elsewhere XLA's reductions stay, with the same numbers."""
    x = images(ties=True)
    with mock.patch("transferjax.models.pooling.runs_on_cpu", return_value=False):
        text = str(jax.make_jaxpr(lambda x: pool(x, 3, 2, 1))(x))
        elsewhere = pool(x, 3, 2, 1)
    assert "reduce_window" in text
    np.testing.assert_allclose(pool(x, 3, 2, 1), elsewhere, rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_dtype_stays(dtype):
    x = images(ties=False).astype(dtype)
    assert max_pool(x, 2).dtype == avg_pool(x, 2).dtype == dtype
    assert jax.grad(lambda x: max_pool(x, 2).astype(jnp.float32).sum())(x).dtype == dtype
