"""A budget may be traced: one compilation serves every `eps`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks


@pytest.mark.parametrize("make", [attacks.fgsm, attacks.pgd, attacks.mi_fgsm])
def test_one_compilation_for_every_budget(make):
    weights = jax.random.normal(jax.random.key(0), (16, 4))
    predict = jax.tree_util.Partial(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    images = jax.random.uniform(jax.random.key(1), (3, 4, 4, 1))
    labels = jnp.array([0, 1, 2])
    craft = jax.jit(lambda eps: make(eps=eps)(jax.random.key(2), predict, images, labels))
    for eps in (4 / 255, 16 / 255):
        expected = make(eps=eps)(jax.random.key(2), predict, images, labels)
        np.testing.assert_allclose(craft(eps), expected, atol=1e-6)
    assert craft._cache_size() == 1
