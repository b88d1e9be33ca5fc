"""Purifiers: shapes, weights from PyTorch, gradients, and that training one helps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferjax import attacks, models
from transferjax.defences import NRP, ComDefend, Denoiser, make_purifier_step, purified
from transferjax.defences.purifier_training import guided_loss, reconstruction_loss, self_supervised_loss

SMALL = {
    "comdefend": ComDefend(widths=(4, 4, 4, 4, 4, 4, 4, 4)),
    "hgd": Denoiser(widths=(4, 8, 8), depth=1),
    "nrp": NRP(features=4, growth=2, blocks=1),
}


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(0), (4, 12, 12, 3))


@pytest.mark.parametrize("name", SMALL)
def test_images_in_images_out(name, images):
    net = SMALL[name]
    purifier = models.predictor(net, jax.jit(net.init)(jax.random.key(1), images))
    assert purifier(images).shape == images.shape
    classify = jax.tree_util.Partial(lambda x: x.mean((1, 2)))
    predict = purified(classify, purifier)
    assert predict(images).shape == (4, 3)
    np.testing.assert_allclose(predict(images), jnp.clip(purifier(images), 0, 1).mean((1, 2)), atol=1e-5)
    gradient = jax.grad(lambda x: purified(classify, purifier, bpda=True)(x)[:, 0].sum())(images)
    np.testing.assert_allclose(gradient[..., 0], 1 / 144, rtol=1e-5)
    np.testing.assert_allclose(gradient[..., 1:], 0, atol=1e-9)


def test_comdefends_code_is_binary_and_differentiable(images):
    net = SMALL["comdefend"]
    variables = jax.jit(net.init)(jax.random.key(1), images)
    purifier = models.predictor(net, variables)
    gradient = jax.grad(lambda x: purifier(x).sum())(images)
    assert float(jnp.abs(gradient).max()) > 0
    assert 0 < float(purifier(images).min()) < float(purifier(images).max()) < 1  # of a sigmoid
    bias = variables["params"]["com9"]["bias"]
    nudged = jax.tree.map(lambda leaf: leaf + 1e-7 * (leaf is bias), variables)
    np.testing.assert_array_equal(models.predictor(net, nudged)(images), purifier(images))


def test_comdefends_penalty_is_of_the_noisy_bits(images):
    net = SMALL["comdefend"]
    variables, noise = jax.jit(net.init)(jax.random.key(1), images), {"dropout": jax.random.key(0)}
    y, kept = net.apply(variables, images, True, rngs=noise, mutable=["intermediates"])
    (bits,) = jax.tree.leaves(kept["intermediates"])
    assert bits.shape == (*images.shape[:3], 12)
    assert 0 <= bits.min() < 0.01 < 0.99 < bits.max() <= 1
    assert np.mean((bits < 0.1) | (bits > 0.9)) > 0.8  # of a noise of 20
    assert y.shape == images.shape


def test_nrp_is_the_published_one(images):
    """The same function in PyTorch, written out, with our weights under the official names."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    net = SMALL["nrp"]
    variables = jax.jit(net.init)(jax.random.key(1), images)
    weights = {name: torch.tensor(value) for name, value in models.to_torch(variables).items()}
    conv = lambda name, x: F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)  # noqa: E731
    x = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))
    block = y = conv("conv_first", x)
    for dense in ("RDB1", "RDB2", "RDB3"):
        seen = [y]
        for i in range(1, 5):
            name = f"RRDB_trunk.0.{dense}.conv{i}"
            seen.append(F.leaky_relu(conv(name, torch.cat(seen, 1)), 0.2))
        y = 0.2 * conv(f"RRDB_trunk.0.{dense}.conv5", torch.cat(seen, 1)) + y
    expected = conv("trunk_conv", 0.2 * y + block).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(net.apply(variables, images), expected, atol=1e-5)
    again = models.from_torch(net, models.to_torch(variables))
    chex.assert_trees_all_equal(again, variables)


def test_weights_of_another_purifier(images):
    """You see: "this state dict does not fit NRP …", with the names and shapes that differ.
    Do: name the purifier that they are of.
    """
    net, other = SMALL["nrp"], SMALL["comdefend"]
    tensors = models.to_torch(jax.jit(other.init)(jax.random.key(1), images))
    with pytest.raises(ValueError, match="does not fit"):
        models.from_torch(net, tensors)


def train(net, loss, images, labels, steps=60, **options):
    step = make_purifier_step(net, loss, optax.adam(3e-3), **options)
    state = jax.jit(step.init)(jax.random.key(1), images)
    update, values = jax.jit(step.update), []
    for _ in range(steps):
        state, value = update(state, jax.random.key(2), images, labels)
        values.append(float(value))
    return models.predictor(net, state.variables), values


def test_comdefend_learns_to_reconstruct():
    """Flat images: the error falls well below that of the mean colour."""
    colours = jax.random.uniform(jax.random.key(0), (16, 1, 1, 3))
    images = jnp.broadcast_to(colours, (16, 6, 6, 3))
    _, values = train(SMALL["comdefend"], reconstruction_loss(), images, None, 150, code_penalty=1e-4)
    assert np.mean(values[-10:]) < 0.7 * np.mean(values[:3])


def striped(weights, x):
    """A classifier that is fooled by a pattern that no clean image has."""
    return 3 * jnp.einsum("bhwc,hwk->bk", x, weights)


@pytest.fixture
def fooled_by_stripes():
    stripes = jnp.where(jnp.arange(8) % 2 == 0, 1.0, -1.0)[:, None, None] * jnp.ones((8, 8, 1))
    weights = jnp.concatenate([jnp.full((8, 8, 1), 0.005), stripes / 8], -1)
    images = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (8, 1, 1, 1), minval=0.4), (8, 8, 8, 3))
    predict = jax.tree_util.Partial(striped, weights)
    return predict, images, predict(images).argmax(-1)


def test_the_guided_denoiser_repairs_attacked_images(fooled_by_stripes):
    predict, images, labels = fooled_by_stripes
    attack = attacks.fgsm(0.1)
    adversarial = attack(jax.random.key(0), predict, images, labels)
    assert np.mean(predict(adversarial).argmax(-1) == labels) < 0.2
    net = Denoiser(widths=(8, 16), depth=1)
    purifier, values = train(net, guided_loss(predict, attack), images, labels, 150)
    assert values[-1] < 0.5 * values[0]
    assert np.mean(purified(predict, purifier)(adversarial).argmax(-1) == labels) > 0.8


def test_self_supervised_training_brings_features_closer():
    module = models.build("cifar_resnet18", blocks=(1,), width=4)
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    predict = models.predictor(module, jax.jit(module.init)(jax.random.key(1), images))
    loss = self_supervised_loss(predict, "layer1.0", 8 / 255, 2)
    _, values = train(SMALL["nrp"], loss, images, None, 40)
    assert values[-1] < 0.8 * values[0]


def test_the_critic_tells_purified_images_from_clean_ones(images):
    """The adversarial term by hand; then, with no weight, the critic learns and the purifier stays."""
    net, critic = SMALL["nrp"], models.build("cifar_vgg16", num_classes=1, blocks=(1,), width=4)
    steps = {
        weight: make_purifier_step(
            net,
            lambda purify, keys, images, labels: 0 * purify(images).mean(),
            optax.adam(3e-3),
            critic=critic,
            critic_weight=weight,
        )
        for weight in (0.0, 1.0)
    }
    state = first = jax.jit(steps[1.0].init)(jax.random.key(1), images)

    def lead(state):
        both = jnp.concatenate([images, net.apply(state.variables, images)])
        logits, _ = models.train_apply(critic, state.critic.variables, both)
        return logits[:4, 0] - logits[4:, 0]

    fooled, value = jax.jit(steps[1.0].update)(state, jax.random.key(2), images, None)
    np.testing.assert_allclose(value, jnp.log1p(jnp.exp(lead(first))).mean(), rtol=1e-5)
    trick = lead(fooled._replace(critic=first.critic)).mean()
    assert trick < lead(first).mean()
    update = jax.jit(steps[0.0].update)
    for _ in range(30):
        state, _ = update(state, jax.random.key(2), images, None)
    assert lead(state).mean() > lead(first).mean() + 1
    chex.assert_trees_all_equal(state.variables, first.variables)
