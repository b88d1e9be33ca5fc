"""Crafting over a data set: batches, devices, progress, and files that a lossy format cannot spoil."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from transferjax import data
from transferjax.attacks.crafted import Crafted, Place
from transferjax.attacks.entrance import enter
from transferjax.attacks.goals import check_goal, check_targets
from transferjax.attacks.inspection import check_predict
from transferjax.attacks.manifest import (
    check_named,
    is_unseen,
    manifest_of,
    members,
    outputs_of,
)
from transferjax.attacks.projections import eight_bit
from transferjax.attacks.recipe import Recipe, name_of
from transferjax.checks import check_labels, check_no_nan
from transferjax.devices import mapped
from transferjax.files import alone
from transferjax.memory import memory_advice
from transferjax.naming import stable_name
from transferjax.norms import norm as vector_norm
from transferjax.random import fold_in
from transferjax.typing import Array, Attack, Key, Predict

FORMATS = ("npy", "png")
LOSSY = ("jpg", "jpeg", "webp", "avif", "heic")


def craft(
    attack: Attack,
    predict: Predict,
    dataset: data.Source,
    directory: str | Path | None = None,
    *,
    targets: np.ndarray | None = None,
    targeted: bool | None = None,
    seed: int = 0,
    batch_size: int = 128,
    eps: float | None = None,
    norm: str | None = None,
    format: str = "npy",
    progress: bool = True,
) -> Crafted:
    """Adversarial images of a whole data set, rounded to 8 bits inside the ball.

    The same seed gives the same images whatever the batch size and the number of devices: an image's
    randomness hangs on its place in the data set. With a directory, an interrupted run goes on where it was,
    and what is damaged there is made again.

    Args:
        attack: `(keys, predict, images, labels) -> images`.
        predict: of the surrogate, or whatever the attack takes.
        dataset: uint8 images and labels, such as `data.load` gives.
        directory: where to write the images, labels and a manifest; nothing is written if None.
        targets: classes `[N]` for a targeted attack.
        targeted: whether the attack runs towards the targets; read off it, if it is of the catalogue or of
            `ascend`.
        seed: of all randomness.
        batch_size: images at once at most, over all devices of this process.
        eps, norm: budget, for the rounding; read off the attack if it is one of the catalogue.
        format: "npy" (one array) or "png" (one file per image).
        progress: show a bar, if there is a terminal.

    Raises:
        ValueError: inputs that do not fit together (see `checks`), a lossy format, a directory that holds the
            images of something else, or an attack that no directory could tell from others.
        files.Taken: another run writes to that directory.
    """
    _check_format(format)
    eps, norm = _budget(attack, eps, norm)
    if directory is not None:
        check_named(attack)
    classes = dataset.labels
    if targets is not None:
        check_labels(np.asarray(targets), len(dataset), dataset.num_classes, "targets")
        check_targets(dataset.labels, targets)
        classes = np.asarray(targets, np.int32)
    check_goal(attack, targets, targeted)
    few, aims = _few(dataset, classes)
    _check_first(predict, few, aims, dataset.class_names)
    manifest = manifest_of(attack, predict, dataset, targets, seed, eps, norm, format)
    if directory is not None:
        manifest |= {"pixels": stable_name(few), "outputs": outputs_of(predict, few, is_unseen(manifest))}
    with ExitStack() as stack:
        place, start = None, 0
        if directory is not None:
            stack.enter_context(alone(Path(directory), "adversarial images"))
            place = Place(Path(directory), manifest, dataset, classes, targets)
            start = place.done
        images = np.empty((len(dataset), *dataset.image_shape), np.uint8) if place is None else place.images
        disable = None if progress else True
        bar = stack.enter_context(tqdm(total=len(dataset), initial=start, unit=" images", disable=disable))
        for rows, x in _batches(attack, predict, dataset, classes, seed, batch_size, eps, norm, start):
            if place is None:
                images[rows] = x
            else:
                place.write(rows, x)
            bar.update(len(rows))
        if place is not None:
            return place.finish()
    return Crafted(images, np.asarray(dataset.labels), targets, manifest)


def _batches(
    attack: Attack,
    predict: Predict,
    dataset: data.Source,
    classes: np.ndarray,
    seed: int,
    batch_size: int,
    eps: float,
    norm: str,
    start: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, adversarial uint8 images) of all examples from `start` on, in order."""
    devices = jax.local_device_count()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(f"batch_size {batch_size}: expected a positive multiple of the {devices} devices")
    # A function that is no pytree becomes a constant of the program.
    predict = jax.tree.map(lambda leaf: jax.tree_util.Partial(leaf) if callable(leaf) else leaf, predict)
    batch, shared = mapped(crafting(attack, eps, norm)), (predict, jax.random.key(seed), jnp.asarray(classes))
    advice = (
        f"a smaller batch_size than {batch_size} changes no image, nor does a smaller `chunk` of the attack"
    )
    even = data.even_batch_size(len(dataset), batch_size, devices)
    for examples in data.eval_batches(dataset, even, put=lambda examples: examples):
        rows = np.asarray(examples.indices)[np.asarray(examples.weights) > 0]
        if rows[-1] < start:
            continue
        with memory_advice(advice):
            x, far = (np.asarray(part)[: len(rows)] for part in batch(examples, shared))
        check_kept(name_of(attack), far, x.shape[1:], eps, norm)
        yield rows[rows >= start], x[rows >= start]


def crafting(
    attack: Attack, eps: float, norm: str
) -> Callable[[data.Examples, tuple[Predict, Key, Array]], tuple[Array, Array]]:
    """`(examples, (predict, one key, classes [N])) -> uint8 images [B, H, W, C]`, rounded inside the ball.

    Beside them: how far each image `[B]` was from the clean one, for `check_kept`. The randomness of an image
    hangs on its place in the data set. Pure; `devices.mapped` compiles it.

    Args:
        attack: `(keys, predict, images, labels) -> images`.
        eps, norm: the budget; eps may be traced.
    """

    def batch(examples: data.Examples, shared: tuple[Predict, Key, Array]) -> tuple[Array, Array]:
        predict, key, classes = shared
        clean, keys = data.to_float(examples.images), fold_in(key, examples.indices)
        images = enter(attack, keys, predict, clean, classes[examples.indices], name=name_of(attack))
        kept = jnp.round(255 * eight_bit(norm, eps)(images, clean)).astype(jnp.uint8)
        moved = (images - clean).reshape(len(clean), -1)
        far = jnp.abs(moved).max(-1) if norm == "linf" else vector_norm(moved, -1)
        return kept, jnp.where(jnp.isnan(moved).any(-1), jnp.nan, far)  # XLA's maxima on CPU pass over NaN

    return batch


def check_kept(name: str, far: np.ndarray, shape: tuple[int, ...], eps: float, norm: str) -> None:
    """What an attack gave, before it was rounded: numbers, in the ball up to half a level of 8 bits.

    Args:
        name: of the attack.
        far: how far each image is from the clean one, `[B]`.
        shape: of one image.
        eps, norm: the budget; who leaves it is warned.

    Raises:
        ValueError: NaN.
    """
    check_no_nan(far, f"{name} ends in NaN", "the gradient of predict: a norm, a sqrt or a division at zero")
    half = 0.5 / 255 * (1 if norm == "linf" else math.sqrt(math.prod(shape)))
    if (beyond := far > 1.001 * eps + half).any():
        warnings.warn(
            f"{name} leaves the ball: {int(beyond.sum())} of {len(far)} images lie up to {far.max():.4g} "
            f"from the clean ones, in a budget of eps={eps:.4g} ({norm}); they are cut back to it",
            stacklevel=4,
        )


def _check_first(predict: Predict, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """A wrong predict fails here, at once and with a reason, and not as an attack that does nothing."""
    few = data.to_float(jnp.asarray(images))
    for member in members(predict):
        check_predict(member, few, jnp.asarray(labels), jax.random.key(0), classes)


def _few(dataset: data.Source, classes: np.ndarray, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images from the whole of a data set, and their classes."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int))
    [batch] = data.eval_batches(dataset.subset(rows), len(rows), put=lambda batch: batch)
    return np.asarray(batch.images), classes[rows]


def _check_format(format: str) -> None:
    if format.lower().lstrip(".") in LOSSY:
        raise ValueError(
            f"format {format!r} is lossy: compression changes the perturbation, and may leave the ball; "
            f"use one of {', '.join(FORMATS)}"
        )
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")


def _budget(attack: Attack, eps: float | None, norm: str | None) -> tuple[float, str]:
    known: dict[str, Any] = dict(attack.settings) if isinstance(attack, Recipe) else {}
    eps = known.get("eps") if eps is None else eps
    if eps is None:
        raise ValueError(
            "give eps and norm: this attack does not say them, and rounding must stay in the ball"
        )
    return float(eps), norm or str(known.get("norm", "linf"))
