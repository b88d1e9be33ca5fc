"""The types every piece of the library speaks.

Training moves the weights down a loss; an attack moves the image up it. Both are four slots:

    slot         training                                   attack
    transform    crop, mixup, adversarial examples          random start
    objective    cross-entropy plus penalties               one loss value per example
    rule         SAM, ER, LookSAM                           DI, variance tuning, PGN, ensembles
    update       optax                                      optax, then a projection

A piece is a pure function, made by a factory that takes the hyper-parameters. The library calls
`jax.jit` nowhere; whoever runs the loop does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any

Key: TypeAlias = jax.Array
"""A typed PRNG key (`jax.random.key`): one `[]`, or one per example `[B]`; see `transferjax.random`, which
takes the old style (`jax.random.PRNGKey`) too."""

Memory: TypeAlias = dict[str, Any]
"""What a gradient function carries from one step to the next, by name; starts at zero.

Training keeps `batch_stats` and `metrics` there; a rule with state (LookSAM, variance tuning) reads its own
entry with a default of zeros and returns it.
"""


class Batch(NamedTuple):
    """Images `[B, H, W, C]` in [0, 1] and targets `[B, K]`, one probability vector per image.

    Whoever trains may say which examples they are, int32 `[B]`, and of what epoch, int32 `[B]`.
    """

    images: Array
    targets: Array
    indices: Array | None = None
    epoch: Array | None = None


Predict: TypeAlias = Callable[[Array], Array]
"""Images `[B, H, W, C]` in [0, 1] -> logits `[B, K]`. A pytree (`jax.tree_util.Partial`) that holds the
weights as leaves; normalization lives inside."""

Loss: TypeAlias = Callable[[Array, Array], Array]
"""(logits `[B, K]`, targets: probabilities `[B, K]` or classes `[B]`) -> losses `[B]`."""

Transform: TypeAlias = Callable[[Key, Batch, Predict], Batch]
"""(keys, batch, predict with frozen batch statistics) -> batch; once per step."""

Pullback: TypeAlias = Callable[[Array], Array]
"""Cotangents of the logits `[B, K]` -> cotangents of the images `[B, H, W, C]`."""

Penalty: TypeAlias = Callable[[Key, Array, Array, Pullback], Array]
"""(keys, logits `[B, K]`, targets `[B, K]`, pullback) -> scalar; a step's penalties share one pullback."""

GradFn: TypeAlias = Callable[..., tuple[tuple[Array, Memory], PyTree]]
"""(variable, memory, *data) -> ((value, memory), gradient of the value's sum w.r.t. the variable).

Training: variable = parameters, data = (keys, batch), value = scalar.
Attack: variable = images, data = (keys, labels), value = losses `[B]`.
"""

Rule: TypeAlias = Callable[[GradFn], GradFn]
"""Turns a gradient into another one, calling it as often, and wherever, it likes."""

Projection: TypeAlias = Callable[[Array, Array], Array]
"""(x, x0) -> the point nearest to x that lies in the ball around x0 and in [0, 1]."""

Attack: TypeAlias = Callable[[Key, Predict, Array, Array], Array]
"""(key or keys, predict, images `[B, H, W, C]`, labels `[B]`) -> adversarial images `[B, H, W, C]`."""
