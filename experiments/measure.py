"""Measures every surrogate's smoothness and its gradient similarity to every target.

    python -m experiments.measure --config=configs/digits.py --workdir=runs/quickstart

Needs the networks of `experiments.train`. One file per surrogate, with one value per image.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import build, cli
from experiments.attack import in_batches
from experiments.train import load_predictor
from transferjax import data
from transferjax.files import replacing
from transferjax.metrics import gradient_similarity, input_hessian_eigenvalues
from transferjax.typing import Array, Predict


def measures_file(root: Path, surrogate: build.Network) -> Path:
    """Where one surrogate's per-image measurements are kept."""
    return root / "measures" / f"{surrogate.directory}.npz"


@jax.jit
def _smoothness(predict: Predict, examples: data.Examples) -> Array:
    return input_hessian_eigenvalues(predict, data.to_float(examples.images), examples.labels)[:, 0]


@jax.jit
def _similarity(a: Predict, b: Predict, examples: data.Examples) -> Array:
    return gradient_similarity(a, b, data.to_float(examples.images), examples.labels)


def measure(config: ConfigDict, root: Path) -> None:
    """`smoothness [N]` and for each target `similarity/<target> [M]`, on the first test images."""
    todo = [s for s in build.surrogates(config) if not measures_file(root, s).exists()]
    if not todo:
        return
    test, m = build.dataset(config, "test"), config.measure
    load = partial(load_predictor, config, root=root, num_classes=test.num_classes)
    curved, compared = build.first(test, m.smoothness_images), build.first(test, m.similarity_images)
    predicts = {target.name: load(target) for target in build.targets(config)}
    for surrogate in tqdm(todo, "measure", unit=" surrogates", disable=None):
        own = load(surrogate)
        values = {"smoothness": in_batches(partial(_smoothness, own), curved, m.batch_size)}
        for name, predict in predicts.items():
            values[f"similarity/{name}"] = in_batches(
                partial(_similarity, own, predict), compared, m.batch_size
            )
        with replacing(measures_file(root, surrogate)) as partial_file:
            np.savez(partial_file, **values)  # type: ignore[arg-type]


if __name__ == "__main__":
    cli.main(measure)
