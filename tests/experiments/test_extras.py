"""What adds to a finished run: snapshots, feature data, early stopping, averages, several devices."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

from configs import digits
from experiments import attack, build, collect, feature_data, train
from transferjax import attacks, checkpoint, data, models


def smoke(**fields):
    config = digits.get_config("smoke")
    with config.unlocked():
        config.mechanisms, config.targets = ("ST",), {}
        config.training.batch_size = 32
        for name, value in fields.items():
            place = config
            *parents, leaf = name.split("__")
            for parent in parents:
                place = place[parent]
            place[leaf] = value
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A surrogate trained on eight devices for three epochs, of which the first stays."""
    root = tmp_path_factory.mktemp("run")
    config = smoke(
        data__train=0,
        training__epochs=3,
        training__checkpoint_every=3,
        training__keep_epochs=(1,),
        training__tensorboard=True,
        surrogate_epochs=(1,),
        collect__epochs=2,
        collect__per_epoch=2,
        features__mechanism="ST",
        features__steps=8,
        features__step_size=0.3,
        features__eps=1.5,
    )
    train.train_all(config, root)
    return config, root


def test_surrogates_stopped_early_are_the_checkpoints_of_their_epoch(trained):
    config, root = trained
    early, whole = build.surrogates(config)
    assert (early.label, whole.label) == ("ST@1", "ST")
    history = pd.read_csv(train.network_directory(root, early) / "metrics.csv")
    assert history["epoch"].tolist() == [1, 3]
    states = [train.load_predictor(config, network, root, 10) for network in (early, whole)]
    first, last = (jax.tree.leaves(state)[0] for state in states)
    assert (np.asarray(first) != np.asarray(last)).any()
    assert list((train.network_directory(root, whole) / "tensorboard").glob("events*"))


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_crafted_images_do_to_the_surrogate_what_their_goal_says(trained, goal):
    config, root = trained
    test = build.dataset(config, "test")
    predict = train.load_predictor(config, build.surrogates(config)[-1], root, 10)
    examples = next(data.eval_batches(test, len(test)))
    crafted = attack.make_craft(config, goal, 10)(predict, jnp.float32(0.4), examples)
    before, after = (predict(data.to_float(jnp.asarray(x))).argmax(-1) for x in (test.images, crafted))
    aims = attack.goal_classes(examples.labels, 10, goal)
    if goal == "targeted":
        assert (after == aims).mean() > (before == aims).mean() + 0.2
    else:
        assert (after == aims).mean() < (before == aims).mean() - 0.2


def test_snapshots_are_stacked_and_attackable(trained):
    config, root = trained
    network = build.surrogates(config)[-1]
    collect.collect_all(config, root)
    snapshots = collect.load_snapshots(config, root, network, 10)
    assert len(snapshots) == 4
    kernels = np.asarray(jax.tree.leaves(snapshots.predict)[-3])
    assert all((kernels[i] != kernels[i + 1]).any() for i in range(3))
    before = checkpoint.load_variables(train.network_directory(root, network) / "checkpoints")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(before))
    images = data.to_float(jnp.asarray(build.dataset(config, "test").images[:4]))
    adversarial = attacks.lgv(eps=0.2, steps=3)(jax.random.key(0), snapshots, images, jnp.zeros(4, jnp.int32))
    assert 0 < jnp.abs(adversarial - images).max() <= 0.2 + 1e-6
    settings = collect.snapshots_directory(config, root, network)
    assert json.loads(settings.with_name(f"{settings.name}.json").read_text())["per_epoch"] == 2


@pytest.mark.parametrize("kind", ["rand", "det"])
def test_pushed_data_have_the_labels_they_were_pushed_to(trained, kind):
    config, _ = trained
    with config.unlocked():
        config.features.kind = kind
    made, source, predict = make(trained)
    if kind == "det":
        np.testing.assert_array_equal(made.labels, (source.labels + 1) % 10)
    else:
        assert 0.02 < (made.labels == source.labels).mean() < 0.25
    images = data.to_float(jnp.asarray(made.images))
    change = np.asarray(images) - source.images / 255
    # Rounding to 8 bits may add half a level to each of the 64 pixels.
    assert np.linalg.norm(change.reshape(len(made), -1), axis=1).max() <= 1.5 + 8 * 0.5 / 255
    hits = lambda x: (predict(x).argmax(-1) == made.labels).mean()  # noqa: E731
    assert hits(images) > hits(data.to_float(jnp.asarray(source.images))) + 0.1


def make(trained):
    config, root = trained
    source = build.dataset(config, "train").subset(64)
    predict = train.load_predictor(config, build.surrogates(config)[-1], root, 10)
    return feature_data.make(config, predict, source), source, predict


def test_represented_data_are_found_from_other_images(trained):
    config, root = trained
    with config.unlocked():
        config.features.kind = "robust"
    made, source, predict = make(trained)
    np.testing.assert_array_equal(made.labels, source.labels)
    images, originals = (data.to_float(jnp.asarray(d.images)) for d in (made, source))
    far = lambda a, b: jnp.linalg.norm(  # noqa: E731
        feature_data.representation(predict, a) - feature_data.representation(predict, b), axis=-1
    ).mean()
    others = originals[np.random.Generator(np.random.Philox(config.seed)).permutation(64)]
    assert far(images, originals) < 0.6 * far(others, originals)
    feature_data.feature_data(config, root)
    written = data.load(str(root / "data" / "robust"), "train")
    assert len(written) == len(build.dataset(config, "train"))
    assert len(data.load(str(root / "data" / "robust"), "test")) == 64
    with config.unlocked():
        config.features.kind = "robuts"
    with pytest.raises(ValueError, match="robuts"):
        make(trained)


def test_averaged_weights_come_with_statistics_of_their_own(tmp_path):
    config = smoke(mechanisms=("EMA",), methods={"EMA": (("averages", "ema", {"decay": 0.5}),)})
    train.train_all(config, tmp_path)
    (network,) = build.surrogates(config)
    directory = train.network_directory(tmp_path, network) / "checkpoints"
    variables = checkpoint.load_variables(directory)
    with checkpoint.open_checkpoints(directory) as manager:
        raw = manager.restore(manager.latest_step())["state"]
    average = averaged(raw["opt_state"])
    for a, b in zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(average), strict=True):
        np.testing.assert_array_equal(a, b)
    # The mean of equal batches is that of the data; from a zero start, training mode gives a tenth of it.
    images = data.to_float(jnp.asarray(build.dataset(config, "train").images))
    zero = variables | {"batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}
    net, normalization = build.module(network, 10), (config.network.mean, config.network.std)
    own = models.train_apply(net, zero, images, *normalization, jax.random.key(0))[1]
    name = "bn1"
    np.testing.assert_allclose(
        variables["batch_stats"][name]["mean"], 10 * own[name]["mean"], rtol=1e-3, atol=1e-5
    )


def averaged(opt_state):
    """The `average` somewhere in a restored optimizer state, whose named tuples came back as dictionaries."""
    if isinstance(opt_state, dict) and "average" in opt_state:
        return opt_state["average"]
    parts = (
        opt_state.values()
        if isinstance(opt_state, dict)
        else opt_state
        if isinstance(opt_state, list)
        else ()
    )
    return next((found for found in map(averaged, parts) if found is not None), None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training__schedule": "cosin"}, "'cosin'"),
        ({"surrogate_epochs": (1,)}, "keep_epochs"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build.validate(smoke(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"training__schedule": "step", "training__decay_epochs": (1,)},
        {"training__schedule": "constant"},
        {"training__accumulate": 2},
        {"training__remat": True},
    ],
)
def test_options_build(fields):
    build.validate(smoke(**fields))


def test_mixed_precision_steps_like_float32_with_float32_weights():
    images = jnp.asarray(np.random.default_rng(0).random((16, 8, 8, 1)), jnp.float32)
    batch, states = train.Batch(images, jax.nn.one_hot(jnp.arange(16) % 10, 10)), []
    for dtype in ("float32", "bfloat16"):
        config = smoke(training__dtype=dtype, training__schedule="constant", training__learning_rate=0.01)
        network = replace(build.surrogates(config)[0], mechanism="SAM&IR")
        step = build.train_step(config, network, 10, 8, None)
        start = step.init(build.initializer(build.module(network, 10), (8, 8, 1))(0), batch)
        states.append(jax.jit(step.update)(start, jax.random.key(0), batch))
    assert {leaf.dtype for leaf in jax.tree.leaves(states[1].params)} == {jnp.dtype("float32")}
    moves = [ravel_pytree(jax.tree.map(jnp.subtract, s.params, start.params))[0] for s in states]
    assert moves[0] @ moves[1] > 0.99 * jnp.linalg.norm(moves[0]) * jnp.linalg.norm(moves[1])
    assert float(states[1].memory["metrics"]["loss"]) == pytest.approx(
        float(states[0].memory["metrics"]["loss"]), rel=0.02
    )


def test_accumulated_batches_move_the_weights_every_other_step():
    config = smoke(training__accumulate=2, training__schedule="constant")
    network = build.surrogates(config)[0]
    step = build.train_step(config, network, 10, 8, None)
    net = build.module(network, 10)
    images = jnp.asarray(np.random.default_rng(0).random((8, 8, 8, 1)), jnp.float32)
    batch = train.Batch(images, jax.nn.one_hot(jnp.arange(8), 10))
    update, states = jax.jit(step.update), [step.init(build.initializer(net, (8, 8, 1))(0), batch)]
    for _ in range(2):
        states.append(update(states[-1], jax.random.key(0), batch))
    kernels = [np.asarray(jax.tree.leaves(state.params)[-1]) for state in states]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[1] != kernels[2]).any()
