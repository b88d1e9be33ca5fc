"""Makes training sets of robust or non-robust features from a trained network.

    python -m experiments.feature_data --config=configs/digits.py --workdir=runs/quickstart \
        --config.features.kind=robust --config.features.mechanism=AT

    robust      D_R    images that the (robust) network represents like x, found from another random image
    nonrobust   D_NR   the same, of a standardly trained network
    rand        D_rand x pushed to a random class t, and labelled t
    det         D_det  x pushed to the next class y + 1, and labelled so

The set is written to `data/<kind>` of the run directory, and read by `--config.data.name=<that path>`.

Reference: Ilyas et al., "Adversarial Examples Are Not Bugs, They Are Features", NeurIPS 2019, section 3.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import build, cli
from experiments.train import load_predictor
from transferjax import attacks, data
from transferjax.attacks import ascend, updates
from transferjax.files import write_text
from transferjax.metrics import activations
from transferjax.norms import norm
from transferjax.random import fold_in, sample
from transferjax.typing import Array, Key, Predict

REPRESENTED, PUSHED = ("robust", "nonrobust"), ("rand", "det")


def representation(predict: Predict, images: Array) -> Array:
    """The spatial mean of the network's last feature map, `[B, D]`."""
    return activations(predict, images).mean((1, 2))


def _match(config: ConfigDict) -> Callable[..., Array]:
    """(predict, keys, start, images) -> images near `start` that the network represents like `images`."""
    f = config.features

    def distance(own: Array, goal: Array) -> Array:
        return norm(own - goal, -1)

    match = ascend(
        updates.steepest("l2", f.step_size),
        lambda x, x0: jnp.clip(x, 0, 1),
        steps=f.steps,
        loss=distance,
        targeted=True,
    )
    return lambda predict, keys, start, images: match(
        keys, partial(representation, predict), start, representation(predict, images)
    )


def _push(config: ConfigDict) -> Callable[..., Array]:
    """(predict, keys, images, classes) -> images in the L2 ball that the network takes for `classes`."""
    f = config.features
    attack = attacks.pgd(f.eps, f.steps, step_size=f.step_size, norm="l2", random_start=False, targeted=True)
    return lambda predict, keys, images, classes: attack(keys, predict, images, classes)


def make(config: ConfigDict, predict: Predict, source: data.Dataset) -> data.Dataset:
    """The data set of `config.features.kind`, made from `source`.

    Raises:
        ValueError: an unknown kind.
    """
    kind, classes = config.features.kind, source.num_classes
    if kind not in (*REPRESENTED, *PUSHED):
        raise ValueError(f"features.kind={kind!r}: expected one of {', '.join((*REPRESENTED, *PUSHED))}")
    change = jax.jit(_match(config) if kind in REPRESENTED else _push(config))
    others = source.images[np.random.Generator(np.random.Philox(config.seed)).permutation(len(source))]
    images, labels = [], []
    batches = list(data.eval_batches(source, config.attack.batch_size))
    for examples in tqdm(batches, kind, unit=" batches", disable=None):
        keys: Key = build.example_keys(config.seed, examples.indices)
        clean, labelled = data.to_float(examples.images), examples.labels
        if kind in REPRESENTED:
            start = data.to_float(jnp.asarray(others[np.asarray(examples.indices)]))
            made = change(predict, keys, start, clean)
        else:
            drawn = sample(jax.random.randint, fold_in(keys, 1), (), 0, classes)
            labelled = drawn if kind == "rand" else (labelled + 1) % classes
            made = change(predict, keys, clean, labelled)
        images.append(np.asarray(jnp.round(made * 255).astype(jnp.uint8)))
        labels.append(np.asarray(labelled))
    cut = slice(len(source))
    return data.Dataset(np.concatenate(images)[cut], np.concatenate(labels)[cut], source.class_names, kind)


def feature_data(config: ConfigDict, root: Path) -> None:
    """Writes the training set, and beside it the test set as it is, unless they are there."""
    path, train = root / "data" / config.features.kind, build.dataset(config, "train")
    if not (path / "train").exists():
        found = [s for s in build.surrogates(config) if s.mechanism == config.features.mechanism]
        if not found:
            raise ValueError(
                f"features.mechanism={config.features.mechanism!r} is not among the surrogates "
                f"{', '.join(config.mechanisms)}"
            )
        predict = load_predictor(config, found[0], root, train.num_classes)
        data.save(make(config, predict, train), path, "train")
        write_text(path / "features.json", config.features.to_json(indent=2) + "\n")
    if not (path / "test").exists():
        data.save(build.dataset(config, "test"), path, "test")


if __name__ == "__main__":
    cli.main(feature_data)
