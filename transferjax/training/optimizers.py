"""SGD as PyTorch has it, and learning rates along training; everything else is optax."""

from collections import Counter
from collections.abc import Sequence

import optax


def warmup_cosine(peak: float, *, warmup: int, steps: int) -> optax.Schedule:
    """Learning rate `peak · s/W` up to step W, then `peak · ½ (1 + cos π (s − W)/(S − W))`.

    Reference: the S&P 2024 official code, which moves per epoch between the same endpoints.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup}: expected at least 0 and less than steps={steps}")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)


def triangular(
    peak: float, *, steps: int, start: float = 0.2, end: float = 0.07, at: float = 0.23
) -> optax.Schedule:
    """Learning rate along lines: `start · peak` at step 0, `peak` at `at · S`, `end · peak` at step S.

    Reference: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.
    """
    top = round(at * steps)
    if not 0 < top < steps or min(start, end) < 0:
        raise ValueError(
            f"expected the peak between the first and the last step, and start, end of at least 0; "
            f"got {at=} of {steps=}, {start=}, {end=}"
        )
    up = optax.linear_schedule(start * peak, peak, top)
    return optax.join_schedules([up, optax.linear_schedule(peak, end * peak, steps - top)], [top])


def step_decay(peak: float, *, at: Sequence[int], factor: float = 0.1) -> optax.Schedule:
    """Learning rate `peak`, multiplied by `factor` from each step of `at` on, twice where it stands twice."""
    return optax.piecewise_constant_schedule(peak, {step: factor**n for step, n in Counter(at).items()})


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: weight decay joins the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.sgd(learning_rate, momentum or None, nesterov),
    )
