"""Several nets: `Snapshots` of one function, and one predict that holds the others."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from transferjax.checks import check_outputs
from transferjax.classes import noting
from transferjax.random import one_key
from transferjax.typing import Array, Key, Predict


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Snapshots:
    """Nets that share one function: `predict` with a leading axis over its weights.

    The weights of one step are a slice of the stack, so ten snapshots compile like one net.
    """

    predict: Predict

    @classmethod
    def stack(cls, predicts: Sequence[Predict]) -> "Snapshots":
        """Stacks predicts of the same structure, such as the checkpoints of one training."""
        return cls(jax.tree.map(lambda *leaves: jnp.stack(leaves), *predicts))

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.predict)[0])

    def at(self, number: int | Array) -> Predict:
        """One of the snapshots; the number may be traced."""
        return jax.tree.map(lambda leaf: leaf[number], self.predict)


def nets_of(predict: Predict | Sequence[Predict] | Snapshots) -> tuple[Predict, ...]:
    """The nets in what an attack takes: one, several, or those of snapshots."""
    if isinstance(predict, Snapshots):
        return tuple(predict.at(number) for number in range(len(predict)))
    return tuple(predict) if isinstance(predict, Sequence) else (predict,)


def of_each(predict: Predict | Sequence[Predict] | Snapshots, change: Callable[[Predict], Predict]) -> Any:
    """`change` of the net, or the tuple of those of several."""
    nets = tuple(map(change, nets_of(predict)))
    return nets if isinstance(predict, Sequence | Snapshots) else nets[0]


def _noted(predicts: Sequence[Predict]) -> list[Predict]:
    """The predicts, which must have equally many logits."""
    counts: dict[str, int] = {}
    return [noting(predict, f"model {i}", counts) for i, predict in enumerate(predicts)]


def check_members(predict: Predict | Sequence[Predict] | Snapshots, x: Array) -> None:
    """Several predicts have equally many logits; looks at shapes alone.

    Raises:
        ValueError: with their numbers.
    """
    if isinstance(predict, tuple | list) and len(predict) > 1:
        for member in _noted(predict):
            jax.eval_shape(member, x)


def swag(predicts: Sequence[Predict] | Snapshots, key: Key, count: int = 20, scale: float = 1.5) -> Snapshots:
    """Nets drawn around those of one training: `w ~ N(w̄, scale² diag(mean w² - w̄²))`.

    Batch statistics are the mean of theirs, and not drawn.

    Args:
        predicts: at least two of one structure, such as the checkpoints of a training at a constant rate.
        key: of the draws.
        count: of nets.
        scale: of their distance from the mean, in standard deviations.

    Raises:
        ValueError: fewer than two nets, which have no spread.

    Reference: Li et al., "Making Substitute Models More Bayesian Can Enhance Transferability of Adversarial
    Examples", ICLR 2023: about 300 weights of ten epochs, 20 draws at 1.5; training with `rules.gnp`. SWAG
    with a diagonal covariance is Maddox et al., NeurIPS 2019.
    """
    stack = predicts if isinstance(predicts, Snapshots) else Snapshots.stack(predicts)
    if len(stack) < 2:
        raise ValueError(f"expected at least 2 nets to tell their spread; got {len(stack)}")
    key = one_key(key)

    def drawn(path: jax.tree_util.KeyPath, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        mean = jnp.broadcast_to(leaf.mean(0), (count, *leaf.shape[1:]))
        if "batch_stats" in name:
            return mean
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return mean + scale * leaf.std(0) * jax.random.normal(own, mean.shape, leaf.dtype)

    return Snapshots(jax.tree_util.tree_map_with_path(drawn, stack.predict))


def swag_mean(*predicts: Predict, count: int = 20, scale: float = 1.5, seed: int = 0) -> Predict:
    """One predict with the mean of the logits of the nets that `swag` draws, always the same ones.

    Args:
        predicts: at least two nets of one training.
        count, scale: of `swag`.
        seed: of the draws.

    Raises:
        ValueError: fewer than two nets.
    """
    return jax.tree_util.Partial(_mean_of_stack, swag(predicts, jax.random.key(seed), count, scale))


def _mean_of_stack(snapshots: Snapshots, x: Array) -> Array:
    """One net after the other: the loop compiles like one."""

    def add(total: Array, predict: Predict) -> tuple[Array, None]:
        return total + predict(x), None

    logits = jax.eval_shape(snapshots.at(0), x)
    check_outputs(logits, len(x))
    total, _ = jax.lax.scan(add, jnp.zeros(logits.shape, logits.dtype), snapshots.predict)
    return total / len(snapshots)


def _logits(predicts: Sequence[Predict], x: Array) -> Array:
    """Of all nets, `[n, B, K]`."""
    found = [predict(x) for predict in _noted(predicts)]
    for logits in found:
        check_outputs(logits, len(x))
    return jnp.stack(found)


def _mean_of_logits(predicts: tuple[Predict, ...], x: Array) -> Array:
    return _logits(predicts, x).mean(0)


def _sum_of_logits(predicts: tuple[Predict, ...], weights: Array, x: Array) -> Array:
    return (weights[..., None] * _logits(predicts, x)).sum(0)


def log_mean_probabilities(logits: Array) -> Array:
    """`log 1/n Σ_i softmax(z_i)` of logits `[n, B, K]`; finite where all these probabilities underflow."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))


def _log_mean_of_probabilities(predicts: tuple[Predict, ...], x: Array) -> Array:
    return log_mean_probabilities(_logits(predicts, x))


def mean_logits(*predicts: Predict) -> Predict:
    """One predict with the mean of the logits.

    Reference: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018.
    """
    return jax.tree_util.Partial(_mean_of_logits, predicts)


def weighted_logits(predicts: Sequence[Predict], weights: Array) -> Predict:
    """One predict with `Σ_i w_i z_i`, the logits of n nets by weights `[n, B]`, or `[n, 1]`."""
    return jax.tree_util.Partial(_sum_of_logits, tuple(predicts), weights)


def mean_probabilities(*predicts: Predict) -> Predict:
    """One predict whose logits are the log of the mean probabilities."""
    return jax.tree_util.Partial(_log_mean_of_probabilities, predicts)
