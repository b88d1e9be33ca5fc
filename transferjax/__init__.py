"""Adversarial transferability in JAX.

An attack is a training loop over the image: both fill four slots (transform, objective, rule, update)
with small pure functions, and every published method is a combination. See `transferjax.typing`.
"""

from typing import Any

from transferjax import moved, xla

__version__ = "0.1.0"

moved.install()
xla.choose()


def __getattr__(name: str) -> Any:
    return moved.part(__name__, name)
