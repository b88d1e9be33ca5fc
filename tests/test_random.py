"""Per-example keys: an example's draw does not depend on its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax.random import fold_in, per_example, sample

KEY = jax.random.key(3)


def draw(keys):
    return np.asarray(sample(jax.random.normal, keys, (2,)))


def test_a_draw_does_not_depend_on_the_rest_of_the_batch():
    keys = per_example(KEY, 6)
    np.testing.assert_array_equal(draw(keys[2:5]), draw(keys)[2:5])
    np.testing.assert_array_equal(draw(per_example(KEY, 3)), draw(keys)[:3])
    assert len(np.unique(draw(keys))) == 12


def test_a_batch_of_keys_is_used_as_it_is():
    keys = per_example(KEY, 4)
    np.testing.assert_array_equal(draw(per_example(keys, 4)), draw(keys))
    with pytest.raises(ValueError, match="5 keys"):
        per_example(keys, 5)


def test_fold_in_broadcasts():
    keys = per_example(KEY, 4)
    one_by_one = jnp.stack([jax.random.fold_in(key, 7) for key in keys])
    np.testing.assert_array_equal(draw(fold_in(keys, 7)), draw(one_by_one))
    np.testing.assert_array_equal(
        draw(fold_in(jnp.broadcast_to(KEY, (4,)), jnp.arange(4))), draw(per_example(KEY, 4))
    )
