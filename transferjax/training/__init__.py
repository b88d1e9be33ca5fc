"""Training: the mirror of `attacks`. A state of arrays, one step that every mechanism shares, one host loop.

step         the train step with its slots, exact evaluation
objective    cross-entropy plus penalties
penalties    input-gradient and Jacobian regularization, score matching
rules        around the gradient: SAM and its kin, explicit regularization
augment      once per step: crop and flip, mixup, cutmix, cutout, label smoothing, attacks, a teacher
optimizers   SGD and schedules; everything else is optax
averaging    SWA and EMA, links of an optax chain
fit          the host loop: steps, checkpoints, progress
checkpoint   states on disk
parallel     one training on several devices
"""

from transferjax.training import (
    augment,
    averaging,
    checkpoint,
    objective,
    optimizers,
    parallel,
    penalties,
    rules,
)
from transferjax.training.fit import Diverged, fit
from transferjax.training.optimizers import sgd, step_decay, triangular, warmup_cosine
from transferjax.training.step import (
    TrainState,
    TrainStep,
    averaged,
    evaluate,
    make_train_step,
    mean_of,
    rematerialized,
)

__all__ = [
    "Diverged",
    "TrainState",
    "TrainStep",
    "augment",
    "averaged",
    "averaging",
    "checkpoint",
    "evaluate",
    "fit",
    "make_train_step",
    "mean_of",
    "objective",
    "optimizers",
    "parallel",
    "penalties",
    "rematerialized",
    "rules",
    "sgd",
    "step_decay",
    "triangular",
    "warmup_cosine",
]
