"""The CPU convolution: equal to lax to every order, and in the fast layout inside a loop."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from transferjax.models.conv import conv_general_dilated, orderings, winograd
from transferjax.models.conv.primitive import moved_p

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


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, "SAME"), (3, 2, ((1, 2), (3, 0))), (5, 2, ((2, 2), (3, 1)))]
)
def test_a_kernel_larger_than_its_image(x64, kernel, stride, padding):
    check_derivatives((2, 3), kernel, stride, padding)


WINOGRAD = [((8, 4), ((1, 1), (1, 1))), ((6, 10), "VALID"), ((7, 5), ((0, 3), (2, 3)))]


@pytest.fixture
def narrow(monkeypatch):
    """Winograd's order for whatever has whole tiles."""
    monkeypatch.setattr(orderings, "_WIDE", 1)
    monkeypatch.setattr(orderings, "_TILES", 1)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize(("size", "padding"), WINOGRAD)
def test_winograd_equals_lax_to_second_derivatives(x64, narrow, size, padding):
    x, w = jnp.ones((2, *size, 3)), jnp.ones((3, 3, 3, 4))
    f = scalar(conv_general_dilated, 1, padding)
    for function in (f, jax.grad(f, 1)):
        assert "convolution" not in jax.jit(function).lower(x, w).as_text()
    check_derivatives(size, 3, 1, padding)


def test_winograd_takes_a_convolution_of_matrix_products():
    """Its 36 products are 4 times fewer multiplications than the direct sum's 144 per tile."""
    text = jax.jit(winograd.forward).lower(jnp.ones((5, 10, 6, 3)), jnp.ones((3, 3, 3, 4))).as_text()
    shapes = re.findall(r"dot_general.*tensor<(\d+)x(\d+)xf32>, tensor<(\d+)x(\d+)xf32>", text)
    assert shapes == [("10", "3", "3", "4")] * 36


@pytest.fixture
def wide(monkeypatch):
    """As with `TRANSFERJAX_WINOGRAD=on`."""
    monkeypatch.setattr(orderings, "_WIDE", 128)
    jax.clear_caches()
    yield
    jax.clear_caches()


def test_its_error_in_float32(x64, wide):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((16, 16, 16, 128)), 0)
    w, ct = rng.standard_normal((3, 3, 128, 128)) / 34, rng.standard_normal((16, 16, 16, 128))

    def derivatives(conv, dtype):
        f = lambda x, w: conv(x, w, (1, 1), "SAME", dimension_numbers=NHWC)  # noqa: E731
        y, pullback = jax.vjp(f, jnp.asarray(x, dtype), jnp.asarray(w, dtype))
        return y, *pullback(jnp.asarray(ct, dtype))

    ours = jax.jit(lambda: derivatives(conv_general_dilated, jnp.float32))
    assert "convolution" not in ours.lower().as_text()
    for mine, right in zip(ours(), derivatives(lax.conv_general_dilated, jnp.float64), strict=True):
        assert np.abs(mine - right).max() < 5e-6 * np.abs(right).max()


@pytest.mark.parametrize(
    ("batch", "side", "channels", "options"),
    [
        (128, 4, 127, {}),  # too few channels
        (8, 14, 128, {}),  # no whole tiles
        (4, 4, 128, {}),  # too few of them
        (128, 4, 128, {"precision": "highest"}),
        (128, 4, 128, {"rhs_dilation": (2, 2)}),
        (128, 4, 128, {"window_strides": (2, 2)}),
    ],
    ids=str,
)
def test_where_the_direct_sum_stays(wide, batch, side, channels, options):
    x, w = jnp.ones((batch, side, side, channels)), jnp.ones((3, 3, channels, 128))
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC} | options
    f = lambda x, w: conv_general_dilated(x, w, **options)  # noqa: E731
    text = jax.jit(lambda x, w: jax.vjp(f, x, w)[1](f(x, w))).lower(x, w).as_text()
    assert "dot_general" not in text
    assert jax.jit(lambda: conv_general_dilated(x[:0], w, **options)).lower()


def test_the_default_precision_of_products_asks_for_the_direct_sum(wide):
    x, w = jnp.ones((128, 4, 4, 128)), jnp.ones((3, 3, 128, 128))
    f = lambda x, w: conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)  # noqa: E731
    assert "dot_general" in jax.jit(f).lower(x, w).as_text()
    jax.clear_caches()
    with jax.default_matmul_precision("highest"):
        assert "dot_general" not in jax.jit(f).lower(x, w).as_text()
    jax.clear_caches()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_weights_of_1_x_1_kernels_are_a_product(x64, stride):
    x, w = jnp.ones((2, 7, 6, 3)), jnp.ones((1, 1, 3, 4))
    gradient = jax.jit(jax.grad(scalar(conv_general_dilated, stride, "VALID"), 1))
    assert "dot_general" in gradient.lower(x, w).as_text()
    check_derivatives((7, 6), 1, stride, "VALID")


@pytest.mark.parametrize("size", [1, 7])
def test_a_kernel_as_large_as_its_image_is_a_product(x64, size):
    """No derivative flips such a kernel, which may be VGG's 100 million weights."""
    x, w = jnp.ones((2, size, size, 3)), jnp.ones((size, size, 3, 4))
    gradient = jax.jit(jax.grad(scalar(conv_general_dilated, 1, "VALID"), (0, 1)))
    lowered = gradient.lower(x, w).as_text()
    assert "dot_general" in lowered
    assert "convolution" not in lowered
    assert "reverse" not in lowered
    check_derivatives((size, size), size, 1, "VALID")


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
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-12)
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
def test_other_kinds_of_convolutions_have_the_values_of_lax(options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 8, 4)).astype(np.float32)
    w = rng.standard_normal((3, 3, 4 // options.get("feature_group_count", 1), 4)).astype(np.float32)
    if "dimension_numbers" in options:
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    options = {"dimension_numbers": NHWC} | options
    args = (x, w, (1, 1), ((1, 1), (1, 1)))
    assert_equal = np.testing.assert_array_equal
    assert_equal(conv_general_dilated(*args, **options), lax.conv_general_dilated(*args, **options))


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (((5, 7), (3, 2)), {"rhs_dilation": (2, 3), "padding": ((1, 2), (3, 0))}),
        (((5, 4), (2, 3)), {"lhs_dilation": (3, 2), "padding": ((2, 1), (0, 2))}),
        (((9, 8), (3, 1)), {"window_strides": (2, 3), "padding": ((0, 4), (5, 1))}),
        (((9, 8), (3, 3)), {"window_strides": (3, 1), "padding": ((-1, 2), (0, -2))}),
        (((2, 2), (3, 3)), {"window_strides": (2, 2), "padding": "VALID"}),
        (((1, 1), (3, 3)), {"padding": "VALID"}),
    ],
    ids=str,
)
def test_values_and_two_derivatives_of_whatever_a_user_asks_for(sizes, options, x64):
    """Dilations, strides and pads that differ by side, and images that are smaller than the kernel."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, *sizes[0], 3)), rng.standard_normal((*sizes[1], 3, 2))
    options = {"window_strides": (1, 1), "dimension_numbers": NHWC} | options

    def orders(convolution):
        value = lambda x, w: (convolution(x, w, **options) ** 3).sum()  # noqa: E731
        slope = jax.grad(value, (0, 1))
        return value(x, w), slope(x, w), jax.jvp(slope, (x, w), (x[::-1], w[::-1]))[1]

    ours, theirs = orders(conv_general_dilated), orders(lax.conv_general_dilated)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_an_unused_tangent_costs_nothing():
    """The input gradient of one convolution is one convolution, not three."""
    x, w = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))
    conv = lambda x: conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)  # noqa: E731
    pullback = jax.make_jaxpr(lambda x, ct: jax.vjp(conv, x)[1](ct))(x, jnp.ones((1, 8, 8, 2)))
    assert str(pullback).count("conv_nhwc[") == 2  # the value and the pullback


def test_what_leads_to_images_is_not_fused_into_the_gradient_of_a_1_x_1_kernel():
    """Which would compute it in the order of its transpose; XLA does not fuse over a branch."""
    x, w, ct = jnp.ones((2, 4, 4, 3)), jnp.ones((1, 1, 3, 5)), jnp.ones((2, 4, 4, 5))

    def gradient(x, w, ct):
        convolve = lambda w: conv_general_dilated(  # noqa: E731
            jnp.tanh(x), w, (1, 1), "SAME", dimension_numbers=orderings.NHWC
        )
        return jax.vjp(convolve, w)[1](ct)[0]

    compiled = jax.jit(gradient).lower(x, w, ct).compile()
    assert " conditional(" in compiled.as_text()
    np.testing.assert_allclose(compiled(x, w, ct), jnp.full(w.shape, 32 * jnp.tanh(1.0)), rtol=1e-6)


def test_moved_is_a_transpose_under_every_transformation():
    order = (3, 1, 2, 0)
    x = jnp.arange(2 * 3 * 4 * 5, dtype=jnp.float32).reshape(2, 3, 4, 5)
    moved = lambda x: moved_p.bind(x, order=order)  # noqa: E731
    ct = moved(x) ** 2
    np.testing.assert_array_equal(moved(x), x.transpose(order))
    np.testing.assert_array_equal(jax.vjp(moved, x)[1](ct)[0], ct.transpose(order))  # its own inverse
    cyclic = lambda x: moved_p.bind(x, order=(1, 2, 3, 0))  # noqa: E731
    back = jax.jit(lambda x, ct: jax.vjp(cyclic, x)[1](ct)[0])(x, cyclic(x))
    np.testing.assert_array_equal(back, x)
    np.testing.assert_array_equal(jax.jvp(moved, (x,), (x,))[1], moved(x))
    many = jnp.stack([x, -x], axis=2)
    out = jax.jit(jax.vmap(moved, 2))(many)
    np.testing.assert_array_equal(out, np.stack([moved(x), -moved(x)]))
    assert moved(x[:0]).shape == (5, 3, 4, 0)
