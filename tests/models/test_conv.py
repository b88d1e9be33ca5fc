"""The CPU convolution: equal to lax to every order, and in the fast layout inside a loop."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from transferjax.models import conv as module
from transferjax.models.conv import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = [
    # kernel, stride, padding
    (3, 1, "SAME"),
    (3, 2, ((1, 1), (1, 1))),
    (1, 2, "VALID"),
    (5, 3, ((2, 1), (0, 3))),
    (2, 2, "SAME"),
    (4, 1, "VALID"),
]


def scalar(conv, stride, padding):
    """A nonlinear function of x and w with nonzero derivatives of every order."""

    def f(x, w):
        return jnp.sin(conv(x, w, (stride, stride), padding, dimension_numbers=NHWC)).sum()

    return f


@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES)
def test_derivatives_equal_lax(x64, kernel, stride, padding):
    check_derivatives((7, 6), kernel, stride, padding)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, "SAME"), (5, 2, ((2, 2), (3, 1)))])
def test_a_kernel_larger_than_its_image(x64, kernel, stride, padding):
    check_derivatives((2, 3), kernel, stride, padding)


@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES[:2])
def test_gradients_in_parts_of_the_batch(x64, monkeypatch, kernel, stride, padding):
    x, w, strides = jnp.ones((8, 7, 6, 3)), jnp.ones((kernel, kernel, 3, 4)), (stride, stride)
    _, height, width, features = conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC).shape
    monkeypatch.setattr(module, "_CACHED", 2 * height * width * features)  # of the batch of 8, 2 at a time
    jax.clear_caches()
    gradient = jax.jit(jax.grad(scalar(conv_general_dilated, stride, padding), 1))
    assert ("while" in gradient.lower(x, w).as_text()) == (height * width > kernel**2)
    check_derivatives((7, 6), kernel, stride, padding, count=8)
    jax.clear_caches()


@pytest.mark.parametrize("rows", [8, 100])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [*CASES[:3], CASES[4]])
def test_many_channels_by_taps(x64, monkeypatch, kernel, stride, padding, rows):
    """Sums of matrix products, image by image or the whole batch at once."""
    for name, value in (("_CHANNELS", 1), ("_WIDE", 1), ("_ROWS", rows)):
        monkeypatch.setattr(module, name, value)
    jax.clear_caches()
    x, w = jnp.ones((2, 7, 6, 3)), jnp.ones((kernel, kernel, 3, 4))
    text = jax.jit(scalar(conv_general_dilated, stride, padding)).lower(x, w).as_text()
    assert "dot_general" in text
    assert "convolution" not in text
    assert ("while" in text) == (rows == 8 and kernel > 1)
    check_derivatives((7, 6), kernel, stride, padding)
    assert conv_general_dilated(x[:0], w, (1, 1), padding, dimension_numbers=NHWC).shape[0] == 0
    jax.clear_caches()


@pytest.mark.parametrize("pads", [(1, 2), (0, 0), (-1, 3), (4, 0)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("spread", [(1, 1), (2, 3), (4, 6)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_matrix_products_equal_lax(x64, strides, spread, dilation, pads):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5, 8, 3)), rng.standard_normal((2, 3, 3, 4))
    how = {"padding": (pads, pads[::-1]), "lhs_dilation": spread, "rhs_dilation": dilation}
    conv = partial(lax.conv_general_dilated, dimension_numbers=NHWC, precision=None, **how)
    strided = partial(conv, window_strides=strides)
    np.testing.assert_allclose(module._by_taps(strided, x, w), strided(x, w), rtol=1e-12, atol=1e-12)
    alone = partial(conv, window_strides=(99, 99))
    np.testing.assert_allclose(module._at_one_place(alone, x, w), alone(x, w), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fits", [1, 2**23])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [CASES[0], (4, 1, "SAME")])
def test_few_channels_by_rows(x64, monkeypatch, kernel, stride, padding, fits):
    """Shifted sums of all rows' outputs, the whole batch at once or image by image."""
    monkeypatch.setattr(module, "_CHANNELS", 3)
    monkeypatch.setattr(module, "_FITS", fits)
    jax.clear_caches()
    x, w = jnp.ones((2, 7, 6, 3)), jnp.ones((kernel, kernel, 3, 4))
    text = jax.jit(scalar(conv_general_dilated, stride, padding)).lower(x, w).as_text()
    assert f"tensor<1x{kernel}x3x{4 * kernel}xf64>" in text
    assert ("while" in text) == (fits == 1)
    check_derivatives((7, 6), kernel, stride, padding)
    assert conv_general_dilated(x[:0], w, (1, 1), padding, dimension_numbers=NHWC).shape[0] == 0
    jax.clear_caches()


def test_second_derivatives_have_no_kernels_larger_than_their_images():
    """Such a kernel reads mostly padding: as much work as all of a feature map for each of its pixels."""
    x, w = jnp.ones((2, 16, 16, 3)), jnp.ones((3, 3, 3, 4))
    f = scalar(conv_general_dilated, 1, "SAME")
    second = jax.jit(lambda x, w, v: jax.vjp(jax.grad(f, 1), x, w)[1](v))
    lowered = second.lower(x, w, w).as_text()
    kernels = re.findall(r"convolution\(.*tensor<(\d+)x(\d+)x(\d+)x(\d+)xf32>, tensor<(\d+)x", lowered)
    assert kernels
    assert all(int(kernel) <= int(image) for _, image, _, _, kernel in kernels)


def check_derivatives(size, kernel, stride, padding, count=2):
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.standard_normal((count, *size, 3))) for _ in range(2))
    w, dw = (jnp.asarray(rng.standard_normal((kernel, kernel, 3, 4))) for _ in range(2))

    def derivatives(conv):
        f = scalar(conv, stride, padding)
        grad = jax.grad(f, (0, 1))

        def slope(x, w):
            gx, gw = grad(x, w)
            return (gx * dx).sum() + (gw * dw).sum()

        return jax.jit(
            lambda: {
                "value": f(x, w),
                "grad": grad(x, w),
                "jvp(grad)": jax.jvp(grad, (x, w), (dx, dw))[1],
                "grad(grad.v)": jax.grad(slope, (0, 1))(x, w),
                "vmap(grad)": jax.vmap(grad, (0, None))(jnp.stack([x, dx]), w),
                "vmap(grad) over w": jax.vmap(grad, (None, 0))(x, jnp.stack([w, dw])),
            }
        )()

    ours, theirs = derivatives(conv_general_dilated), derivatives(lax.conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, theirs)
    # and the second derivative itself is right: a central difference of the first
    f, h = jax.grad(scalar(conv_general_dilated, stride, padding)), 1e-5
    difference = (f(x + h * dx, w + h * dw) - f(x - h * dx, w - h * dw)) / (2 * h)
    np.testing.assert_allclose(ours["jvp(grad)"][0], difference, rtol=1e-6, atol=1e-6)


def layouts(step, x, *args):
    """The `dim_labels` of all convolutions in the compiled scan of `step` over x."""
    loop = jax.jit(lambda x, *args: lax.scan(lambda x, _: (step(x, *args), None), x, length=3)[0])
    return re.findall(r"dim_labels=(\S+)", loop.lower(x, *args).compile().as_text().replace(",", " "))


def net(conv):
    def f(x, w1, w2):
        x = jnp.sin(conv(x, w1, (1, 1), "SAME", dimension_numbers=NHWC))
        return jnp.sin(conv(x, w2, (2, 2), ((1, 1), (1, 1)), dimension_numbers=NHWC)).sum()

    return f


def steps(conv):
    f = net(conv)

    def hvp(x, w1, w2):
        return jax.grad(lambda z: (jax.grad(f)(z, w1, w2) * x).sum())(x)

    def train(w1, x, w2):
        return w1 - 0.1 * jax.grad(f, 1)(x, w1, w2)

    def forward_hvp(x, w1, w2):
        return jax.jvp(lambda z: jax.grad(f)(z, w1, w2), (x,), (x,))[1]

    return {
        "input gradient": jax.grad(f),
        "grad(grad.v)": hvp,
        "jvp(grad)": forward_hvp,
        "train": train,
    }


@pytest.mark.parametrize("name", ["input gradient", "grad(grad.v)", "jvp(grad)", "train"])
def test_every_convolution_in_a_scan_has_the_fast_layout(name):
    x, w1, w2 = jnp.ones((4, 16, 16, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones((3, 3, 8, 16))
    args = (w1, x, w2) if name == "train" else (x, w1, w2)
    found = layouts(steps(conv_general_dilated)[name], *args)
    assert len(found) >= 3
    assert set(found) == {"b01f_01io->b01f"}


def test_lax_is_why_this_exists():
    """The day XLA compiles this well, `models/conv.py` can go."""
    x, w1, w2 = jnp.ones((4, 16, 16, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones((3, 3, 8, 16))
    assert set(layouts(steps(lax.conv_general_dilated)["input gradient"], x, w1, w2)) != {"b01f_01io->b01f"}


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 2)},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ],
    ids=str,
)
def test_falls_back_to_lax(options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 8, 4)).astype(np.float32)
    w = rng.standard_normal((3, 3, 4 // options.get("feature_group_count", 1), 4)).astype(np.float32)
    if "dimension_numbers" in options:
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    options = {"dimension_numbers": NHWC} | options
    args = (x, w, (1, 1), ((1, 1), (1, 1)))
    assert_equal = np.testing.assert_array_equal
    assert_equal(conv_general_dilated(*args, **options), lax.conv_general_dilated(*args, **options))


def test_an_unused_tangent_costs_nothing():
    """The input gradient of one convolution is one convolution, not three."""
    x, w = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))
    conv = lambda x: conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)  # noqa: E731
    pullback = jax.make_jaxpr(lambda x, ct: jax.vjp(conv, x)[1](ct))(x, jnp.ones((1, 8, 8, 2)))
    assert str(pullback).count("conv_nhwc[") == 2  # the value and the pullback
