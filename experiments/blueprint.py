"""The whole path: train, craft, transfer, measure, report.

    python -m experiments.blueprint --config=configs/digits.py --workdir=runs/quickstart

Interrupted anywhere, the same command continues and ends with the same numbers; finished stages are not
repeated. The results are in `results.csv`, `report.md` and `report.html` of the run directory.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from experiments import build, cli
from experiments.attack import adversarial_file, attack, attacked_images, noise_file, transfer_file
from experiments.measure import measure, measures_file, similarity_file
from experiments.run import write_csv
from experiments.train import load_predictor, network_directory, train_all
from transferjax import data
from transferjax.report import NOISE, write_report

EXAMPLES = 6  # images in the report's grid


def collect(config: ConfigDict, root: Path) -> pd.DataFrame:
    """One row per surrogate, target, goal and budget, with what was measured of the pair; then noise."""

    def accuracy(network: build.Network) -> float:
        metrics = pd.read_csv(network_directory(root, network) / "metrics.csv").set_index("epoch")
        return metrics["test_accuracy"][network.epoch or config.training.epochs]

    surrogates = build.surrogates(config)
    target_accuracy = {target.name: accuracy(target) for target in build.targets(config)}
    with np.load(similarity_file(root)) as saved:
        similarity = saved["similarity"][:, len(surrogates) :].mean(-1, dtype=np.float64)
    tables = []
    for surrogate, similarities in zip(surrogates, similarity, strict=True):
        table = pd.read_csv(transfer_file(root, surrogate))
        table.insert(0, "mechanism", surrogate.label)
        table.insert(1, "seed", surrogate.seed)
        table["surrogate_accuracy"] = accuracy(surrogate)
        table["target_accuracy"] = table["target"].map(target_accuracy)
        table["similarity"] = table["target"].map(dict(zip(target_accuracy, similarities, strict=True)))
        with np.load(measures_file(root, surrogate)) as measures:
            for name in measures.files:
                table[name] = measures[name].mean(dtype=np.float64)
        tables.append(table)
    noise = pd.read_csv(noise_file(root)).assign(mechanism=NOISE)
    tables.append(noise.assign(target_accuracy=noise["target"].map(target_accuracy)))
    return pd.concat(tables, ignore_index=True)


def examples(config: ConfigDict, root: Path) -> dict[str, object]:
    """A few images for the report's grid: clean and adversarial, and what the first target makes of them."""
    images, surrogate, target = attacked_images(config), build.surrogates(config)[0], build.targets(config)[0]
    goal, eps = config.attack.goals[0], max(config.attack.eps_255)
    few = images.subset(min(EXAMPLES, len(images)))
    with np.load(adversarial_file(root, surrogate, goal, eps)) as saved:
        adversarial = saved["images"][: len(few)]
    predict = load_predictor(config, target, root, images.num_classes)
    names = np.array(images.class_names)
    return {
        "clean": few.images,
        "adversarial": adversarial,
        "labels": names[few.labels].tolist(),
        "clean_predictions": names[predict(data.to_float(jnp.asarray(few.images))).argmax(-1)].tolist(),
        "adversarial_predictions": names[
            predict(data.to_float(jnp.asarray(adversarial))).argmax(-1)
        ].tolist(),
        "caption": f"{surrogate} -> {target.name}, {goal}, eps {eps:g}/255",
    }


def report(config: ConfigDict, root: Path) -> None:
    """Writes the results and the report, unless they are there."""
    if (root / "report.html").exists():
        return
    results = collect(config, root)
    write_csv(root / "results.csv", results)
    environment = json.loads((root / "environment.json").read_text())
    settings = json.loads((root / "config.json").read_text())
    write_report(root, results, examples(config, root), settings, environment, config.title)


def blueprint(config: ConfigDict, root: Path) -> None:
    """All stages in order."""
    for stage in (train_all, attack, measure, report):
        stage(config, root)
    print(f"report: {root / 'report.html'}")


if __name__ == "__main__":
    cli.main(blueprint)
