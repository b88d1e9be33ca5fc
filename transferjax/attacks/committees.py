"""The catalogue, continued: attacks on several surrogates; `predict` is a tuple of them, or `Snapshots`."""

from typing import Any

import optax

from transferjax.attacks import ensembles, updates
from transferjax.attacks.recipe import recipe
from transferjax.attacks.recipes import in_ball, length, with_momentum
from transferjax.typing import Attack


@recipe
def svre(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    decay: float = 1.0,
    inner_steps: int | None = None,
    member_rules: tuple = (),
    seed: int = 0,
    **options: Any,
) -> Attack:
    """Stochastic variance reduced ensemble; see `ensembles.svre`.

    Reference: Xiong et al., CVPR 2022.
    """
    step_size = length(eps, steps, step_size)
    ensemble = ensembles.svre(
        eps, step_size, decay=decay, inner_steps=inner_steps, rules=member_rules, seed=seed
    )
    return with_momentum(eps=eps, steps=steps, step_size=step_size, decay=decay, ensemble=ensemble, **options)


@recipe
def cwa(
    eps: float,
    steps: int = 10,
    *,
    step_size: float | None = None,
    decay: float = 1.0,
    reverse_step: float | None = None,
    inner_step: float = 250.0,
    member_rules: tuple = (),
    **options: Any,
) -> Attack:
    """Common weakness (MI-CWA); see `ensembles.cwa`. `reverse_step` is `eps / 15` if None.

    Reference: Chen et al., ICLR 2024.
    """
    reverse_step = eps / 15 if reverse_step is None else reverse_step
    ensemble = ensembles.cwa(eps, reverse_step, inner_step=inner_step, decay=decay, rules=member_rules)
    return with_momentum(eps=eps, steps=steps, step_size=step_size, decay=decay, ensemble=ensemble, **options)


@recipe
def lgv(
    eps: float,
    steps: int = 50,
    *,
    step_size: float | None = None,
    replace: bool = False,
    seed: int = 0,
    **options: Any,
) -> Attack:
    """BIM with one random snapshot at each step, in shuffled passes or drawn with replacement.

    Reference: Gubri et al., "LGV: Boosting Adversarial Example Transferability from Large Geometric
    Vicinity", ECCV 2022; the step is `eps / 10` there.
    """
    update = optax.chain(updates.sign(), optax.scale(length(eps, steps, step_size or eps / 10)))
    return in_ball(
        update, eps=eps, steps=steps, ensemble=ensembles.one_member(replace=replace, seed=seed), **options
    )
