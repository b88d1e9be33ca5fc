"""Attacks on features, on nets in which the features are linear."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, models
from transferjax.attacks.catalogue.features import _importance
from transferjax.attacks.catalogue.targeted import calibrated
from transferjax.losses import cross_entropy
from transferjax.predicts.mixed import clean_features
from transferjax.predicts.stochastic import with_keys
from transferjax.random import per_example

SHAPE, EPS = (3, 4, 4, 2), 0.1
LABELS = jnp.array([0, 1, 2])
KEY = jax.random.key(3)
X = 0.3 + 0.4 * jax.random.uniform(jax.random.key(0), SHAPE)


class Net(nn.Module):
    curved: bool

    @nn.compact
    def __call__(self, x):
        features = nn.Dense(6, name="mix")(x.reshape(len(x), -1))
        return 3 * nn.Dense(4, name="head")(jnp.tanh(features) if self.curved else features)


def predict_of(curved):
    net = Net(curved)
    return models.predictor(net, net.init(jax.random.key(1), X))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", [attacks.fia, attacks.bfa])
def test_where_features_are_linear_it_is_the_attack_on_the_label_logit(attack, targeted):
    """`w ∝ V_y` whatever images were looked at, and `-Wᵀ V_y` is the gradient of the logit loss."""
    predict = predict_of(curved=False)
    x = attack(EPS, 3, layer="mix", samples=2, targeted=targeted)(KEY, predict, X, LABELS)
    expected = attacks.mi_fgsm(EPS, 3, loss="logit", targeted=targeted)(KEY, predict, X, LABELS)
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_importance_is_the_jacobian_of_the_label_logit():
    """`∂z_y/∂f = V_y (1 - tanh² f)`."""
    predict = predict_of(curved=True)
    weights = predict.args[0]["params"]
    features = X.reshape(3, -1) @ weights["mix"]["kernel"] + weights["mix"]["bias"]
    expected = 3 * weights["head"]["kernel"].T[LABELS] * (1 - jnp.tanh(features) ** 2)
    found = _importance(predict, "mix", per_example(KEY, 3), X, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attack", [attacks.fia, attacks.bfa])
def test_what_it_looks_at_decides(attack):
    """On a curved net: without masks, or moves, importance is that at the clean image; else it is not."""
    predict = predict_of(curved=True)
    off = {"prob": 0.0} if attack is attacks.fia else {"radius": 0.0}
    weights = _importance(predict, "mix", per_example(KEY, 3), X, LABELS)
    kernel = predict.args[0]["params"]["mix"]["kernel"]
    step = -jnp.sign(weights @ kernel.T).reshape(SHAPE)
    x = attack(EPS, 1, layer="mix", samples=2, **off)(KEY, predict, X, LABELS)
    np.testing.assert_allclose(x, X + EPS * step, atol=1e-6)
    other = attack(EPS, 1, layer="mix", samples=2)(KEY, predict, X, LABELS)
    assert np.abs(other - x).max() > EPS


def test_intermediate_decay_between_the_plain_attack_and_none():
    """γ = 1 is I-FGSM on any net; on linear features the gradient of a logit only shrinks, so signs stay."""
    curved, linear = predict_of(curved=True), predict_of(curved=False)
    plain = attacks.bim(EPS, 3)(KEY, curved, X, LABELS)
    same = attacks.ilpd(EPS, 3, layer="mix", gamma=1.0, step_size=EPS / 3)(KEY, curved, X, LABELS)
    np.testing.assert_allclose(same, plain, atol=1e-6)
    decayed = attacks.ilpd(EPS, 3, layer="mix", loss="logit", step_size=EPS / 3)(KEY, linear, X, LABELS)
    plain = attacks.bim(EPS, 3, loss="logit")(KEY, linear, X, LABELS)
    np.testing.assert_allclose(decayed, plain, atol=1e-6)
    with pytest.raises(ValueError, match="no module of this net has a path that ends in 'mixed'"):
        attacks.ilpd(EPS, 1, layer="mixed")(KEY, linear, X, LABELS)


def test_clean_features_at_the_last_layer_alone_are_a_mean_of_logits():
    """A net of one layer: each logit lies up to three quarters of the way to that of the partner."""

    class Head(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x.reshape(len(x), -1))

    predict = models.predictor(Head(), Head().init(KEY, X))
    pool = 1 - X[:1]
    mixed = clean_features(predict, pool, KEY, 0.5)
    seen = jax.vmap(lambda key: with_keys(mixed, per_example(key, 3))(X))(jax.random.split(KEY, 200))
    share = np.asarray((seen - predict(X)) / (predict(pool) - predict(X)))
    assert share.min() >= -1e-4
    assert 0.7 < share.max() <= 0.75 + 1e-4
    moved = np.abs(share).max(-1) > 1e-4
    assert abs(moved.mean() - 0.5) < 0.07  # an image's layer mixes or not
    assert np.std(share[moved], -1).min() > 1e-4  # each channel by another share
    off = clean_features(predict, pool, KEY, 0.0)
    np.testing.assert_allclose(off(X), predict(X), rtol=1e-6)
    with pytest.raises(ValueError, match="no convolution or linear layer of features small enough"):
        clean_features(jax.tree_util.Partial(lambda x: x.mean((1, 2))), pool, KEY)(X)


def test_calibrated_logits_do_not_saturate():
    """Scaling the logits changes nothing; the gradient is `(p - y) / (z_π1 - z_π2)`; ties divide by 1."""
    z, targets = jax.random.normal(jax.random.key(0), (5, 4)), jnp.arange(5) % 4
    loss = calibrated("margin", 1.0)
    np.testing.assert_allclose(loss(40 * z, targets), loss(z, targets), rtol=1e-4)
    top = np.sort(z, -1)
    gap = (top[:, -1] - top[:, -2])[:, None]
    expected = (jax.nn.softmax(z / gap) - jax.nn.one_hot(targets, 4)) / gap
    np.testing.assert_allclose(jax.grad(lambda z: loss(z, targets).sum())(z), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(calibrated("temperature", 5.0)(z, targets), cross_entropy(z / 5, targets))
    assert np.all(np.isfinite(jax.grad(lambda z: loss(z, targets).sum())(jnp.zeros((5, 4)))))
    with pytest.raises(ValueError, match="variant must be one of margin, temperature; got 'angle'"):
        attacks.logit_margin(EPS, variant="angle")
