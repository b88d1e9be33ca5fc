"""The catalogue, continued: attacks that look around x; neighbourhoods, probes and steps follow the norm."""

from typing import Unpack

import optax

from transferjax.attacks import inputs, rules, updates
from transferjax.attacks.builders import PAPER_EPS, given, in_ball, nesterov, paper_length, with_momentum
from transferjax.attacks.projections import Start, uniform
from transferjax.attacks.recipe import Momentum, Options, recipe
from transferjax.attacks.rules import along, average, mix, probe, uniform_noise
from transferjax.attacks.samplers import inverted_points
from transferjax.attacks.tuning import tuned_weights
from transferjax.chain import chain
from transferjax.typing import Attack, Rule


@recipe
def vmi_fgsm(
    eps: float,
    steps: int = 10,
    *,
    neighbors: int = 20,
    zeta: float = 1.5,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Variance tuning: `g + v`, v the neighbours' mean gradient minus g, one step ago.

    `neighbors` uniform draws from a ball of radius `zeta · eps`.

    Reference: Wang & He, CVPR 2021, algorithm 1: steps of `eps / steps`, ten, N = 20, β = 1.5.
    """
    tuned = rules.variance_tuning(zeta * eps, neighbors, options["norm"], chunk=chunk)
    return with_momentum(tuned, eps=eps, steps=steps, **options)


@recipe
def vni_fgsm(
    eps: float,
    steps: int = 10,
    *,
    neighbors: int = 20,
    zeta: float = 1.5,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Variance tuning around Nesterov's point; the neighbours surround that point.

    Reference: Wang & He, CVPR 2021: steps of `eps / steps`, ten, N = 20, β = 1.5; torchattacks draws the
    neighbours around x instead.
    """
    tuned = rules.variance_tuning(zeta * eps, neighbors, options["norm"], chunk=chunk)
    return with_momentum(nesterov(eps, steps, options), tuned, eps=eps, steps=steps, **options)


@recipe
def gnp(
    eps: float,
    steps: int = 10,
    *,
    radius: float | None = None,
    beta: float = 0.8,
    variant: str = "paper",
    **options: Unpack[Momentum],
) -> Attack:
    """Gradient norm penalty: `(1 + beta) g(x) - beta g(x + radius ĝ)`, ĝ = g / mean|g|, in L2 g / ‖g‖₂.

    `variant="transferattack"` adds the second gradient, as that library does.

    Args:
        radius: of the probe; if None 0.01, in L2 the share of eps that this is of 16/255.

    Reference: Wu et al., ICIP 2023: steps of `eps / steps`, ten, r = 0.01, β = 0.8.
    """
    signs = {"paper": -1, "transferattack": 1}
    if variant not in signs:
        raise ValueError(f"variant must be one of {', '.join(signs)}; got {variant!r}")
    norm = options["norm"]
    radius = given(radius, paper_length(0.01, eps, norm))
    flat = probe(radius, 1 + beta, signs[variant] * beta, along(norm))
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
    **options: Unpack[Options],
) -> Attack:
    """Gradient relevance: neighbours weighted by their cosine; steps shrink by `eta` where signs flip.

    Reference: Zhu et al., ICCV 2023, algorithm 1: steps of `eps / steps`, ten, N = 20, β = 3.5, η = 0.94.
    """
    update = updates.shrinking_momentum(decay, options["norm"], given(step_size, eps / steps), eta)
    relevant = rules.relevance(zeta * eps, neighbors, options["norm"], chunk=chunk)
    return in_ball(update, relevant, eps=eps, steps=steps, **options)


@recipe
def fgsra(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    decay: float = 1.0,
    neighbors: int = 20,
    zeta: float = 2.0,
    rho: float = 0.7,
    eta: float = 0.94,
    chunk: int = 1,
    **options: Unpack[Options],
) -> Attack:
    """Frequency-guided relevance: GRA among neighbours with random spectra, the more alike weighing more.

    `ḡ = Σ_n w_n g(x_n)`, `w = softmax_n cos(x, x_n)`, `x_n = IDCT(DCT(x + u_n) · m_n)`, u uniform in a ball
    of radius `zeta · eps`, m in `[1 - rho, 1 + rho]`; then as in `gra`. The gradient at x_n is taken as it
    is.

    Reference: Wang et al., "Improving Adversarial Transferability via Frequency-Guided Sample Relevance
    Attack", CIKM 2024: steps of `eps / steps`, ten, N = 20, β = 2, ρ = 0.7. Its official code (ρ = 0.5) adds
    DI to the neighbours and TI with a kernel of 7 (`inner_rules`, `outer_rules`), and trains the surrogate a
    little on the way; TransferAttack sums `cos(x, x_n) g(x_n)`, beside which g(x) weighs nothing.
    """
    norm = options["norm"]
    update = updates.shrinking_momentum(decay, norm, given(step_size, eps / steps), eta)
    spectra = inputs.in_turn(uniform_noise(zeta * eps, norm), inputs.spectrum(0.0, rho))
    around = average(spectra, neighbors, chunk=chunk, pull_back=False, weight=rules.likeness)
    return in_ball(update, rules.relevant_to(around), eps=eps, steps=steps, **options)


@recipe(decay=0.5)
def mef(
    eps: float,
    steps: int = 20,
    *,
    neighbors: int = 20,
    zeta: float = 2.0,
    radius: float = 0.15,
    inner_decay: float = 0.9,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Maximin expected flatness: the mean gradient of neighbours that remember theirs; see `inverted_points`.

    Args:
        step_size: length of one step in the same norm; `eps / 10` if None.
        zeta, radius: of the neighbourhood, and of the step in it along what each point remembers, in eps.

    Reference: Qiu et al., 2024: 20 steps of 1.6/255 at ε = 16/255, decay 0.5, N = 20, γ = 2, ξ = 0.15.
    """
    options["step_size"] = given(options["step_size"], eps / 10)
    points = inverted_points(
        zeta * eps, radius * eps, neighbors, options["norm"], inner_decay=inner_decay, chunk=chunk
    )
    return with_momentum(points, eps=eps, steps=steps, **options)


@recipe
def pgn(
    eps: float,
    steps: int = 10,
    *,
    neighbors: int = 20,
    zeta: float = 3.0,
    delta: float = 0.5,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Penalized gradient norm: `1/N Σ_n (1 - delta) g(x_n) + delta g(x_n - step_size ĝ_n)`, ĝ = g / mean|g|.

    Neighbours x_n are uniform in a ball of radius `zeta · eps`; in L2, ĝ = g / ‖g‖₂.

    Reference: Ge et al., "Boosting Adversarial Transferability by Achieving Flat Local Maxima", NeurIPS 2023:
    steps of `eps / steps`, ten, N = 20, ζ = 3, δ = 0.5.
    """
    flat = _flat(neighbors, zeta, delta, chunk, eps, steps, options)
    return with_momentum(flat, eps=eps, steps=steps, **options)


def _flat(
    neighbors: int, zeta: float, delta: float, chunk: int, eps: float, steps: int, options: Momentum
) -> Rule:
    """PGN's."""
    norm, step_size = options["norm"], given(options["step_size"], eps / steps)
    around = average(uniform_noise(zeta * eps, norm), neighbors, chunk=chunk)
    return chain(around, probe(-step_size, 1 - delta, delta, along(norm)))


@recipe(without=("ensemble",))
def awt(
    eps: float,
    steps: int = 10,
    *,
    neighbors: int = 20,
    zeta: float = 3.0,
    delta: float = 0.5,
    weight_rate: float = 0.002,
    rho: float = 0.005,
    inner_decay: float = 0.5,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Adversarial weight tuning: PGN on weights that move at each step so that x is harder to find.

    Before each step a sharpness-aware one down `L(x) + L(x0)` in the surrogate's weights, then `pgn`'s
    gradient with them standing still; see `tuning.tuned_weights`. Every image has weights of its own, which
    takes the memory of four or five nets for each image of a batch: attack few at once. The net runs on one
    image after the other, with `chunk` neighbours at once.

    Args:
        neighbors, zeta, delta: as in `pgn`; 2 N + 4 gradients a step, four of them with respect to weights.
        weight_rate: of the weights.
        rho: Euclidean length of the ascent in the weights, all of them together.
        inner_decay: of the weights' momentum.

    Reference: Chen et al., "Enhancing Adversarial Transferability with Adversarial Weight Tuning", AAAI 2025:
    steps of `eps / steps`, ten, N = 20, ζ = 3, δ = 0.5, and for a ResNet-50 0.002, ρ = 0.005 and a momentum
    of 0.5 (an Inception-v3 0.001, 0.002), in its official code; how that differs from ours is said there.
    """
    flat = _flat(neighbors, zeta, delta, chunk, eps, steps, options)
    tuned = tuned_weights(weight_rate, rho, inner_decay, (flat,))
    return with_momentum(eps=eps, steps=steps, **options | {"ensemble": tuned})


@recipe
def rap(
    eps: float,
    steps: int = 400,
    *,
    radius: float | None = None,
    inner_step: float | None = None,
    inner_steps: int = 8,
    late_start: int = 0,
    **options: Unpack[Momentum],
) -> Attack:
    """Reverse adversarial perturbation: the gradient at the worst neighbour; see `reverse_perturbation`.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        radius, inner_step: of the neighbourhood and the descent in it; if None 16/255 and 2/255, in L2 the
            shares of eps that these are of 16/255.
        inner_steps: of the descent.
        late_start: steps before the first descent; 100 for the paper's RAP-LS.

    Reference: Qin et al., NeurIPS 2022, algorithm 1: 400 steps of 2/255 at ε = 16/255, T = 8. Its code
    descends from the class that the net predicts at each step, ours from the label, and has momentum on
    request alone (`decay=0`); TransferAttack's is as ours.
    """
    norm = options["norm"]
    options["step_size"] = given(options["step_size"], eps / 8)
    worst = rules.reverse_perturbation(
        given(radius, paper_length(16 / 255, eps, norm)),
        given(inner_step, paper_length(2 / 255, eps, norm)),
        inner_steps,
        norm,
        late_start=late_start,
    )
    return with_momentum(worst, eps=eps, steps=steps, **options)


def _start(norm: str, length: float) -> Start:
    """TPA's: pixels brighter by a uniform draw from `[0, length]`; in L2, uniform in a ball of it."""
    if norm == "l2":
        return uniform(norm, length)
    draw = uniform(norm, length / 2)
    return lambda keys, x0: draw(keys, x0 + length / 2)


@recipe(random_start=True)
def tpa(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    neighbors: int = 10,
    radius: float | None = None,
    beta: float | None = None,
    weight: float | None = None,
    variant: str = "official",
    chunk: int = 1,
    **options: Unpack[Options],
) -> Attack:
    """Transferability bound: a penalty on the gradient norm of neighbours z, uniform within `beta` of x.

    "official": `(1 - α) g(x) + α/N Σ g(z - k sign g(z))` with α = 0.8, and a momentum of 0.9 over signs.
    "paper": `g(x) - λ/N Σ [g(z + k ĝ(z)) - g(z)] / k` with ĝ of unit length, λ = 5, and sign steps. On a real
    net the penalty outweighs the loss (λ ‖∇L‖ = 5 · 8.9 where L is 0.3): what it finds is flat, and fools
    even the surrogate less often than random signs of the same size do (`noise`). Kept to be looked at.

    Args:
        step_size: length of one step in the same norm; `eps / 10` if None.
        radius: k; if None 0.05 · 0.225 ("paper": 0.05), whatever eps.
        beta: b, how far the neighbours lie; if None 1.84 · 16/255 ("paper": 16/255), whatever eps.
        weight: α or λ; 0.8 or 5 if None.
        random_start: begin at x plus a draw from [0, 0.005 · 0.225] for every pixel.
        variant: "official" or "paper".
    In L2 directions have unit length instead of signs, the neighbourhood is a ball, and the lengths are the
    shares of eps that they are of 16/255.

    Reference: Fan et al., "Transferability Bound Theory", NeurIPS 2024, section 5.1. The official code takes
    normalized pixels, of which 0.225 is the deviation: k = 0.05, b = 0.031 · 16 where ε is 0.27 (ours keeps
    that ratio, 29/255; by the deviation it would be 28.5/255), ten steps, a start in [0, 0.005]. It cuts to
    [0, 1] once, at the end, ours at every step.
    """
    norm, official = options["norm"], variant == "official"
    if variant not in ("official", "paper"):
        raise ValueError(f"variant must be official or paper; got {variant!r}")
    step_size, std = given(step_size, eps / 10), 0.225
    k = given(radius, paper_length(0.05 * std if official else 0.05, eps, norm))
    b = given(beta, paper_length((1.84 if official else 1) * PAPER_EPS, eps, norm))
    around = average(uniform_noise(b, norm), neighbors, chunk=chunk)
    if official:
        alpha, back = given(weight, 0.8), probe(-k, 0, 1, "sign" if norm == "linf" else "l2")
        bound = mix(1 - alpha, alpha, chain(around, back))
        update = optax.chain(updates.steepest(norm, step_size), optax.trace(0.9))
    else:
        bound = mix(1, given(weight, 5.0), chain(around, probe(k, 1 / k, -1 / k, "l2")))
        update = updates.steepest(norm, step_size)
    start = _start(norm, paper_length(0.005 * std, eps, norm))
    return in_ball(update, bound, eps=eps, steps=steps, start=start, **options)
