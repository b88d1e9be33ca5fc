"""Measures of the S&P 2024 paper's theory against what they are made of, on tiny networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import RESNET, TEST, TRAIN, VGG, attacked, failure, make, network

from transferjax import data, metrics
from transferjax.study import binding, theory
from transferjax.study.mistakes import Mistakes
from transferjax.study.resolve import Context
from transferjax.study.specs import Call, Measure


def measured(name, of, images=TEST, **options):
    return binding.bound(Measure(call=Call(name=name, options=options), of=of, data=images))


ERASING = (Call(name="cutout", options={"size": 4}),)
MIXING = (Call(name="mixup", options={"prob": 1.0}),)
SMOOTHING = (Call(name="label_smoothing", options={"prob": 0.3}),)


@pytest.fixture(scope="module")
def shifts(context):
    """(plain, smoothed labels, erased) x (frechet, off_subspace), in the features of a ResNet."""
    reference = network(RESNET)
    own = [network(), network(parts=SMOOTHING), network(parts=ERASING)]
    specs = [
        measured("augmentation_shift", (net, reference), statistic=statistic)
        for net in own
        for statistic in ("frechet", "off_subspace")
    ]
    values = [float(made["values"][0]) for made in make(context, *specs)]
    return np.reshape(values, (3, 2))


class TestShift:
    def test_what_leaves_images_alone_moves_nothing(self, shifts):
        np.testing.assert_allclose(shifts[:2, 0], 0, atol=1e-4)
        np.testing.assert_allclose(shifts[0, 1], shifts[1, 1])
        assert 0 < shifts[0, 1] < 0.1  # the rest of 90 % of the clean variance

    def test_erasing_moves_and_lengthens(self, shifts):
        assert shifts[2, 0] > 1e-3
        assert shifts[2, 1] != shifts[0, 1]

    def test_the_distance_is_that_of_the_metric(self, shifts, context):
        from transferjax.random import fold_in
        from transferjax.training.augment import cutout
        from transferjax.typing import Batch

        predict = context.predict(network(RESNET))
        images = data.to_float(jnp.asarray(context.dataset(TEST).images))
        key = fold_in(fold_in(jax.random.key(0), 0), 0)
        erased = cutout(4)(key, Batch(images, jnp.zeros((len(images), 10))), predict).images
        features = [metrics.activations(predict, x).mean((1, 2)) for x in (erased, images)]
        np.testing.assert_allclose(shifts[2, 0], metrics.frechet_distance(*features), rtol=1e-3)

    def test_what_fills_a_batch_up_is_not_mixed_in(self, context, monkeypatch):
        """32 images are twice 16 whether 16 or 20 may be mixed; the second of 20 would be filled up."""
        spec, found = measured("augmentation_shift", (network(parts=MIXING), network(RESNET))), []
        make(context, *spec.of)
        for most in (16, 20):
            monkeypatch.setattr(theory, "MIXED", most)
            found.append(next(theory.augmentation_shift(Context(context.store), [spec]))[1]["values"])
        np.testing.assert_array_equal(*found)

    def test_the_batch_size_changes_nothing(self, shifts, context):
        """Though mixing is within a batch."""
        spec = measured("augmentation_shift", (network(parts=MIXING), network(RESNET)))
        make(context, *spec.of)
        whole, parts = (
            next(theory.augmentation_shift(Context(context.store, batch_size=size), [spec]))[1]["values"]
            for size in (64, 7)
        )
        assert whole > 1e-3
        np.testing.assert_array_equal(whole, parts)

    def test_mistakes_are_named(self, context):
        reference = network(RESNET)
        with pytest.raises(Mistakes, match="statistic must be one of frechet, off_subspace; got 'mmd'"):
            measured("augmentation_shift", (network(), reference), statistic="mmd")
        assert "is of two networks; got 1" in failure(context, measured("augmentation_shift", network()))


class TestBound:
    def test_every_term_is_the_metrics(self, context):
        surrogate, target = network(VGG), network(RESNET)
        images = attacked(surrogate)
        made = make(context, measured("bound", (surrogate, target), images))
        clean, adversarial = (data.to_float(jnp.asarray(context.dataset(x).images)) for x in (TEST, images))
        labels = jnp.asarray(context.dataset(TEST).labels)
        predicts = [context.predict(net) for net in (surrogate, target)]
        sigma = [metrics.input_hessian_eigenvalues(p, clean, labels).max() for p in predicts]
        expected = metrics.transferability_bound(*predicts, clean, adversarial, labels, *sigma)
        for name, value in expected._asdict().items():
            np.testing.assert_allclose(made[name][0], value, rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_allclose([made["sigma_f"][0], made["sigma_g"][0]], sigma, rtol=1e-4)
        assert 0 < made["proposition_1"][0] <= 1 + 1e-5

    def test_clean_images_have_no_bound(self, context):
        said = failure(context, measured("bound", (network(VGG), network(RESNET)), TRAIN))
        assert "bound is of attacked images; got Data" in said
