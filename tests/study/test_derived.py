"""Data that a network makes: what the four sets are, and that networks train and are measured on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import TRAIN, make, network, verdicts

from transferjax import data, models
from transferjax.study import binding
from transferjax.study.derived import _distance, representation
from transferjax.study.specs import Call, Derived, Measure

SOURCE = data.load("digits", "train").subset(64)


def derived(name, **options):
    return binding.bound(Derived(call=Call(name=name, options=options), of=network(), data=TRAIN, seed=1))


def test_robust_images_are_represented_like_the_ones_that_they_stand_for(context):
    spec = derived("robust", steps=20)
    made = make(context, spec)
    np.testing.assert_array_equal(made["labels"], SOURCE.labels)
    assert made["images"].shape == SOURCE.images.shape
    assert made["images"].dtype == np.uint8
    predict = context.predict(spec.of)
    features = jax.jit(lambda images: representation(predict, data.to_float(images)))
    wanted = features(jnp.asarray(SOURCE.images))

    def distance(images):
        return np.linalg.norm(np.asarray(features(jnp.asarray(images)) - wanted), axis=-1).mean()

    starts = SOURCE.images[data.dataset.permutation(1, 0, 64)]
    assert distance(made["images"]) < 0.5 * distance(starts)
    far = np.abs(made["images"].astype(int) - SOURCE.images).mean()
    assert far > 0.5 * np.abs(starts.astype(int) - SOURCE.images).mean()
    same = make(context, derived("nonrobust", steps=20))
    np.testing.assert_array_equal(same["images"], made["images"])


def test_an_image_that_is_its_own_start_stays_and_is_no_nan():
    same = jnp.linspace(0, 1, 6).reshape(2, 3)
    away = jax.grad(lambda x: _distance(x, same).sum())
    np.testing.assert_array_equal(away(same), 0)
    np.testing.assert_allclose(away(same + jnp.array([3.0, 0, 4.0])), [[0.6, 0, 0.8]] * 2, atol=1e-6)


@pytest.mark.parametrize("name", ["cifar_vgg11", "cifar_resnet18", "squeezenet1_1", "cifar_vit_small"])
def test_the_representation_is_what_the_head_reads(name):
    """Nothing of a net comes between it and the logits but one linear map, or for SqueezeNet its pooling."""
    sizes = {"cifar_vit_small": {"depth": 1, "width": 16, "heads": 2, "hidden": 16}, "squeezenet1_1": {}}
    module = models.build(name, num_classes=3, **sizes.get(name, {"width": 4, "blocks": (1, 1)}))
    images = jax.random.uniform(jax.random.key(0), (3, module.image_size, module.image_size, 3))
    variables = module.init(jax.random.key(1), images)
    predict = models.predictor(module, variables)
    read = representation(predict, images)
    assert read.ndim == 2
    if name != "squeezenet1_1":  # whose map passes a rectifier behind the last weights
        head = variables["params"][module.head]
        np.testing.assert_allclose(
            read @ head["kernel"] + head["bias"], predict(images), rtol=1e-4, atol=1e-4
        )


def test_pushed_images_stay_in_the_ball_and_carry_the_class_they_were_pushed_to(context):
    det, rand = make(
        context, derived("det", steps=5, eps=1.0, step_size=0.4), derived("rand", steps=2, eps=0.5)
    )
    np.testing.assert_array_equal(det["labels"], (SOURCE.labels + 1) % 10)
    assert set(rand["labels"]) == set(range(10))
    assert np.any(rand["labels"] == SOURCE.labels)  # t is drawn from all classes
    for made, eps in ((det, 1.0), (rand, 0.5)):
        far = (made["images"].astype(float) - SOURCE.images).reshape(64, -1) / 255
        assert np.linalg.norm(far, axis=-1).max() <= eps + 0.5 / 255 * 8  # rounded to 8 bits, 64 pixels
    predict = context.predict(network())

    def loss(images):
        logits = predict(data.to_float(jnp.asarray(images)))
        return float(-jax.nn.log_softmax(logits)[np.arange(64), det["labels"]].mean())

    assert loss(det["images"]) < loss(SOURCE.images)


def test_a_network_trains_on_them_and_is_measured_on_them(context):
    made = derived("det", steps=5, eps=1.0, step_size=0.4)
    net = network(data=made)
    norm = binding.bound(Measure(call=Call(name="gradient_norm"), of=net, data=made))
    trained, values, said = make(context, net, norm, verdicts(net, made))
    assert values["values"].shape == (64,)
    np.testing.assert_array_equal(said["labels"], context.arrays(made)["labels"])
    plain = make(context, network())
    assert any(not np.array_equal(trained[n], plain[n]) for n in plain if n.startswith("params"))


@pytest.mark.parametrize(("name", "steps"), [("robust", 1000), ("rand", 100)])
def test_another_seed_is_other_data(name, steps):
    one = derived(name)
    assert one.key != one.replace(seed=2).key
    assert derived(name, steps=steps).key == one.key  # a default said aloud
