"""What holds for every attack, in one table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, losses
from transferjax.attacks import ensembles, inputs, projections, rules, updates
from transferjax.attacks.rules import average, probe, uniform_noise
from transferjax.chain import chain
from transferjax.random import fold_in

EPS, STEPS = {"linf": 16 / 255, "l2": 0.8}, 3
BATCH, SIDE = 4, 8
POOL = np.random.default_rng(1).random((5, SIDE, SIDE, 3)).astype(np.float32)


def linf(factory, **settings):
    return "linf", lambda **options: factory(EPS["linf"], **(settings | options))


def l2(factory, **settings):
    return "l2", lambda **options: factory(EPS["l2"], norm="l2", **(settings | options))


NEAREST = {"project": projections.l2_nearest(EPS["l2"])}
FEW = {"steps": 2}
DI, TI = average(inputs.diversity()), rules.through(updates.smooth(3, 1.0))
SI, PGN = average(inputs.halve, 2), chain(average(uniform_noise(0.1), 2), probe(-0.01, 0.5, 0.5))

TABLE = {
    "fgsm": linf(attacks.fgsm),
    "fgsm_l2": l2(attacks.fgsm),
    "bim": linf(attacks.bim, steps=STEPS),
    "pgd": linf(attacks.pgd, steps=STEPS),
    "pgd_l2": l2(attacks.pgd, steps=STEPS),
    "pgd_l2_nearest": l2(attacks.pgd, steps=STEPS, **NEAREST),
    "pgd_eight_bit": linf(attacks.pgd, steps=STEPS, quantize=True),
    "margin_loss": linf(attacks.bim, steps=STEPS, loss="margin"),
    "mi_fgsm": linf(attacks.mi_fgsm, steps=STEPS),
    "mi_fgsm_l2": l2(attacks.mi_fgsm, steps=STEPS),
    "ni_fgsm": linf(attacks.ni_fgsm, steps=STEPS),
    "emi_fgsm": linf(attacks.emi_fgsm, samples=2, radius=1.0, **FEW),
    "pi_fgsm": linf(attacks.pi_fgsm, steps=STEPS, beta=2.0),
    "dim": linf(attacks.dim, rate=0.75, **FEW),
    "dim_back": linf(attacks.dim, rate=1.25, resize_back=True, **FEW),
    "dim_random_rate": linf(attacks.dim, rate=(0.75, 1.5), **FEW),
    "tim": linf(attacks.tim, kernel_size=3, **FEW),
    "sim": linf(attacks.sim, scales=2, **FEW),
    "si_ni_fgsm": linf(attacks.si_ni_fgsm, scales=2, **FEW),
    "admix": linf(attacks.admix, pool=POOL, samples=2, scales=2, **FEW),
    "ssa": linf(attacks.ssa, samples=2, **FEW),
    "bsr": linf(attacks.bsr, samples=2, **FEW),
    "vmi_fgsm": linf(attacks.vmi_fgsm, neighbors=2, **FEW),
    "vni_fgsm": linf(attacks.vni_fgsm, neighbors=4, chunk=2, **FEW),
    "gnp": linf(attacks.gnp, **FEW),
    "gra": linf(attacks.gra, neighbors=2, **FEW),
    "pgn": linf(attacks.pgn, neighbors=2, **FEW),
    "rap": linf(attacks.rap, radius=0.02, inner_step=0.01, inner_steps=2, late_start=1, **FEW),
    "tpa": linf(attacks.tpa, neighbors=2, **FEW),
    "tpa_paper": linf(attacks.tpa, neighbors=2, variant="paper", random_start=False, **FEW),
    "sia": linf(attacks.sia, samples=3, **FEW),
    "anda": linf(attacks.anda, side=3, **FEW),
    "decowa": linf(attacks.decowa, samples=4, chunk=2, **FEW),
    "mumodig": linf(attacks.mumodig, samples=2, **FEW),
    "l2t": linf(attacks.l2t, pool=POOL, samples=2, **FEW),
    "awt": linf(attacks.awt, neighbors=2, **FEW),
    "ops": linf(attacks.ops, neighbors=2, samples=2, **FEW),
    "mef": linf(attacks.mef, neighbors=4, chunk=2, **FEW),
    "fgsra": linf(attacks.fgsra, neighbors=2, **FEW),
    "logit_margin": linf(attacks.logit_margin, kernel_size=3, **FEW),
    "s4st": linf(attacks.s4st, samples=3, kernel_size=3, **FEW),
    "logit": linf(attacks.logit, kernel_size=3, **FEW),
    "po_trip": linf(attacks.po_trip, **FEW),
    "di_ti_mi_si_pgn": linf(attacks.mi_fgsm, outer_rules=(TI, PGN, SI, DI), **FEW),
}
every_attack = pytest.mark.parametrize("name", TABLE)


def make(name, **options):
    return TABLE[name][1](**options)


def lengths(name, x, x0):
    d = np.asarray(x, np.float64) - np.asarray(x0, np.float64)
    d = d.reshape(len(d), -1)
    return np.abs(d).max(-1) if TABLE[name][0] == "linf" else np.linalg.norm(d, axis=-1)


def setting(name, key):
    return dict(make(name).settings).get(key, False)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3))
    return jnp.asarray(levels / 255, jnp.float32), jnp.asarray(rng.integers(0, 10, BATCH), jnp.int32)


@pytest.fixture
def key():
    return fold_in(jax.random.key(7), jnp.arange(BATCH))


def mean_loss(predict, x, labels):
    return float(losses.cross_entropy(predict(x), labels).mean())


@every_attack
def test_laws(name, data, key, tiny_predict):
    """Budget, dtype, batch order, a growing loss, zero gradients, all of it compiled once; and devices.

    Two programs of different batch size may round a gradient to another sign here and there.
    """
    images, labels = data
    predict, attack = tiny_predict(), jax.jit(make(name))
    x = attack(key, predict, images, labels)

    assert x.shape == images.shape
    assert x.dtype == images.dtype
    assert np.all((x >= 0) & (x <= 1))
    assert np.all(lengths(name, x, images) <= EPS[TABLE[name][0]] + 1e-6)
    up = mean_loss(predict, x, labels) - mean_loss(predict, images, labels)
    assert up < 0 if setting(name, "targeted") else up > 0

    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(attack(key[order], predict, images[order], labels[order]), x[order], atol=1e-6)

    flat = jax.tree.map(jnp.zeros_like, predict)  # the same logits everywhere
    still, again = attack(key, flat, images, labels), attack(key, flat, images, (labels + 1) % 10)
    np.testing.assert_array_equal(still, again)  # where the gradient is zero, nothing but the start moves
    assert np.all(np.isfinite(still))
    assert np.all(lengths(name, still, images) <= EPS[TABLE[name][0]] + 1e-6)
    if not setting(name, "random_start"):
        np.testing.assert_allclose(still, images, atol=1e-7)
    assert attack._cache_size() == 1

    devices = jax.pmap(make(name), in_axes=(0, None, 0, 0))  # four with one image each
    spread = devices(key[:, None], predict, images[:, None], labels[:, None])[:, 0]
    assert np.mean(np.abs(spread - x) < 1e-6) > 0.99


@pytest.mark.parametrize("name", ["pgd_l2", "mi_fgsm", "dim", "gra", "rap", "l2t", "awt"])
def test_jit_is_eager(name, data, key, tiny_predict):
    """Every kind of loop and draw, run operation by operation."""
    images, labels = data
    attack, predict = make(name), tiny_predict()
    with jax.disable_jit():
        eager = attack(key, predict, images, labels)
    np.testing.assert_allclose(jax.jit(attack)(key, predict, images, labels), eager, atol=1e-6)


@every_attack
def test_targeted_goes_to_the_target_in_bfloat16(name, data, key, tiny_predict):
    images, labels = data
    targets = (labels + 3) % 10
    predict = tiny_predict(jnp.bfloat16)
    x = jax.jit(make(name, targeted=True))(key, predict, images, targets)
    assert x.dtype == jnp.float32
    assert np.all(lengths(name, x, images) <= EPS[TABLE[name][0]] + 1e-6)
    assert mean_loss(tiny_predict(), x, targets) < mean_loss(tiny_predict(), images, targets)


def test_a_single_key_is_folded_per_example(data, tiny_predict):
    images, labels = data
    attack, key = jax.jit(make("pgd")), jax.random.key(3)
    one = attack(key, tiny_predict(), images, labels)
    same = attack(fold_in(key, jnp.arange(BATCH)), tiny_predict(), images, labels)
    np.testing.assert_array_equal(one, same)


def test_a_recipe_is_a_value():
    """It prints what differs from the defaults; all spellings of the same values are the same attack."""
    attack = attacks.pgd(0.25, steps=3)
    assert repr(attack) == "pgd(eps=0.25, steps=3)"
    assert repr(attacks.admix(0.25, pool=POOL, targeted=True)).startswith("admix(eps=0.25, pool=transferjax.")
    spellings = (
        attacks.pgd(0.25, 3),
        attacks.pgd(eps=np.float32(0.25), steps=np.int64(3), norm="linf", random_start=True),
        attacks.pgd(jnp.float32(0.25), 3, loss=losses.cross_entropy, outer_rules=[]),
        attacks.pgd(0.25, 3, ensemble=ensembles.mean_losses, targeted=False),
    )
    for same in spellings:
        assert attack == same
        assert hash(attack) == hash(same)
        assert repr(attack) == repr(same)
    for other in (attacks.pgd(0.25, 4), attacks.pgd(0.25, 3, targeted=True), attacks.bim(0.25, 3)):
        assert attack != other


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"eps": 8}, "eps=8 looks like 0–255 units"),
        ({"eps": 8 / 255, "step_size": 2}, "step_size=2 looks like"),
        ({"eps": -0.1}, "must not be negative; got -0.1"),
        ({"eps": 0.1, "steps": 0}, "steps must be at least 1; got 0"),
        ({"eps": 0.1, "norm": "l1"}, "norm must be one of linf, l2; got 'l1'"),
    ],
)
def test_bad_hyper_parameters(bad, message):
    with pytest.raises(ValueError, match=message):
        attacks.pgd(**bad)


def test_even_kernels_shift_the_image():
    with pytest.raises(ValueError, match="must be odd"):
        updates.smooth(4, 1.0)
