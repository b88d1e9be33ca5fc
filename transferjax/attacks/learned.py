"""Transformations that a policy draws, which learns while the attack goes on."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks import inputs
from transferjax.attacks.rules import average
from transferjax.attacks.warps import Operation, operate
from transferjax.chain import chain, traced_once
from transferjax.checks import check_images
from transferjax.random import fold_in, sample
from transferjax.typing import Array, GradFn, Key, Memory, Rule

Operate = Callable[[Key, Array, Array], Array]
"""(one key, one image `[H, W, C]`, number of the operation) -> the image after it."""


class Choice(NamedTuple):
    """An operation by its kind, one of `KINDS`, and the values of which each draw takes one."""

    kind: str
    values: tuple[float, ...]


KINDS = ("angle", "scale", "rate", "zoom", "shift", "shuffle", "admix", "drop", "mask", "spectrum")
"""What an operation of L2T may be: the first five are fields of `warps.Operation`."""
WARPS = 5
MOST_BLOCKS, ADMIX_SCALES = 12, 3
SHARES = "1 12 123 1234 12345 2345 1345 1245 1235 1234"  # tenths of the values that are dropped

CHOICES = (
    Choice("angle", (0.0,)),
    *(Choice("angle", tuple(angle / 2**n for n in range(5))) for angle in range(30, 301, 30)),
    *(Choice("scale", tuple(2.0**n for n in range(count))) for count in range(1, 11)),
    *(Choice("rate", (1.1 + 0.05 * n,)) for n in range(10)),
    *(Choice("shuffle", (float(blocks),)) for blocks in range(3, MOST_BLOCKS + 1)),
    *(Choice("admix", (ratio,)) for ratio in (0.2, 0.4) for _ in range(5)),
    *(Choice("drop", tuple(int(tenths) / 10 for tenths in shares)) for shares in SHARES.split()),
    *(Choice("mask", (float(blocks),)) for blocks in range(2, 12)),
    *(Choice("spectrum", (n / 10,)) for n in range(1, 10)),
    *(Choice("zoom", tuple(1 / (r / 10 + (1 - r / 10) * n / 5) for n in range(1, 6))) for r in range(1, 10)),
    *(Choice("shift", tuple((0.5 + 0.05 * r) * n / 5 for n in range(1, 6))) for r in range(9)),
)
"""The 98 operations of L2T's official code, the identity first."""


def _masked(key: Key, x: Array, blocks: Array) -> Array:
    """One image without one block of a grid of `blocks` in each direction."""
    hidden = []
    for side, size in zip(jax.random.split(key), x.shape[:2], strict=True):
        which, place = jnp.floor(blocks * jax.random.uniform(side)), jnp.arange(size)
        start, end = (jnp.round(edge * size / blocks) for edge in (which, which + 1))
        hidden.append((start <= place) & (place < end))
    return jnp.where((hidden[0][:, None] & hidden[1])[..., None], 0, x)


def operations(pool: Array, sigma: float | Array, norm: str = "linf") -> Operate:
    """What `CHOICES` do: for each image one of the values of the operation, as likely as the others.

    Args:
        pool: images `[P, H, W, C]` in [0, 1] that are mixed in.
        sigma, norm: of the noise before a random spectrum, as in `inputs.spectrum`.
    """
    check_images(pool, "pool")

    def warped(key: Key, x: Array, kind: Array, value: Array) -> Array:
        fields = jnp.array([KINDS.index(f) if f in KINDS else -1 for f in Operation._fields])
        entries = jnp.where(fields == kind, value, jnp.array(Operation(), value.dtype))
        return operate(key, x, Operation(*entries))

    def admixed(key: Key, x: Array, _: Array, ratio: Array) -> Array:
        which, scale = jax.random.split(key)
        y = inputs.admix(pool, cast(float, ratio))(which[None], x[None], 0)[0]  # it may be traced
        return y / 2.0 ** jax.random.randint(scale, (), 0, ADMIX_SCALES)

    branches = (
        warped,
        lambda key, x, _, blocks: inputs.shuffled_blocks(key, x, blocks, MOST_BLOCKS),
        admixed,
        lambda key, x, _, share: jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x, 0),
        lambda key, x, _, blocks: _masked(key, x, blocks),
        lambda key, x, _, rho: inputs.spectrum(cast(float, sigma), rho, norm)(key[None], x[None], 0)[0],
    )
    same = [lambda *given, one=one: one(*given).astype(given[1].dtype) for one in branches]
    counts = np.array([len(choice.values) for choice in CHOICES])
    kinds = np.array([KINDS.index(choice.kind) for choice in CHOICES])
    table = np.array([np.resize(choice.values, counts.max()) for choice in CHOICES])

    def one(key: Key, x: Array, number: Array) -> Array:
        which, draw = jax.random.split(key)
        kind, exact = jnp.asarray(kinds)[number], jnp.promote_types(x.dtype, jnp.float32)
        place = jax.random.randint(which, (), 0, jnp.asarray(counts)[number])
        value = jnp.asarray(table, exact)[number, place]
        return jax.lax.switch(jnp.maximum(kind - WARPS + 1, 0), same, draw, x, kind, value)

    return one


def probability(policy: Array, drawn: Array) -> Array:
    """`Π_k softmax(θ)_{c_k}`, `[B]`, of operations `drawn [B, depth]` by logits `policy [B, count]`."""
    return jnp.take_along_axis(jax.nn.softmax(policy), drawn, -1).prod(-1)


def policy(operate: Operate, count: int, depth: int = 2, rate: float = 0.01) -> Rule:
    """`Jᵀ g(T(x))`, T some operations one after the other, drawn by logits θ: `θ ← θ + rate · L ∇θ p(T)`.

    p is the product of the operations' probabilities, softmax(θ). Every image has logits of its own, kept
    from step to step; they begin at zero, all operations as likely.

    Args:
        operate: what the operations do.
        count: of operations.
        depth: operations in T, drawn with replacement.
        rate: of the logits, up the objective.

    Reference: Zhu et al. (L2T), CVPR 2024.
    """

    def rule(grad_fn: GradFn) -> GradFn:
        def drawn_by(x: Array, memory: Memory, keys: Key, labels: Array):
            exact = jnp.promote_types(x.dtype, jnp.float32)
            theta = memory.get("policy", jnp.zeros((len(x), count), exact))
            shared = {name: value for name, value in memory.items() if name != "policy"}
            draw = lambda key, theta: jax.random.categorical(key, theta, shape=(depth,))  # noqa: E731
            drawn = jax.vmap(draw)(fold_in(keys, 0), theta)

            def composed(x: Array) -> Array:
                each = sample(jax.random.split, fold_in(keys, 1), depth).swapaxes(0, 1)
                step = lambda x, given: (jax.vmap(traced_once(operate))(given[0], x, given[1]), None)  # noqa: E731
                return jax.lax.scan(step, x, (each, drawn.swapaxes(0, 1)))[0]

            y, pull = jax.vjp(composed, x)
            (values, after), grads = grad_fn(y, shared, fold_in(keys, 2), labels)
            better = jax.grad(lambda theta: (values * probability(theta, drawn)).sum())(theta)
            return (values, after | {"policy": theta + rate * better}), pull(grads)[0]

        return drawn_by

    return rule


def learned_transforms(
    pool: Array,
    sigma: float | Array,
    samples: int = 3,
    *,
    depth: int = 2,
    policy_rate: float = 0.01,
    norm: str = "linf",
    chunk: int = 1,
) -> Rule:
    """The mean gradient over N compositions of `operations` that a `policy` draws; it takes the mean step.

    Args:
        pool: images `[P, H, W, C]` that are mixed in.
        sigma, norm: of the noise before a random spectrum.
        samples: N.
        depth: operations in a composition.
        policy_rate: of the policy.
        chunk: compositions at once; divides N.
    """
    drawn = policy(operations(pool, sigma, norm), len(CHOICES), depth, policy_rate)
    return chain(average(lambda keys, x, _: x, samples, chunk=chunk), drawn)
