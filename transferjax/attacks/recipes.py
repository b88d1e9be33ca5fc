"""The catalogue: every published attack as one combination over `ascend`.

Hyper-parameters that all share:
    eps: budget, in pixel units of [0, 1] (L∞) or as a Euclidean length (L2).
    step_size: length of one step in the same norm; `2.5 eps / steps` if None, Madry et al.'s choice.
    steps: gradient steps.
    norm: "linf" or "l2".
    decay: of the momentum of MI-FGSM; 0 leaves the momentum out.
    random_start: begin at a uniform draw from the ball.
    targeted: labels are targets.
    loss: a function of `transferjax.losses`, or its name.
    rules: wrapped around the gradient, outside those of the recipe.
    ensemble: how to combine several predicts (see `ensembles`).
    project: a projection instead of the norm's own, such as `projections.l2_nearest(eps)`.
    quantize: round the result to 8 bits inside the ball.
"""

from collections.abc import Sequence
from typing import Any

import optax

from transferjax import losses
from transferjax.attacks import gradients, inputs, projections, updates
from transferjax.attacks.ascend import ascend
from transferjax.attacks.checks import check_budget
from transferjax.attacks.ensembles import Ensemble, mean_losses
from transferjax.attacks.gradients import average
from transferjax.attacks.recipe import recipe
from transferjax.typing import Array, Attack, Loss, Projection, Rule


def in_ball(
    update: optax.GradientTransformation,
    *,
    eps: float,
    steps: int,
    norm: str = "linf",
    random_start: bool = False,
    targeted: bool = False,
    loss: str | Loss = "cross_entropy",
    rules: Sequence[Rule] = (),
    ensemble: Ensemble = mean_losses,
    project: Projection | None = None,
    quantize: bool = False,
) -> Attack:
    """`ascend` with the projection, start and rounding that belong to a norm and a budget."""
    return ascend(
        update,
        projections.ball(norm, eps) if project is None else project,
        steps=steps,
        loss=getattr(losses, loss) if isinstance(loss, str) else loss,
        rules=rules,
        ensemble=ensemble,
        start=projections.uniform(norm, eps) if random_start else None,
        targeted=targeted,
        finish=projections.eight_bit(norm, eps) if quantize else None,
    )


def length(eps: float, steps: int, step_size: float | None, norm: str = "linf") -> float:
    """The length of one step: as given, or `2.5 eps / steps`."""
    check_budget(eps, step_size, steps, norm)
    return 2.5 * eps / steps if step_size is None else step_size


def with_momentum(
    *own: Rule,
    eps: float,
    steps: int,
    step_size: float | None = None,
    decay: float = 1.0,
    norm: str = "linf",
    rules: Sequence[Rule] = (),
    **options: Any,
) -> Attack:
    """MI-FGSM around the recipe's own rules."""
    update = updates.momentum(decay, norm, length(eps, steps, step_size, norm))
    return in_ball(update, eps=eps, steps=steps, norm=norm, rules=(*rules, *own), **options)


@recipe
def fgsm(eps: float, *, norm: str = "linf", **options: Any) -> Attack:
    """Fast gradient sign method: one steepest step to the border, `x + eps · sign ∇L`.

    Reference: Goodfellow et al., ICLR 2015, section 4.
    """
    update = updates.steepest(norm, length(eps, 1, eps, norm))
    return in_ball(update, eps=eps, steps=1, norm=norm, **options)


@recipe
def pgd(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    norm: str = "linf",
    random_start: bool = True,
    **options: Any,
) -> Attack:
    """Projected gradient ascent: `x ← project(x + step_size · steepest(∇L))`.

    Reference: Madry et al., ICLR 2018. (Table configs of the S&P 2024 paper: no random start, `quantize`.)
    """
    update = updates.steepest(norm, length(eps, steps, step_size, norm))
    return in_ball(update, eps=eps, steps=steps, norm=norm, random_start=random_start, **options)


@recipe
def bim(eps: float, steps: int = 10, **options: Any) -> Attack:
    """Basic iterative method: PGD from the clean image.

    Reference: Kurakin et al., ICLR workshop 2017, section 2.2.
    """
    return pgd(eps, steps, random_start=False, **options)


@recipe
def mi_fgsm(eps: float, steps: int = 10, **options: Any) -> Attack:
    """Momentum: `m ← decay · m + g / mean|g|`, then the steepest step along m.

    Reference: Dong et al., CVPR 2018, algorithm 1.
    """
    return with_momentum(eps=eps, steps=steps, **options)


@recipe
def ni_fgsm(
    eps: float, steps: int = 10, *, step_size: float | None = None, decay: float = 1.0, **options: Any
) -> Attack:
    """Nesterov momentum: the gradient at `x + decay · step_size · m`.

    Reference: Lin et al., ICLR 2020, algorithm 1.
    """
    step_size = length(eps, steps, step_size)
    ahead = gradients.lookahead(decay, step_size)
    return with_momentum(ahead, eps=eps, steps=steps, step_size=step_size, decay=decay, **options)


@recipe
def emi_fgsm(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    samples: int = 11,
    radius: float = 7.0,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Enhanced momentum: gradients at `samples` points along the previous one, up to `radius` steps away.

    Reference: Wang et al., BMVC 2021, algorithm 1.
    """
    step_size = length(eps, steps, step_size)
    along = gradients.enhanced_momentum(step_size, samples, radius, chunk=chunk)
    return with_momentum(along, eps=eps, steps=steps, step_size=step_size, **options)


@recipe
def pi_fgsm(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    beta: float = 10.0,
    gamma: float = 16 / 255,
    kernel_size: int = 3,
    **options: Any,
) -> Attack:
    """Patch-wise: steps amplified by `beta`, their overshoot spread over the neighbours with length `gamma`.

    Reference: Gao et al., ECCV 2020, algorithm 1; the step is `eps / steps` there.
    """
    step_size = length(eps, steps, eps / steps if step_size is None else step_size)
    update = updates.patch_wise(eps, step_size, beta=beta, gamma=gamma, kernel_size=kernel_size)
    return in_ball(update, eps=eps, steps=steps, **options)


@recipe
def dim(
    eps: float,
    steps: int = 10,
    *,
    rate: float = 0.9,
    prob: float = 0.5,
    resize_back: bool = False,
    **options: Any,
) -> Attack:
    """Diverse inputs: the gradient at a randomly resized and padded image; see `inputs.diversity`.

    Reference: Xie et al., CVPR 2019.
    """
    diverse = average(inputs.diversity(rate, prob, resize_back=resize_back))
    return with_momentum(diverse, eps=eps, steps=steps, **options)


@recipe
def tim(
    eps: float, steps: int = 10, *, kernel_size: int = 15, sigma: float | None = None, **options: Any
) -> Attack:
    """Translation invariance: the gradient smoothed by a Gaussian; see `updates.smooth`.

    `sigma` is in pixels; if None, the kernel ends at three of them, as in the paper (`nsig = 3`).

    Reference: Dong et al., CVPR 2019.
    """
    smooth = updates.smooth(kernel_size, (kernel_size - 1) / 6 if sigma is None else sigma)
    return with_momentum(gradients.through(smooth), eps=eps, steps=steps, **options)


@recipe
def sim(eps: float, steps: int = 10, *, scales: int = 5, chunk: int = 1, **options: Any) -> Attack:
    """Scale invariance: the mean gradient over `x / 2ⁿ`, n = 0 … scales - 1.

    Reference: Lin et al., ICLR 2020.
    """
    return with_momentum(average(inputs.halve, scales, chunk=chunk), eps=eps, steps=steps, **options)


@recipe
def si_ni_fgsm(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    decay: float = 1.0,
    scales: int = 5,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Nesterov momentum with scale invariance.

    Reference: Lin et al., ICLR 2020, algorithm 1.
    """
    step_size = length(eps, steps, step_size)
    rules = gradients.lookahead(decay, step_size), average(inputs.halve, scales, chunk=chunk)
    return with_momentum(*rules, eps=eps, steps=steps, step_size=step_size, decay=decay, **options)


@recipe
def admix(
    eps: float,
    steps: int = 10,
    *,
    pool: Array,
    ratio: float = 0.2,
    samples: int = 3,
    scales: int = 5,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Admix: the mean gradient over `(x + ratio · x') / 2ⁿ`, x' from a pool of other images.

    Reference: Wang et al., ICCV 2021.
    """
    mixed = average(inputs.admix(pool, ratio), samples)
    return with_momentum(mixed, average(inputs.halve, scales, chunk=chunk), eps=eps, steps=steps, **options)


@recipe
def ssa(
    eps: float,
    steps: int = 10,
    *,
    samples: int = 20,
    rho: float = 0.5,
    sigma: float | None = None,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Spectrum simulation: the mean gradient over random spectra; see `inputs.spectrum`.

    `sigma` of the noise is `eps` if None. The gradient at the changed image is taken as it is, as in the
    official code.

    Reference: Long et al., ECCV 2022, algorithm 1.
    """
    spectra = average(
        inputs.spectrum(eps if sigma is None else sigma, rho), samples, chunk=chunk, pull_back=False
    )
    return with_momentum(spectra, eps=eps, steps=steps, **options)


@recipe
def bsr(
    eps: float,
    steps: int = 10,
    *,
    samples: int = 20,
    blocks: int = 3,
    max_angle: float = 24.0,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Block shuffle and rotation: the mean gradient over shuffled images; see `inputs.block_shuffle`.

    Reference: Wang et al., CVPR 2024.
    """
    shuffled = average(inputs.block_shuffle(blocks, max_angle), samples, chunk=chunk)
    return with_momentum(shuffled, eps=eps, steps=steps, **options)
