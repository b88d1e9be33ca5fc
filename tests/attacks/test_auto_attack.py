"""AutoAttack's parts: exact pieces first, then the laws, on nets small enough to know the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from transferjax import attacks
from transferjax.attacks.catalogue.auto_attack import apgd, apgd_t, auto_attack, fab, square
from transferjax.attacks.catalogue.auto_attack.apgd import checkpoints, ranked_classes, targeted_dlr
from transferjax.attacks.catalogue.auto_attack.fab import to_hyperplane
from transferjax.attacks.catalogue.auto_attack.square import hills, square_sizes
from transferjax.losses import margin
from transferjax.random import fold_in

SIDE, BATCH = 6, 4


def test_checkpoints_of_100_steps():
    """The official windows: 22, 19, 16, 13, 10, 7, then 6; the last at 99 of 100."""
    windows = checkpoints(100)
    ends = np.flatnonzero(windows)
    assert (ends + 1).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert windows[ends].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_checkpoints_of_few_steps(steps):
    windows = checkpoints(steps)
    assert windows.sum() <= steps
    assert windows.max() >= 1


def problem(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.random((1, 3, 3, 1)), rng.standard_normal((1, 3, 3, 1))
    x.flat[0], w.flat[1] = 0.0, 0.0
    reach = np.where(w > 0, 1 - x, x) * np.abs(w)
    return x, w, reach.sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [-0.6, 0.3, 0.9])
def test_linf_hyperplane_is_the_linear_programs(seed, share, x64):
    x, w, _ = problem(seed)
    w = np.sign(share) * w
    reach = (np.where(w > 0, 1 - x, x) * np.abs(w)).sum()
    gap = abs(share) * reach
    n = x.size
    bounds = [*zip(-x.ravel(), 1 - x.ravel(), strict=True), (0, None)]
    ones = np.ones((n, 1))
    optimum = linprog(
        np.r_[np.zeros(n), 1],
        A_ub=np.block([[np.eye(n), -ones], [-np.eye(n), -ones]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.r_[w.ravel(), 0][None],
        b_eq=[gap],
        bounds=bounds,
    )
    d = np.asarray(to_hyperplane("linf", jnp.asarray(x), jnp.asarray(w), jnp.asarray([gap])))
    np.testing.assert_allclose((w * d).sum(), gap, rtol=1e-9)
    np.testing.assert_allclose(np.abs(d).max(), optimum.fun, rtol=1e-6)
    assert np.all((x + d > -1e-12) & (x + d < 1 + 1e-12))


@pytest.mark.parametrize("seed", range(3))
def test_l2_hyperplane_is_the_quadratic_programs(seed, x64):
    x, w, reach = problem(seed)
    gap = 0.8 * reach
    optimum = minimize(
        lambda d: 0.5 * d @ d,
        np.zeros(x.size),
        jac=lambda d: d,
        bounds=list(zip(-x.ravel(), 1 - x.ravel(), strict=True)),
        constraints={"type": "eq", "fun": lambda d: w.ravel() @ d - gap, "jac": lambda d: w.ravel()},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    d = np.asarray(to_hyperplane("l2", jnp.asarray(x), jnp.asarray(w), jnp.asarray([gap])))
    np.testing.assert_allclose(d.ravel(), optimum.x, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_hyperplane_out_of_reach(norm, x64):
    """Every pixel goes as far as [0, 1] lets it, and the other images of the batch do not care."""
    x, w, reach = problem(0)
    both = jnp.concatenate([jnp.asarray(x)] * 2), jnp.concatenate([jnp.asarray(w)] * 2)
    d = to_hyperplane(norm, *both, jnp.asarray([2 * reach, 0.5 * reach]))
    np.testing.assert_allclose((w * np.asarray(d[0])).sum(), reach, rtol=1e-9)
    alone = to_hyperplane(norm, both[0][1:], both[1][1:], jnp.asarray([0.5 * reach]))
    np.testing.assert_allclose(d[1], alone[0], rtol=1e-9)


def test_zero_gradients_move_nothing():
    zeros = jnp.zeros((1, 3, 3, 1))
    np.testing.assert_array_equal(to_hyperplane("linf", zeros + 0.5, zeros, jnp.ones(1)), zeros)


def test_targeted_dlr_by_hand():
    logits = jnp.array([[4.0, 1.0, 3.0, 2.0]])
    loss = targeted_dlr(jnp.array([2]))(logits, jnp.array([0]))
    np.testing.assert_allclose(loss, [-(4 - 3) / (4 - (2 + 1) / 2)], rtol=1e-6)
    with pytest.raises(ValueError, match="at least 4 classes; got 3"):
        targeted_dlr(jnp.array([2]))(logits[:, :3], jnp.array([0]))


def test_ranked_classes_leave_the_label_out():
    logits = jnp.array([[4.0, 1.0, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]])
    np.testing.assert_array_equal(ranked_classes(logits, jnp.array([0, 3])), [[2, 3, 1], [0, 2, 1]])


def test_square_sizes_of_cifar():
    """The official schedule of 5000 queries on 32 x 32: p = 0.8, halved at 1/1000 … 8/10 of the queries."""
    sides = square_sizes(5000, 0.8, 32, 32, 1, False)
    assert [sides[i] for i in (0, 5, 6, 26, 101, 251, 501, 1001, 2001, 3001, 4001)] == [
        29, 29, 20, 14, 10, 7, 5, 4, 3, 2, 1,
    ]  # fmt: skip
    odd = square_sizes(5000, 0.8, 32, 32, 3, True)
    assert np.all(odd % 2 == 1)
    assert odd.min() == 3


def test_hills_are_antisymmetric_unit_patterns():
    pattern = hills(6)
    np.testing.assert_allclose(np.linalg.norm(pattern), 1)
    assert pattern[:3].min() >= 0
    np.testing.assert_allclose(pattern[:3], -pattern[3:])


def linear(weights, x):
    return x.reshape(len(x), -1) @ weights


@pytest.fixture
def problem_with_margin():
    """A linear net and images whose distance to the boundary is known: `margin / ‖w_y - w_k‖` (dual norm)."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((SIDE * SIDE * 3, 4)).astype(np.float32)
    images = (0.3 + 0.4 * rng.random((BATCH, SIDE, SIDE, 3))).astype(np.float32)
    logits = images.reshape(BATCH, -1) @ weights
    labels = logits.argmax(-1)
    gaps = logits[np.arange(BATCH), labels][:, None] - logits
    difference = weights[:, labels].T[:, :, None] - weights[None]
    return (
        jax.tree_util.Partial(linear, jnp.asarray(weights)),
        jnp.asarray(images),
        jnp.asarray(labels),
        gaps,
        difference,
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [0, 3])
def test_fab_finds_the_distance_of_a_linear_net(norm, targets, problem_with_margin):
    predict, images, labels, gaps, difference = problem_with_margin
    dual = np.abs(difference).sum(1) if norm == "linf" else np.linalg.norm(difference, axis=1)
    distances = np.where(gaps > 0, gaps / np.maximum(dual, 1e-9), np.inf).min(-1)
    eps = float(distances.max() * 1.5)
    attack = jax.jit(fab(eps, 30, norm=norm, target_classes=targets, eta=1.001))
    x = attack(jax.random.key(0), predict, images, labels)
    assert np.all(predict(x).argmax(-1) != labels)
    d = np.asarray(x - images).reshape(BATCH, -1)
    found = np.abs(d).max(-1) if norm == "linf" else np.linalg.norm(d, axis=-1)
    if targets == 0:
        np.testing.assert_allclose(found, distances, rtol=5e-3)
    assert np.all(found <= eps * (1 + 1e-5))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("factory", [apgd, apgd_t, fab], ids=["apgd", "apgd_t", "fab"])
def test_budgets_around_the_distance_decide(norm, factory, problem_with_margin):
    """Of a linear net every attack finds examples just beyond the known distance, and none below."""
    predict, images, labels, gaps, difference = problem_with_margin
    dual = np.abs(difference).sum(1) if norm == "linf" else np.linalg.norm(difference, axis=1)
    distances = np.where(gaps > 0, gaps / np.maximum(dual, 1e-9), np.inf).min(-1)
    attack = jax.jit(lambda eps, *problem: factory(eps, 50, norm=norm)(*problem))
    for share, fooled in ((0.98, False), (1.05, True)):
        x = attack(distances[0] * share, jax.random.key(0), predict, images[:1], labels[:1])
        assert bool(predict(x).argmax(-1)[0] != labels[0]) is fooled


def few_classes(count, seed=0):
    """A linear net of so many classes, one image in the middle of [0, 1], its label, its distance in L∞."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((27, count)).astype(np.float32)
    image = (0.4 + 0.2 * rng.random((1, 3, 3, 3))).astype(np.float32)
    logits = image.reshape(1, -1) @ weights
    label = logits.argmax(-1)
    away = np.abs(weights[:, label] - weights).sum(0)
    distance = np.delete((logits[0, label] - logits[0]) / np.maximum(away, 1e-9), label).min()
    return (
        jax.tree_util.Partial(linear, jnp.asarray(weights)),
        jnp.asarray(image),
        jnp.asarray(label),
        distance,
    )


FEW = {
    "apgd_t": lambda eps: apgd_t(eps, 20),
    "fab_t": lambda eps: fab(eps, 20, target_classes=9),
    "square": lambda eps: square(eps, 2000),
    "standard": lambda eps: auto_attack(eps, steps=20, queries=20),
    "plus": lambda eps: auto_attack(eps, steps=10, queries=10, version="plus"),  # a long compilation
    "rand": lambda eps: auto_attack(eps, steps=20, version="rand"),
}


@pytest.mark.parametrize(("name", "count"), [(n, k) for n in FEW for k in (2, 3) if (n, k) != ("plus", 3)])
def test_few_classes(name, count):
    """Two and three classes, for which (targeted) DLR is not defined: the known distance decides as ever."""
    predict, image, label, distance = few_classes(count)
    attack = jax.jit(lambda eps, *problem: FEW[name](eps)(*problem))
    for share, fooled in ((0.97, False), (3 if name == "square" else 1.05, True)):
        x = attack(distance * share, jax.random.key(0), predict, image, label)
        assert bool(predict(x).argmax(-1)[0] != label[0]) is fooled


@pytest.mark.parametrize("attack", [apgd_t(0.1, 2), fab(0.1, 2), auto_attack(0.1, steps=2, queries=2)])
def test_a_single_class_is_refused(attack):
    predict, image, label, _ = few_classes(2)
    one = lambda x: predict(x)[:, :1]  # noqa: E731
    with pytest.raises(ValueError, match=r"at least 2 classes; predict returned logits of shape \(1, 1\)"):
        attack(jax.random.key(0), one, image, 0 * label)


def setting(**changes):
    return {"eps": 0.15, **changes}


LAWS = {
    "apgd": lambda **o: apgd(**setting(steps=8, **o)),
    "apgd_l2": lambda **o: apgd(**setting(eps=0.6, norm="l2", steps=8, loss="dlr", restarts=2, **o)),
    "apgd_best": lambda **o: apgd(**setting(steps=8, until_success=False, **o)),
    "apgd_t": lambda **o: apgd_t(**setting(steps=8, target_classes=2, **o)),
    "fab": lambda **o: fab(**setting(steps=4, restarts=2, **o)),
    "fab_t_l2": lambda **o: fab(**setting(eps=0.6, norm="l2", steps=4, target_classes=2, **o)),
    "square": lambda **o: square(**setting(queries=30, **o)),
    "square_l2": lambda **o: square(**setting(eps=0.6, norm="l2", queries=30, **o)),
    "auto_attack": lambda **o: auto_attack(**setting(steps=4, queries=10, target_classes=1, **o)),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_of_auto_attack(name, tiny_predict):
    """Budget, one compilation, batch order, size and devices; images that are wrong already do not change."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (BATCH, SIDE, SIDE, 3)) / 255, jnp.float32)
    predict, key = tiny_predict(), fold_in(jax.random.key(1), jnp.arange(BATCH))
    labels = predict(images).argmax(-1).at[3].set(0)
    attack = LAWS[name]()
    settings = dict(attack.settings)
    jitted = jax.jit(attack)
    x = jitted(key, predict, images, labels)
    d = np.asarray(x - images, np.float64).reshape(BATCH, -1)
    length = np.linalg.norm(d, axis=-1) if settings["norm"] == "l2" else np.abs(d).max(-1)
    assert np.all(length <= settings["eps"] + 1e-6)
    assert np.all((x >= 0) & (x <= 1))
    assert margin(predict(x), labels).mean() > margin(predict(images), labels).mean()

    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(jitted(key[order], predict, images[order], labels[order]), x[order], atol=1e-6)
    wrong = jitted(key, predict, images, (labels + 5) % 10)
    if settings.get("until_success", True):
        np.testing.assert_array_equal(wrong[:3], images[:3])
    assert jitted._cache_size() == 1

    if name not in ("apgd", "fab", "square"):  # the others are made of these
        return
    spread = jax.pmap(attack, in_axes=(0, None, 0, 0))
    halves = lambda a: a.reshape(2, 2, *a.shape[1:])  # noqa: E731
    np.testing.assert_allclose(
        spread(key.reshape(2, 2), predict, halves(images), halves(labels)).reshape(x.shape), x, atol=1e-5
    )


def test_bad_version():
    with pytest.raises(ValueError, match="version must be one of standard, plus, rand; got 'fast'"):
        auto_attack(0.1, version="fast")


def test_rand_averages_over_draws():
    """A net with noise in its logits: 20 draws a step, and the attack still finds its way."""

    def noisy(weights, keys, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
        return x.reshape(len(x), -1) @ weights + 0.1 * noise

    weights = jax.random.normal(jax.random.key(0), (27, 4))
    predict = attacks.Stochastic(jax.tree_util.Partial(noisy, weights), jax.random.key(1))
    images = jax.random.uniform(jax.random.key(2), (8, 3, 3, 3))
    labels = (images.reshape(8, -1) @ weights).argmax(-1)
    x = jax.jit(auto_attack(0.2, version="rand", steps=10))(jax.random.key(3), predict, images, labels)
    assert np.mean((x.reshape(8, -1) @ weights).argmax(-1) != labels) > 0.5
