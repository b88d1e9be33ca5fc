"""What every attack does around its own work: checks, batches of no image, images of half precision.

The loops run in float32 at least: a step of 1/255 is lost in half of all bfloat16 pixels. What comes back has
the dtype that came, rounded so that it stays in the ball.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transferjax.attacks.projections import inwards
from transferjax.checks import check_examples, check_labels, check_no_nan, has_values
from transferjax.predicts.snapshots import Snapshots, nets_of
from transferjax.typing import Array, Key, Predict


def enter(
    run: Callable[..., Any],
    key: Key,
    predict: Predict,
    images: Array,
    labels: Array,
    *,
    soft: bool = False,
    info: bool = False,
    name: str = "the attack",
) -> Any:
    """`run(key, predict, images, labels)`, with images that it can work with.

    Args:
        run: the attack itself; sees images of float32 or wider, at least one if there is no `info`.
        key, predict, images, labels: as every attack takes them.
        soft: probabilities `[B, K]` may stand for the labels.
        info: `run` takes `info=True`, and returns a pair.
        name: what errors call it.

    Raises:
        TypeError: a predict in the place of the key; a module or tensors of PyTorch, a Flax module without
            weights.
        ValueError: see `checks`; labels that are no classes of predict, where there are values; what is no
            adversarial images of the same shape, or has NaN, where there are values.
    """
    if callable(key):
        raise TypeError(f"key comes first, {name}(key, predict, images, labels); got {type(key).__name__}")
    _check_kind(predict, images)
    check_examples(images, labels, soft=soft, empty=True)
    images = jnp.asarray(images)
    if not len(images) and not info:
        return images
    if has_values(labels) and has_values(images) and jnp.ndim(labels) == 1:
        _check_classes(predict, images, labels)
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    found = run(key, predict, wide, labels, **({"info": True} if info else {}))
    x, seen = found if info else (found, None)
    if getattr(x, "shape", None) != images.shape:
        said = f"shape {x.shape}" if hasattr(x, "shape") else type(x).__name__
        raise ValueError(f"{name} must return images of the shape it was given, {images.shape}; got {said}")
    check_no_nan(x, f"{name} ends in NaN", "the gradient of predict: a norm, a sqrt or a division at zero")
    return (inwards(x, images), seen) if info else inwards(x, images)


def _check_kind(predict: Any, images: Any) -> None:
    """What has to be made a predict, or arrays, first; looks at types alone."""
    kinds = {kind.__module__ for kind in type(predict).__mro__}
    if "torch.nn.modules.module" in kinds:
        raise TypeError("predict is a module of PyTorch: predicts.from_torch_module(module) makes it one")
    if "flax.linen.module" in kinds and getattr(predict, "scope", None) is None:
        raise TypeError("predict is a Flax module without weights: models.predictor(module, variables)")
    if type(images).__module__.partition(".")[0] == "torch":
        raise TypeError("images are a tensor of PyTorch: images.permute(0, 2, 3, 1).numpy() is [B, H, W, C]")


def _check_classes(predict: Any, images: Array, labels: Array) -> None:
    """Labels that every predict has a logit for; looks at shapes alone."""
    for member in (predict.at(0),) if isinstance(predict, Snapshots) else nets_of(predict):
        try:
            logits = jax.eval_shape(member, images)
        except Exception:  # what is wrong with it is said by who needs its answers
            return
        if len(getattr(logits, "shape", ())) == 2:
            check_labels(labels, len(images), logits.shape[1])
