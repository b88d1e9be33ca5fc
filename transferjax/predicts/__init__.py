"""What turns a predict into another, or something else into a predict; attacks, defences and metrics use it.

stochastic        predicts that draw, with keys from outside
snapshots         several nets: stacked, or the mean of their answers
modules           a Flax net's layers, looked at and changed
surrogates        other gradients from the same net: skip gradient, ghosts
tokens            the same, of vision transformers: without extreme tokens, or without attention
backprop          the same, through ReLUs as if they were linear
foreign           any JAX function, PyTorch modules
http              prediction services
"""

from typing import TYPE_CHECKING

from transferjax import lazy

if TYPE_CHECKING:
    from transferjax.predicts.backprop import linear_backprop
    from transferjax.predicts.foreign import from_callable, torch_target
    from transferjax.predicts.http import BudgetExceeded, HttpTarget, ServiceError
    from transferjax.predicts.modules import layers, with_features
    from transferjax.predicts.snapshots import Snapshots, mean_logits, mean_probabilities, swag
    from transferjax.predicts.stochastic import Stochastic, with_keys
    from transferjax.predicts.surrogates import ghost_dropout, ghost_skips, skip_gradient, weight_scaling
    from transferjax.predicts.tokens import pna, tgr

__all__ = [
    "BudgetExceeded",
    "HttpTarget",
    "ServiceError",
    "Snapshots",
    "Stochastic",
    "from_callable",
    "ghost_dropout",
    "ghost_skips",
    "layers",
    "linear_backprop",
    "mean_logits",
    "mean_probabilities",
    "pna",
    "skip_gradient",
    "swag",
    "tgr",
    "torch_target",
    "weight_scaling",
    "with_features",
    "with_keys",
]

__getattr__ = lazy.names(
    __name__,
    {
        "backprop": "linear_backprop",
        "foreign": "from_callable torch_target",
        "http": "BudgetExceeded HttpTarget ServiceError",
        "modules": "layers with_features",
        "snapshots": "Snapshots mean_logits mean_probabilities swag",
        "stochastic": "Stochastic with_keys",
        "surrogates": "ghost_dropout ghost_skips skip_gradient weight_scaling",
        "tokens": "pna tgr",
    },
)
