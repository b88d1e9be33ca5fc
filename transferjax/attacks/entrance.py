"""What every attack does around its own work: checks, batches of no image, images of half precision.

The loops run in float32 at least: a step of 1/255 is lost in half of all bfloat16 pixels. What comes back has
the dtype that came, rounded so that it stays in the ball.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from transferjax.attacks.projections import inwards
from transferjax.checks import check_examples, check_no_nan
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
) -> Any:
    """`run(key, predict, images, labels)`, with images that it can work with.

    Args:
        run: the attack itself; sees images of float32 or wider, at least one if there is no `info`.
        key, predict, images, labels: as every attack takes them.
        soft: probabilities `[B, K]` may stand for the labels.
        info: `run` takes `info=True`, and returns a pair.

    Raises:
        ValueError: see `checks`; adversarial images with NaN, where there are values.
    """
    check_examples(images, labels, soft=soft, empty=True)
    images = jnp.asarray(images)
    if not len(images) and not info:
        return images
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    found = run(key, predict, wide, labels, **({"info": True} if info else {}))
    x, seen = found if info else (found, None)
    check_no_nan(x, "the attack ends in NaN", "the gradient of predict: a norm, a sqrt or a division at zero")
    return (inwards(x, images), seen) if info else inwards(x, images)
