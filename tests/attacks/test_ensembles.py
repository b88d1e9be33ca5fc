"""Ensembles of quadratics and of small nets of different architecture."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, models
from transferjax.attacks import ensembles, inputs
from transferjax.attacks.ascend import gradient_of, objective_of
from transferjax.attacks.ensembles import Members
from transferjax.attacks.rules import average
from transferjax.chain import initial_memory
from transferjax.losses import cross_entropy
from transferjax.predicts.snapshots import Snapshots
from transferjax.random import fold_in

SHAPE, EPS = (3, 4, 4, 1), 0.1


def pull_towards(center):
    """`L = -½ ‖x - c‖²`: the gradient points to c."""
    return lambda x, memory, keys, labels: ((-0.5 * ((x - center) ** 2).sum((1, 2, 3)), memory), center - x)


CENTERS = (0.9, 0.4, 0.5)
MEMBERS = Members(3, lambda k: pull_towards(jnp.asarray(CENTERS)[k]))


@pytest.fixture
def at():
    x = jnp.full(SHAPE, 0.5) + 0.01 * jax.random.normal(jax.random.key(1), SHAPE)
    return x, {"clean": x}, fold_in(jax.random.key(0), jnp.arange(3)), jnp.zeros(3, jnp.int32)


def walk(grad_fn, at, steps):
    x, memory, keys, labels = at
    memory, results = initial_memory(grad_fn, *at), []
    for step in range(steps):
        (_, memory), grads = jax.jit(grad_fn)(x, memory, fold_in(keys, step), labels)
        results.append(np.asarray(grads))
    return results


def centers_seen(grad_fn, at, steps):
    return [round(float((g + at[0]).mean()), 3) for g in walk(grad_fn, at, steps)]


def test_mean_losses(at):
    (grads,) = walk(ensembles.mean_losses(MEMBERS), at, 1)
    np.testing.assert_allclose(grads, np.mean(CENTERS) - at[0], rtol=1e-5)


def test_one_member_passes_over_all(at):
    """Without replacement every pass shows each member once, in changing order; the seed repeats it."""
    ensemble = ensembles.one_member(seed=3)(MEMBERS)
    seen = centers_seen(ensemble, at, 12)
    passes = [seen[i : i + 3] for i in range(0, 12, 3)]
    assert all(
        sorted(part) == sorted(np.float32(CENTERS).round(3).tolist()) or sorted(part) == sorted(CENTERS)
        for part in passes
    )
    assert len({tuple(part) for part in passes}) > 1
    assert seen == centers_seen(ensembles.one_member(seed=3)(MEMBERS), at, 12)


def test_one_member_with_replacement(at):
    seen = centers_seen(ensembles.one_member(replace=True, seed=1)(MEMBERS), at, 24)
    assert set(seen) == set(CENTERS)
    passes = [sorted(seen[i : i + 3]) for i in range(0, 24, 3)]
    assert any(part != sorted(CENTERS) for part in passes)


def test_svre_is_variance_free_on_equal_members(at):
    """With equal members the correction vanishes: the inner ascent is MI-FGSM on one of them."""
    same = Members(2, lambda k: pull_towards(0.9))
    (grads,) = walk(ensembles.svre(EPS, 0.02, inner_steps=3)(same), at, 1)
    x, momentum = np.asarray(at[0]), 0
    for _ in range(3):
        g = 0.9 - x
        momentum = momentum + g / np.abs(g).mean((1, 2, 3), keepdims=True)
        x = np.clip(x + 0.02 * np.sign(momentum), at[0] - EPS, at[0] + EPS)
    np.testing.assert_allclose(grads, momentum, rtol=1e-4)


def test_svre_removes_the_bias_of_a_member(at):
    """Gradients that differ by a constant: `g_k(x') - g_k(x)` does not, so the draws do not matter."""
    first = walk(ensembles.svre(EPS, 0.02, seed=0)(MEMBERS), at, 1)[0]
    second = walk(ensembles.svre(EPS, 0.02, seed=5)(MEMBERS), at, 1)[0]
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_cwa_steps_down_then_along_the_members(at):
    """The displacement of one reversed sign step and one step along each normalized member gradient."""
    (grads,) = walk(ensembles.cwa(EPS, 0.01, inner_step=0.05)(MEMBERS), at, 1)
    x = np.asarray(at[0])
    clip = lambda y: np.clip(y, x - EPS, x + EPS)  # noqa: E731
    y, momentum = clip(x - 0.01 * np.sign(np.mean(CENTERS) - x)), 0
    for center in CENTERS:
        g = center - y
        momentum = momentum + g / np.sqrt((g**2).sum((1, 2, 3), keepdims=True))
        y = clip(y + 0.05 * momentum)
    np.testing.assert_allclose(grads, y - x, atol=1e-6)


class TestWeighedLogits:
    """Three linear nets on one batch: everything has a closed form in NumPy."""

    STEP, KEYS = 0.02, fold_in(jax.random.key(0), jnp.arange(3))
    LABELS = np.array([1, 0, 2])

    @pytest.fixture
    def linear(self):
        draw = np.random.default_rng(0)
        weights = [draw.normal(size=(4, 4, 2, 3)).astype(np.float32) / 4 for _ in range(3)]
        predicts = tuple(
            jax.tree_util.Partial(lambda w, x: jnp.einsum("bhwc,hwck->bk", x, w), w) for w in weights
        )
        x = draw.uniform(0.3, 0.7, (3, 4, 4, 2)).astype(np.float32)
        return weights, predicts, x

    def gradient(self, logits, weights):
        """Cross-entropy of each image and its gradient, for logits `[B, K]` that are linear in x."""
        shifted = logits - logits.max(-1, keepdims=True)
        p = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
        rest = p - np.eye(3)[self.LABELS]
        return -np.log(p[np.arange(3), self.LABELS]), np.einsum("bk,hwck->bhwc", rest, weights)

    def seen(self, ensemble, predicts, x, targeted=False, steps=1):
        several = ensembles.members(
            predicts,
            lambda predict: gradient_of(predict, targeted=targeted),
            (),
            objective_of(targeted=targeted),
        )
        at = jnp.asarray(x), {"clean": jnp.asarray(x)}, self.KEYS, jnp.asarray(self.LABELS)
        return walk(ensemble(several), at, steps)

    @pytest.mark.parametrize("targeted", [False, True])
    def test_adaptive_prefers_whose_step_fools_the_others(self, linear, targeted):
        weights, predicts, x = linear
        sign, losses = -1 if targeted else 1, np.zeros((3, 3, 3))
        logits = lambda k, y: np.einsum("bhwc,hwck->bk", y, weights[k])  # noqa: E731
        grads = [sign * self.gradient(logits(k, x), weights[k])[1] for k in range(3)]
        for k, g in enumerate(grads):
            ahead = np.clip(x + self.STEP * np.sign(g), x - EPS, x + EPS)
            for i in range(3):
                losses[i, k] = self.gradient(logits(i, ahead), weights[i])[0]
        own = np.stack([losses[i, i] for i in range(3)])[:, None]
        ratio = own / losses if targeted else losses / own
        others = 10 * (ratio.sum(0) - 1)
        w = np.exp(others - others.max(0)) / np.exp(others - others.max(0)).sum(0)
        mixed = np.einsum("kb,hwcnk->bhwcn", w, np.stack(weights, -1))
        total = np.einsum("bhwc,bhwcn->bn", x, mixed)
        p = np.exp(total) / np.exp(total).sum(-1, keepdims=True)
        expected = sign * np.einsum("bn,bhwcn->bhwc", p - np.eye(3)[self.LABELS], mixed)
        units = [g / np.linalg.norm(g, axis=-1, keepdims=True) for g in grads]
        pairs = [(units[i] * units[j]).sum(-1) for i, j in ((0, 1), (0, 2), (1, 2))]
        mask = np.mean(pairs, 0) >= -0.1
        assert 0 < mask.mean() < 1
        ensemble = ensembles.adaptive(EPS, self.STEP, threshold=-0.1)
        (found,) = self.seen(ensemble, predicts, x, targeted)
        np.testing.assert_allclose(found, expected * mask[..., None], rtol=2e-4, atol=1e-6)

    @pytest.mark.parametrize("targeted", [False, True])
    def test_reweighed_is_its_inner_loop_in_numpy(self, linear, targeted):
        """Two steps of the attack: the weights are those that the first one left."""
        weights, predicts, x = linear
        sign, w, expected = -1 if targeted else 1, np.ones((3, 3)), []
        options = {"inner_steps": 3, "weight_rate": 0.5, "weight_decay": 0.1, "seed": 4}
        for done in range(2):
            y, momentum = x.copy(), 0
            for number in range(3):
                draw = jax.random.fold_in(jax.random.key(4), done * 3 + number // 3)
                k = int(jax.random.permutation(draw, 3)[number % 3])
                z = np.stack([np.einsum("bhwc,hwck->bk", y, own) for own in weights])
                _, g = self.gradient(w[k][:, None] * z[k], weights[k])
                g = sign * w[k][:, None, None, None] * g
                mean = (w[..., None] * z).mean(0)
                p = np.exp(mean) / np.exp(mean).sum(-1, keepdims=True)
                loss, rest = -np.log(p[np.arange(3), self.LABELS]), p - np.eye(3)[self.LABELS]
                better = sign * np.einsum("bn,kbn->kb", rest, z) / 3 / loss
                w = w + 0.5 * (better - 0.1 * w)
                momentum = momentum + g / np.abs(g).mean((1, 2, 3), keepdims=True)
                y = np.clip(y + self.STEP * np.sign(momentum), x - EPS, x + EPS)
            expected.append(momentum)
        found = self.seen(ensembles.reweighed(EPS, self.STEP, **options), predicts, x, targeted, steps=2)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)

    def test_of_one_surrogate_nothing_is_weighed(self, linear):
        weights, predicts, x = linear
        _, g = self.gradient(np.einsum("bhwc,hwck->bk", x, weights[0]), weights[0])
        (found,) = self.seen(ensembles.adaptive(EPS, 0.01, threshold=0.5), predicts[:1], x)
        np.testing.assert_allclose(found, g, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("ensemble", [ensembles.adaptive(EPS, 0.01), ensembles.reweighed(EPS, 0.01)])
    def test_members_of_ones_own_must_say_their_nets(self, ensemble):
        with pytest.raises(ValueError, match="without nets and an objective"):
            ensemble(MEMBERS)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1))


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(16)(x.reshape(len(x), -1))))


def net(module, seed):
    return models.predictor(module, module.init(jax.random.key(seed), jnp.zeros((1, 4, 4, 1))))


@pytest.fixture
def nets():
    return net(Linear(), 0), net(Deep(), 1), net(Linear(), 2)


DATA = jax.random.key(0), jax.random.uniform(jax.random.key(5), SHAPE), jnp.array([1, 2, 3])


@pytest.mark.parametrize(
    "attack",
    [
        attacks.mi_fgsm(EPS, 4, outer_rules=(average(inputs.halve, 2),)),
        attacks.svre(EPS, 4, inner_steps=3),
        attacks.cwa(EPS, 4),
        attacks.ada_ea(EPS, 4),
        attacks.smer(EPS, 4),
        attacks.mi_fgsm(EPS, 4, ensemble=ensembles.fused_logits()),
        attacks.lgv(EPS, 6),
        attacks.svre(EPS, 4, inner_steps=3, inner_rules=(average(inputs.diversity()),)),
    ],
    ids=["mean_losses", "svre", "cwa", "ada_ea", "smer", "fused_logits", "one_member", "svre_di"],
)
def test_different_architectures(attack, nets):
    """All ensembles raise the loss of every member, stay in the budget, and do not depend on the batch."""
    key, images, labels = DATA
    jitted = jax.jit(attack)
    x = jitted(key, nets, images, labels)
    assert jnp.abs(x - images).max() <= EPS + 1e-6
    for predict in nets:
        assert cross_entropy(predict(x), labels).mean() > cross_entropy(predict(images), labels).mean()
    keys = fold_in(key, jnp.arange(3))
    np.testing.assert_allclose(jitted(keys[2:], nets, images[2:], labels[2:]), x[2:], atol=1e-6)


def test_logits_are_fused_as_by_one_predict(nets):
    """Rules of a member are around the whole, and each net has its gradient counted."""
    key, images, labels = DATA
    rules = {"inner_rules": (average(inputs.halve, 2),)}
    attack = attacks.mi_fgsm(EPS, 3, ensemble=ensembles.fused_logits(), **rules)
    plain = attacks.mi_fgsm(EPS, 3, **rules)
    expected = plain(key, ensembles.mean_logits(*nets), images, labels)
    np.testing.assert_allclose(attack(key, nets, images, labels), expected, atol=1e-6)
    shape = images.shape[1:]
    assert attacks.spent(attack, nets, shape) == attacks.spent(plain, nets, shape)


def test_snapshots_are_their_members(nets):
    """The stack of two nets and the tuple of the two give the same images."""
    key, images, labels = DATA
    pair = (nets[0], nets[2])
    stack = Snapshots.stack(pair)
    assert len(stack) == 2
    several = (attacks.mi_fgsm(EPS, 3), attacks.lgv(EPS, 4), attacks.svre(EPS, 2, inner_steps=2))
    for attack in (*several, attacks.ada_ea(EPS, 2), attacks.smer(EPS, 2, inner_steps=2)):
        np.testing.assert_allclose(
            jax.jit(attack)(key, stack, images, labels), jax.jit(attack)(key, pair, images, labels), atol=1e-6
        )


def test_mean_of_logits_and_probabilities(nets):
    x = DATA[1]
    logits = np.mean([predict(x) for predict in nets], 0)
    np.testing.assert_allclose(ensembles.mean_logits(*nets)(x), logits, rtol=1e-5)
    probabilities = np.mean([jax.nn.softmax(predict(x)) for predict in nets], 0)
    np.testing.assert_allclose(
        jax.nn.softmax(ensembles.mean_probabilities(*nets)(x)), probabilities, rtol=1e-5
    )


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["ada_ea", "smer"])
def test_nets_that_are_sure(name, targeted):
    """Whose losses, and products of them, are zero in float32: no weight is a number divided by zero."""
    x = jax.random.uniform(jax.random.key(0), (2, *SHAPE[1:]))
    nets = [net(Linear(), seed) for seed in range(2)]
    sure = tuple(jax.tree_util.Partial(lambda own, x: 1e4 * own(x), own) for own in nets)
    labels = nets[0](x).argmax(-1)
    assert float(cross_entropy(sure[0](x), labels).max()) == 0
    found = getattr(attacks, name)(0.1, 2, targeted=targeted)(jax.random.key(1), sure, x, labels)
    assert np.isfinite(found).all()
