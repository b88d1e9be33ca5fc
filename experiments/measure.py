"""Measures every surrogate's smoothness and sharpness, and its gradient similarity to every other network.

    python -m experiments.measure --config=configs/digits.py --workdir=runs/quickstart

Needs the networks of `experiments.train`. One file per surrogate with one value per image, and one with the
similarities, for which each network's gradients are computed once.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import build, cli
from experiments.attack import in_batches
from experiments.train import load_predictor, load_variables
from transferjax import data
from transferjax.files import replacing
from transferjax.metrics import (
    cosine_similarity,
    input_gradient,
    input_hessian_eigenvalues,
    top_eigenvalues,
    weight_matvec,
)
from transferjax.typing import Array, Predict, PyTree


def measures_file(root: Path, surrogate: build.Network) -> Path:
    """Where one surrogate's measurements are kept: `smoothness [N]`, and `sharpness [1]` if asked for."""
    return root / "measures" / f"{surrogate.directory}.npz"


def similarity_file(root: Path) -> Path:
    """Where `similarity [A, A + T, M]` is kept: of the surrogates to the surrogates and the targets."""
    return root / "similarity.npz"


@jax.jit
def _smoothness(predict: Predict, examples: data.Examples) -> Array:
    return input_hessian_eigenvalues(predict, data.to_float(examples.images), examples.labels)[:, 0]


@jax.jit
def _gradient(predict: Predict, examples: data.Examples) -> Array:
    return input_gradient(predict, data.to_float(examples.images), examples.labels)


@jax.jit
def _similarities(gradients: list[Array], others: list[Array]) -> Array:
    """Gradients `A x [B, …]`, `T x [B, …]` -> cosines `[B, A, T]`."""
    columns = jnp.stack(gradients + others)
    to_all = jax.vmap(cosine_similarity, in_axes=(None, 0))
    return jax.lax.map(lambda row: to_all(row, columns), jnp.stack(gradients)).transpose(2, 0, 1)


def _sharpness(config: ConfigDict, surrogate: build.Network, train: data.Dataset, root: Path) -> Array:
    """Top eigenvalue of the loss Hessian over the weights, on training images as they are."""
    net = build.module(surrogate, train.num_classes)

    @jax.jit
    def top(variables: PyTree, images: Array, labels: Array) -> Array:
        def apply(params: PyTree, images: Array) -> Array:
            return build.predictor(config, net, variables | {"params": params})(data.to_float(images))

        chunk = min(config.measure.batch_size, len(images))
        matrix = weight_matvec(apply, variables["params"], images, labels, chunk=chunk)
        return top_eigenvalues(jax.random.key(0), matrix.product, matrix.size, start=matrix.start).values

    return top(load_variables(surrogate, root), jnp.asarray(train.images), jnp.asarray(train.labels))


def measure_surrogates(config: ConfigDict, root: Path) -> None:
    """Curvature of each surrogate's loss: over the pixels, on test images, and over the weights."""
    todo = [s for s in build.surrogates(config) if not measures_file(root, s).exists()]
    if not todo:
        return
    m, test = config.measure, build.dataset(config, "test")
    curved = build.first(test, m.smoothness_images)
    train = build.dataset(config, "train").subset(m.sharpness_images) if m.sharpness_images else None
    for surrogate in tqdm(todo, "measure", unit=" surrogates", disable=None):
        predict = load_predictor(config, surrogate, root, test.num_classes)
        values = {"smoothness": in_batches(partial(_smoothness, predict), curved, m.batch_size)}
        if train is not None:
            values["sharpness"] = np.asarray(_sharpness(config, surrogate, train, root))
        with replacing(measures_file(root, surrogate)) as partial_file:
            np.savez(partial_file, **values)  # type: ignore[arg-type]


def measure_similarity(config: ConfigDict, root: Path) -> None:
    """Cosine between the input gradients of every surrogate and every network, on test images."""
    if similarity_file(root).exists():
        return
    test, m = build.dataset(config, "test"), config.measure
    compared = build.first(test, m.similarity_images)
    load = partial(load_predictor, config, root=root, num_classes=test.num_classes)
    surrogates, targets = ([load(n) for n in kind(config)] for kind in (build.surrogates, build.targets))

    def similarities(examples: data.Examples) -> Array:
        return _similarities(*([_gradient(p, examples) for p in kind] for kind in (surrogates, targets)))

    values = in_batches(similarities, compared, m.batch_size)
    with replacing(similarity_file(root)) as partial_file:
        np.savez(partial_file, similarity=values.transpose(1, 2, 0))


def measure(config: ConfigDict, root: Path) -> None:
    """Whatever is not measured yet."""
    measure_surrogates(config, root)
    measure_similarity(config, root)


if __name__ == "__main__":
    cli.main(measure)
