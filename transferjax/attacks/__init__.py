"""Attacks: training loops over the image. `ascend` is the loop, the rest fills its slots.

ascend       the loop
updates      gradient -> step: sign, momentum, smoothing (optax)
projections  back into the budget; random starts; 8-bit rounding
rules        around the gradient: averages, probes, variance tuning
samplers     rules that look at points as `average` cannot: with memory, through maps that resist
inputs       input transformations for `rules.average`
blockwise    those that treat blocks of an image each in its own way
warps        images bent, turned and laid elsewhere
learned      transformations that a policy draws, which learns
ensembles    one gradient from those of several surrogates
tuning       surrogates whose weights are tuned on the way
goals        away from the labels, or towards which targets
inspection   whether a model can be attacked at all
cost         gradients and evaluations per image, counted in the traced program
recipe, vocabulary, builders    what an attack of the catalogue is, and what its options may be
catalogue    the published attacks, each one combination
craft        over a whole data set, into a directory that an interrupted run goes on with
"""

from typing import Any

from transferjax import moved
from transferjax.attacks import ensembles, inputs, projections, rules, updates
from transferjax.attacks.ascend import ascend, gradient_of
from transferjax.attacks.catalogue.auto_attack import apgd, apgd_t, auto_attack, fab, square
from transferjax.attacks.catalogue.committees import ada_ea, cwa, lgv, smer, svre
from transferjax.attacks.catalogue.features import bfa, cfm, everywhere, fia, ilpd
from transferjax.attacks.catalogue.neighbors import (
    awt,
    fgsra,
    gnp,
    gra,
    mef,
    pgn,
    rap,
    tpa,
    vmi_fgsm,
    vni_fgsm,
)
from transferjax.attacks.catalogue.steps import (
    bim,
    emi_fgsm,
    fgsm,
    mi_fgsm,
    ni_fgsm,
    noise,
    pgd,
    pi_fgsm,
)
from transferjax.attacks.catalogue.targeted import logit, logit_margin, po_trip, s4st, self_universality
from transferjax.attacks.catalogue.transformed import (
    admix,
    anda,
    bsr,
    decowa,
    dim,
    l2t,
    mumodig,
    ops,
    si_ni_fgsm,
    sia,
    sim,
    ssa,
    tim,
)
from transferjax.attacks.catalogue.transformers import att, pna, tgr
from transferjax.attacks.cost import Spent, spent
from transferjax.attacks.craft import Crafted, craft
from transferjax.attacks.goals import choose_targets
from transferjax.attacks.recipe import Momentum, Options, Recipe, recipe
from transferjax.attacks.vocabulary import named_elsewhere
from transferjax.predicts.stochastic import Stochastic

__all__ = [
    "Crafted",
    "Momentum",
    "Options",
    "Recipe",
    "Spent",
    "Stochastic",
    "ada_ea",
    "admix",
    "anda",
    "apgd",
    "apgd_t",
    "ascend",
    "att",
    "auto_attack",
    "awt",
    "bfa",
    "bim",
    "bsr",
    "cfm",
    "choose_targets",
    "craft",
    "cwa",
    "decowa",
    "dim",
    "emi_fgsm",
    "ensembles",
    "everywhere",
    "fab",
    "fgsm",
    "fgsra",
    "fia",
    "gnp",
    "gra",
    "gradient_of",
    "ilpd",
    "inputs",
    "l2t",
    "lgv",
    "logit",
    "logit_margin",
    "mef",
    "mi_fgsm",
    "mumodig",
    "ni_fgsm",
    "noise",
    "ops",
    "pgd",
    "pgn",
    "pi_fgsm",
    "pna",
    "po_trip",
    "projections",
    "rap",
    "recipe",
    "rules",
    "s4st",
    "self_universality",
    "si_ni_fgsm",
    "sia",
    "sim",
    "smer",
    "spent",
    "square",
    "ssa",
    "svre",
    "tgr",
    "tim",
    "tpa",
    "updates",
    "vmi_fgsm",
    "vni_fgsm",
]


def __getattr__(name: str) -> Any:
    if (said := named_elsewhere(name, __all__)) and not name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {said}")
    return moved.part(__name__, name)
