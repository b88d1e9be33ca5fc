"""What turns a predict into another, or something else into a predict; attacks, defences and metrics use it.

stochastic        predicts that draw, with keys from outside
snapshots         several nets: stacked, or the mean of their answers
modules           a Flax net's layers, looked at and changed
surrogates        other gradients from the same net: skip gradient, ghosts
tokens            the same, of vision transformers: without extreme tokens or attention, or tuned
backprop          the same, through ReLUs as if they were linear
foreign           any JAX function, nets of Linen, NNX, Equinox
torch_modules     PyTorch modules, with their gradient
preprocessing     what a net wants to see of an image, as one value
conventions       the same, by name, or read from others' files
guesses           the same, as it shows in a net's answers
http              prediction services, asked within limits and once
formats           how they are asked, what they answer; rankings of names, platforms by name; settings: checks
"""

from typing import TYPE_CHECKING

from transferjax import lazy

if TYPE_CHECKING:
    from transferjax.predicts.backprop import linear_backprop
    from transferjax.predicts.conventions import read_preprocessing
    from transferjax.predicts.foreign import from_callable
    from transferjax.predicts.formats import (
        Format,
        as_tensor,
        base64_png,
        gradio,
        gzipped,
        instances,
        multipart,
        open_inference,
        raw_bytes,
        scores,
    )
    from transferjax.predicts.guesses import guess_preprocessing
    from transferjax.predicts.http import BudgetExceeded, HttpTarget, ServiceError
    from transferjax.predicts.modules import layers, with_features
    from transferjax.predicts.platforms import aliyun, aws, azure, baidu, google
    from transferjax.predicts.preprocessing import Preprocessing
    from transferjax.predicts.rankings import ranked
    from transferjax.predicts.snapshots import Snapshots, mean_logits, mean_probabilities, swag, swag_mean
    from transferjax.predicts.stochastic import Stochastic, with_keys
    from transferjax.predicts.surrogates import ghost_dropout, ghost_skips, skip_gradient, weight_scaling
    from transferjax.predicts.tokens import att, pna, tgr
    from transferjax.predicts.torch_modules import from_torch_module

__all__ = [
    "BudgetExceeded",
    "Format",
    "HttpTarget",
    "Preprocessing",
    "ServiceError",
    "Snapshots",
    "Stochastic",
    "aliyun",
    "as_tensor",
    "att",
    "aws",
    "azure",
    "baidu",
    "base64_png",
    "from_callable",
    "from_torch_module",
    "ghost_dropout",
    "ghost_skips",
    "google",
    "gradio",
    "guess_preprocessing",
    "gzipped",
    "instances",
    "layers",
    "linear_backprop",
    "mean_logits",
    "mean_probabilities",
    "multipart",
    "open_inference",
    "pna",
    "ranked",
    "raw_bytes",
    "read_preprocessing",
    "scores",
    "skip_gradient",
    "swag",
    "swag_mean",
    "tgr",
    "weight_scaling",
    "with_features",
    "with_keys",
]

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        "backprop": "linear_backprop",
        "conventions": "read_preprocessing",
        "foreign": "from_callable torch_target",
        "formats": "Format as_tensor base64_png gradio gzipped instances multipart open_inference raw_bytes "
        "scores",
        "guesses": "guess_preprocessing",
        "http": "BudgetExceeded HttpTarget ServiceError",
        "modules": "layers with_features",
        "platforms": "aliyun aws azure baidu google",
        "preprocessing": "Preprocessing",
        "rankings": "ranked",
        "snapshots": "Snapshots mean_logits mean_probabilities swag swag_mean",
        "stochastic": "Stochastic with_keys",
        "surrogates": "ghost_dropout ghost_skips skip_gradient weight_scaling",
        "tokens": "att pna tgr",
        "torch_modules": "from_torch_module",
    },
)
