"""The catalogue, continued: attacks on several surrogates; `predict` is a tuple of them, or `Snapshots`."""

from typing import Unpack

from transferjax.attacks import ensembles, updates
from transferjax.attacks.builders import given, in_ball, with_momentum
from transferjax.attacks.recipe import Momentum, Options, recipe
from transferjax.typing import Attack


@recipe(without=("ensemble",))
def svre(
    eps: float,
    steps: int = 10,
    *,
    inner_steps: int | None = None,
    seed: int = 0,
    **options: Unpack[Momentum],
) -> Attack:
    """Stochastic variance reduced ensemble; see `ensembles.svre`, whose inner steps are as long.

    Args:
        inner_steps: four times the number of surrogates if None.
        seed: of the surrogate drawn at each inner step.

    Reference: Xiong et al., CVPR 2022, algorithm 1: steps of `eps / steps`, ten, M = 4 K.
    """
    step_size, norm, decay = given(options["step_size"], eps / steps), options["norm"], options["decay"]
    ensemble = ensembles.svre(eps, step_size, norm, decay=decay, inner_steps=inner_steps, seed=seed)
    return with_momentum(eps=eps, steps=steps, **options | {"ensemble": ensemble})


@recipe(without=("ensemble",))
def cwa(
    eps: float,
    steps: int = 10,
    *,
    reverse_step: float | None = None,
    inner_step: float = 250.0,
    **options: Unpack[Momentum],
) -> Attack:
    """Common weakness (MI-CWA); see `ensembles.cwa`.

    Args:
        step_size: length of one step in the same norm; `eps / 5` if None.
        reverse_step: `eps / 15` if None.
        inner_step: along the gradients of the surrogates, of unit length in L2 whatever the norm.

    Reference: Chen et al., ICLR 2024; its official code takes ten steps of 16/255/5 at ε = 16/255.
    """
    options["step_size"] = given(options["step_size"], eps / 5)
    norm, decay = options["norm"], options["decay"]
    ensemble = ensembles.cwa(eps, given(reverse_step, eps / 15), norm, inner_step=inner_step, decay=decay)
    return with_momentum(eps=eps, steps=steps, **options | {"ensemble": ensemble})


@recipe(without=("ensemble",))
def ada_ea(
    eps: float,
    steps: int = 10,
    *,
    beta: float = 10.0,
    threshold: float = -0.3,
    **options: Unpack[Momentum],
) -> Attack:
    """AdaEA with momentum: logits by weights that prefer the surrogate whose step fools the others best.

    See `ensembles.adaptive`, whose steps are as long.

    Args:
        beta: how much the best surrogate is preferred.
        threshold: of the cosine between gradients, below which a pixel is left out.

    Reference: Chen et al., ICCV 2023; steps and momentum as in TransferAttack, β = 10, η = -0.3.
    """
    step_size, norm = given(options["step_size"], eps / steps), options["norm"]
    ensemble = ensembles.adaptive(eps, step_size, norm, beta=beta, threshold=threshold)
    return with_momentum(eps=eps, steps=steps, **options | {"ensemble": ensemble})


@recipe(without=("ensemble",))
def smer(
    eps: float,
    steps: int = 10,
    *,
    inner_steps: int | None = None,
    weight_rate: float = 0.02,
    weight_decay: float = 0.002,
    seed: int = 0,
    **options: Unpack[Momentum],
) -> Attack:
    """SMER: an inner ascent, one surrogate a step, whose logits are scaled by weights that learn.

    See `ensembles.reweighed`, whose inner steps are as long.

    Args:
        inner_steps: four times the number of surrogates if None.
        weight_rate, weight_decay: of the weights.
        seed: of the order of the surrogates.

    Reference: Tang et al., CVPR 2024: steps of `eps / steps`, ten, M = 4 K.
    """
    step_size, norm = given(options["step_size"], eps / steps), options["norm"]
    ensemble = ensembles.reweighed(
        eps,
        step_size,
        norm,
        decay=options["decay"],
        inner_steps=inner_steps,
        weight_rate=weight_rate,
        weight_decay=weight_decay,
        seed=seed,
    )
    return with_momentum(eps=eps, steps=steps, **options | {"ensemble": ensemble})


@recipe(without=("ensemble",))
def lgv(
    eps: float,
    steps: int = 50,
    *,
    step_size: float | None = None,
    replace: bool = False,
    seed: int = 0,
    **options: Unpack[Options],
) -> Attack:
    """BIM with one random snapshot at each step, in shuffled passes or drawn with replacement.

    Args:
        step_size: length of one step in the same norm; `eps / 10` if None.
        replace: draw with replacement.
        seed: of the draws.

    Reference: Gubri et al., "LGV: Boosting Adversarial Example Transferability from Large Geometric
    Vicinity", ECCV 2022: 50 steps of `eps / 10`.
    """
    update = updates.steepest(options["norm"], given(step_size, eps / 10))
    one = ensembles.one_member(replace=replace, seed=seed)
    return in_ball(update, eps=eps, steps=steps, **options | {"ensemble": one})
