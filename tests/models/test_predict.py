"""Nets as functions of images: weights as leaves, normalization inside, training mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import models


def tiny(**options):
    return models.build("cifar_resnet18", **{"width": 4, "blocks": (1, 1), "num_classes": 3} | options)


@pytest.fixture(scope="module")
def variables(variables_of):
    return variables_of(tiny())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((8, 8, 8, 3), np.float32)


run = jax.jit(lambda predict, images: predict(images))


def test_two_seeds_share_one_compilation(variables, images):
    other = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    run.clear_cache()
    predicts = [models.predictor(tiny(), v, mean=0.5, std=(0.2, 0.2, 0.2)) for v in (variables, other)]
    assert not np.allclose(run(predicts[0], images), run(predicts[1], images))
    run(models.predictor(tiny(), variables, mean=0.1, std=(0.3, 0.3, 0.3)), images)
    assert run._cache_size() == 1


def test_weights_and_statistics_are_leaves(variables):
    predict = models.predictor(tiny(), variables, mean=0.5, std=0.2)
    assert len(jax.tree.leaves(predict)) == len(jax.tree.leaves(variables)) + 2
    doubled = jax.tree.map(lambda leaf: 2 * leaf, predict)
    assert isinstance(doubled, jax.tree_util.Partial)
    assert jax.tree.structure(doubled) == jax.tree.structure(predict)


def test_normalization_is_inside(variables, images):
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    inside = run(models.predictor(tiny(), variables, mean, std), images)
    outside = run(models.predictor(tiny(), variables, (0.0,) * 3, (1.0,) * 3), (images - mean) / std)
    np.testing.assert_allclose(inside, outside, rtol=1e-4)


def test_grey_images_are_not_spread_over_three_means(variables, images):
    predict = models.predictor(tiny(), variables, mean=(0.4, 0.5, 0.6))
    with pytest.raises(ValueError, match=r"mean has 3 entries, for images of shape \(\d+, \d+, \d+, 1\)"):
        predict(images[..., :1])


@pytest.mark.parametrize("count", [0, -1, "10", 1.5, True])
def test_a_net_has_classes(count, variables):
    with pytest.raises(ValueError, match=f"num_classes must be a whole number of at least 1; got {count!r}"):
        models.build("cifar_resnet18", count)
    with pytest.raises(ValueError, match="num_classes must be"):
        models.replace_head(tiny(), variables, count, jax.random.key(0))


def test_std_must_be_positive(variables):
    with pytest.raises(ValueError, match=r"std must be positive, got 0\.0"):
        models.predictor(tiny(), variables, std=0.0)


def test_training_mode_moves_the_statistics_by_pytorchs_momentum(variables, images):
    logits, stats = jax.jit(lambda v, x: models.train_apply(tiny(), v, x, 0.5, 0.25))(variables, images)
    assert logits.shape == (8, 3)
    kernel, old = variables["params"]["conv1"]["kernel"], variables["batch_stats"]["bn1"]
    stem = jax.lax.conv_general_dilated(
        (images - 0.5) / 0.25, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for name, found in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2)))):
        np.testing.assert_allclose(stats["bn1"][name], 0.9 * old[name] + 0.1 * found, rtol=1e-4)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])


def test_synchronized_statistics_equal_those_of_the_whole_batch(variables, images):
    whole, whole_stats = jax.jit(lambda v, x: models.train_apply(tiny(), v, x))(variables, images)
    module = tiny(axis_name="devices")
    apply = jax.pmap(lambda x: models.train_apply(module, variables, x), axis_name="devices")
    logits, stats = apply(images.reshape(4, 2, 8, 8, 3))
    np.testing.assert_allclose(logits.reshape(8, 3), whole, rtol=1e-3, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-5), stats, whole_stats)


def test_bfloat16_computes_low_and_answers_high(variables, images):
    low, high = (
        run(models.predictor(tiny(dtype=t), variables, (0.0,) * 3), images) for t in (jnp.bfloat16, None)
    )
    assert low.dtype == jnp.float32
    assert 0 < jnp.abs(low - high).max() < 0.05 * jnp.abs(high).max()


def test_options_may_come_from_json():
    assert hash(tiny(blocks=[1, 1])) == hash(tiny())
    assert tiny(blocks=[1, 1]) == tiny()


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'cifar_resnet81'; did you mean cifar_resnet18"):
        models.build("cifar_resnet81")
    with pytest.raises(ValueError, match=r"build\('cifar_vgg16'\).*'growth'"):
        models.build("cifar_vgg16", growth=3)
