"""What is installed, where things lie, and whether an attack runs: to look at first, and to send along."""

import os
import platform
import sys
from importlib import metadata

import jax
import jax.numpy as jnp

from transferjax import __version__, attacks, xla
from transferjax.data.storage import cache_dir
from transferjax.extras import BRINGS, EXTRAS, missing
from transferjax.predicts.foreign import from_callable

NEEDED = ("jax", "jaxlib", "flax", "optax", "numpy")


def doctor() -> int:
    """Prints a line for each thing that was looked at; 1 if attacks do not run."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in NEEDED)
    print(f"transferjax {__version__}, Python {platform.python_version()} on {sys.platform}; {versions}")
    print(f"devices: {', '.join(map(str, jax.devices()))}, {os.cpu_count()} CPU cores")
    print(f"XLA_FLAGS: {os.environ.get('XLA_FLAGS', '') or 'none'}; convolutions on CPU: {_fusions()}")
    print(f"cache: {cache_dir()}; TFDS: {os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')}")
    for extra in EXTRAS:
        gone = missing(extra)
        brings = f", brings {' and '.join(BRINGS[extra])}" if extra in BRINGS else ""
        state = f"lacks {', '.join(gone)}: pip install 'transferjax[{extra}]'" if gone else "installed"
        print(f"extra {extra}{brings}: {state}")
    return _attack_runs()


def _fusions() -> str:
    """Whether they are kept out of the slow fusions, or why not."""
    flags = os.environ.get("XLA_FLAGS", "")
    if xla.FUSIONS in flags:
        return "chosen"
    if xla.FLAG in flags:
        return "yours"
    if not metadata.version("jaxlib").startswith(xla.TRIED):
        return f"left as they are, jaxlib {metadata.version('jaxlib')} was not tried"
    return "left as they are"


def _attack_runs() -> int:
    """Whether an attack of four steps raises the loss of a linear model as far as its closed form says."""
    weights = jnp.array([[1.0, -1.0], [-2.0, 2.0], [0.5, -0.5]])
    x, labels, eps = jnp.full((1, 1, 1, 3), 0.5), jnp.array([0]), 0.1
    predict = from_callable(lambda weights, x: x.reshape(len(x), -1) @ weights, weights)
    moved = jax.jit(attacks.bim(eps, steps=4))(jax.random.key(0), predict, x, labels)
    works = bool(jnp.allclose(moved.ravel(), 0.5 + eps * jnp.array([-1.0, 1.0, -1.0]), atol=1e-6))
    print(f"an attack on a linear model: {'as its closed form says' if works else f'wrong, {moved.ravel()}'}")
    return 0 if works else 1
