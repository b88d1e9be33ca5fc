"""How far adversarial images are from the clean ones, as people see it and in L2."""

import jax
import jax.numpy as jnp

from transferjax.attacks.updates import gaussian_kernel
from transferjax.checks import check_images, check_like
from transferjax.norms import norm
from transferjax.typing import Array

WINDOW, SIGMA = 11, 1.5  # of the Gaussian, in pixels
K1, K2 = 0.01, 0.03


def widened(x: Array, y: Array) -> tuple[Array, Array]:
    """Images `[B, H, W, C]` in [0, 1] and what they are compared with, in float32 at least."""
    check_images(x, empty=True)
    check_like(y, x, "the images to compare with")
    wide = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    return jnp.asarray(x, wide), jnp.asarray(y, wide)


def l2_distance(x: Array, y: Array) -> Array:
    """`‖x - y‖₂` `[B]`, of images in [0, 1]."""
    x, y = widened(x, y)
    return norm(x - y, (1, 2, 3))


def ssim(x: Array, y: Array) -> Array:
    """The structural similarity of images, 1 for equal ones, `[B]`.

        mean over places and channels of (2 μx μy + c₁)(2 σxy + c₂) / ((μx² + μy² + c₁)(σx² + σy² + c₂))

    Means, variances and the covariance are those in a Gaussian window of 11 x 11 pixels and σ = 1.5, at the
    places where it lies within the image; of a smaller image the window is the largest odd one that does.
    `c₁ = 0.01²` and `c₂ = 0.03²`. For skimage that is `gaussian_weights=True, use_sample_covariance=False`.

    Args:
        x, y: `[B, H, W, C]` in [0, 1].

    Reference: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
    TIP 2004.
    """
    x, y = widened(x, y)
    widths = [min(WINDOW, size - (size + 1) % 2) for size in x.shape[1:3]]
    kernels = [gaussian_kernel(width, SIGMA).astype(x.dtype) for width in widths]

    def mean(z: Array) -> Array:
        for axis, kernel in zip((1, 2), kernels, strict=True):
            count = z.shape[axis] - len(kernel) + 1
            shifted = (jax.lax.slice_in_dim(z, i, i + count, axis=axis) for i in range(len(kernel)))
            z = sum((k * part for k, part in zip(kernel, shifted, strict=True)), jnp.zeros((), z.dtype))
        return z

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = K1**2, K2**2
    each = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return each.mean((1, 2, 3))
