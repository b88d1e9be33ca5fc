"""Piecewise linearity, read off the traced function."""

import jax
import jax.numpy as jnp
import pytest

from transferjax import models

IMAGES = jnp.ones((2, 4, 4, 3))
WEIGHTS = jnp.ones((48, 5))


def flat(x):
    return x.reshape(len(x), -1)


LINEAR = {
    "affine": lambda x: flat(2 * x - 1) @ WEIGHTS + 3,
    "relu": lambda x: jax.nn.relu(x),
    "relu6": lambda x: jax.nn.relu6(x),
    "leaky relu": lambda x: jax.nn.leaky_relu(x),
    "maximum of pieces": lambda x: jnp.maximum(x, 1 - 2 * x).max((1, 2)),
    "mean": lambda x: x.mean((1, 2)) / jnp.sqrt(3.0),
    "chosen by a comparison": lambda x: jnp.where(x.sum(-1, keepdims=True) > 1, x, -x),
    "chosen by an index": lambda x: jnp.take_along_axis(x, x.argmax(1, keepdims=True), 1),
    "times a sign": lambda x: x * jnp.sign(x),
    "constant": lambda x: jnp.exp(WEIGHTS),
    "sorted": lambda x: jnp.sort(flat(x)),
    "checkpointed": jax.checkpoint(lambda x: 2 * x),
    "jitted": jax.jit(lambda x: jnp.abs(x)),
}
CURVED = {
    "square": lambda x: x**2,
    "product": lambda x: x * x[:, ::-1],
    "self-gated": lambda x: jax.nn.relu(x) * x,
    "softmax": lambda x: jax.nn.softmax(x),
    "gelu": lambda x: jax.nn.gelu(x),
    "divided by itself": lambda x: 1 / (1 + x),
    "normalized": lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1),
    "jitted": jax.jit(lambda x: jnp.tanh(x)),
    "attention": lambda x: jnp.einsum("bijc,bklc->bijkl", x, x),
    "product of rows": lambda x: jax.lax.reduce(x, 1.0, jax.lax.mul, (1,)),
    "product of rows, by a function": lambda x: jax.lax.reduce(x, 1.0, lambda a, b: a * b, (1,)),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x * 2, x),  # linear, but loops are not looked into
}


@pytest.mark.parametrize("name", LINEAR)
def test_piecewise_linear(name):
    assert models.is_piecewise_linear(LINEAR[name], IMAGES) is True


@pytest.mark.parametrize("name", CURVED)
def test_curved(name):
    assert models.is_piecewise_linear(CURVED[name], IMAGES) is False


def test_says_nothing_about_functions_without_a_shape():
    assert models.is_piecewise_linear(lambda x: x) is None
    assert models.is_piecewise_linear(jax.tree_util.Partial(lambda w, x: w * x, 2.0)) is None


@pytest.mark.parametrize("name", ["cifar_resnet18", "cifar_vgg11", "cifar_densenet121"])
def test_nets_of_relus_are_piecewise_linear(name):
    assert models.is_piecewise_linear(models.build(name)) is True


@pytest.mark.parametrize(("name", "linear"), [("cifar_resnet18", True), ("vit_base_patch32_224", False)])
def test_nets_of_relus_are_piecewise_linear_in_every_weight_array(name, linear):
    module = models.build(name)
    variables = models.abstract_variables(module)
    params, fixed = variables["params"], {"batch_stats": variables.get("batch_stats", {})}
    fixed = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), fixed)

    def apply(params, images):
        return models.predictor(module, {**fixed, "params": params})(images)

    images = jnp.zeros((1, module.image_size, module.image_size, 3))
    assert models.is_piecewise_multilinear(apply, params, images) is linear


def test_batch_normalization_in_training_mode_is_not():
    module = models.build("cifar_resnet18", width=4, blocks=(1, 1))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), models.abstract_variables(module))
    train = lambda images: models.train_apply(module, variables, images)[0]  # noqa: E731
    assert models.is_piecewise_linear(train, IMAGES) is False


def test_a_predictor_says_so_inside_jit_too(variables_of):
    module = models.build("cifar_resnet18", width=4, blocks=(1, 1))
    predict = models.predictor(module, variables_of(module))
    said = []

    @jax.jit
    def run(predict, images):
        said.extend([models.is_piecewise_linear(predict), models.is_piecewise_linear(predict, images)])
        said.append(models.is_piecewise_linear(lambda x: jnp.exp(predict(x)), images))
        return predict(images)

    run(predict, IMAGES)
    assert said == [True, True, False]
