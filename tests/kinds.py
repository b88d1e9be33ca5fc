"""Kinds of attacks of the table, told by the module that makes them and by what they ask for."""

import inspect

from transferjax.study.registry import ATTACKS

_OPTIONS = {name: inspect.signature(ATTACKS.row(name).factory).parameters for name in ATTACKS.rows()}


def _made_in(module):
    return tuple(n for n in ATTACKS.rows() if ATTACKS.row(n).factory.__module__.endswith(f".{module}"))


def _asking_for(option):
    return tuple(name for name, options in _OPTIONS.items() if option in options)


SEVERAL, ATTENTIVE = _made_in("committees"), _made_in("transformers")
POOLED = _asking_for("pool")
LAYERED = tuple(name for name in _asking_for("layer") if name not in ATTENTIVE)
FLAX = tuple(dict.fromkeys((*LAYERED, *_made_in("features"), *ATTENTIVE)))  # their nets are modules
TARGETED = tuple(name for name in _asking_for("targeted") if _OPTIONS[name]["targeted"].default)
