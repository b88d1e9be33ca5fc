"""TPA: the official code's values, its steps by hand, and a net on which the paper's variant fails."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transferjax import attacks, data, losses

SHAPE = (2, 4, 4, 1)
IMAGES = 0.4 + 0.2 * jax.random.uniform(jax.random.key(0), SHAPE)
SCALE = np.linspace(0.5, 2.0, 16).reshape(SHAPE[1:])


def bowl(logits, labels):
    """With logits = pixels: `½ Σ a (x - 0.5)²`, gradient `a (x - 0.5)`."""
    return 0.5 * (SCALE.ravel() * (logits - 0.5) ** 2).sum(-1)


def pixels(x):
    return x.reshape(len(x), -1)


def test_official_steps_by_hand():
    """`(1 - α) g(x) + α g(x - k sign g(x))`, signs with momentum, steps of a tenth of the budget."""
    eps, k, labels = 8 / 255, 0.05 * 0.225, jnp.zeros(2, jnp.int32)
    attack = attacks.tpa(eps, 4, beta=0.0, neighbors=2, loss=bowl, random_start=False)
    found = jax.jit(attack)(jax.random.key(0), jax.tree_util.Partial(pixels), IMAGES, labels)
    x, momentum = np.asarray(IMAGES, np.float64), 0
    gradient = lambda x: SCALE * (x - 0.5)  # noqa: E731
    for _ in range(4):
        g = 0.2 * gradient(x) + 0.8 * gradient(x - k * np.sign(gradient(x)))
        momentum = 0.9 * momentum + np.sign(g)
        x = np.clip(x + eps / 10 * momentum, IMAGES - eps, IMAGES + eps)
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("eps", [4 / 255, 16 / 255])
def test_lengths_are_the_official_codes_whatever_the_budget(eps):
    seen = []

    def watched(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return pixels(x)

    attack = attacks.tpa(eps, 1, neighbors=30, loss=bowl)
    jax.jit(attack, static_argnums=1)(jax.random.key(0), watched, IMAGES, jnp.zeros(2, jnp.int32))
    jax.effects_barrier()
    start, (neighbours, ahead) = seen[0], (np.stack(seen[1::2]), np.stack(seen[2::2]))
    first = start - np.asarray(IMAGES)
    assert first.min() >= 0
    assert 0.9 < first.max() / (0.005 * 0.225) <= 1 + 1e-3
    assert 0.98 < np.abs(neighbours - start).max() / (1.84 * 16 / 255) <= 1 + 1e-5
    np.testing.assert_allclose(np.abs(ahead - neighbours), 0.05 * 0.225, rtol=1e-3)


def test_the_default_beats_noise_where_the_papers_variant_does_not():
    """A trained net, white-box: the official variant fools more than random signs, the paper's fewer."""
    digits = data.load("digits", "train")
    images, labels = data.to_float(jnp.asarray(digits.images)), jnp.asarray(digits.labels)
    optimizer = optax.adam(0.05)

    def logits(weights, x):
        return jax.nn.relu(pixels(x) @ weights[0]) @ weights[1]

    def step(carry, _):
        weights, state = carry
        grads = jax.grad(lambda w: losses.cross_entropy(logits(w, images), labels).mean())(weights)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(weights, updates), state), None

    weights = [jax.random.normal(jax.random.key(i), s) / 8 for i, s in enumerate(((64, 32), (32, 10)))]
    train = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), None, length=150)[0][0])
    predict = jax.tree_util.Partial(logits, train(weights))
    few, truth = images[:200], labels[:200]

    def success(attack):
        x = jax.jit(attack)(jax.random.key(0), predict, few, truth)
        return float((predict(x).argmax(-1) != truth).mean())

    eps = 64 / 255
    signs, official = success(attacks.noise(eps)), success(attacks.tpa(eps))
    paper = success(attacks.tpa(eps, variant="paper"))
    assert official > 0.95
    assert paper < signs < official
