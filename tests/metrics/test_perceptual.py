"""LPIPS against its package and a copy in NumPy, and its files as PyTorch writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.models.torch_files import torch_save
from transferjax import metrics

SIDES = {"alex": 31, "vgg": 16, "squeeze": 25}
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192)}
FIRES |= {10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
WIDTHS = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}


def shapes_of(net):
    """Kernels OIHW by name, as torchvision has them."""
    if net == "alex":
        widths, kernels = (3, 64, 192, 384, 256, 256), (11, 5, 3, 3, 3)
        numbers = (0, 3, 6, 8, 10)
        return {
            n: (widths[i + 1], widths[i], k, k) for i, (n, k) in enumerate(zip(numbers, kernels, strict=True))
        }
    if net == "vgg":
        numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
        flat = (3, *(w for stage in VGG for w in stage))
        return {n: (flat[i + 1], flat[i], 3, 3) for i, n in enumerate(numbers)}
    found = {0: (64, 3, 3, 3)}
    for number, (channels, squeeze, expand) in FIRES.items():
        found[f"{number}.squeeze"] = (squeeze, channels, 1, 1)
        found[f"{number}.expand1x1"] = (expand, squeeze, 1, 1)
        found[f"{number}.expand3x3"] = (expand, squeeze, 3, 3)
    return found


def backbone_of(net):
    draw, found = np.random.default_rng(1), {}
    for name, shape in shapes_of(net).items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        found[f"features.{name}.weight"] = (scale * draw.standard_normal(shape)).astype(np.float32)
        found[f"features.{name}.bias"] = (0.1 * draw.standard_normal(shape[0])).astype(np.float32)
    return found | {"classifier.1.weight": np.zeros((2, 2), np.float32)}


def linear_of(net):
    draw = np.random.default_rng(2)
    return {
        f"lin{i}.model.1.weight": draw.uniform(size=(1, width, 1, 1)).astype(np.float32)
        for i, width in enumerate(WIDTHS[net])
    }


PACKAGE = {
    "alex": (0.08799911343964575, 0.09539073034847576, 0.08544787302265065),
    "vgg": (0.12061742942025472, 0.08702420986049798, 0.10014694542445525),
    "squeeze": (0.08972783526069246, 0.07969770133343977, 0.07736130625546073),
}
"""Of `case`: the package lpips 0.1.4 in float64 with these weights."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """net -> (backbone, linear weights): as PyTorch saves them."""
    path = tmp_path_factory.mktemp("lpips")
    return {
        net: (
            torch_save(backbone_of(net), path / f"{TORCH[net]}.pth"),
            torch_save(linear_of(net), path / f"{net}.pth"),
        )
        for net in SIDES
    }


TORCH = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


@pytest.fixture(scope="module", params=SIDES)
def case(request, files):
    net = request.param
    draw = np.random.default_rng(3)
    x = draw.uniform(size=(3, SIDES[net] + 2, SIDES[net], 3)).astype(np.float32)
    y = np.clip(x + draw.normal(scale=0.1, size=x.shape), 0, 1).astype(np.float32)
    return net, metrics.read_lpips(net, *files[net]), x, y


def conv(x, kernel, bias, stride, padding):
    """One image, `[C, H, W]`, window by window."""
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2))
    size = kernel.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, kernel) + bias[:, None, None]


def pool(x, size, ceil):
    """Stride 2; where the last window may stick out of the image it does."""
    rest = [-(n - size) % 2 if ceil else 0 for n in x.shape[1:]]
    x = np.pad(x, ((0, 0), *((0, r) for r in rest)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::2, ::2].max((3, 4))


def features(net, tensors, x):
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def layer(x, name, stride=1, padding=0):
        return np.maximum(
            conv(x, w[f"features.{name}.weight"], w[f"features.{name}.bias"], stride, padding), 0
        )

    found = []
    if net == "alex":
        x = layer(x, 0, 4, 2)
        found.append(x)
        for number, padding in ((3, 2), (6, 1), (8, 1), (10, 1)):
            x = layer(pool(x, 3, ceil=False) if number < 8 else x, number, padding=padding)
            found.append(x)
    elif net == "vgg":
        numbers = iter(shapes_of(net))
        for stage, widths in enumerate(VGG):
            x = pool(x, 2, ceil=False) if stage else x
            for _ in widths:
                x = layer(x, next(numbers), padding=1)
            found.append(x)
    else:
        x = layer(x, 0, 2)
        found.append(x)
        for number in FIRES:
            x = layer(pool(x, 3, ceil=True) if number in (3, 6, 9) else x, f"{number}.squeeze")
            x = np.concatenate([layer(x, f"{number}.expand1x1"), layer(x, f"{number}.expand3x3", padding=1)])
            if number not in (3, 6):
                found.append(x)
    return found


def direct(net, x, y):
    """The package's steps for one pair `[H, W, C]` in [0, 1]."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    sides = [((2 * z.astype(np.float64) - 1 - shift) / scale).transpose(2, 0, 1) for z in (x, y)]
    total = 0.0
    for line, *pair in zip(
        linear_of(net).values(), *(features(net, backbone_of(net), z) for z in sides), strict=True
    ):
        a, b = (f / (np.sqrt((f**2).sum(0)) + 1e-10) for f in pair)
        total += ((a - b) ** 2 * line[0].astype(np.float64)).sum(0).mean()
    return total


def test_it_is_the_packages_and_the_sum_over_layers_by_hand(case):
    net, weights, x, y = case
    expected = [direct(net, a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(expected, PACKAGE[net], rtol=1e-6)
    found = metrics.lpips(weights, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    compiled = jax.jit(metrics.lpips)
    np.testing.assert_allclose(compiled(weights, x, y), found, rtol=1e-4)
    np.testing.assert_allclose(compiled(weights, y, x), found, rtol=1e-4)  # symmetric
    np.testing.assert_allclose(metrics.lpips(weights, x[1:2], y[1:2]), found[1:2], rtol=1e-4)
    assert np.all(found > 0)


def test_equal_images_are_at_distance_zero_with_a_gradient(case):
    _, weights, x, y = case
    np.testing.assert_array_equal(metrics.lpips(weights, jnp.asarray(x), jnp.asarray(x)), 0)
    ascent = jax.jit(jax.grad(lambda y: metrics.lpips(weights, x, y).sum()))
    np.testing.assert_allclose(ascent(x), 0, atol=1e-5)
    assert np.isfinite(ascent(y)).all()
    flat = jnp.full_like(x, 0.5)  # and where features are zero
    dead = jax.tree.map(jnp.zeros_like, weights)
    np.testing.assert_array_equal(jax.grad(lambda y: metrics.lpips(dead, flat, y).sum())(y), 0)


def test_images_that_do_not_fit(case):
    net, weights, x, _ = case
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\] \(or 1\); got \(3, 8, 8, 2\)"):
        metrics.lpips(weights, jnp.zeros((3, 8, 8, 2)), jnp.zeros((3, 8, 8, 2)))
    less = x[:, : SIDES[net] - 1, : SIDES[net] - 1]
    with pytest.raises(ValueError, match="the images are too small for this net"):
        metrics.lpips(weights, less, less)


def test_files_that_are_no_weights_of_lpips(files, tmp_path):
    backbone, linear = files["alex"]
    with pytest.raises(ValueError, match="net must be one of alex, vgg, squeeze; got 'alexnet'"):
        metrics.read_lpips("alexnet", backbone, linear)
    with pytest.raises(
        FileNotFoundError, match=r"nowhere\.pth' is not there: expected torchvision's weights of vgg16"
    ):
        metrics.read_lpips("vgg", tmp_path / "nowhere.pth", linear)
    with pytest.raises(
        FileNotFoundError, match=r"expected lpips/weights/v0\.1/alex\.pth of the package lpips"
    ):
        metrics.read_lpips("alex", backbone, tmp_path / "nowhere.pth")
    with pytest.raises(
        ValueError, match=r"tensor 'features\.0\.weight' of shape \(64, 3, 3, 3\); got \(64, 3, 11, 11\)"
    ):
        metrics.read_lpips("vgg", backbone, linear)
    with pytest.raises(
        ValueError, match=r"'lin0\.model\.1\.weight' of shape \(1, 64, 1, 1\); got none of that name"
    ):
        metrics.read_lpips("alex", backbone, backbone)
    below = {**linear_of("alex"), "lin3.model.1.weight": np.full((1, 256, 1, 1), -0.5, np.float32)}
    file = tmp_path / "below.safetensors"
    file.write_bytes(safetensors.numpy.save(below))
    with pytest.raises(ValueError, match=r"must not be below 0; got -0\.5 in lin3\.model\.1\.weight"):
        metrics.read_lpips("alex", backbone, file)
    file.write_bytes(safetensors.numpy.save(linear_of("alex")))
    again = metrics.read_lpips("alex", backbone, file)
    np.testing.assert_array_equal(again.linear[2], metrics.read_lpips("alex", backbone, linear).linear[2])
