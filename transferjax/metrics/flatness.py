"""How flat the loss is around adversarial examples: gradient norms, and the surface on two directions."""

import jax
import jax.numpy as jnp

from transferjax.checks import check_examples, check_images
from transferjax.losses import cross_entropy
from transferjax.metrics.gradients import gradient_at, input_gradient
from transferjax.norms import norm, unit
from transferjax.random import fold_in, per_example, sample
from transferjax.typing import Array, Key, Loss, Predict

DIRECTIONS = ("raw", "normalized", "uniform")


def gradient_norm(predict: Predict, images: Array, labels: Array, loss: Loss = cross_entropy) -> Array:
    """`‖∇_x ℓ(f(x_i), y_i)‖₂`, `[B]`: PGN's and TPA's first-order flatness (small is flat)."""
    return norm(input_gradient(predict, images, labels, loss), (1, 2, 3))


def expected_gradient_norm(
    key: Key,
    predict: Predict,
    images: Array,
    labels: Array,
    radius: float,
    samples: int = 16,
    loss: Loss = cross_entropy,
) -> Array:
    """`E_u ‖∇_x ℓ(f(x_i + u), y_i)‖₂` for u uniform in the l∞ ball, `[B]`.

    Args:
        key: one key, or one per example.
        predict: the model.
        images, labels: `[B, H, W, C]` in [0, 1], `[B]`.
        radius: of the neighbourhood, in pixel units of [0, 1].
        samples: neighbours of each image, one after another.

    Reference: Ge et al., "Boosting Adversarial Transferability by Achieving Flat Local Maxima", NeurIPS 2023,
    eq. 3; Fan et al., "Transferability Bound Theory", NeurIPS 2024, eq. 5: TPA's penalty, a surrogate for its
    bound, which holds other terms (`transfer_loss_bound`).
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    check_examples(images, labels, soft=True, empty=True)
    keys = per_example(key, len(images))

    def add(total: Array, i: Array) -> tuple[Array, None]:
        draw = fold_in(keys, i)
        shift = sample(jax.random.uniform, draw, images.shape[1:], images.dtype, -radius, radius)
        return total + norm(gradient_at(predict, images + shift, labels, loss), (1, 2, 3)), None

    total, _ = jax.lax.scan(add, jnp.zeros(len(images), images.dtype), jnp.arange(samples))
    return total / samples


def random_directions(key: Key, images: Array, kind: str = "normalized") -> tuple[Array, Array]:
    """Two random directions for each image, `[B, H, W, C]` each.

    Args:
        key: one key, or one per example.
        images: whose shape and type they take.
        kind: `"raw"`, Gaussian as drawn, of length about √N; `"normalized"`, orthonormal, so that a
            coordinate on the surface is an l2 distance; `"uniform"`, every pixel from [0, 1), of length about
            √(N/3): both then share the direction of all pixels getting brighter.

    Raises:
        ValueError: an unknown kind.

    Reference: uniform ones, with coordinates from -1 to 1 in steps of 0.05 and pixels beyond [0, 1], are
    those of PGN's official code (Ge et al., NeurIPS 2023).
    """
    if kind not in DIRECTIONS:
        raise ValueError(f"kind must be one of {DIRECTIONS}; got {kind!r}")
    check_images(images)
    keys = per_example(key, len(images))
    draw = jax.random.uniform if kind == "uniform" else jax.random.normal
    pair = [sample(draw, fold_in(keys, i), (images[0].size,), images.dtype) for i in (0, 1)]
    if kind == "normalized":
        first = unit(pair[0], -1)
        second = pair[1] - (pair[1] * first).sum(-1, keepdims=True) * first
        pair = [first, unit(second, -1)]
    return pair[0].reshape(images.shape), pair[1].reshape(images.shape)


def loss_surface(
    predict: Predict,
    images: Array,
    labels: Array,
    directions: tuple[Array, Array],
    grid: Array,
    *,
    clamp: bool = True,
    loss: Loss = cross_entropy,
) -> Array:
    """`ℓ(f(x_i + a d_i + b e_i), y_i)` for all a, b of a grid `[G]`: surfaces `[B, G, G]`, a down, b across.

    Args:
        predict: the model.
        images: `[B, H, W, C]`, say adversarial examples: the surfaces' centres.
        labels: `[B]`.
        directions: d and e, of `random_directions`.
        grid: the coordinates, in units of the directions' length.
        clamp: keep x + a d + b e in [0, 1], as images are, or leave it, as PGN's figures do. Clamping bends
            the plane where a pixel is near black or white.
        loss: cross-entropy unless told otherwise.
    """
    check_examples(images, labels, soft=True)
    down, across = directions

    def at(point: Array) -> Array:
        x = images + point[0] * down + point[1] * across
        return loss(predict(jnp.clip(x, 0, 1) if clamp else x), labels)

    points = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2).astype(images.dtype)
    return jax.lax.map(at, points).T.reshape(len(images), len(grid), len(grid))
