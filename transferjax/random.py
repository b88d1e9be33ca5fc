"""Per-example randomness: the same seed gives the same draw whatever the batch size or device count.

Wherever the library asks for a `key`, it takes one key, or one per example. Crafting over a data set passes
`fold_in(key, indices)` with the examples' indices in it; a lone batch may pass a single key.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from transferjax.typing import Array, Key


def per_example(key: Key, count: int) -> Key:
    """Keys `[count]`: `key` itself if it already is a batch of keys, else `key` folded with 0 … count-1.

    Raises:
        ValueError: a batch of keys of another length.
    """
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"expected one key, or {count} keys (one per example); got shape {key.shape}")
    return key


def fold_in(key: Key, data: int | Array) -> Key:
    """`jax.random.fold_in` for one key or a batch of keys, and one number or a batch of numbers."""
    key, data = jnp.broadcast_arrays(key, jnp.asarray(data, jnp.uint32))
    fold = jax.random.fold_in
    for _ in range(key.ndim):
        fold = jax.vmap(fold)
    return fold(key, data)


def sample(draw: Callable[..., Array], keys: Key, *args: object, **kwargs: object) -> Array:
    """`draw(key, *args, **kwargs)` for each key `[B]`, stacked: `sample(jax.random.uniform, keys, (2,))`."""
    return jax.vmap(lambda key: draw(key, *args, **kwargs))(keys)
