"""Defences that change the images before the net sees them: `Predict -> Predict`.

    lossy          bit_depth, jpeg, feature_distillation
    random         resize_and_pad (R&P), random_affine, nips_r3, smoothed (randomized smoothing, certified)
    trained        ComDefend, Denoiser (HGD), NRP: purifiers, in front of the net with `purified`
    both           diffpure (DiffPure), with the noise_predictor of a DiffusionUNet

A defence in front of a net is a net: evaluate it, or attack it. The rounding of the lossy ones has no useful
gradient; attacks see that of the identity instead (BPDA: Athalye et al., ICML 2018, section 4.1). Random ones
are `Stochastic`: attacks draw anew at every gradient (EOT).
"""

from transferjax.defences.diffusion import diffpure, noise_predictor
from transferjax.defences.lossy import bit_depth, feature_distillation, jpeg
from transferjax.defences.purifier_training import make_purifier_step
from transferjax.defences.purifiers import NRP, ComDefend, purified
from transferjax.defences.randomized import nips_r3, random_affine, resize_and_pad
from transferjax.defences.smoothing import Certificate, certify, smoothed
from transferjax.models.denoised import Denoiser
from transferjax.models.diffusion import DiffusionUNet

__all__ = [
    "NRP",
    "Certificate",
    "ComDefend",
    "Denoiser",
    "DiffusionUNet",
    "bit_depth",
    "certify",
    "diffpure",
    "feature_distillation",
    "jpeg",
    "make_purifier_step",
    "nips_r3",
    "noise_predictor",
    "purified",
    "random_affine",
    "resize_and_pad",
    "smoothed",
]
