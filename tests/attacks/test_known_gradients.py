"""Whole attacks on nets whose gradient is one image V everywhere, or grows with x."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, models
from transferjax.attacks.catalogue import transformed

SHAPE, EPS, KEY = (3, 4, 4, 3), 0.1, jax.random.key(3)
X = 0.3 + 0.4 * jax.random.uniform(jax.random.key(0), SHAPE)
LABELS = jnp.array([0, 1, 2])
PLAIN = {"kernel_size": 1, "rate": 1.0}  # neither TI nor DI


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="head")(x.reshape(len(x), -1))


LINEAR = models.predictor(Linear(), Linear().init(jax.random.key(1), X))
LOGIT = LINEAR.args[0]["params"]["head"]["kernel"].T.reshape(4, *SHAPE[1:])[LABELS]  # of each label, by x


def quadratic(x):
    """Two logits, `Σ V x² / 2` and 0."""
    first = (LOGIT[0] * x**2 / 2).sum((1, 2, 3))
    return jnp.stack([first, jnp.zeros_like(first)], -1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cfm", PLAIN | {"pool": 1 - X}),
        ("everywhere", PLAIN | {"pool": 1 - X, "blocks": 1, "samples": 3}),
        ("logit", PLAIN),
    ],
)
def test_what_goes_to_the_targets_logit_is_momentum_towards_it(name, options):
    """Features of others only weaken a gradient, and one block is the whole image."""
    x = getattr(attacks, name)(EPS, 3, **options)(KEY, LINEAR, X, LABELS)
    usual = {"loss": "logit", "targeted": True, "step_size": EPS / 8}
    expected = attacks.mi_fgsm(EPS, 3, **usual)(KEY, LINEAR, X, LABELS)
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_everywhere_is_as_much_for_each_block():
    """A block left gives V there and elsewhere what the mean colour hands on: the mean of the rest of V."""
    options = PLAIN | {"pool": X[:1], "prob": 0.0, "blocks": 2, "samples": 2000, "chunk": 2000}
    x = attacks.everywhere(EPS, 1, **options)(KEY, LINEAR, X[:1], LABELS[:1])
    kept = np.kron(np.eye(4).reshape(4, 2, 2), np.ones((2, 2)))[..., None]  # each of four blocks
    hidden = (1 - kept) * np.asarray(LOGIT[0])
    looks = kept * np.asarray(LOGIT[0]) + hidden.mean((1, 2), keepdims=True)
    expected = (np.asarray(LOGIT[0]) + 2000 * looks.mean(0)) / 2001
    clear = np.abs(expected) > 0.1 * np.abs(expected).max()
    assert clear.mean() > 0.7
    np.testing.assert_allclose((x[0] - X[0])[clear], EPS / 8 * np.sign(expected)[clear], atol=1e-6)


def test_s4st_is_a_flip_a_roll_or_none_where_no_block_is_resized():
    """One step along `Tᵀ V`, V the difference of the two logits; what fades or filters T keeps in place."""

    def two(x):
        first = (LOGIT[0] * x).sum((1, 2, 3))
        return jnp.stack([first, jnp.zeros_like(first)], -1)

    many = jnp.broadcast_to(X[:1], (60, *SHAPE[1:]))
    x = attacks.s4st(EPS, 1, prob=0.0, kernel_size=1)(KEY, two, many, jnp.zeros(60, int))
    ups, v = np.sign(x - many), np.asarray(LOGIT[0])
    moved = {
        "none": [v],
        "flips": [v[::-1], v[:, ::-1], v[::-1, ::-1]],
        "rolls": [np.roll(v, by, axis) for axis in (0, 1) for by in (1, 2, 3)],
    }
    found = {
        kind: sum(any((np.sign(w) == up).all() for w in ways) for up in ups) for kind, ways in moved.items()
    }
    assert found["none"] >= 10  # scaled or noisy: two ninths, and rolls by nothing
    assert found["flips"] >= 10  # a third
    assert found["rolls"] >= 5  # two ninths, of which a quarter moves nothing
    filtered = len(ups) - sum(found.values())
    assert filtered <= 25  # frequencies or channels lost: two ninths


def test_relevance_among_equals_is_momentum():
    """FGSRA, whatever the spectra and the weights: all gradients are V."""
    x = attacks.fgsra(EPS, 3, neighbors=3, loss="logit")(KEY, LINEAR, X, LABELS)
    expected = attacks.mi_fgsm(EPS, 3, loss="logit")(KEY, LINEAR, X, LABELS)
    np.testing.assert_allclose(x, expected, atol=1e-6)


def identity(*_, **__):
    return lambda keys, x, count: x


def test_ops_without_operations_is_momentum_at_neighbours(monkeypatch):
    """Where the gradient is `V x`, its sign is V's at x and at all neighbours, which lie within β ε · 6/4."""
    monkeypatch.setattr(transformed, "compositions", identity)
    options = {"neighbors": 4, "samples": 2, "loss": "logit"}
    seen, zeros = [], jnp.zeros(3, int)

    def watched(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return quadratic(x)

    x = attacks.ops(EPS / 10, 1, zeta=4.0, **options)(KEY, watched, X, zeros)
    np.testing.assert_allclose(x, X - EPS / 10 * np.sign(LOGIT[0]), atol=1e-6)
    far = np.array([np.abs(at - X).max((1, 2, 3)) for at in seen])
    assert 4 * EPS / 10 * 0.25 * 0.8 < far.max() <= 4 * EPS / 10 * 1.5 + 1e-6
    x = attacks.ops(EPS, 3, zeta=0.0, **options)(KEY, quadratic, X, zeros)
    np.testing.assert_allclose(x, attacks.mi_fgsm(EPS, 3, loss="logit")(KEY, quadratic, X, zeros), atol=1e-6)


def test_mumodig_moves_what_lies_above_its_baseline(monkeypatch):
    """`(x - b) ⊙ V`, b no more than x and equal to it where it is least; the samples, as they are, alike."""
    monkeypatch.setattr(transformed, "either", identity)
    attack = attacks.mumodig(EPS, 1, samples=2, regions=1, loss="logit")
    x = attack(KEY, LINEAR, X, LABELS)
    least = X.min((1, 2), keepdims=True) == X
    np.testing.assert_allclose(x, jnp.where(least, X, X - EPS * jnp.sign(LOGIT)), atol=1e-6)
