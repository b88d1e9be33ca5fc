"""DiffPure, on data whose noise is known in closed form; its U-net beside the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import defences, models
from transferjax.random import per_example

KEY = jax.random.key(0)
MEAN, IMAGE = 0.3, -0.5  # in [-1, 1]


def left(time):
    return jnp.exp(-0.5 * (20.0 - 0.1) * time**2 - 0.1 * time)


def noise_of_normal_data(variance):
    """E[n | x_t] where every pixel of the data is N(MEAN, variance)."""

    def noise(x, times):
        a = left(times / 1000)[:, None, None, None]
        return jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * MEAN) / (a * variance + 1 - a)

    return noise


def flat(x):
    return x.reshape(len(x), -1)


def purified(variance, count=64, **options):
    predict = jax.tree_util.Partial(flat)
    net = defences.diffpure(predict, jax.tree_util.Partial(noise_of_normal_data(variance)), KEY, **options)
    x = jnp.full((4, count, count, 1), (IMAGE + 1) / 2)
    return 2 * np.asarray(jax.jit(lambda net, x: net(x))(net, x)) - 1


def test_data_that_are_one_point_come_back():
    np.testing.assert_allclose(purified(0.0), MEAN, atol=0.05)


@pytest.mark.parametrize(("variance", "strength"), [(0.04, 0.15), (0.04, 0.05), (1.0, 0.15)])
def test_images_are_drawn_from_their_posterior(variance, strength):
    """x₀' ~ p(x₀ | x_t), x_t of the image: its mean and spread over the noise, for normal data."""
    found = purified(variance, strength=strength)
    a = float(left(strength))
    gain = a * variance / (a * variance + 1 - a)
    spread = gain**2 * (1 - a) / a + variance * (1 - gain)
    count = found.size
    assert found.mean() == pytest.approx(MEAN + gain * (IMAGE - MEAN), abs=0.01 + 4 * np.sqrt(spread / count))
    assert found.std() == pytest.approx(np.sqrt(spread), rel=0.03)


def test_the_process_is_the_official_one():
    """Levels 150 … 1, as many as the default steps; what is left at the start, of the discrete process."""
    seen = []

    def noise(x, times):
        jax.debug.callback(lambda mean, time: seen.append((mean, time)), x.mean(), times[0], ordered=True)
        return jnp.zeros_like(x)

    net = defences.diffpure(lambda x: flat(x), jax.tree_util.Partial(noise), KEY)
    jax.block_until_ready(net(jnp.ones((1, 128, 128, 3))))
    jax.effects_barrier()
    assert [float(time) for _, time in seen] == list(range(150, 0, -1))
    betas = np.linspace(0.1 / 1000, 20 / 1000, 1000)
    assert float(seen[0][0]) == pytest.approx(np.sqrt(np.prod(1 - betas[:150])), abs=0.01)


@pytest.mark.parametrize(
    ("strength", "step"), [(0.1, 0.0333333), (0.150005, 1e-3), (0.1, 0.03), (2e-5, 1e-5), (1.0, 0.5)]
)
def test_steps_need_not_divide_the_strength(strength, step):
    noise = jax.tree_util.Partial(noise_of_normal_data(0.2))
    net = defences.diffpure(jax.tree_util.Partial(flat), noise, KEY, strength, step)
    assert np.isfinite(net(jnp.full((1, 4, 4, 1), 0.5))).all()


def test_in_low_precision(images):
    """A net answers in float32 whatever it is asked in."""
    noise = lambda x, times: noise_of_normal_data(0.2)(x.astype(jnp.float32), times)  # noqa: E731
    net = defences.diffpure(jax.tree_util.Partial(flat), jax.tree_util.Partial(noise), KEY, 0.05, 0.01)
    found = net(images.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32).mean(), net(images).mean(), atol=0.05)


def small(**options):
    noise = jax.tree_util.Partial(noise_of_normal_data(0.2))
    return defences.diffpure(jax.tree_util.Partial(flat), noise, KEY, 0.05, 0.01, **options)


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(1), (3, 6, 6, 2))


def test_it_repeats_whatever_the_batch(images):
    net, keys = small(), per_example(jax.random.key(2), 3)
    np.testing.assert_array_equal(net(images), net(images))
    np.testing.assert_allclose(net.draw(keys[1:], images[1:]), net.draw(keys, images)[1:], rtol=1e-5)
    assert np.abs(net.draw(keys, images) - net(images)).max() > 0.01


def test_images_may_be_enlarged_for_the_diffusion_model(images):
    seen = []

    def noise(x, times):
        seen.append(x.shape)
        return jnp.zeros_like(x)

    net = defences.diffpure(lambda x: flat(x), jax.tree_util.Partial(noise), KEY, 0.02, 0.01, 8)
    assert net(images).shape == (3, 72)
    assert set(seen) == {(3, 8, 8, 2)}


@pytest.mark.parametrize("bpda", [False, True])
def test_gradients_are_those_of_the_process_or_of_the_identity(images, bpda):
    net = small(bpda=bpda)
    gradient = jax.jit(jax.grad(lambda x: net(x).sum()))(images)
    if bpda:
        np.testing.assert_array_equal(gradient, 1)
    else:
        far = 1e-2
        moved = (net(images + far).sum() - net(images - far).sum()) / (2 * far)
        assert gradient.sum() == pytest.approx(float(moved), rel=1e-2)
        assert gradient.max() < 0.9  # noise has taken some of the image away


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": 0.0}, r"strength must lie in \(0, 1\].*; got 0.0"),
        ({"strength": 1e-6}, r"strength must lie in \(0, 1\], above 1e-05.*; got 1e-06"),
        ({"strength": 1.5}, r"strength must lie in \(0, 1\].*; got 1.5"),
        ({"step": 0.2}, r"step must lie in \(0, strength\], at most 0.15; got 0.2"),
        ({"step": 0.0}, r"step must lie in \(0, strength\], at most 0.15; got 0.0"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        defences.diffpure(flat, noise_of_normal_data(1.0), KEY, **options)


def test_the_u_net_is_the_references(golden):
    """In float64; a narrow one, see `tests/golden/README.md`."""
    tensors, images, reference = golden("diffusion_tiny", 8)
    net = defences.DiffusionUNet(width=16, multiples=(1, 2), blocks=1, attended=(1,), head_width=8, groups=4)
    noise = defences.noise_predictor(net, models.from_torch(net, tensors))
    with jax.enable_x64(True):
        noise, images = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (noise, images))
        found = jax.jit(noise)(images, jnp.array([3.0, 140.0]))
    np.testing.assert_allclose(found, reference["noise"][..., :3], rtol=1e-6, atol=1e-7)


def test_the_published_net_has_552_million_parameters():
    variables = models.abstract_variables(defences.DiffusionUNet())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 552_814_086
