"""Attacks: training loops over the image. `ascend` is the loop, the rest fills its slots.

ascend       the loop
updates      gradient -> step: sign, momentum, smoothing (optax)
projections  back into the budget; random starts; 8-bit rounding
gradients    rules around the gradient: averages, probes, variance tuning
inputs       input transformations for `gradients.average`
ensembles    several surrogates
surrogates   other gradients from the same net: skip gradient, linear backpropagation, ghosts
recipes, flatness, targeted, committees    the published attacks, each a combination of `builders`
recipe, vocabulary    what a recipe is, and what its options are called and may be
"""

from transferjax.attacks import ensembles, gradients, inputs, projections, surrogates, updates
from transferjax.attacks.ascend import ascend, gradient_of
from transferjax.attacks.auto_attack import apgd, apgd_t, auto_attack, fab, square
from transferjax.attacks.committees import cwa, lgv, svre
from transferjax.attacks.craft import Crafted, craft
from transferjax.attacks.flatness import gnp, gra, pgn, rap, tpa, vmi_fgsm, vni_fgsm
from transferjax.attacks.recipe import Recipe, recipe
from transferjax.attacks.recipes import (
    admix,
    bim,
    bsr,
    dim,
    emi_fgsm,
    fgsm,
    mi_fgsm,
    ni_fgsm,
    noise,
    pgd,
    pi_fgsm,
    si_ni_fgsm,
    sim,
    ssa,
    tim,
)
from transferjax.attacks.stochastic import Stochastic
from transferjax.attacks.targeted import choose_targets, logit, po_trip, self_universality

__all__ = [
    "Crafted",
    "Recipe",
    "Stochastic",
    "admix",
    "apgd",
    "apgd_t",
    "ascend",
    "auto_attack",
    "bim",
    "bsr",
    "choose_targets",
    "craft",
    "cwa",
    "dim",
    "emi_fgsm",
    "ensembles",
    "fab",
    "fgsm",
    "gnp",
    "gra",
    "gradient_of",
    "gradients",
    "inputs",
    "lgv",
    "logit",
    "mi_fgsm",
    "ni_fgsm",
    "noise",
    "pgd",
    "pgn",
    "pi_fgsm",
    "po_trip",
    "projections",
    "rap",
    "recipe",
    "self_universality",
    "si_ni_fgsm",
    "sim",
    "square",
    "ssa",
    "surrogates",
    "svre",
    "tim",
    "tpa",
    "updates",
    "vmi_fgsm",
    "vni_fgsm",
]
