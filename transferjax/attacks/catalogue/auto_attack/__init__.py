"""AutoAttack: parameter-free attacks, one after the other, each on what the ones before it did not fool."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from transferjax.attacks.catalogue.auto_attack.apgd import apgd, apgd_t, dlr_or_margin
from transferjax.attacks.catalogue.auto_attack.fab import fab
from transferjax.attacks.catalogue.auto_attack.loop import is_fooled, pick
from transferjax.attacks.catalogue.auto_attack.square import square
from transferjax.attacks.entrance import enter
from transferjax.attacks.goals import check_goal
from transferjax.attacks.recipe import recipe
from transferjax.random import fold_in, per_example
from transferjax.typing import Array, Attack, Key, Predict

VERSIONS = ("standard", "plus", "rand")


def one_after_another(*attacks: Attack) -> Attack:
    """The first adversarial example that any of the attacks finds; else the last attack's attempt.

    An attack is skipped once all images of the batch are fooled. Which images its batch holds does not matter
    to any of them.

    Raises:
        ValueError: a targeted attack, which would run towards the labels.
    """
    for member in attacks:
        check_goal(member)

    def run(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        keys = per_example(key, len(images))
        x, fooled = images, is_fooled(predict, keys, images, labels)
        for number, single in enumerate(attacks, start=1):
            now = fold_in(keys, number)

            def go_on(x: Array, single: Attack = single, now: Key = now) -> Array:
                return single(now, predict, images, labels)

            candidates = jax.lax.cond(jnp.all(fooled), lambda x: x, go_on, x)
            x = pick(fooled, x, candidates)
            fooled = fooled | is_fooled(predict, keys, x, labels)
        return x

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        return enter(run, key, predict, images, labels)

    return attack


def _attacks(version: str, eps: float, norm: str, steps: int, queries: int, targets: int) -> Sequence[Attack]:
    ce = lambda **o: apgd(eps, steps, norm=norm, **o)  # noqa: E731
    dlr = lambda **o: apgd(eps, steps, norm=norm, loss=dlr_or_margin, **o)  # noqa: E731
    dlr_t = apgd_t(eps, steps, norm=norm, target_classes=targets)
    fab_t = fab(eps, steps, norm=norm, target_classes=targets)
    random_search = square(eps, queries, norm=norm)
    if version == "standard":
        return ce(), dlr_t, fab_t, random_search
    if version == "plus":
        untargeted = fab(eps, steps, norm=norm, restarts=5)
        return ce(restarts=5), dlr(restarts=5), untargeted, random_search, dlr_t, fab_t
    if version == "rand":
        return ce(eot=20), dlr(eot=20)
    raise ValueError(f"version must be one of {', '.join(VERSIONS)}; got {version!r}")


@recipe(alone=True)
def auto_attack(
    eps: float,
    *,
    norm: str = "linf",
    version: str = "standard",
    steps: int = 100,
    queries: int = 5000,
    target_classes: int = 9,
) -> Attack:
    """AutoAttack: APGD-CE, APGD-T, FAB-T and Square, worst case.

    `attacks.inspection.robustness_flags` tells when not to trust it. The margin takes the place of DLR where
    that is not defined: untargeted for two classes, targeted for two or three.

    Args:
        eps: budget, in pixel units of [0, 1] (L∞) or as a Euclidean length (L2).
        norm: "linf" or "l2".
        version: "standard"; "plus" (five restarts, untargeted DLR and FAB too); "rand" for randomized
            defences (gradients averaged over 20 draws).
        steps: of APGD and FAB.
        queries: of Square.
        target_classes: of the targeted attacks; as many as there are, if there are fewer.

    Reference: Croce & Hein, ICML 2020.
    """
    return one_after_another(*_attacks(version, eps, norm, steps, queries, target_classes))


__all__ = ["apgd", "apgd_t", "auto_attack", "fab", "one_after_another", "square"]
