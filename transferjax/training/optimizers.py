"""SGD as PyTorch has it, and learning rates along training; everything else is optax."""

from collections.abc import Sequence

import optax


def warmup_cosine(peak: float, *, warmup: int, steps: int) -> optax.Schedule:
    """Learning rate `peak · s/W` up to step W, then `peak · ½ (1 + cos π (s − W)/(S − W))`.

    Reference: the S&P 2024 official code, which moves per epoch between the same endpoints.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup}: expected at least 0 and less than steps={steps}")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)


def step_decay(peak: float, *, at: Sequence[int], factor: float = 0.1) -> optax.Schedule:
    """Learning rate `peak`, multiplied by `factor` from each step of `at` on."""
    return optax.piecewise_constant_schedule(peak, dict.fromkeys(at, factor))


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
