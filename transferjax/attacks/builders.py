"""What the recipes are built with: `ascend` in a ball of some norm, and MI-FGSM around rules."""

from collections.abc import Sequence
from typing import TypeVar, Unpack

import optax

from transferjax.attacks import projections, updates
from transferjax.attacks.ascend import ascend
from transferjax.attacks.ensembles import Ensemble, mean_losses
from transferjax.attacks.projections import Start
from transferjax.attacks.recipe import Momentum, Options
from transferjax.attacks.rules import along, lookahead, through
from transferjax.attacks.vocabulary import loss_of
from transferjax.typing import Attack, Loss, Projection, Rule

T = TypeVar("T")

PAPER_EPS = 16 / 255
"""The L∞ budget for which the papers on transfer state their lengths."""


def given(value: T | None, usual: T) -> T:
    """The value, or the usual one if it is None."""
    return usual if value is None else value


def paper_length(length: float, eps: float, norm: str) -> float:
    """A length that a paper fixes at `PAPER_EPS`: as it is in L∞, the same share of the budget in L2."""
    return length if norm == "linf" else length * eps / PAPER_EPS


def in_ball(
    update: optax.GradientTransformation,
    *own: Rule,
    eps: float,
    steps: int,
    norm: str,
    random_start: bool,
    targeted: bool,
    loss: str | Loss,
    outer_rules: Sequence[Rule],
    inner_rules: Sequence[Rule],
    project: Projection | None,
    quantize: bool,
    ensemble: Ensemble | None = None,
    start: Start | None = None,
) -> Attack:
    """`ascend` with the projection, start and rounding that belong to a norm and a budget.

    Args:
        update: a step up.
        own: the recipe's rules, between the `outer_rules` and the `inner_rules` of its user.
        start: a random start instead of the uniform one.
        eps, steps, and the others: as in `recipe.MEANINGS`.
    """
    return ascend(
        update,
        given(project, projections.ball(norm, eps)),
        steps=steps,
        loss=loss_of(loss),
        rules=(*outer_rules, *own),
        member_rules=inner_rules,
        ensemble=given(ensemble, mean_losses),
        start=given(start, projections.uniform(norm, eps)) if random_start else None,
        targeted=targeted,
        finish=projections.eight_bit(norm, eps) if quantize else None,
    )


def with_momentum(
    *own: Rule,
    eps: float,
    steps: int,
    step_size: float | None,
    decay: float,
    **options: Unpack[Options],
) -> Attack:
    """MI-FGSM around the recipe's own rules; steps of `eps / steps` if `step_size` is None."""
    update = updates.momentum(decay, options["norm"], given(step_size, eps / steps))
    return in_ball(update, *own, eps=eps, steps=steps, **options)


def nesterov(eps: float, steps: int, options: Momentum) -> Rule:
    """The look-ahead that goes with a recipe's momentum."""
    step_size = given(options["step_size"], eps / steps)
    return lookahead(options["decay"], step_size, along(options["norm"]))


def smoothed(kernel_size: int) -> Rule:
    """TI, with a Gaussian that ends at three standard deviations."""
    return through(updates.smooth(kernel_size, (kernel_size - 1) / 6))
