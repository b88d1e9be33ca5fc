"""Transforms of a training batch: `(keys, batch, predict) -> batch`, per example, inside jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks import pgd
from transferjax.checks import check_batch, check_numbers
from transferjax.random import fold_in, per_example, sample
from transferjax.typing import Array, Batch, Key, Predict, Transform


def crop_flip(padding: int = 4, flip: bool = True, alternate: bool = False) -> Transform:
    """A random crop of the zero-padded image, back to its size, then a mirror image half of the time.

    `x'[i, j] = x[i + dy - p, j + dx - p]` (0 outside), dy and dx uniform on 0 … 2p, one draw per example.

    Args:
        padding: pixels p of zeros on each side; 0 leaves the crop out.
        flip: whether to mirror left and right with probability 1/2.
        alternate: draw that once for an example, which then is mirrored in every other epoch: any two epochs
            show each image both ways.

    Raises:
        ValueError: negative padding; `alternate` without `flip`, or of a batch that does not say its examples
            and epoch.

    Reference: He et al., CVPR 2016, section 4.2; Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    2024, section 3.6 (alternating flip).
    """
    check_numbers(padding=padding)
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    if alternate and not flip:
        raise ValueError("alternate=True says when images are mirrored, and flip=False that they are not")
    border = ((padding, padding), (padding, padding), (0, 0))
    choices = np.array([2 * padding + 1, 2 * padding + 1, 1 + flip])

    def one(image: Array, draw: Array) -> Array:
        crop = jax.lax.dynamic_slice(jnp.pad(image, border), (draw[0], draw[1], 0), image.shape)
        return jnp.where(draw[2] == 1, crop[:, ::-1], crop)

    def apply(key: Key, batch: Batch, predict: Predict) -> Batch:
        check_batch(batch)
        draws = sample(jax.random.randint, per_example(key, len(batch.images)), (3,), 0, choices)
        if alternate:
            draws = draws.at[:, 2].set(_turns(batch) % 2)
        return batch._replace(images=jax.vmap(one)(batch.images, draws))

    return apply


def _turns(batch: Batch) -> Array:
    """`[B]`: the epoch, from a start that is random and the example's own."""
    if batch.indices is None or batch.epoch is None:
        raise ValueError(
            "alternate=True needs a Batch with `indices` and `epoch`: which images they are, and when"
        )
    keys = fold_in(jnp.broadcast_to(jax.random.key(0), batch.indices.shape), batch.indices)
    return sample(jax.random.randint, keys, (), 0, 2) + batch.epoch


def _check_probability(name: str, value: float) -> None:
    check_numbers(**{name: value})
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected a probability from 0 to 1")


def _pool(batch: Batch, axis_name: str | None) -> Batch:
    """The whole batch, from every device, in which an example finds its partner."""
    return jax.lax.all_gather(batch, axis_name, tiled=True) if axis_name else batch


def _box(key: Key, height: int, width: int, size_y: Array | int, size_x: Array | int) -> Array:
    """A mask `[H, W, 1]` of a box around a uniform centre, clipped at the border; of odd sizes one less."""
    y, x = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside_y = (rows >= y - size_y // 2) & (rows < y + size_y // 2)
    inside_x = (columns >= x - size_x // 2) & (columns < x + size_x // 2)
    return (inside_y & inside_x)[..., None]


def _blend(
    weight_of: Callable[[Key, Array, tuple[int, ...]], Array],
    prob: float,
    alpha: float,
    rounds: int,
    axis_name: str | None,
) -> Transform:
    """`x ← m x + (1 − m) x'`, `t ← m̄ t + (1 − m̄) t'` with a mask m and its mean m̄, each round with chance p.

    Every example has a partner of its own, drawn anew each round from the batch as it came in.
    """
    _check_probability("prob", prob)
    check_numbers(alpha=alpha, rounds=rounds)
    if alpha <= 0 or rounds < 1:
        raise ValueError(f"expected alpha > 0 and rounds >= 1, got alpha={alpha}, rounds={rounds}")

    def one(key: Key, image: Array, target: Array, pool: Batch) -> tuple[Array, Array]:
        for number in range(rounds):
            keys = jax.random.split(jax.random.fold_in(key, number), 4)
            # Beta(1, 1) is the uniform distribution, and a hundred times cheaper to draw from.
            lam = jax.random.uniform(keys[0]) if alpha == 1 else jax.random.beta(keys[0], alpha, alpha)
            partner = jax.random.randint(keys[1], (), 0, len(pool.images))
            mask = jnp.where(jax.random.uniform(keys[2]) < prob, weight_of(keys[3], lam, image.shape), 1.0)
            mask = jnp.broadcast_to(mask, (*image.shape[:2], 1))
            image = mask * image + (1 - mask) * pool.images[partner]
            target = mask.mean() * target + (1 - mask.mean()) * pool.targets[partner]
        return image, target

    def apply(key: Key, batch: Batch, predict: Predict) -> Batch:
        check_batch(batch)
        del predict
        keys, pool = per_example(key, len(batch.images)), _pool(batch, axis_name)
        images, targets = jax.vmap(one, (0, 0, 0, None))(keys, batch.images, batch.targets, pool)
        return batch._replace(images=images, targets=targets)

    return apply


def mixup(
    prob: float = 1.0, *, alpha: float = 1.0, rounds: int = 1, axis_name: str | None = None
) -> Transform:
    """MU: `x ← λ x + (1 − λ) x'`, `t ← λ t + (1 − λ) t'`, λ ~ Beta(α, α), with probability p.

    Args:
        prob: p, per example and round.
        alpha: α of the Beta distribution; 1 makes λ uniform.
        rounds: how often; the official code of the S&P 2024 paper does two.
        axis_name: the mapped axis of data parallelism, so that partners come from the whole batch.

    Reference: Zhang et al., ICLR 2018, eq. 1. The S&P code draws partners from the data set.
    """
    return _blend(lambda key, lam, shape: lam, prob, alpha, rounds, axis_name)


def cutmix(
    prob: float = 1.0, *, alpha: float = 1.0, rounds: int = 1, axis_name: str | None = None
) -> Transform:
    """CM: a box of the partner's image replaces the image's own; labels mix by the area that is replaced.

    The box has sides `√(1 − λ)` of the image's, λ ~ Beta(α, α), a uniform centre, and is clipped; the label's
    weight is that of the clipped box.

    Args:
        prob, alpha, rounds, axis_name: as in `mixup`.

    Reference: Yun et al., ICCV 2019, algorithm A1.
    """

    def keep(key: Key, lam: Array, shape: tuple[int, ...]) -> Array:
        side = jnp.sqrt(1 - lam)
        height, width = shape[:2]
        size_y, size_x = ((side * length).astype(jnp.int32) for length in (height, width))
        return 1.0 - _box(key, height, width, size_y, size_x)

    return _blend(keep, prob, alpha, rounds, axis_name)


def cutout(size: int) -> Transform:
    """CO: a square of zeros with side M around a uniform centre, clipped at the border.

    Args:
        size: M, in pixels, at least 2; of an odd one M - 1, as in the S&P paper's code.

    Reference: DeVries & Taylor, arXiv:1708.04552, section 3.2.
    """
    check_numbers(size=size)
    if size < 2:
        raise ValueError(f"size={size}: expected at least 2 pixels")

    def apply(key: Key, batch: Batch, predict: Predict) -> Batch:
        check_batch(batch)
        del predict
        keys = per_example(key, len(batch.images))
        boxes = sample(_box, keys, *batch.images.shape[1:3], size, size)
        return batch._replace(images=jnp.where(boxes, 0, batch.images))

    return apply


def label_smoothing(prob: float) -> Transform:
    """LS: `t ← (1 − p) t + p (1 − t) / (K − 1)`: p goes to the other classes.

    Reference: Szegedy et al., CVPR 2016; as the S&P 2024 paper has it. (Optax spreads p over all K classes.)
    """
    _check_probability("prob", prob)

    def apply(key: Key, batch: Batch, predict: Predict) -> Batch:
        check_batch(batch)
        del key, predict
        t = batch.targets
        return batch._replace(targets=(1 - prob) * t + prob * (1 - t) / (t.shape[-1] - 1))

    return apply


def adversarial(
    eps: float,
    *,
    norm: str = "l2",
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
) -> Transform:
    """AT: the images become adversarial, by PGD on the network as it is, with batch statistics frozen.

    Args:
        eps, norm, steps, step_size, random_start: of `transferjax.attacks.pgd`.

    Reference: Madry et al., ICLR 2018, eq. 2.1; trains on adversarial images alone.
    """
    # The loop takes probabilities where the recipe around it takes classes.
    attack = pgd(eps, steps, norm=norm, step_size=step_size, random_start=random_start).run

    def apply(key: Key, batch: Batch, predict: Predict) -> Batch:
        check_batch(batch)
        return batch._replace(images=attack(key, predict, batch.images, batch.targets))

    return apply


def distilled(teacher: Predict | None = None) -> Transform:
    """Distillation: the targets are what a teacher says of the images, `t ← softmax z_T(x)`.

    Cross-entropy to them is `KL(p_T ‖ p)` and a constant. The teacher sees what comes out of the transforms
    before.

    Args:
        teacher: any predict of the same classes, in evaluation mode; needed where a step is taken.

    Raises:
        ValueError: when it is called, no teacher, or one with more or fewer logits than there are classes.

    Reference: Hinton et al., arXiv:1503.02531, at temperature 1; Wu et al., "Improving Transferable Targeted
    Adversarial Attacks with Model Self-Enhancement" (SASD), CVPR 2024: with SAM, from the weights that the
    teacher was tuned from by SAM too.
    """

    def apply(key: Key, batch: Batch, predict: Predict) -> Batch:
        check_batch(batch)
        del key, predict
        if teacher is None:
            raise ValueError("distilled() without a teacher: give the predict whose probabilities are taken")
        logits = teacher(batch.images)
        if logits.shape != batch.targets.shape:
            raise ValueError(f"the teacher says {logits.shape}; expected logits like {batch.targets.shape}")
        return batch._replace(targets=jax.nn.softmax(logits).astype(batch.targets.dtype))

    return apply
