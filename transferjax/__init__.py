"""Adversarial transferability in JAX.

An attack is a training loop over the image: both fill four slots (transform, objective, rule, update)
with small pure functions, and every published method is a combination. See `transferjax.typing`.
"""

from importlib import import_module
from typing import Any

from transferjax import extras, moved, xla

__version__ = "0.1.0"

moved.install()
xla.choose()
xla.keep_memory()


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # needs pandas and more, which who attacks in a loop of their own does without
        extras.require_all("study", "transferjax.evaluate")
        return import_module("transferjax.command.evaluate").evaluate
    return moved.part(__name__, name)
