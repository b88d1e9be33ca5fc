"""Attacks on transformers, on a net that is one and on nets whose tokens are known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentive import attentive

from transferjax import attacks, models, predicts
from transferjax.attacks import rules as rules_of
from transferjax.attacks import samplers
from transferjax.attacks.catalogue.transformers import _on_grid, _token_importance
from transferjax.models.vit import ViT
from transferjax.random import fold_in, per_example

EPS, KEY = 0.1, jax.random.key(3)
X = 0.3 + 0.4 * jax.random.uniform(jax.random.key(0), (3, 8, 8, 3))
LABELS = jnp.array([0, 1, 2])


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="head")(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def net():
    module = ViT(num_classes=4, image_size=8, patch=2, depth=3, width=8, heads=2, hidden=8)
    return models.predictor(module, module.init(jax.random.key(1), X))


def test_what_tokens_matter_is_what_all_logits_gain_by_them():
    """Where tokens are pixels and the net is linear: `Σ_c x_c Σ_k V_ck`."""
    predict = attentive(Linear(), jax.random.key(1), X)
    kernel = predict.args[0]["params"]["net"]["head"]["kernel"]
    expected = (X * kernel.sum(-1).reshape(8, 8, 3)).sum(-1)
    np.testing.assert_allclose(_token_importance(predict, "tokens", X), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"layer='head' gives \(3, 4\): expected tokens \[B, N, C\]"):
        _token_importance(predict, "head", X)


def test_the_class_token_is_no_part_of_the_image(net):
    """Its own gradient and feature, token by token; the first of 17 is left out."""
    shape = predicts.layers(net, X)["blocks.0"]
    assert shape == (3, 17, 8)

    def total(shift):
        return predicts.with_features(net, "blocks.0", X, shift)[0].sum()

    features = predicts.with_features(net, "blocks.0", X)[1]
    each = (features * jax.grad(total)(jnp.zeros(shape))).sum(-1)
    np.testing.assert_allclose(_token_importance(net, "blocks.0", X), each[:, 1:].reshape(3, 4, 4), rtol=1e-5)


@pytest.mark.parametrize(("layer", "share"), [("blocks.0", (0.01, 1)), ("blocks.1", (0, 1e-4))])
def test_what_a_layer_normalization_alone_reads_does_not_matter(net, layer, share):
    """Euler's theorem: it forgets the length of a token; the last block reads those before it so."""
    shape = predicts.layers(net, X)[layer]
    features = predicts.with_features(net, layer, X)[1]
    grads = jax.grad(lambda shift: predicts.with_features(net, layer, X, shift)[0].sum())(jnp.zeros(shape))
    most = np.abs(features * grads).sum(-1)[:, 1:]
    low, high = share
    found = np.abs(_token_importance(net, layer, X)).sum() / most.sum()
    assert low < found < high


def test_maps_are_means_over_patches_from_0_to_1():
    maps = jnp.arange(16.0).reshape(1, 4, 4)
    found = _on_grid(maps, jnp.zeros((1, 4, 4, 3)), 2)
    means = np.array([[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(found[0], (means - 2.5) / 10, rtol=1e-5)
    cut = _on_grid(maps, jnp.zeros((1, 4, 4, 3)), 3)  # what the border leaves: 3 x 3, 3 x 1, 1 x 3, 1 x 1
    means = np.array([[5.0, 7.0], [13.0, 15.0]])
    np.testing.assert_allclose(cut[0], (means - 5) / 10, rtol=1e-5)
    assert _on_grid(jnp.ones((1, 2, 2)), jnp.zeros((1, 4, 4, 3)), 4) == 0  # a single patch


def test_it_is_momentum_on_the_tuned_net_where_no_patch_is_left_out(net):
    options = {"layer": "blocks.1", "patch": 2, "prob": 1.0, "low": 1.0, "high": 1.0, "truncated": 1}
    x = attacks.att(EPS, 3, **options)(KEY, net, X, LABELS)
    expected = attacks.mi_fgsm(EPS, 3)(KEY, predicts.att(net, truncated=1), X, LABELS)
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_tgr_and_pna_are_momentum_by_other_gradients(net):
    """PNA's also on some patches alone, and away from the clean image."""
    x = attacks.tgr(EPS, 3, qkv=0.5)(KEY, net, X, LABELS)
    expected = attacks.mi_fgsm(EPS, 3)(KEY, predicts.tgr(net, qkv=0.5), X, LABELS)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    x, info = attacks.pna(EPS, 3, patch=2, share=0.5, weight=0.2)(KEY, net, X, LABELS, info=True)
    rules = rules_of.outwards(0.2), samplers.patch_out(2, 0.5)
    expected = attacks.mi_fgsm(EPS, 3, outer_rules=rules)(KEY, predicts.pna(net), X, LABELS)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    assert info.loss.shape == (4, 3)
    once = np.abs(attacks.pna(EPS, 1, patch=2, share=0.5)(KEY, net, X, LABELS) - X)
    assert ((once > 0).reshape(3, 4, 2, 4, 2, 3).all((2, 4, 5)).sum((1, 2)) == 8).all()  # of 16 patches


def test_what_is_left_out_is_what_matters_least(net):
    """One step, at which the least important patch stays with probability 0 and the most important with 1."""
    options = {"layer": "blocks.0", "patch": 2, "low": 0.0, "high": 1.0}
    tuned = predicts.att(net)
    matters = np.asarray(_token_importance(tuned, "blocks.0", X))
    assert np.abs(matters).min() > 1e-6, "rounding would order them"
    keys, attack = per_example(KEY, 3), jax.jit(attacks.att(EPS, 1, **options))
    moved = np.zeros((3, 4, 4))
    for draw in range(20):
        x = attack(fold_in(keys, draw), net, X, LABELS)
        moved += np.abs(x - X).reshape(3, 4, 2, 4, 2, 3).max((2, 4, 5)) > 0
    mean = np.asarray(_on_grid(jnp.asarray(matters), X, 2))
    for one, count in zip(mean, moved, strict=True):
        assert count.flat[one.argmax()] == 20
        assert count.flat[one.argmin()] == 0
        assert np.corrcoef(one.ravel(), count.ravel())[0, 1] > 0.8


def test_a_net_without_attention_is_refused():
    predict = models.predictor(Linear(), Linear().init(KEY, X))
    with pytest.raises(ValueError, match="this net has no attention"):
        attacks.att(EPS, 1, layer="head")(KEY, predict, X, LABELS)
