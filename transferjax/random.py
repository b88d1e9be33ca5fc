"""Per-example randomness: the same seed gives the same draw whatever the batch size or device count.

Wherever the library asks for a `key`, it takes one key, or one per example, of either style: of
`jax.random.key`, or the `uint32` arrays of `jax.random.PRNGKey`. Crafting over a data set passes
`fold_in(key, indices)` with the examples' indices in it; a lone batch may pass a single key.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transferjax.typing import Array, Key


def typed(key: Any) -> Key:
    """The key or keys with a dtype of their own: old-style `uint32 [2]` is one key, `[B, 2]` are B.

    Raises:
        ValueError: what is no key.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    threefry = jax.config.jax_default_prng_impl == "threefry2x32"  # type: ignore[attr-defined]
    if dtype == jnp.uint32 and shape[-1:] == (2 if threefry else 4,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    got = f"{type(key).__name__} {key!r:.40}" if dtype is None else f"{dtype} {shape}"
    raise ValueError(f"expected one key, or one per example, such as jax.random.key(0); got {got}")


def one_key(key: Any) -> Key:
    """A single key, of either style.

    Raises:
        ValueError: what is no key, or several.
    """
    key = typed(key)
    if key.ndim:
        raise ValueError(f"expected one key, such as jax.random.key(0); got keys of shape {key.shape}")
    return key


def per_example(key: Key, count: int) -> Key:
    """Keys `[count]`: `key` itself if it already is a batch of keys, else `key` folded with 0 … count-1.

    Raises:
        ValueError: what is no key, or a batch of keys of another length.
    """
    key = typed(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"expected one key, or {count} keys (one per example); got shape {key.shape}")
    return key


def fold_in(key: Key, data: int | Array) -> Key:
    """`jax.random.fold_in` for one key or a batch of keys, and one number or a batch of numbers."""
    key, data = jnp.broadcast_arrays(typed(key), jnp.asarray(data, jnp.uint32))
    fold = jax.random.fold_in
    for _ in range(key.ndim):
        fold = jax.vmap(fold)
    return fold(key, data)


def sample(draw: Callable[..., Array], keys: Key, *args: object, **kwargs: object) -> Array:
    """`draw(key, *args, **kwargs)` for each key `[B]`, stacked: `sample(jax.random.uniform, keys, (2,))`."""
    keys = typed(keys)
    if keys.ndim == 0:
        raise ValueError(
            "expected keys, one per example, such as random.per_example(key, B); got a single one"
        )
    return jax.vmap(lambda key: draw(key, *args, **kwargs))(keys)
