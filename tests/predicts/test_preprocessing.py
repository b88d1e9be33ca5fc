"""What a net sees of an image: closed forms, PIL's resize, others' files, and guessing it back."""

import itertools
import json
import warnings
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, models
from transferjax.metrics import proportion_interval
from transferjax.predicts import Preprocessing, guess_preprocessing, read_preprocessing
from transferjax.predicts.conventions import CONVENTIONS
from transferjax.predicts.stochastic import Stochastic

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.random((4, 10, 14, 3)), jnp.float32)


class TestTheValue:
    def test_it_does_nothing_by_default(self):
        np.testing.assert_array_equal(Preprocessing().see(X), X)

    def test_scale_normalization_channels_and_layout(self):
        seen = Preprocessing(scale=255.0, mean=(1, 2, 3), std=(4, 5, 6), channels="BGR", layout="NCHW").see(X)
        expected = (255 * np.asarray(X)[..., ::-1] - [1, 2, 3]) / [4, 5, 6]
        np.testing.assert_allclose(seen, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("size", "crop", "aspect", "resized", "window"),
        [
            (8, 1.0, "keep", (8, 11), (0, 2)),  # 11.2, and round(1.5) = 2
            (7, 0.875, "keep", (8, 11), (0, 2)),
            ((4, 6), 1.0, "squash", (4, 6), (0, 0)),
            ((4, 6), 0.5, "squash", (8, 12), (2, 3)),
            (10, 1.0, "keep", (10, 14), (0, 2)),
        ],
    )
    def test_size_and_crop(self, size, crop, aspect, resized, window):
        seen = Preprocessing(size=size, crop=crop, aspect=aspect).see(X)
        whole = jax.image.resize(X, (4, *resized, 3), "linear") if resized != (10, 14) else X
        top, left = window
        height, width = (size, size) if isinstance(size, int) else size
        np.testing.assert_allclose(seen, whole[:, top : top + height, left : left + width], atol=1e-6)

    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
    def test_interpolations_are_those_of_pil(self, interpolation):
        image = pytest.importorskip("PIL.Image")
        pixels = (255 * np.asarray(X[0])).astype(np.uint8)
        for size in (7, 20):
            expected = np.stack(
                [
                    np.asarray(
                        image.fromarray(pixels[..., c].astype(np.float32)).resize(
                            (size, size), getattr(image.Resampling, interpolation.upper())
                        )
                    )
                    for c in range(3)
                ],
                -1,
            )
            form = Preprocessing(size=size, aspect="squash", interpolation=interpolation, scale=255.0)
            np.testing.assert_allclose(
                form.see(jnp.asarray(pixels[None] / 255, jnp.float32))[0], expected, atol=2e-3
            )

    def test_labels(self):
        logits = jax.tree_util.Partial(lambda x: jnp.tile(jnp.arange(6.0), (len(x), 1)))
        np.testing.assert_array_equal(Preprocessing(label_offset=1)(logits)(X)[0], [1, 2, 3, 4, 5])
        np.testing.assert_array_equal(Preprocessing(label_offset=1, classes=(3, 0))(logits)(X)[0], [4, 1])

    def test_timms_offset_is_of_its_files(self):
        """Its nets have dropped the background class; a net of the whole file has it."""
        seen = read_preprocessing(TIMM | {"label_offset": 1, "num_classes": 5, "input_size": (3, 8, 8)})
        for count, expected in ((5, [0, 1, 2, 3, 4]), (6, [1, 2, 3, 4, 5])):
            logits = jax.tree_util.Partial(lambda count, x: jnp.tile(jnp.arange(count), (len(x), 1)), count)
            np.testing.assert_array_equal(seen(logits)(X)[0], expected)

    def test_it_is_differentiable_and_a_budget_is_the_images(self):
        weights = jnp.asarray(RNG.normal(size=(5 * 5 * 3, 4)), jnp.float32)
        inner = jax.tree_util.Partial(lambda w, x: jnp.tanh(x.reshape(len(x), -1) @ w / 9), weights)
        predict = Preprocessing(size=5, crop=0.8, scale=2.0, mean=(1,), channels="BGR")(inner)
        with jax.enable_x64(True):
            wide, direction = jnp.asarray(X, jnp.float64), jnp.asarray(RNG.normal(size=X.shape))
            _, slope = jax.jvp(lambda x: predict(x).sum(), (wide,), (direction,))
            step = 1e-6
            finite = (
                (predict(wide + step * direction).sum() - predict(wide - step * direction).sum()) / 2 / step
            )
            np.testing.assert_allclose(slope, finite, rtol=1e-6)
        moved = jax.jit(attacks.bim(0.1, 2))(jax.random.key(0), predict, X, jnp.array([0, 1, 2, 3]))
        assert 0.09 < np.abs(moved - X).max() <= 0.1 + 1e-6

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"interpolation": "cubic"}, "interpolation must be one of nearest, .*; got 'cubic'"),
            ({"channels": "rgb"}, "channels must be one of RGB, BGR; got 'rgb'"),
            ({"crop": 0.5}, r"crop must lie in \(0, 1\], and needs a size if below 1; got 0.5"),
            ({"std": (1.0, 0.0, 1.0)}, "scale and std must be positive"),
            ({"label_offset": -1}, "label_offset not negative"),
            ({"std": float("nan")}, "scale and std must be positive"),
            *(
                ({"size": size}, "size must be 0, or one or two numbers of pixels")
                for size in (-224, (0, 224), (1, 2, 3), (), True, 224.5, "224")
            ),
        ],
    )
    def test_mistakes(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Preprocessing(**fields)

    def test_another_number_of_channels(self):
        with pytest.raises(ValueError, match="mean has 2 entries, for images of 3 channels"):
            Preprocessing(mean=(0.1, 0.2)).see(X)


HALF, OTHER = (
    {"mean": (0.5,) * 3, "std": (0.5,) * 3},
    {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)},
)
TIMM = {
    "input_size": (3, 380, 380), "interpolation": "bicubic", "crop_pct": 0.922, "crop_mode": "center",
    "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "num_classes": 1000, "first_conv": "conv_stem",
}  # fmt: skip
CLIP = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.4, 0.5, 0.6],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.1, 0.2, 0.3], "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}  # fmt: skip
VIT = {
    "do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
    "size": 224, "feature_extractor_type": "ViTFeatureExtractor",
}  # fmt: skip


EFFICIENT = CLIP | {
    "do_center_crop": False, "image_processor_type": "EfficientNetImageProcessor", "include_top": True,
    "resample": 0, "rescale_offset": False, "size": {"height": 346, "width": 346},
}  # fmt: skip


@pytest.mark.parametrize(("size", "to"), [((20, 30), (33, 33)), ((20, 30), (8, 11)), ((7, 7), (7, 9))])
def test_bicubic_without_antialias_is_that_of_tensors(size, to):
    """Whose kernel OpenCV has too, a = -0.75."""
    x = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
    found = Preprocessing(to, aspect="squash", interpolation="bicubic", antialias=False).see(x)
    expected = [cv2.resize(image, to[::-1], interpolation=cv2.INTER_CUBIC) for image in x]
    np.testing.assert_allclose(found, expected, atol=2e-6)


class TestOthersFiles:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            (TIMM, Preprocessing(380, 0.922, interpolation="bicubic", **HALF)),
            (TIMM | {"crop_mode": "squash", "input_size": (3, 2, 4)},
             Preprocessing((2, 4), 0.922, "squash", "bicubic", **HALF)),
            ({"architecture": "resnet50", "pretrained_cfg": TIMM | {"label_offset": 1}},
             Preprocessing(380, 0.922, interpolation="bicubic", **HALF, label_offset=1, num_classes=1000)),
            (CLIP, Preprocessing((224, 224), 0.875, interpolation="bicubic", **OTHER)),
            (VIT, Preprocessing((224, 224), aspect="squash", **HALF)),
            (VIT | {"do_rescale": False, "do_normalize": False},
             Preprocessing((224, 224), aspect="squash", scale=255.0)),
            (VIT | {"do_rescale": True, "rescale_factor": 1 / 127.5, "rescale_offset": True,
                    "do_normalize": False},
             Preprocessing((224, 224), aspect="squash", scale=2.0, mean=(1.0,))),
            (VIT | {"do_flip_channel_order": True, "id2label": {"0": "background", "1": "tench"}},
             Preprocessing((224, 224), aspect="squash", **HALF, channels="BGR", label_offset=1)),
            (VIT | {"crop_pct": 0.875, "size": {"shortest_edge": 224}},
             Preprocessing((224, 224), 0.875, **HALF)),
            (VIT | {"crop_pct": 0.875, "size": {"shortest_edge": 384}},
             Preprocessing((384, 384), aspect="squash", **HALF)),
            (EFFICIENT, Preprocessing((346, 346), aspect="squash", interpolation="nearest",
                                      mean=(0.4, 0.5, 0.6), std=(0.1**2, 0.2**2, 0.3**2))),
            (EFFICIENT | {"include_top": False},
             Preprocessing((346, 346), aspect="squash", interpolation="nearest", **OTHER)),
            (CLIP | {"size": 256, "crop_size": 224},
             Preprocessing((224, 224), 0.875, interpolation="bicubic", **OTHER)),
            (CLIP | {"size": 256, "crop_size": 224, "image_processor_type": "DeiTImageProcessor"},
             Preprocessing((224, 224), 0.875, "squash", "bicubic", **OTHER)),
            ({"scale": 255.0, "classes": [3, 1]}, Preprocessing(scale=255.0, classes=(3, 1))),
        ],
    )  # fmt: skip
    def test_are_read(self, written, expected, tmp_path):
        assert read_preprocessing(written) == expected
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
        assert read_preprocessing(tmp_path) == expected
        assert read_preprocessing(str(tmp_path / "preprocessor_config.json")) == expected

    def test_a_model_of_timm_has_it(self):
        assert read_preprocessing(SimpleNamespace(pretrained_cfg=TIMM)) == read_preprocessing(TIMM)

    def test_torchvision(self):
        def step(kind, **fields):
            return type(kind, (), fields)()

        bicubic = SimpleNamespace(value="bicubic")
        steps = [
            step("Resize", size=232, interpolation=bicubic, antialias=True),
            step("CenterCrop", size=(224, 224)),
            step("ToTensor"),
            step("Normalize", mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3]),
        ]
        expected = Preprocessing((224, 224), 224 / 232, interpolation="bicubic", **OTHER)
        assert read_preprocessing(SimpleNamespace(transforms=steps)) == expected
        assert read_preprocessing(steps) == expected
        preset = SimpleNamespace(crop_size=[224], resize_size=[232], **OTHER,
                                 interpolation=bicubic, antialias=True)  # fmt: skip
        assert read_preprocessing(preset) == expected
        for wrong, match in (
            ([steps[1], steps[0]], "Resize after a CenterCrop"),
            ([*steps, steps[0]], "Resize twice"),
            ([*steps, steps[3]], "Normalize twice"),
        ):
            with pytest.raises(ValueError, match=f"{match} is not known here: give a Preprocessing"):
                read_preprocessing(wrong)
        raw = [step("PILToTensor"), step("Resize", size=[60, 80], interpolation="bilinear", antialias=False)]
        squashed = Preprocessing((60, 80), aspect="squash", antialias=False, scale=255.0)
        assert read_preprocessing(raw) == squashed
        assert read_preprocessing([*raw, step("ToDtype", scale=True)]).scale == 1

    @pytest.mark.parametrize(
        ("written", "message"),
        [
            ({}, r"expected timm's pretrained_cfg .* got the entries \[\]"),
            (EFFICIENT | {"do_normalize": False}, "include_top without do_normalize is not known here"),
            ({"hidden_size": 12}, r"expected timm's pretrained_cfg .* got the entries \['hidden_size'\]"),
            (TIMM | {"crop_mode": "border"}, "crop_mode 'border' is not known here"),
            (TIMM | {"interpolation": "random"}, "interpolation 'random' is not known here"),
            (VIT | {"resample": 4}, "interpolation 4 is not known here"),
            (CLIP | {"size": {"longest_edge": 4}}, r"size \{'longest_edge': 4\} is not known here"),
            (CLIP | {"crop_size": {"height": 200, "width": 100}}, "another share of height than of width"),
            (CLIP | {"crop_size": 300}, r"a crop of \(300, 300\) from images of \(256, 256\) would pad"),
            (
                [type("RandomResizedCrop", (), {})()],
                "the transform RandomResizedCrop is random, and of training",
            ),
            ([type("Lambda", (), {})()], "the transform Lambda is not known here: give a Preprocessing"),
            ([SimpleNamespace()], "the transform SimpleNamespace is not known here"),
        ],
    )
    def test_what_is_not_known_is_named(self, written, message):
        with pytest.raises(ValueError, match=message):
            read_preprocessing(written)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"holds none of preprocessor_config\.json, config\.json"):
            read_preprocessing(tmp_path)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("none", Preprocessing()),
            ("0..255", Preprocessing(scale=255.0)),
            ("-1..1", Preprocessing(mean=(0.5,), std=(0.5,))),
            ("-1 … 1", Preprocessing(mean=(0.5,), std=(0.5,))),
            ("ImageNet", Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))),
            ("0..255_bgr", Preprocessing(scale=255.0, channels="BGR")),
            ("none-from-one", Preprocessing(label_offset=1)),
            ("0..255-BGR-from-one", Preprocessing(scale=255.0, channels="BGR", label_offset=1)),
        ],
    )  # fmt: skip
    def test_are_typed_in_any_case(self, name, expected):
        assert read_preprocessing(name) == expected

    def test_each_is_in_the_help(self):
        for name in CONVENTIONS:
            assert f'"{name.removesuffix("-bgr")}"' in read_preprocessing.__doc__

    def test_no_two_are_one(self):
        """Neither by name, nor by scaling images and statistics alike."""
        every = [
            (np.divide(c.mean, c.scale), np.divide(c.std, c.scale), c.channels) for c in CONVENTIONS.values()
        ]
        for one, other in itertools.combinations(every, 2):
            close = [np.allclose(a, b, atol=1e-4) for a, b in zip(one[:2], other[:2], strict=True)]
            assert one[2] != other[2] or not all(close)

    @pytest.mark.parametrize(
        ("name", "error", "message"),
        [
            ("imagnet", ValueError, "'imagnet' is no convention and no file; did you mean 'imagenet'"),
            (
                "zebra",
                ValueError,
                "'zebra' is no convention and no file; known: none, 0..255, .* with '-bgr'",
            ),
            ("no/such.json", FileNotFoundError, "there is no file 'no/such.json'"),
        ],
    )
    def test_others(self, name, error, message):
        with pytest.raises(error, match=message):
            read_preprocessing(name)


SECRETS = {
    "imagenet": Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "0..255": Preprocessing(scale=255.0),
    "-1..1-bgr": Preprocessing(mean=(0.5,), std=(0.5,), channels="BGR"),
    "none-from-one": Preprocessing(label_offset=1),
}


def nearest(means, secret):
    """A nearest-mean classifier of what it sees, which is sure only in its own convention."""
    centres = np.asarray(secret.see(jnp.asarray(means)[:, None, None])[:, 0, 0])

    def net(x):
        logits = -((x.mean((1, 2))[:, None] - centres) ** 2).sum(-1)
        return jnp.concatenate([jnp.full((len(x), secret.label_offset), -1e9), logits], 1)

    return net


def around(means, seed=1):
    noise = 1e-4 * np.random.default_rng(seed).normal(size=(len(means), 2, 2, 3))
    return jnp.asarray(np.clip(means[:, None, None] + noise, 0, 1), jnp.float32)


MEANS = np.random.default_rng(2).random((200, 3)).astype(np.float32)


@pytest.mark.parametrize("name", SECRETS)
def test_a_convention_is_guessed_back(name):
    images, secret = around(MEANS), SECRETS[name]
    guesses = guess_preprocessing(nearest(MEANS, secret), images, jnp.arange(200))
    assert (guesses[0].name, guesses[0].accuracy) == (name, 1.0)
    assert not [guess for guess in guesses[1:] if guess.tied]
    assert dict(guess[:2] for guess in guesses)["cifar100-bgr"] < 0.9
    np.testing.assert_allclose(guesses[0].preprocessing.see(images), secret.see(images), atol=1e-6)
    assert read_preprocessing(name).see(images).shape == images.shape
    assert [g.accuracy for g in guesses] == sorted((g.accuracy for g in guesses), reverse=True)
    assert (guesses[0].low, guesses[0].high) == proportion_interval(200, 200)


class TestWhatAGuessCannotTell:
    def test_conventions_that_few_images_do_not_tell_apart(self):
        net = nearest(MEANS, SECRETS["imagenet"])
        with pytest.warns(UserWarning, match=r"5 images do not tell '.*' \(100% right\) from .*: give more"):
            guesses = guess_preprocessing(net, around(MEANS)[:5], jnp.arange(5))
        tied = {guess.name for guess in guesses if guess.tied}
        assert {"imagenet", "clip"} <= tied

    def test_classes_in_another_order(self):
        """Every answer is right, and of another class than the label says."""
        order, labels = np.array([3, 0, 2, 1, 4, 9, 8, 7, 6, 5]), np.arange(10).repeat(6)
        net, images = nearest(MEANS[:10], SECRETS["imagenet"]), around(MEANS[order].repeat(6, 0))
        with pytest.warns(
            UserWarning, match=r"classes seem to be in another order \(class 0 as 3, class 1 as 0"
        ):
            guesses = guess_preprocessing(net, images, labels)
        assert guesses[0].accuracy < 0.5
        base = Preprocessing(classes=order)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*do not tell")
            assert guess_preprocessing(net, images, labels, base)[0].accuracy == 1

    def test_a_forgotten_mapping_of_few_classes_among_many_logits(self):
        labels = np.arange(10).repeat(6)
        net, images = nearest(MEANS, SECRETS["none-from-one"]), around(MEANS[50:60].repeat(6, 0))
        with (
            pytest.warns(UserWarning, match="all of the 60 labels lie in 0 … 9, but predict has 201 logits"),
            pytest.warns(UserWarning, match=r"in another order \(class 0 as 5"),
        ):
            guess_preprocessing(net, images, labels)

    def test_none_fits(self):
        """One answer to all is no order of classes."""
        net = lambda x: jnp.tile(jnp.arange(10.0), (len(x), 1))  # noqa: E731
        match = r"none fits, at best are 10% of the images right \(5% to 20%\) with 'none'"
        with pytest.warns(UserWarning, match=match):
            guesses = guess_preprocessing(net, around(MEANS[:60]), np.arange(60) % 10)
        assert all(guess.tied for guess in guesses if guess.accuracy == guesses[0].accuracy)

    def test_labels_that_begin_at_one(self):
        with pytest.raises(ValueError, match="these look 1-based; subtract 1"):
            guess_preprocessing(nearest(MEANS[:10], Preprocessing()), around(MEANS[:10]), np.arange(1, 11))
        base = Preprocessing(classes=(10, 3))
        with pytest.raises(ValueError, match="index 10 is beyond the 10 logits"):
            guess_preprocessing(nearest(MEANS[:10], Preprocessing()), around(MEANS[:2]), np.arange(2), base)

    def test_the_number_of_classes_may_be_known(self):
        net = nearest(MEANS, SECRETS["imagenet"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            guess_preprocessing(net, around(MEANS)[:100], np.arange(100), num_classes=200)


def test_batches_and_colours_change_nothing():
    images, labels = around(MEANS[:37]), np.arange(37)
    net = lambda x: jnp.tile(x.mean((1, 2)) ** 2, (1, 13))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (guess_preprocessing(net, images, labels, batch_size=size) for size in (37, 10))
        grey = guess_preprocessing(lambda x: jnp.tile(x.mean((1, 2)), (1, 40)), images[..., :1], labels)
    assert one == other
    assert {len(guess.preprocessing.mean) for guess in grey} == {1}
    assert {guess.preprocessing.channels for guess in grey} == {"RGB"}


@pytest.mark.filterwarnings("ignore:.*(none fits|another order|do not tell)")
def test_guessing_keeps_what_is_known():
    base = Preprocessing(size=1, layout="NCHW")
    net = lambda x: x.reshape(len(x), -1)  # noqa: E731
    guesses = guess_preprocessing(net, X, jnp.array([0, 1, 2, 0]), base)
    assert {(g.preprocessing.size, g.preprocessing.layout) for g in guesses} == {(1, "NCHW")}


def test_select_classes_around_it_and_randomness_inside():
    draw = jax.tree_util.Partial(lambda keys, x: jnp.tile(jnp.arange(6.0), (len(x), 1)))
    predict = Preprocessing(classes=(5, 2))(Stochastic(draw, jax.random.key(0)))
    np.testing.assert_array_equal(jax.jit(lambda p, x: p(x))(predict, X)[0], [5, 2])
    np.testing.assert_array_equal(models.select_classes(predict, [1])(X)[0], [2])
