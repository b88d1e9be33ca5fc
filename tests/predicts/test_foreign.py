"""Any JAX function and any PyTorch module as a predict."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks
from transferjax.predicts import foreign

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


def test_from_callable_keeps_weights_as_leaves():
    weights = jax.random.normal(jax.random.key(0), (48, 3))
    predict = foreign.from_callable(linear, weights)
    assert [leaf.shape for leaf in jax.tree.leaves(predict)] == [(48, 3)]
    x, labels = jnp.asarray(IMAGES / 255, jnp.float32), jnp.array([0, 1, 2, 0, 1])
    attack = jax.jit(attacks.bim(0.1, 2))
    np.testing.assert_allclose(
        attack(jax.random.key(0), predict, x, labels),
        attack(jax.random.key(0), foreign.from_callable(lambda x: linear(weights, x)), x, labels),
        atol=1e-6,
    )


def test_torch_target():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    predict = foreign.torch_target(module, 4)
    x = IMAGES.astype(np.float32) / 255
    with torch.no_grad():
        expected = module(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(
        jax.jit(lambda predict, x: predict(x))(predict, x), expected, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(TypeError, match="has no gradient: attack a surrogate"):
        jax.grad(lambda x: predict(x).sum())(jnp.asarray(x))


class Named(NamedTuple):
    features: Any
    logits: Any


class Output:
    """As the models of transformers return it, without being a dictionary."""

    def __init__(self, logits):
        self.loss, self.logits = None, logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits, other: logits,
        lambda logits, other: (other, logits),
        lambda logits, other: [logits],
        lambda logits, other: {"out": logits, "features": other},
        lambda logits, other: {"aux": logits + 1, "logits": logits},
        lambda logits, other: Named(logits + 1, logits),
        lambda logits, other: Output(logits),
    ],
)
def test_logits_are_found_in_what_a_module_returns(wrap):
    logits, other = np.arange(8.0).reshape(2, 4), np.zeros((2, 5))
    np.testing.assert_array_equal(foreign._logits(wrap(logits, other), (2, 4)), logits)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (np.zeros((2, 5)), r"ndarray \[2, 5\]: check num_classes"),
        (np.zeros(4), r"ndarray \[4\]"),
        ((np.zeros((2, 4)), np.zeros((2, 4))), r"0 \[2, 4\], 1 \[2, 4\]"),
        ({"features": np.zeros((2, 5))}, r"features \[2, 5\]"),
        (None, r"NoneType \['\?'\]"),
    ],
)
def test_what_holds_no_logits_or_several_is_shown(output, found):
    with pytest.raises(ValueError, match=rf"expected logits \[2, 4\], .*gave {found}"):
        foreign._logits(output, (2, 4))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_torch_modules_of_every_precision(dtype):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    x = jnp.asarray(IMAGES / 255, jnp.float32)
    expected = foreign.torch_target(module, 4)(x)
    logits = jax.jit(foreign.torch_target(module.to(getattr(torch, dtype)), 4))(x)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(
        logits, expected, atol={"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-6}[dtype]
    )


def test_a_torch_module_with_other_logits_is_refused_before_the_program_runs():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    predict = foreign.torch_target(module, 10)
    x = jnp.zeros((8, 4, 4, 3))
    for call in (predict, jax.jit(predict), jax.vmap(lambda x: predict(x[None]))):
        with pytest.raises(
            ValueError, match=r"expected logits \[\d, 10\], .*Tensor \[\d, 4\]: check num_classes"
        ):
            call(x)
