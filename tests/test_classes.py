"""Labels of one data set, logits of another: the counts, the way out, and labels that know no count."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from transferjax import attacks, data, defences, models
from transferjax.attacks import craft, ensembles
from transferjax.classes import check_classes, check_vocabulary
from transferjax.metrics import (
    correct,
    fooled,
    gradient_similarity,
    input_hessian_eigenvalues,
    similarity_matrix,
    transfer_success,
    transferability_bound,
)
from transferjax.naming import stable_name
from transferjax.predicts.stochastic import Stochastic
from transferjax.training import evaluate

WAY_OUT = r"models\.select_classes\(predict, indices\)"
INDICES = data.IMAGENETTE_IN_IMAGENET
K, N = 1000, 64
FINGERPRINT = "1eb31168fe0d0938"


def linear(weights, images):
    return images.reshape(len(images), -1) @ weights


def net(classes, seed=0):
    weights = np.random.default_rng(seed).standard_normal((27, classes)).astype(np.float32)
    return Partial(linear, jnp.asarray(weights))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).random((N, 3, 3, 3), np.float32))


@pytest.fixture(scope="module")
def large():
    return net(K)


@pytest.fixture(scope="module")
def labels(images, large):
    """0 … 9: what the large net says among the ten classes, but for every fourth image."""
    said = np.asarray(large(images)[:, np.array(INDICES)].argmax(-1))
    return jnp.asarray(np.where(np.arange(N) % 4, said, np.arange(N) % 10))


class TestSelectClasses:
    def test_the_chosen_logits_in_their_order(self, images, large):
        chosen = (701, 0, 482)
        np.testing.assert_array_equal(
            models.select_classes(large, chosen)(images), large(images)[:, np.array(chosen)]
        )

    def test_clean_success_is_that_of_the_ten_classes(self, images, large, labels):
        """Of a thousand logits nearly all are wrong, of the ten a quarter at most."""
        with pytest.warns(UserWarning, match=WAY_OUT):
            assert transfer_success(large, images, labels) > 0.9
        rate = transfer_success(models.select_classes(large, INDICES), images, labels)
        assert 0.1 < rate <= 0.25

    def test_a_pytree_with_the_weights_as_leaves(self, images, large):
        run = jax.jit(lambda predict, images: predict(images))
        predicts = [models.select_classes(net(K, seed), INDICES) for seed in (0, 1)]
        for predict, seed in zip(predicts, (0, 1), strict=True):
            np.testing.assert_allclose(
                run(predict, images), net(K, seed)(images)[:, np.array(INDICES)], rtol=1e-4, atol=1e-4
            )
        assert run._cache_size() == 1
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *predicts)
        assert jax.vmap(lambda predict: predict(images))(stacked).shape == (2, N, 10)

    def test_gradients_and_curvature_are_those_of_the_columns(self, images, large, labels):
        few = Partial(linear, large.args[0][:, np.array(INDICES)])
        selected = models.select_classes(large, INDICES)
        gradient = jax.grad(lambda x, predict: -jax.nn.log_softmax(predict(x))[:, 3].sum())
        np.testing.assert_allclose(gradient(images, selected), gradient(images, few), rtol=1e-4, atol=1e-5)
        values = (input_hessian_eigenvalues(p, images[:4], labels[:4]) for p in (selected, few))
        np.testing.assert_allclose(*values, rtol=1e-3)

    def test_around_what_draws(self, images):
        def draw(scale, keys, x):
            noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
            return noise * scale + x.mean((1, 2, 3))[:, None]

        predict = Stochastic(Partial(draw, jnp.float32(2)), jax.random.key(0))
        selected = models.select_classes(predict, [4, 1])
        assert isinstance(selected, Stochastic)
        np.testing.assert_array_equal(selected(images), predict(images)[:, np.array([4, 1])])
        keys = jax.random.split(jax.random.key(3), N)
        np.testing.assert_array_equal(selected.draw(keys, images), predict.draw(keys, images)[:, [4, 1]])
        smooth = defences.smoothed(models.select_classes(net(K), INDICES), jax.random.key(0), samples=2)
        assert models.select_classes(smooth, range(3))(images[:2]).shape == (2, 3)

    def test_around_what_computes_on_the_host(self, images, large):
        def on_host(x):
            weights = large.args[0]
            shape = jax.ShapeDtypeStruct((len(x), K), jnp.float32)
            return jax.pure_callback(lambda x: np.reshape(x, (len(x), -1)) @ np.asarray(weights), shape, x)

        selected = models.select_classes(Partial(on_host), INDICES)
        np.testing.assert_allclose(
            jax.jit(selected)(images), large(images)[:, np.array(INDICES)], rtol=1e-4, atol=1e-4
        )

    def test_has_a_stable_name(self):
        names = [stable_name(models.select_classes(net(5), indices)) for indices in ([1, 2], (1, 2), [2, 1])]
        assert names[0] == names[1] != names[2]

    @pytest.mark.parametrize("indices", [np.array([2, 0]), range(2, 0, -1), jnp.array([1, 2]), iter([0, 2])])
    def test_any_integers(self, images, indices):
        assert models.select_classes(net(3), indices)(images).shape == (N, 2)

    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            ([], r"got \(\)"),
            ([0, -1], r"from 0 on; got \(0, -1\)"),
            ([1, 2, 1], r"different numbers.* \(1, 2, 1\)"),
            ([0.0, 1.0], r"must be integers; got \[0\.0, 1\.0\]"),
            ([True, False], r"must be integers; got \[True, False\]"),
            ([(0, 1), (2,)], r"must be integers; got \[\(0, 1\), \(2,\)\]"),
        ],
    )
    def test_refused_indices(self, large, indices, message):
        with pytest.raises(ValueError, match=message):
            models.select_classes(large, indices)

    def test_indices_beyond_the_logits(self, images):
        selected = models.select_classes(net(3), [0, 3])
        for call in (selected, jax.jit(selected)):
            with pytest.raises(ValueError, match="index 3 is beyond the 3 logits"):
                call(images)
        module = models.build("cifar_resnet18", num_classes=3, width=2, blocks=(1, 1))
        predict = models.predictor(module, models.abstract_variables(module))
        with pytest.raises(ValueError, match="index 3 is beyond the 3 logits"):
            models.select_classes(predict, [3])


class TestCounts:
    @pytest.mark.parametrize(("classes", "logits"), [(10, K), (K, 10), (10, 9), (3, 4)])
    def test_craft_refuses_other_counts_both_ways(self, tmp_path, classes, logits):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 3, 3), np.uint8)
        dataset = data.Dataset(pixels, np.arange(8) % min(classes, logits), classes)
        with pytest.raises(ValueError, match=rf"{classes} classes, but .* {logits} logits.*{WAY_OUT}"):
            craft(attacks.pgd(8 / 255, 1), net(logits), dataset, tmp_path / "run", batch_size=8)
        assert not (tmp_path / "run").exists()
        if logits > classes:
            chosen = models.select_classes(net(logits), range(classes))
            craft(attacks.pgd(8 / 255, 1), chosen, dataset, tmp_path / "run", batch_size=8)

    @pytest.mark.parametrize(
        ("classes", "logits", "said"),
        [
            (
                ("French horn", "tench"),
                1000,
                r"\(French horn, tench\), .*by name: .* data\.imagenet_indices\(",
            ),
            (("French horn", "tench"), 7, r"logit: pick the logits of its classes, in this order, with "),
            (10, 1000, r"in this order, with models\.select_classes\(predict, indices\)$"),
            (("0", "1"), 1000, r"has 2 classes, .*indices\)$"),
            (11, 10, r"labels that begin at one\? subtract 1; or take images of predict's 10 classes alone"),
            (("a", "b", "c"), 1, r"logit: take images of predict's 1 classes alone, with its labels"),
            (1000, 1001, r"a background class first\? Preprocessing\(label_offset=1\); or pick"),
            ([f"c{i}" for i in range(90)], 2, r"\(c0, c1, .*c9, …, c89\)"),
        ],
    )
    def test_what_to_do_depends_on_the_counts(self, classes, logits, said):
        with pytest.raises(ValueError, match=said):
            check_classes(classes, logits)

    @pytest.mark.parametrize("count", [10, K + 1])
    def test_metrics_with_a_known_count(self, images, large, labels, count):
        mask = jnp.ones(N, bool)
        calls = {
            "correct": lambda: correct(large, images, labels, num_classes=count),
            "fooled": lambda: fooled(large, images, labels, num_classes=count),
            "transfer_success": lambda: transfer_success(large, images, labels, num_classes=count),
            "under jit": lambda: jax.jit(lambda x, y: fooled(large, x, y, num_classes=count))(images, labels),
            "evaluate": lambda: evaluate(large, images, labels, mask, count),
        }
        for call in calls.values():
            with pytest.raises(ValueError, match=rf"{count} classes, but .* 1000 logits.*{WAY_OUT}"):
                call()
        assert correct(large, images, labels, num_classes=K).shape == (N,)

    def test_models_that_are_compared(self, images, large):
        labels, mixed = jnp.arange(4), (large, net(10))
        message = rf"has 1000, .* has 10 logits.*{WAY_OUT}"
        with pytest.raises(ValueError, match=rf"predict_a {message.replace('.*', 'predict_b', 1)}"):
            gradient_similarity(*mixed, images[:4], labels)
        with pytest.raises(ValueError, match=message):
            similarity_matrix(mixed, images[:4], labels)
        with pytest.raises(ValueError, match=r"surrogate 0 has 1000, target 0 has 10"):
            similarity_matrix(mixed[:1], images[:4], labels, targets=mixed[1:])
        with pytest.raises(ValueError, match=r"surrogate has 1000, target has 10"):
            transferability_bound(*mixed, images[:4], images[:4], labels, 1.0, 1.0)
        few = models.select_classes(large, range(10))
        assert gradient_similarity(few, net(10), images[:4], labels).shape == (4,)

    def test_ensembles(self, images, large):
        mixed, labels, key = (large, net(10)), jnp.arange(4), jax.random.key(0)
        for make in (ensembles.mean_logits, ensembles.mean_probabilities):
            with pytest.raises(ValueError, match=rf"model 0 has 1000, model 1 has 10 .*{WAY_OUT}"):
                make(*mixed)(images)
        for attack in (attacks.pgd(8 / 255, 1), attacks.svre(8 / 255, 1)):
            with pytest.raises(ValueError, match=rf"model 0 has 1000, model 1 has 10 .*{WAY_OUT}"):
                jax.jit(attack)(key, mixed, images[:4], labels)


class TestLabelsWithoutACount:
    @pytest.mark.parametrize(
        ("labels", "logits"),
        [
            (np.arange(64) % 10, 1000),
            (np.arange(16) % 10, 100),
            (np.arange(200) % 9, 10),
            (np.random.default_rng(0).integers(0, 100, 128), 1000),
        ],
    )
    def test_a_small_prefix_is_said(self, labels, logits):
        assert (labels.max() + 1) / logits < 10 ** (-6 / len(labels))
        with pytest.warns(UserWarning, match=rf"{len(labels)} labels lie in 0 … {labels.max()}, .*{WAY_OUT}"):
            check_vocabulary(labels, logits)
        check_vocabulary(labels, logits, num_classes=logits)

    @pytest.mark.parametrize(
        ("labels", "logits"),
        [
            (np.arange(8) % 3, 1000),  # few
            (np.zeros(100, int), 1000),  # one class
            (np.array([3, 5] * 50), 10),  # two of them
            (np.random.default_rng(0).integers(0, 1000, 300), 1000),
            (np.arange(100) % 9, 10),  # happens: 0.9^100 is 3e-5
            (np.arange(20) % 10, 10),
        ],
    )
    def test_what_may_well_be_is_not(self, labels, logits):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_vocabulary(labels, logits)

    def test_tracers_are_left_alone(self, images, large, labels):
        assert jax.jit(transfer_success)(large, images, labels) > 0.9


class TestDatasets:
    def test_a_count_of_classes_is_enough(self):
        pixels, labels = np.zeros((3, 2, 2, 3), np.uint8), np.array([0, 999, 5])
        for dataset in (
            data.Dataset(pixels, labels, 1000),
            data.Dataset(pixels, labels, num_classes=1000),
            data.Dataset(pixels, labels, None, num_classes=1000),
        ):
            assert (dataset.num_classes, dataset.class_names[999]) == (1000, "999")
            named = data.Dataset(pixels, labels, tuple(map(str, range(1000))))
            assert (dataset.fingerprint, dataset.class_names) == (named.fingerprint, named.class_names)
            assert dataset.subset(2).num_classes == 1000

    def test_fingerprints_are_those_of_before(self):
        dataset = data.Dataset(np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3), np.array([1]), ("a", "b"))
        assert dataset.fingerprint == FINGERPRINT

    def test_saved_and_read(self, tmp_path):
        dataset = data.Dataset(np.zeros((3, 2, 2, 3), np.uint8), np.array([0, 1, 5]), num_classes=7)
        data.save(dataset, tmp_path, "test")
        assert data.load(str(tmp_path), "test").num_classes == 7

    def test_counts_that_do_not_fit(self):
        pixels = np.zeros((1, 2, 2, 3), np.uint8)
        with pytest.raises(ValueError, match="expected class_names, or num_classes"):
            data.Dataset(pixels, np.array([0]))
        with pytest.raises(ValueError, match="got 2 names and num_classes=3"):
            data.Dataset(pixels, np.array([0]), ("a", "b"), num_classes=3)
        with pytest.raises(ValueError, match="label 7 is outside of the 7 classes"):
            data.Dataset(pixels, np.array([7]), 7)

    def test_imagenettes_classes_are_in_the_order_of_its_folders(self):
        """Both count their WordNet numbers upwards."""
        from transferjax.data.tfds import CLASS_NAMES, WNIDS

        assert list(INDICES) == sorted(set(INDICES))
        assert list(WNIDS) == sorted(WNIDS)
        named = dict(zip(CLASS_NAMES["imagenette"], INDICES, strict=True))
        assert (named["tench"], named["gas pump"], named["parachute"]) == (0, 571, 701)


class TestNamesOfImageNet:
    def test_folders_in_any_order_and_spelling(self):
        """Alphabetical, as folders are, and not in the order of ImageNette's classes."""
        folders = [
            "English_springer", "French_horn", "cassette_player", "chain-saw", "CHURCH", "garbage_truck",
            "gas_pump", "golf_ball", "parachute", "tench",
        ]  # fmt: skip
        assert data.imagenet_indices(folders) == (217, 566, 482, 491, 497, 569, 571, 574, 701, 0)

    def test_the_ten_of_imagenette_and_wordnets_ids(self):
        from transferjax.data.tfds import CLASS_NAMES, WNIDS

        assert data.imagenet_indices(CLASS_NAMES["imagenette"]) == INDICES == data.imagenet_indices(WNIDS)
        dogs = (
            "n02085620-Chihuahua",
            "n02085782_japanese_spaniel",
            "toilet tissue, toilet paper, bathroom tissue",
        )
        assert data.imagenet_indices(dogs) == (151, 152, 999)

    def test_a_first_name_goes_before_others(self):
        assert data.imagenet_indices(["polecat", "crane bird", "Cardigan Welsh corgi"]) == (358, 134, 264)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["tensch"], r"'tensch' is no class of ImageNet's 1000; did you mean n01440764 \(tench, .*: 0\)"),
            (["crane"], r"'crane' are several .* n02012849 \(crane.*134\) and n03126707 .*517.*WordNet id"),
            (["n00000001"], "'n00000001' is no class .*; expected names of WordNet or its ids"),
            (["English_springer", "n02102040"], "'English_springer' and 'n02102040' are one class"),
            ([""], "'' is no class"),
        ],
    )  # fmt: skip
    def test_refused(self, names, message):
        with pytest.raises(ValueError, match=message):
            data.imagenet_indices(names)
