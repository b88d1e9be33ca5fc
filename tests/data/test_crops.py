"""Decoding and cropping against OpenCV by hand and against the distribution in the definition."""

import cv2
import numpy as np
import pytest

from transferjax.data.crops import DRAWS, center_crop, decode, random_resized_crop, whole, window

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def cropped(crop, picture, size, draws=None):
    out = np.empty((size, size, 3), np.uint8)
    crop(picture, np.full(DRAWS, 0.5) if draws is None else draws, out)
    return out


class TestDecode:
    def test_png_is_exact_and_red_comes_first(self):
        picture = image(5, 7)
        np.testing.assert_array_equal(decode(cv2.imencode(".png", picture[..., ::-1])[1].tobytes()), picture)

    def test_grey_images_get_three_channels(self):
        picture = image(5, 7)[..., 0]
        np.testing.assert_array_equal(
            decode(cv2.imencode(".png", picture)[1].tobytes()), np.stack([picture] * 3, -1)
        )

    def test_jpeg_agrees_with_pillow(self):
        from io import BytesIO

        from PIL import Image

        smooth = cv2.resize(image(6, 8), (80, 60), interpolation=cv2.INTER_CUBIC)
        jpeg = cv2.imencode(".jpg", smooth)[1].tobytes()
        other = np.asarray(Image.open(BytesIO(jpeg))).astype(int)
        assert np.abs(decode(jpeg) - other).max() <= 2  # decoders may round differently

    def test_orientation_tags_are_ignored(self):
        from io import BytesIO

        from PIL import Image

        exif, file = Image.Exif(), BytesIO()
        exif[0x0112] = 6  # "rotate by 90 degrees"
        Image.fromarray(image(8, 16)).save(file, "jpeg", exif=exif)
        assert decode(file.getvalue()).shape == (8, 16, 3)

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0"])
    def test_what_is_not_an_image_is_an_error(self, content):
        with pytest.raises(ValueError, match=f"cannot decode an image of {len(content)} bytes"):
            decode(content)


class TestCenterCrop:
    @pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 100), (100, 64)])
    def test_takes_the_middle_as_it_is_when_the_size_fits(self, height, width):
        picture = image(height, width)
        top, left = (height - 56) // 2, (width - 56) // 2
        expected = picture[top : top + 56, left : left + 56]
        np.testing.assert_array_equal(cropped(center_crop(0.875), picture, 56), expected)

    def test_is_near_resize_then_crop(self):
        smooth = cv2.resize(image(6, 6), (160, 160), interpolation=cv2.INTER_CUBIC)
        expected = cv2.resize(smooth, (256, 256), interpolation=cv2.INTER_LINEAR)[16:-16, 16:-16]
        difference = np.abs(cropped(center_crop(), smooth, 224).astype(int) - expected)
        assert difference.mean() < 1

    def test_shrinks_by_averaging(self):
        picture = image(64, 64)
        means = picture.reshape(16, 4, 16, 4, 3).mean((1, 3))
        assert np.abs(cropped(center_crop(1.0), picture, 16) - means).max() <= 0.5

    @pytest.mark.parametrize("fraction", [0, 1.1, -1])
    def test_refuses_fractions_outside_of_0_and_1(self, fraction):
        with pytest.raises(ValueError, match=f"fraction must be in .*got {fraction}"):
            center_crop(fraction)


class TestRandomResizedCrop:
    def test_is_the_window_resized_and_mirrored(self):
        picture, rng = image(40, 60), np.random.default_rng(1)
        flips = 0
        for _ in range(50):
            draws = rng.random(DRAWS)
            top, left, height, width = window(40, 60, SCALE, RATIO, list(draws))
            part = picture[top : top + height, left : left + width]
            mode = cv2.INTER_AREA if max(height, width) > 32 else cv2.INTER_LINEAR
            expected = cv2.resize(part, (32, 32), interpolation=mode)
            flips += draws[-1] < 0.5
            expected = expected[:, ::-1] if draws[-1] < 0.5 else expected
            np.testing.assert_array_equal(cropped(random_resized_crop(), picture, 32, draws), expected)
        assert 10 < flips < 40

    def test_flips_can_be_switched_off(self):
        picture, draws = image(40, 60), np.full(DRAWS, 0.2)
        flipped = cropped(random_resized_crop(), picture, 32, draws)
        straight = cropped(random_resized_crop(flip=False), picture, 32, draws)
        np.testing.assert_array_equal(straight, flipped[:, ::-1])

    def test_windows_follow_their_distribution(self):
        rng, side = np.random.default_rng(0), 1000
        found = np.array(
            [window(side, side, (0.2, 0.5), RATIO, list(rng.random(DRAWS))) for _ in range(4000)]
        )
        top, left, height, width = found.T
        assert (found >= 0).all()
        assert (top + height <= side).all()
        assert (left + width <= side).all()
        area, aspect = height * width / side**2, np.log(width / height)
        for values, low, high in ((area, 0.2, 0.5), (aspect, np.log(3 / 4), np.log(4 / 3))):
            counts = np.histogram(values, 8, (low, high))[0]
            # chi-square with 7 degrees of freedom, 99.9 % quantile 24.3; rounding loses a few at the ends
            assert ((counts - 500) ** 2 / 500).sum() < 24.3 + 2
        place = top / (side - height)
        assert abs(place.mean() - 0.5) < 0.02
        assert abs(np.corrcoef(place, left / (side - width))[0, 1]) < 0.06

    @pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10)])
    def test_falls_back_to_the_middle_where_nothing_fits(self, height, width):
        top, left, h, w = window(height, width, (1.0, 1.0), RATIO, [0.5] * DRAWS)
        assert min(h, w) == 10
        assert (top, left) == ((height - h) // 2, (width - w) // 2)
        assert 3 / 4 - 0.05 <= w / h <= 4 / 3 + 0.05

    def test_works_on_a_single_pixel(self):
        out = cropped(random_resized_crop(), np.full((1, 1, 3), 7, np.uint8), 4)
        np.testing.assert_array_equal(out, 7)

    @pytest.mark.parametrize(
        ("scale", "ratio"), [((0, 1), RATIO), ((0.5, 0.2), RATIO), ((0.1, 1.5), RATIO), (SCALE, (2, 1))]
    )
    def test_refuses_bounds_out_of_order(self, scale, ratio):
        with pytest.raises(ValueError, match="expected 0 < scale <= 1"):
            random_resized_crop(scale, ratio)


def test_whole_keeps_or_resizes():
    picture = image(16, 16)
    np.testing.assert_array_equal(cropped(whole, picture, 16), picture)
    assert cropped(whole, image(20, 30), 16).std() > 0
