"""The order of training and the completeness of evaluation."""

from itertools import islice

import chex
import jax
import numpy as np
import pytest

from transferjax.data import (
    Dataset,
    batch_indices,
    eval_batches,
    even_batch_size,
    steps_per_epoch,
    train_batches,
)
from transferjax.data.dataset import permutation


def numbered(count):
    """A data set in which every image holds its own index."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1))
    return Dataset(images, np.arange(count) % 7, tuple("abcdefg"))


def host(batches):
    return [jax.tree.map(np.asarray, batch) for batch in batches]


def test_the_permutation_never_changes():
    # written down once: runs of the past must stay reproducible
    np.testing.assert_array_equal(permutation(0, 0, 8), [0, 2, 1, 5, 4, 3, 6, 7])
    assert permutation(0, 0, 8).dtype == np.int32


def test_permutations_are_uniform_over_seeds():
    first = np.bincount([permutation(seed, 3, 5)[0] for seed in range(2000)], minlength=5)
    assert ((first - 400) ** 2 / 400).sum() < 18.5  # chi-square, 4 degrees of freedom, 99.9 %


def test_an_epoch_takes_every_example_at_most_once():
    steps = steps_per_epoch(23, 4)
    assert steps == 5
    order = np.stack([batch_indices(1, step, 23, 4) for step in range(3 * steps)])
    epochs = order.reshape(3, 20)
    for epoch in epochs:
        assert len(set(epoch)) == 20
    assert len({tuple(epoch) for epoch in epochs}) == 3
    np.testing.assert_array_equal(epochs[2], permutation(1, 2, 23)[:20])


@pytest.mark.parametrize(("size", "batch_size"), [(4, 5), (4, 0), (4, -1)])
def test_refuses_batches_that_do_not_fit(size, batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} does not fit a data set of 4"):
        batch_indices(0, 0, size, batch_size)


def test_training_batches_hold_the_examples_of_their_step():
    data = numbered(23)
    for step, batch in enumerate(host(islice(train_batches(data, 4, seed=5), 13))):
        np.testing.assert_array_equal(batch.indices, batch_indices(5, step, 23, 4))
        np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.indices)
        np.testing.assert_array_equal(batch.labels, batch.indices % 7)
        np.testing.assert_array_equal(batch.weights, 1)
        assert [leaf.dtype for leaf in batch] == [np.uint8, np.int32, np.int32, np.float32]


def test_resuming_continues_the_same_run():
    data = numbered(23)
    whole = host(islice(train_batches(data, 4, seed=5), 12))
    for start in (1, 5, 7):
        rest = host(islice(train_batches(data, 4, seed=5, start_step=start), 12 - start))
        chex.assert_trees_all_equal(rest, whole[start:])


@pytest.mark.parametrize("count", [1, 4, 8, 10])
def test_evaluation_sees_every_example_once_in_full_batches(count):
    batches = host(eval_batches(numbered(count), 4))
    assert {batch.images.shape for batch in batches} == {(4, 2, 2, 1)}
    weights = np.concatenate([batch.weights for batch in batches])
    seen = np.concatenate([batch.images[:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(seen[weights == 1], np.arange(count))
    np.testing.assert_array_equal(weights == 1, np.arange(len(weights)) < count)
    padding = np.concatenate([batch.indices for batch in batches])[weights == 0]
    np.testing.assert_array_equal(padding, 0)


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("at_most", [8, 64, 128])
def test_even_batches_are_no_more_and_nearly_full(at_most, multiple):
    for size in (0, 1, 7, 8, 9, 128, 129, 200, 1000):
        even, batches = even_batch_size(size, at_most, multiple), -(-max(size, 1) // at_most)
        assert even % multiple == 0
        assert even <= at_most
        assert -(-max(size, 1) // even) <= batches
        assert even * batches - max(size, 1) < batches * multiple  # padding


@pytest.mark.parametrize("at_most", [0, -4])
def test_a_batch_holds_something(at_most):
    with pytest.raises(ValueError, match=f"batch_size {at_most}: expected at least 1"):
        even_batch_size(10, at_most)


@pytest.mark.parametrize("batches", [lambda **k: islice(train_batches(numbered(23), 4, seed=2, **k), 7),
                                     lambda **k: eval_batches(numbered(23), 4, **k)])  # fmt: skip
def test_shards_make_up_the_global_batch(batches):
    parts = [host(batches(shard=(process, 2))) for process in range(2)]
    for left, right, whole in zip(*parts, host(batches()), strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), left, right)
        chex.assert_trees_all_equal(joined, whole)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_refuses_shards_that_do_not_exist(shard):
    with pytest.raises(ValueError, match=r"expected \(process, processes\) with 0 <= process < processes"):
        next(iter(eval_batches(numbered(8), 4, shard=shard)))


def test_put_decides_where_a_batch_goes():
    devices = jax.devices()[:2]

    def split(batch):
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        return jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))

    batch = next(train_batches(numbered(23), 4, seed=0, put=split))
    assert batch.images.sharding.device_set == set(devices)
    np.testing.assert_array_equal(batch.indices, batch_indices(0, 0, 23, 4))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetch_moves_batches_ahead_and_changes_nothing(depth):
    moved = []

    def put(batch):
        moved.append(batch.indices)
        return batch

    batches = eval_batches(numbered(20), 4, put=put, prefetch=depth)
    first = next(batches)
    assert len(moved) == depth + 1
    np.testing.assert_array_equal(first.indices, np.arange(4))
    assert len(list(batches)) == 4
    assert len(moved) == 5
