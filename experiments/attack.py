"""Crafts adversarial examples on every trained surrogate and tries them on every target.

    python -m experiments.attack --config=configs/digits.py --workdir=runs/quickstart

Needs the networks of `experiments.train`. One file per surrogate, goal and budget; finished ones are kept.
"""

import itertools
import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import build, cli
from experiments.run import write_csv
from experiments.train import load_predictor
from transferjax import data
from transferjax.files import replacing
from transferjax.metrics import correct, fooled
from transferjax.random import sample
from transferjax.report import below_noise
from transferjax.typing import Array, Predict


def goal_classes(labels: Any, num_classes: int, goal: str) -> Any:
    """What the attack is given: the labels, or for "targeted" the next class, as in the official code."""
    return (labels + 1) % num_classes if build.is_targeted(goal) else labels


def adversarial_file(root: Path, surrogate: build.Network, goal: str, eps_255: float) -> Path:
    """Where one batch of adversarial images is kept."""
    return root / "adversarial" / surrogate.directory / f"{goal}-{eps_255:g}.npz"


def make_craft(config: ConfigDict, goal: str, num_classes: int) -> Callable[..., Array]:
    """(predict, eps, examples) -> uint8 adversarial images; every budget shares the compilation.

    Raises:
        ValueError: a goal that the config's attack does not have.
    """
    build.attack(config, 0.0, targeted=build.is_targeted(goal))

    @jax.jit
    def craft(predict: Predict, eps: Array, examples: data.Examples) -> Array:
        attack = build.attack(config, eps, targeted=build.is_targeted(goal))
        classes = goal_classes(examples.labels, num_classes, goal)
        keys = build.example_keys(config.seed, examples.indices)
        adversarial = attack(keys, predict, data.to_float(examples.images), classes)
        return jnp.round(adversarial * 255).astype(jnp.uint8)

    return craft


@jax.jit
def _right(predict: Predict, examples: data.Examples) -> Array:
    return correct(predict, data.to_float(examples.images), examples.labels)


@partial(jax.jit, static_argnames="goal")
def _fooled(predict: Predict, examples: data.Examples, aims: Array, goal: str) -> Array:
    targets = aims[examples.indices] if build.is_targeted(goal) else None
    return fooled(predict, data.to_float(examples.images), examples.labels, targets)


def in_batches(function: Callable[[data.Examples], Any], images: data.Dataset, batch_size: int) -> np.ndarray:
    """What `function` returns per example, over a data set, in full batches and without their padding."""
    parts = [np.asarray(function(batch)) for batch in data.eval_batches(images, batch_size)]
    return np.concatenate(parts)[: len(images)]


def attacked_images(config: ConfigDict) -> data.Dataset:
    """The test images that are attacked."""
    return build.first(build.dataset(config, "test"), config.attack.images)


def craft_all(config: ConfigDict, root: Path) -> None:
    """Adversarial images on every surrogate, for every goal and budget, that are not there yet."""
    jobs = [
        (surrogate, goal, eps)
        for surrogate in build.surrogates(config)
        for goal in config.attack.goals
        for eps in config.attack.eps_255
        if not adversarial_file(root, surrogate, goal, eps).exists()
    ]
    if not jobs:
        return
    images = attacked_images(config)
    crafts = {goal: make_craft(config, goal, images.num_classes) for goal in config.attack.goals}
    # Jobs of one surrogate are neighbours: its weights are read once.
    load = lru_cache(1)(partial(load_predictor, config, root=root, num_classes=images.num_classes))
    bar = tqdm(desc="craft", total=len(jobs) * len(images), unit=" images", unit_scale=True, disable=None)
    with bar:
        for surrogate, goal, eps in jobs:
            bar.set_postfix_str(f"{surrogate}, {goal}, {eps:g}/255")
            predict = load(surrogate)
            craft = partial(crafts[goal], predict, jnp.float32(eps / 255))
            adversarial = in_batches(craft, images, config.attack.batch_size)
            with replacing(adversarial_file(root, surrogate, goal, eps)) as partial_file:
                np.savez(partial_file, images=adversarial, labels=images.labels)
            bar.update(len(images))


@partial(jax.jit, static_argnames="norm")
def _noise(eps: Array, examples: data.Examples, seed: int, norm: str) -> Array:
    """Random signs of the budget, uint8: what an attack has to beat before its transfer means anything."""
    keys, x = build.example_keys(seed, examples.indices), data.to_float(examples.images)
    signs = sample(jax.random.rademacher, keys, x.shape[1:], x.dtype)
    length = math.sqrt(math.prod(x.shape[1:])) if norm == "l2" else 1
    return jnp.round(255 * jnp.clip(x + eps / length * signs, 0, 1)).astype(jnp.uint8)


def noisy_images(config: ConfigDict, images: data.Dataset, eps_255: float, seed: int) -> data.Dataset:
    """The attacked images under noise of the same size."""
    norm = config.attack.options.get("norm", "linf")
    noise = partial(_noise, jnp.float32(eps_255 / 255), seed=seed, norm=norm)
    pixels = in_batches(noise, images, config.attack.batch_size)
    return data.Dataset(pixels, images.labels, images.class_names)


def transfer_file(root: Path, surrogate: build.Network) -> Path:
    """Where one surrogate's success rates are kept."""
    return root / "transfer" / f"{surrogate.directory}.csv"


def noise_file(root: Path) -> Path:
    """Where the success rates of noise are kept."""
    return root / "transfer" / "noise.csv"


def hits(predict: Predict, adversarial: data.Dataset, goal: str, batch_size: int) -> np.ndarray:
    """Which adversarial images do to a network what their goal says, `[N]`."""
    aims = jnp.asarray(goal_classes(adversarial.labels, adversarial.num_classes, goal))
    return in_batches(partial(_fooled, predict, aims=aims, goal=goal), adversarial, batch_size)


def _rates(hit: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    return {"asr": hit.mean(), "asr_correct": hit[counted].mean() if counted.any() else np.nan}


def noise_rows(
    config: ConfigDict,
    images: data.Dataset,
    predicts: dict[str, Predict],
    right_of: dict[str, np.ndarray],
) -> pd.DataFrame:
    """Success rates of random signs on every target, one draw for each seed of the surrogates."""
    rows = []
    for seed, eps in itertools.product(config.seeds, config.attack.eps_255):
        noisy = noisy_images(config, images, eps, config.seed + seed)
        for goal, (name, predict) in itertools.product(config.attack.goals, predicts.items()):
            hit = hits(predict, noisy, goal, config.attack.batch_size)
            row = {"seed": config.seed + seed, "target": name, "goal": goal, "eps_255": eps}
            rows.append(row | _rates(hit, right_of[name]))
    return pd.DataFrame(rows)


def transfer_all(config: ConfigDict, root: Path) -> None:
    """Success rates in [0, 1] of every surrogate's images on every target, and of noise.

    `asr` counts every image, `asr_correct` those that surrogate and target both get right beforehand;
    `fooling_rate` is the success on the surrogate itself, `noise_fooling_rate` that of random signs.
    """
    todo = [s for s in build.surrogates(config) if not transfer_file(root, s).exists()]
    if not todo and noise_file(root).exists():
        return
    images, batch_size = attacked_images(config), config.attack.batch_size
    load = partial(load_predictor, config, root=root, num_classes=images.num_classes)
    right = lambda predict: in_batches(partial(_right, predict), images, batch_size)  # noqa: E731
    predicts = {target.name: load(target) for target in build.targets(config)}
    right_of = {name: right(predict) for name, predict in predicts.items()}
    if not noise_file(root).exists():
        write_csv(noise_file(root), noise_rows(config, images, predicts, right_of))
    for surrogate in tqdm(todo, "transfer", unit=" surrogates", disable=None):
        own, rows = load(surrogate), []
        own_right = right(own)
        for goal, eps in itertools.product(config.attack.goals, config.attack.eps_255):
            with np.load(adversarial_file(root, surrogate, goal, eps)) as saved:
                adversarial = data.Dataset(saved["images"], saved["labels"], images.class_names)
            noisy = noisy_images(config, images, eps, surrogate.seed)
            itself = {"fooling_rate": hits(own, adversarial, goal, batch_size).mean()}
            itself |= {"noise_fooling_rate": hits(own, noisy, goal, batch_size).mean()}
            for name, predict in predicts.items():
                hit, both = hits(predict, adversarial, goal, batch_size), own_right & right_of[name]
                rows.append({"target": name, "goal": goal, "eps_255": eps} | _rates(hit, both) | itself)
        table = pd.DataFrame(rows)
        if warning := below_noise(table.assign(mechanism=surrogate.label, seed=surrogate.seed)):
            tqdm.write(warning)
        write_csv(transfer_file(root, surrogate), table)


def attack(config: ConfigDict, root: Path) -> None:
    """Crafts, then tries on every target."""
    craft_all(config, root)
    transfer_all(config, root)


if __name__ == "__main__":
    cli.main(attack)
