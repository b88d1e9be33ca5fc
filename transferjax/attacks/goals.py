"""What an attack is after: away from the labels, or towards targets, and which."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from transferjax.attacks.recipe import Recipe
from transferjax.checks import check_labels
from transferjax.random import per_example, sample
from transferjax.typing import Array, Attack, Key

TARGETS = ("next", "random", "least_likely")


def choose_targets(rule: str, key: Key, logits: Array, labels: Array) -> Array:
    """Target classes `[B]`, none equal to its label.

    Args:
        rule: "next" (label + 1, the S&P 2024 paper's), "random" (uniform over the other classes) or
            "least_likely" (of the logits, the label aside).
        key: one, or one per example.
        logits: `[B, K]` of the clean images.
        labels: `[B]`.
    """
    count = logits.shape[-1]
    check_labels(labels, len(logits), count)
    if rule == "next":
        return (labels + 1) % count
    if rule == "random":
        step = sample(jax.random.randint, per_example(key, len(labels)), (), 1, count)
        return (labels + step) % count
    if rule == "least_likely":
        return jnp.where(jax.nn.one_hot(labels, count, dtype=bool), jnp.inf, logits).argmin(-1)
    raise ValueError(f"the rule for targets must be one of {', '.join(TARGETS)}; got {rule!r}")


def is_targeted(attack: Attack) -> bool | None:
    """Whether an attack runs towards the classes it is given; None for a function that does not say.

    A recipe says so in its hyper-parameters, what `ascend` makes in its attribute `targeted`. Recipes with
    neither (AutoAttack's: APGD-T and FAB-T choose the classes that they try themselves) flee the labels.
    """
    attack = inspect.unwrap(attack)  # of `jit`
    if not isinstance(attack, Recipe):
        return getattr(attack, "targeted", None)
    return bool(dict(attack.settings).get("targeted", is_targeted(attack.run)))


def check_goal(attack: Attack, targets: object = None, targeted: bool | None = None) -> None:
    """Targets for an attack that reaches for them, and for no other.

    Args:
        attack: of the catalogue, of `ascend`, or any function.
        targets: the classes to reach, None if there are none.
        targeted: what a function does that does not say it.

    Raises:
        ValueError: targets and no targeted attack, a targeted attack and no targets, or targets and a
            function of which nobody knows.
    """
    attack = inspect.unwrap(attack)
    name = getattr(attack, "name", getattr(attack, "__name__", "this attack"))
    said = is_targeted(attack)
    if None not in (said, targeted) and said != targeted:
        raise ValueError(f"{name} is made with targeted={said}; got targeted={targeted}")
    towards = targeted if said is None else said
    if targets is None:
        if towards:
            raise ValueError(
                f"{name} is targeted, and without targets it would run towards the true classes: give "
                "targets, such as `choose_targets` makes, or make it with targeted=False"
            )
    elif towards is None:
        raise ValueError(
            f"{name} does not say whether it runs towards targets: give targeted=True if it does"
        )
    elif not towards:
        has_both = "targeted" in dict(getattr(attack, "settings", ())) or hasattr(
            getattr(attack, "run", attack), "targeted"
        )
        way_out = (
            "make it with targeted=True"
            if has_both
            else "it has no targeted goal; take one that has, such as pgd(…, targeted=True) or logit(…)"
        )
        raise ValueError(f"{name} is untargeted and would run away from the targets: {way_out}")


def check_targets(labels: Array | np.ndarray, targets: Array | np.ndarray) -> None:
    """Targets that are not the true classes.

    Raises:
        ValueError: with the number of targets that equal their label.
    """
    same = int(np.sum(np.asarray(labels) == np.asarray(targets)))
    if same:
        raise ValueError(
            f"{same} of {len(labels)} targets equal the true label, so there is nothing to attack: "
            "`choose_targets` never picks the label"
        )
