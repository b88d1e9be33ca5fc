"""The catalogue, continued: attacks that look around x. Shared hyper-parameters are those of `recipes`."""

from typing import Any

import optax

from transferjax.attacks import gradients, updates
from transferjax.attacks.gradients import average, mix, probe, uniform_noise
from transferjax.attacks.recipe import recipe
from transferjax.attacks.recipes import in_ball, length, with_momentum
from transferjax.rules import chain
from transferjax.typing import Attack


@recipe
def vmi_fgsm(
    eps: float, steps: int = 10, *, neighbors: int = 20, zeta: float = 1.5, chunk: int = 1, **options: Any
) -> Attack:
    """Variance tuning: `g + v`, v the neighbours' mean gradient minus g, one step ago.

    `neighbors` uniform draws from an L∞ ball of radius `zeta · eps`.

    Reference: Wang & He, CVPR 2021, algorithm 1.
    """
    tuned = gradients.variance_tuning(zeta * eps, neighbors, chunk=chunk)
    return with_momentum(tuned, eps=eps, steps=steps, **options)


@recipe
def vni_fgsm(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    decay: float = 1.0,
    neighbors: int = 20,
    zeta: float = 1.5,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Variance tuning around Nesterov's point; the neighbours surround that point.

    Reference: Wang & He, CVPR 2021; torchattacks draws the neighbours around x instead.
    """
    step_size = length(eps, steps, step_size)
    rules = (
        gradients.lookahead(decay, step_size),
        gradients.variance_tuning(zeta * eps, neighbors, chunk=chunk),
    )
    return with_momentum(*rules, eps=eps, steps=steps, step_size=step_size, decay=decay, **options)


@recipe
def gnp(
    eps: float,
    steps: int = 10,
    *,
    radius: float = 0.01,
    beta: float = 0.8,
    variant: str = "paper",
    **options: Any,
) -> Attack:
    """Gradient norm penalty: `(1 + beta) g(x) - beta g(x + radius ĝ)`, ĝ = g / mean|g|.

    `variant="transferattack"` adds the second gradient, as that library does.

    Reference: Wu et al., ICIP 2023.
    """
    signs = {"paper": -1, "transferattack": 1}
    if variant not in signs:
        raise ValueError(f"variant must be one of {', '.join(signs)}; got {variant!r}")
    flat = probe(radius, 1 + beta, signs[variant] * beta)
    return with_momentum(flat, eps=eps, steps=steps, **options)


@recipe
def gra(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    decay: float = 1.0,
    neighbors: int = 20,
    zeta: float = 3.5,
    eta: float = 0.94,
    chunk: int = 1,
    rules: tuple = (),
    **options: Any,
) -> Attack:
    """Gradient relevance: neighbours weighted by their cosine; steps shrink by `eta` where signs flip.

    Reference: Zhu et al., ICCV 2023, algorithm 1.
    """
    update = optax.chain(
        updates.normalize_by_mean_abs(),
        optax.trace(decay),
        updates.shrink_on_flip(eta),
        optax.scale(length(eps, steps, step_size)),
    )
    relevant = gradients.relevance(zeta * eps, neighbors, chunk=chunk)
    return in_ball(update, eps=eps, steps=steps, rules=(*rules, relevant), **options)


@recipe
def pgn(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    neighbors: int = 20,
    zeta: float = 3.0,
    delta: float = 0.5,
    chunk: int = 1,
    **options: Any,
) -> Attack:
    """Penalized gradient norm: `1/N Σ_n (1 - delta) g(x_n) + delta g(x_n - step_size ĝ_n)`, ĝ = g / mean|g|.

    Neighbours x_n are uniform in an L∞ ball of radius `zeta · eps`; the step is `eps / steps` in the paper.

    Reference: Ge et al., "Boosting Adversarial Transferability by Achieving Flat Local Maxima", NeurIPS 2023.
    """
    step_size = length(eps, steps, step_size)
    flat = chain(
        average(uniform_noise(zeta * eps), neighbors, chunk=chunk), probe(-step_size, 1 - delta, delta)
    )
    return with_momentum(flat, eps=eps, steps=steps, step_size=step_size, **options)


@recipe
def rap(
    eps: float,
    steps: int = 10,
    *,
    radius: float = 16 / 255,
    inner_step: float = 2 / 255,
    inner_steps: int = 8,
    late_start: int = 0,
    **options: Any,
) -> Attack:
    """Reverse adversarial perturbation: the gradient at the worst neighbour; see `reverse_perturbation`.

    The paper takes 400 steps, and begins after 100 of them (`late_start`).

    Reference: Qin et al., NeurIPS 2022, algorithm 1.
    """
    worst = gradients.reverse_perturbation(radius, inner_step, inner_steps, late_start=late_start)
    return with_momentum(worst, eps=eps, steps=steps, **options)


@recipe
def tpa(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    neighbors: int = 10,
    zeta: float = 1.0,
    radius: float | None = None,
    weight: float | None = None,
    variant: str = "paper",
    chunk: int = 1,
    rules: tuple = (),
    **options: Any,
) -> Attack:
    """Transferability bound: a penalty on the gradient norm of uniform neighbours z, radius `zeta · eps`.

    "paper": `g(x) - λ/N Σ [g(z + k ĝ(z)) - g(z)] / k` with ĝ of unit length, λ = 5, k = 0.05, sign steps.
    "official": `(1 - α) g(x) + α/N Σ g(z - k sign g(z))` with α = 0.8, and a momentum of 0.9 over signs; that
    code measures in normalized pixels, where k = 0.05 is about 0.011 here and its neighbourhood 1.8 eps.

    Args:
        radius: k, in pixel units of [0, 1]; 0.05 if None.
        weight: λ or α; 5 or 0.8 if None.

    Reference: Fan et al., "Transferability Bound Theory", NeurIPS 2024.
    """
    step, k = length(eps, steps, step_size), 0.05 if radius is None else radius
    around = average(uniform_noise(zeta * eps), neighbors, chunk=chunk)
    if variant == "paper":
        bound = mix(1, 5.0 if weight is None else weight, chain(around, probe(k, 1 / k, -1 / k, "l2")))
        update = updates.steepest("linf", step)
    elif variant == "official":
        alpha = 0.8 if weight is None else weight
        bound = mix(1 - alpha, alpha, chain(around, probe(-k, 0, 1, "sign")))
        update = optax.chain(updates.sign(), optax.trace(0.9), optax.scale(step))
    else:
        raise ValueError(f"variant must be paper or official; got {variant!r}")
    return in_ball(update, eps=eps, steps=steps, rules=(*rules, bound), **options)
