"""The shared vocabulary: what hyper-parameters are called here, what they may be, and what others call them.

Every recipe checks its options against it, by name, before anything is computed.
"""

import difflib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from transferjax import losses
from transferjax.checks import check_tuple
from transferjax.typing import Loss


class Range(NamedTuple):
    """What a hyper-parameter may be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]
    whole: bool = False


COUNT = Range("must be at least 1", lambda value: value >= 1, whole=True)
FROM_ZERO = Range("must not be negative", lambda value: value >= 0)
POSITIVE = Range("must be positive", lambda value: value > 0)
SHARE = Range("must lie in [0, 1]", lambda value: 0 <= value <= 1)
KERNEL = Range("must be odd and at least 1", lambda value: value >= 1 and value % 2 == 1, whole=True)

RANGES = {
    name: kind
    for kind, names in (
        (
            COUNT,
            "steps samples neighbors scales chunk blocks side mesh inner_steps restarts queries "
            "target_classes eot regions patch depth",
        ),
        (
            FROM_ZERO,
            "eps step_size inner_step reverse_step zeta radius sigma decay inner_decay beta gamma ratio "
            "max_angle weight margin weight_rate weight_decay policy_rate attention qkv mlp",
        ),
        (FROM_ZERO._replace(whole=True), "late_start seed truncated"),
        (POSITIVE, "rate eta tau"),
        (SHARE, "prob rho delta alpha_max p low high position share"),
        (KERNEL, "kernel_size"),
        (Range("must lie in [-1, 1]", lambda value: -1 <= value <= 1), "threshold"),
    )
    for name in names.split()
}
PAIRS = ("rate",)  # a number, or two between which one is drawn
SWITCHES = ("targeted", "random_start", "quantize", "resize_back", "replace", "until_success")

ELSEWHERE = {  # what torchattacks, TransferAttack, ART, CleverHans, foolbox and AutoAttack call it
    "eps": "epsilon epsilons max_epsilon budget",
    "step_size": "alpha eps_step eps_iter stepsize abs_stepsize rel_stepsize lr learning_rate step",
    "steps": "nb_iter n_iter num_iter num_iters niter iter iters iterations num_iterations max_iter "
    "max_iters max_iterations num_steps n_steps nb_steps epoch epochs",
    "queries": "n_queries max_queries num_queries nb_queries nb_iter n_iter max_iter steps",
    "decay": "momentum mu decay_factor",
    "loss": "loss_fn loss_type loss_func loss_function criterion",
    "random_start": "rand_init random_init rand_start init_random",
    "restarts": "n_restarts nb_restarts num_restarts num_random_init nb_random_init",
    "norm": "ord p_norm norm_type",
    "targeted": "target_mode is_targeted attack_mode",
    "neighbors": "n num_neighbor num_neighbors n_neighbors neighbor copies num_sample_neighbor",
    "samples": "n num_sample num_samples n_samples num_copies num_block num_admix m2 num_scale num_warping "
    "num_ens num_sample_operator copies",
    "scales": "m m1 num_scale num_scales",
    "zeta": "beta gamma",
    "layer": "feature_layer layer_name il_pos",
    "tau": "temperature t",
    "radius": "r epsilon_n",
    "reverse_step": "r_size",
    "prob": "diversity_prob",
    "rate": "resize_rate",
    "kernel_size": "len_kernel kern_size kernlen",
    "inner_steps": "adv_steps inner_iter",
    "inner_step": "inner_step_size alpha_n",
    "depth": "ops_num num_ops",
    "weight_rate": "sam_lr",
    "rho": "sam_rho",
    "late_start": "transpoint",
    "target_classes": "n_target_classes num_target_classes",
    "eot": "eot_iter",
    "version": "mode",
}
NOWHERE = {  # what no recipe takes, or not this one
    "clip_min clip_max clip_values bounds": "images lie in [0, 1], and so does what comes back; leave it out",
    "model classifier estimator predict": "predict comes with the call: attack(key, predict, images, labels)",
    "seed rng key": "the key comes with the call: attack(key, predict, images, labels)",
    "y_target target targets target_labels": "give targeted=True, and the targets in place of the labels",
    "targeted": "it has no targeted form; pgd(eps, targeted=True) goes to given targets",
    "batch_size": "a batch is attacked as it is; `craft` has a batch_size",
    "device": "arrays are attacked where they are; jax.device_put moves them",
    "steps step_size random_start loss ensemble": "that is part of the attack; leave it out",
}


def explain(name: str, options: Collection[str]) -> str:
    """What to write instead of an option that a recipe does not have."""
    low = name.lower()
    near = difflib.get_close_matches(low, options, n=1, cutoff=0.8)
    for here, others in ELSEWHERE.items():
        if here in options and low in others.split():
            other = near and near[0] != here
            return f"did you mean {near[0]}? Elsewhere that is {here}" if other else f"that is {here} here"
    if near:
        return f"did you mean {near[0]}?"
    for names, why in NOWHERE.items():
        if low in names.split():
            return why
    return f"it takes {', '.join(options)}"


NAMES = {
    "bim": "ifgsm pgdlinf basiciterativemethod",
    "pgd": "pgdl2 projectedgradientdescent",
    "dim": "difgsm di",
    "tim": "tifgsm ti",
    "sim": "si",
    "ssa": "ssm",
    "pna": "pnapatchout",
    "self_universality": "su",
    "noise": "gn",
}
"""Attacks -> what other libraries call them, in small letters alone."""
SMALLEST = "cw deepfool ead brendelbethge ddn sparsefool"
FEW_PIXELS = "onepixel jsma pixle"


def named_elsewhere(name: str, attacks: Collection[str]) -> str:
    """What is said of another library's name of an attack; "" if it is none that is known."""
    low = "".join(filter(str.isalnum, name.lower()))
    if low in f"{SMALLEST} {FEW_PIXELS}".split():
        aim = "looks for the smallest perturbation" if low in SMALLEST.split() else "changes few pixels"
        return f"it {aim}, which no attack here does: these stay inside of a budget"
    found = [here for here in attacks if low in (here.replace("_", ""), *NAMES.get(here, "").split())]
    return f"that is {found[0]} here" if found and found[0] != name else ""


RULES = ("outer_rules", "inner_rules", "rules", "member_rules")


def check_option(name: str, value: Any) -> None:
    """One option, by its name; traced values and names that are not in the vocabulary pass.

    Raises:
        ValueError: a number out of its range, no number at all, or no whole one; a switch that is no bool; no
            tuple of rules.
    """
    if name in RULES:
        check_tuple(name, value, "rules", "rule")
    if name == "ensemble" and not (value is None or callable(value)):
        raise ValueError(f"ensemble must be a function, such as ensembles.mean_logits; got {value!r:.60}")
    if name in SWITCHES and not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False; got {value!r}")
    if name not in RANGES or isinstance(value, jax.core.Tracer):
        return
    if name in PAIRS and isinstance(value, tuple) and len(value) == 2:
        for one in value:
            check_option(name, one)
        return
    words, holds, whole = RANGES[name]
    number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and np.ndim(value) == 0
    if not number or isinstance(value, bool) or np.isinf(value):
        raise ValueError(f"{name} must be a number; got {value!r:.60}")
    if not holds(value):
        raise ValueError(f"{name} {words}; got {value!r}")
    if whole and not np.issubdtype(np.asarray(value).dtype, np.integer):
        raise ValueError(f"{name} must be a whole number; got {value!r}")


NORMS = ("linf", "l2")


def check_budget(eps: float, step_size: float | None, steps: int, norm: str) -> None:
    """Hyper-parameters that every attack shares.

    Raises:
        ValueError: an unknown norm, a budget in 0–255 units, a negative one, or no steps.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    for name, value in (("eps", eps), ("step_size", step_size)):
        if value is None or isinstance(value, jax.core.Tracer):  # traced: one compilation for many budgets
            continue
        if not value >= 0:
            raise ValueError(f"{name} must not be negative; got {value}")
        if norm == "linf" and value > 1:
            raise ValueError(
                f"{name}={value} looks like 0–255 units; images lie in [0, 1], so write {name}={value:g}/255"
            )
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")


LOSSES = ("cross_entropy", "logit", "margin", "dlr")
LOSSES_ELSEWHERE = {
    "cross_entropy": "ce xent crossentropy cross-entropy nll cel softmax",
    "logit": "logits logit_loss",
    "margin": "cw carlini carlini_wagner f6 hinge margin_loss logit_margin",
    "dlr": "difference_logits_ratio",
}


def loss_of(loss: str | Loss) -> Loss:
    """A loss by its name, or as it is.

    Raises:
        ValueError: an unknown name, with what it is called here.
    """
    if callable(loss):
        return loss
    if loss in LOSSES:
        return getattr(losses, loss)
    low = str(loss).lower()
    known = [here for here, others in LOSSES_ELSEWHERE.items() if low == here or low in others.split()]
    near = difflib.get_close_matches(low, LOSSES, n=1)
    if known:
        advice = f"that is {known[0]!r} here"
    elif low in ("dlr_targeted", "dlr-targeted", "targeted_dlr"):
        advice = "apgd_t takes the targeted DLR, towards each of its target_classes"
    elif near:
        advice = f"did you mean {near[0]!r}?"
    else:
        advice = f"expected one of {', '.join(LOSSES)}, or a function (logits [B, K], labels) -> [B]"
    raise ValueError(f"loss={loss!r}: {advice}")
