"""Functions of NumPy arrays as functions of JAX, on a single core too."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.host import host_call

X = np.random.default_rng(0).random((16, 3, 2)).astype(np.float32)


def sum_and_largest(x):
    assert type(x) is np.ndarray, "no JAX on the host's side"
    x = x.reshape(len(x), -1)
    return np.stack([x.sum(1), x.max(1)], 1)


def call(x):
    return host_call(sum_and_largest, x * 2, 2)


@pytest.mark.parametrize(
    "run",
    [
        call,
        jax.jit(call),
        lambda x: jax.pmap(call)(x.reshape(8, 2, 3, 2)).reshape(16, 2),
        lambda x: jax.vmap(call, 1)(x.reshape(8, 2, 3, 2).swapaxes(0, 1)).reshape(16, 2),
        lambda x: jax.lax.map(call, x.reshape(8, 2, 3, 2)).reshape(16, 2),
    ],
    ids=["eager", "jit", "pmap", "vmap", "scan"],
)
def test_it_is_the_function_in_every_transformation(run):
    np.testing.assert_allclose(run(jnp.asarray(X)), sum_and_largest(2 * X), rtol=1e-6)


def test_it_has_no_derivative():
    with pytest.raises(NotImplementedError, match="host_call"):
        jax.grad(lambda x: call(x).sum())(X)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins a process to a core")
def test_one_core_is_enough():
    """A function that reads 38 MB: with `pure_callback` it waits for the core that waits for it."""
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, numpy as np
from transferjax.host import host_call
total = jax.jit(lambda x: host_call(lambda x: x.sum((1, 2, 3))[:, None], x + 1, 1))
print(total(np.zeros((64, 224, 224, 3), np.float32)).sum() / 64 / 224**2 / 3)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "1.0", out.stderr
