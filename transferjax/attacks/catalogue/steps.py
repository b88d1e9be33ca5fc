"""The catalogue: every published attack as one combination over `ascend`.

The options that all share are in `recipe.MEANINGS`, and in the help of each. Steps are the papers': `eps /
steps` in most, 2.5 times that in PGD, and what the docstring says in the others.
"""

from typing import Unpack

import jax

from transferjax.attacks import projections, rules, updates
from transferjax.attacks.builders import given, in_ball, nesterov, with_momentum
from transferjax.attacks.recipe import Momentum, Options, recipe
from transferjax.random import per_example, sample
from transferjax.typing import Array, Attack, Key, Predict


@recipe
def noise(eps: float, *, norm: str = "linf", targeted: bool = False, quantize: bool = False) -> Attack:
    """No attack: `x + eps · (random signs)` (L∞), or a step of length `eps` in a random direction (L2).

    The row that every table of transfer needs: an attack whose success lies below it is worse than its size.
    Neither predict nor the labels are looked at; every image has a draw of its own.

    Args:
        targeted: among which rows it stands; changes nothing.
    """
    project, finish = projections.ball(norm, eps), projections.eight_bit(norm, eps)

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        draw = jax.random.rademacher if norm == "linf" else jax.random.normal
        direction = sample(draw, per_example(key, len(images)), images.shape[1:], images.dtype)
        step = updates.steepest(norm, eps)
        x = project(images + updates.applied(step, direction), images)
        return finish(x, images) if quantize else x

    return attack


@recipe
def fgsm(eps: float, **options: Unpack[Options]) -> Attack:
    """Fast gradient sign method: one steepest step to the border, `x + eps · sign ∇L`.

    Reference: Goodfellow et al., ICLR 2015, section 4.
    """
    return in_ball(updates.steepest(options["norm"], eps), eps=eps, steps=1, **options)


@recipe(random_start=True)
def pgd(eps: float, steps: int = 10, *, step_size: float | None = None, **options: Unpack[Options]) -> Attack:
    """Projected gradient ascent: `x ← project(x + step_size · steepest(∇L))`.

    Args:
        step_size: length of one step in the same norm; if None `2.5 eps / steps`, so that the border can be
            reached from any start.

    Reference: Madry et al., ICLR 2018 (100 steps of 2.5 ε / 100 in section 5). Table configs of the S&P 2024
    paper: no random start, `quantize`.
    """
    update = updates.steepest(options["norm"], given(step_size, 2.5 * eps / steps))
    return in_ball(update, eps=eps, steps=steps, **options)


@recipe(without=("random_start",))
def bim(eps: float, steps: int = 10, *, step_size: float | None = None, **options: Unpack[Options]) -> Attack:
    """Basic iterative method, I-FGSM: steepest steps from the clean image.

    Reference: Kurakin et al., ICLR workshop 2017, section 2.2, where the step is 1/255 and there are
    min(ε + 4, 1.25 ε) of them; `eps / steps` is how Dong et al., CVPR 2018, and the papers on transfer after
    it run I-FGSM.
    """
    update = updates.steepest(options["norm"], given(step_size, eps / steps))
    return in_ball(update, eps=eps, steps=steps, **options | {"random_start": False})


@recipe
def mi_fgsm(eps: float, steps: int = 10, **options: Unpack[Momentum]) -> Attack:
    """Momentum: `m ← decay · m + g / mean|g|`, then the steepest step along m.

    Reference: Dong et al., CVPR 2018, algorithm 1: steps of `eps / steps`, ten, decay 1.
    """
    return with_momentum(eps=eps, steps=steps, **options)


@recipe
def ni_fgsm(eps: float, steps: int = 10, **options: Unpack[Momentum]) -> Attack:
    """Nesterov momentum: the gradient at `x + decay · step_size · m`.

    m sums gradients of mean absolute value one (L∞), or of length one (L2).

    Reference: Lin et al., ICLR 2020, algorithm 1: steps of `eps / steps`, ten.
    """
    ahead = nesterov(eps, steps, options)
    return with_momentum(ahead, eps=eps, steps=steps, **options)


@recipe
def emi_fgsm(
    eps: float,
    steps: int = 10,
    *,
    samples: int = 11,
    radius: float = 7.0,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Enhanced momentum: gradients at `samples` points along the previous one, up to `radius` steps away.

    Reference: Wang et al., BMVC 2021, algorithm 1: steps of `eps / steps`, ten, N = 11, radius 7.
    """
    step_size, direction = given(options["step_size"], eps / steps), rules.along(options["norm"])
    along = rules.enhanced_momentum(step_size, samples, radius, direction, chunk=chunk)
    return with_momentum(along, eps=eps, steps=steps, **options)


@recipe
def pi_fgsm(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    beta: float = 10.0,
    gamma: float | None = None,
    kernel_size: int = 3,
    **options: Unpack[Options],
) -> Attack:
    """Patch-wise: steps amplified by `beta`, their overshoot spread over the neighbours with length `gamma`.

    Args:
        gamma: `beta · step_size` if None, as in the official code: 16/255 there.

    Raises:
        ValueError: norm="l2": what overshoots the budget of a pixel has no meaning there.

    Reference: Gao et al., ECCV 2020, algorithm 1: steps of `eps / steps`, ten.
    """
    if options["norm"] != "linf":
        raise ValueError(
            f"pi_fgsm hands on what overshoots a pixel's budget, which only norm='linf' has; got norm="
            f"{options['norm']!r}: use mi_fgsm or tim"
        )
    step_size = given(step_size, eps / steps)
    update = updates.patch_wise(eps, step_size, beta=beta, gamma=gamma, kernel_size=kernel_size)
    return in_ball(update, eps=eps, steps=steps, **options)
