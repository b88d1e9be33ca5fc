"""The catalogue, continued: attacks that look at transformed images."""

from typing import Unpack

from transferjax.attacks import inputs, rules, updates
from transferjax.attacks.builders import given, nesterov, with_momentum
from transferjax.attacks.recipe import Momentum, recipe
from transferjax.attacks.rules import average
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
