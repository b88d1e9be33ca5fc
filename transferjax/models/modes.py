"""Training and evaluation mode of nets, however theirs are called."""

import inspect
from collections.abc import Callable
from typing import Any

TRAINS = ("train", "training", "is_training", "is_train")
RESTS = ("deterministic", "use_running_average", "inference")
KEYS = ("key", "rng", "rngs", "keys")


def in_mode(call: Callable[..., Any], train: bool) -> dict[str, Any]:
    """The arguments that put a call into a mode: `{"train": train}`, `{"deterministic": not train}`, or none.

    Args:
        call: a function, or an object with a `__call__`, whose signature is looked at. In evaluation a key
            that it must be given is None.
        train: the mode.
    """
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):  # written in C, say
        return {}
    said = {name: train for name in TRAINS if name in parameters}
    said |= {name: not train for name in RESTS if name in parameters}
    needed = {n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.POSITIONAL_ONLY}
    return said if train else said | dict.fromkeys([name for name in KEYS if name in needed])


def module_in_mode(module: Any, train: bool) -> Any:
    """A Linen module whose own fields say the mode, if it has such fields."""
    fields = dict.fromkeys(TRAINS, train) | dict.fromkeys(RESTS, not train)
    found = {n: value for n, value in fields.items() if isinstance(getattr(module, n, ""), bool | None)}
    return module.clone(**found) if found else module
