"""The catalogue, continued: attacks that look at transformed images."""

from typing import Unpack

import optax

from transferjax.attacks import blockwise, inputs, rules, updates, warps
from transferjax.attacks.builders import PAPER_EPS, given, in_ball, nesterov, paper_length, with_momentum
from transferjax.attacks.learned import learned_transforms
from transferjax.attacks.recipe import Momentum, Options, recipe
from transferjax.attacks.rules import average
from transferjax.attacks.samplers import constrained_warps
from transferjax.attacks.warps import Operation, compositions, either
from transferjax.chain import chain
from transferjax.typing import Array, Attack


@recipe
def dim(
    eps: float,
    steps: int = 10,
    *,
    rate: float | tuple[float, float] = 0.9,
    prob: float = 0.5,
    resize_back: bool = False,
    **options: Unpack[Momentum],
) -> Attack:
    """Diverse inputs: the gradient at a randomly resized and padded image; see `inputs.diversity`.

    Reference: Xie et al., CVPR 2019; steps of `eps / steps`, ten, in its official code (in the paper 1/255).
    """
    diverse = average(inputs.diversity(rate, prob, resize_back=resize_back))
    return with_momentum(diverse, eps=eps, steps=steps, **options)


@recipe
def tim(
    eps: float,
    steps: int = 10,
    *,
    kernel_size: int = 15,
    sigma: float | None = None,
    **options: Unpack[Momentum],
) -> Attack:
    """Translation invariance: the gradient smoothed by a Gaussian; see `updates.smooth`.

    `sigma` is in pixels; if None, the kernel ends at three of them, as in the paper (`nsig = 3`).

    Reference: Dong et al., CVPR 2019: steps of `eps / steps`, ten, a kernel of 15.
    """
    smooth = updates.smooth(kernel_size, given(sigma, (kernel_size - 1) / 6))
    return with_momentum(rules.through(smooth), eps=eps, steps=steps, **options)


@recipe
def sim(
    eps: float, steps: int = 10, *, scales: int = 5, chunk: int = 1, **options: Unpack[Momentum]
) -> Attack:
    """Scale invariance: the mean gradient over `x / 2ⁿ`, n = 0 … scales - 1.

    Reference: Lin et al., ICLR 2020: steps of `eps / steps`, ten, five scales.
    """
    return with_momentum(average(inputs.halve, scales, chunk=chunk), eps=eps, steps=steps, **options)


@recipe
def si_ni_fgsm(
    eps: float, steps: int = 10, *, scales: int = 5, chunk: int = 1, **options: Unpack[Momentum]
) -> Attack:
    """Nesterov momentum with scale invariance.

    Reference: Lin et al., ICLR 2020, algorithm 1: steps of `eps / steps`, ten, five scales.
    """
    rules = nesterov(eps, steps, options), average(inputs.halve, scales, chunk=chunk)
    return with_momentum(*rules, eps=eps, steps=steps, **options)


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
    **options: Unpack[Momentum],
) -> Attack:
    """Admix: the mean gradient over `(x + ratio · x') / 2ⁿ`, x' from a pool of other images.

    Reference: Wang et al., ICCV 2021: steps of `eps / steps`, ten, η = 0.2, 3 images, 5 scales.
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
    **options: Unpack[Momentum],
) -> Attack:
    """Spectrum simulation: the mean gradient over random spectra; see `inputs.spectrum`.

    `sigma` of the noise, of a pixel (L∞) or an image (L2), is `eps` if None. The gradient at a changed image
    is taken as it is, as in the official code.

    Reference: Long et al., ECCV 2022, algorithm 1: steps of `eps / steps`, ten, N = 20, ρ = 0.5, σ = ε.
    """
    spectra = average(
        inputs.spectrum(given(sigma, eps), rho, options["norm"]), samples, chunk=chunk, pull_back=False
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
    **options: Unpack[Momentum],
) -> Attack:
    """Block shuffle and rotation: the mean gradient over shuffled images; see `inputs.block_shuffle`.

    Reference: Wang et al., CVPR 2024: steps of `eps / steps`, ten, N = 20, 2 to 3 blocks, 24 degrees.
    """
    shuffled = average(inputs.block_shuffle(blocks, max_angle), samples, chunk=chunk)
    return with_momentum(shuffled, eps=eps, steps=steps, **options)


@recipe
def sia(
    eps: float,
    steps: int = 10,
    *,
    samples: int = 20,
    blocks: int = 3,
    radius: float = 16 / 255,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Structure invariance: the mean gradient where each block has an operation; see `blockwise.structures`.

    Args:
        radius: of the noise that a block may get, in pixel units, whatever eps and norm.

    Reference: Wang et al., ICCV 2023: steps of `eps / steps`, ten, N = 20, 3 x 3 blocks.
    """
    operated = average(blockwise.structures(blocks, radius), samples, chunk=chunk)
    return with_momentum(operated, eps=eps, steps=steps, **options)


@recipe
def anda(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    side: int = 5,
    radius: float = 0.3,
    chunk: int = 1,
    **options: Unpack[Options],
) -> Attack:
    """Asymptotically normal distribution: steps along the mean of all gradients so far, at translated images.

    Args:
        side: of the square grid of translations; `chunk` divides their number, `side²`.
        radius: of the translations, in units of half the image.

    Reference: Fang et al., "Strong Transferable Adversarial Attacks via Ensembled Asymptotically Normal
    Distribution Learning", CVPR 2024: steps of `eps / steps`, ten, 25 translations by up to 0.3. It ends at
    the distribution's mean, as in TransferAttack, and a sum over steps has the mean's direction.
    """
    step = updates.steepest(options["norm"], given(step_size, eps / steps))
    moved = average(warps.shifts(side, radius), side**2, chunk=chunk)
    return in_ball(optax.chain(optax.trace(1.0), step), moved, eps=eps, steps=steps, **options)


@recipe
def decowa(
    eps: float,
    steps: int = 10,
    *,
    samples: int = 20,
    mesh: int = 3,
    beta: float = 1.0,
    rho: float = 0.01,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Deformation-constrained warping: the mean gradient through warps; see `samplers.constrained_warps`.

    Args:
        mesh: control points of a warp in each direction, at least 3.
        beta: how far the inner ones go at most, in units of half the image.
        rho: of their step down the loss, in units of its gradient.

    Reference: Lin et al., AAAI 2024: steps of `eps / steps`, ten, N = 20, 3 x 3 points, a noise of scale 2
    (from -1 to 1), ρ = 0.01.
    """
    warped = constrained_warps(samples, mesh, beta, rho, chunk=chunk)
    return with_momentum(warped, eps=eps, steps=steps, **options)


@recipe
def ops(
    eps: float,
    steps: int = 10,
    *,
    neighbors: int = 30,
    samples: int = 30,
    zeta: float = 2.0,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Operators and perturbations: the mean gradient over compositions of operations on neighbours of x.

    `1/(NM + 1) (g(x) + Σ_n Σ_m J_nmᵀ g(T_nm(x + u_n)))`: N neighbours, uniform in a ball of a radius that is
    drawn from `zeta · eps` · {1/4, …, 6/4}, and M compositions T of each (`warps.compositions`).

    Args:
        neighbors, samples: N and M; 901 gradients a step.
        zeta: β, of the radii.
        chunk: compositions at once; divides M.

    Reference: Guo et al., "Boosting Adversarial Transferability through Augmentation in Hypothesis Space",
    CVPR 2025: steps of `eps / steps`, ten, β = 2, N = M = 30 (TransferAttack takes 10 and 20, draws 60
    neighbours once, and rotates to the nearest pixel).
    """
    radii = tuple(zeta * eps * quarter / 4 for quarter in range(1, 7))
    around = average(inputs.noise_of_radii(radii, options["norm"]), neighbors)
    many, count = chain(around, average(compositions(), samples, chunk=chunk)), neighbors * samples
    both = rules.mix(1 / (count + 1), count / (count + 1), many)
    return with_momentum(both, eps=eps, steps=steps, **options)


@recipe
def mumodig(
    eps: float,
    steps: int = 10,
    *,
    samples: int = 6,
    regions: int = 2,
    position: float = 0.65,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Multiple monotonic diversified integrated gradients: at x and at N transformed images.

    `1/(N + 1) (d(x) + Σ_n J_nᵀ d(T_n(x)))` with `d(x) = (x - b) ⊙ g(b + position · (x - b))`, b below x
    (`rules.integrated`, `inputs.lower_ends`). T shrinks an image by up to 224/245 or, half of the time, rolls
    or flips it in one direction or turns it by up to 45 degrees.

    Args:
        samples: N; N + 1 gradients a step.
        regions: of the values of a channel, each lowered to its region's end in b.
        position: of the point on the way from b.
        chunk: samples at once; divides N.

    Reference: Ren et al., "Improving Integrated Gradient-based Transferable Adversarial Examples by Refining
    the Integration Path", AAAI 2025: steps of `eps / steps`, ten, N = 6, 2 regions, 0.65. Its official code
    multiplies with `T_n(x) - b` after J_nᵀ instead of before: pixels of x with those of T_n(x).
    """
    flips, rolls = {"rows": -1.0, "columns": -1.0}, {"roll_rows": 1.0, "roll_columns": 1.0}
    moved = [Operation(**{name: value}) for name, value in (flips | rolls | {"angle": 45.0}).items()]
    odds = [(0.1, one) for one in moved] + [(0.5, Operation(rate=245 / 224))]
    several = average(either(odds), samples, chunk=chunk)
    both = rules.mix(1 / (samples + 1), samples / (samples + 1), several)
    way = rules.integrated(inputs.lower_ends(regions), position)
    return with_momentum(both, way, eps=eps, steps=steps, **options)


@recipe
def l2t(
    eps: float,
    steps: int = 10,
    *,
    pool: Array,
    samples: int = 3,
    depth: int = 2,
    policy_rate: float = 0.01,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Learning to transform: the mean gradient over compositions that a policy draws, which learns.

    `1/N Σ_n J_nᵀ g(T_n(x))`, T_n two of 98 operations by the odds softmax(θ), and then `θ ← θ + policy_rate/N
    Σ_n L(T_n(x)) ∇θ p(T_n)` with p the product of their odds; θ begins at 0, for each image its own (see
    `learned.policy`, `learned.CHOICES`).

    Args:
        pool: other images `[P, H, W, C]`, for Admix among the operations.
        samples: N.
        depth: operations in a composition.
        policy_rate: of θ.

    Reference: Zhu et al., "Learning to Transform Dynamically for Better Adversarial Transferability", CVPR
    2024: steps of `eps / steps`, ten, N = 3, two operations, 0.01, in its official code. There an operation
    has up to 15 copies and all are evaluated, up to 225 gradients for a composition, where one of them is
    drawn here; images are mixed with those of their batch, which shares draws and θ; and what turns or shifts
    takes the nearest pixel. With p near 1/98² its θ hardly moves in ten steps, and so does ours.
    """
    sigma = paper_length(PAPER_EPS, eps, options["norm"])
    learned = learned_transforms(
        pool, sigma, samples, depth=depth, policy_rate=policy_rate, norm=options["norm"], chunk=chunk
    )
    return with_momentum(learned, eps=eps, steps=steps, **options)
