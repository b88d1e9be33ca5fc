"""Explains the transfer of a finished run: regression, similarity matrices, smoothness.

    python -m experiments.analyse --config=configs/cifar10_cpu.py --workdir=runs/cifar10_cpu

Needs the results of `experiments.blueprint`; writes `analysis.md` and `analysis.html`. A regression over few
surrogates says nothing: train several mechanisms and seeds.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from experiments import build, cli
from experiments.measure import measures_file
from transferjax.report import write_sections
from transferjax.report.analysis import analysis_sections


def analyse(config: ConfigDict, root: Path) -> None:
    """Tables and figures from `results.csv` and the measurements, image by image."""
    if not (root / "results.csv").exists():
        raise FileNotFoundError(f"{root / 'results.csv'}: run python -m experiments.blueprint first")
    surrogates, targets = build.surrogates(config), [target.name for target in build.targets(config)]
    similarities, eigenvalues = [], {}
    for surrogate in surrogates:
        with np.load(measures_file(root, surrogate)) as measures:
            similarities.append([measures[f"similarity/{target}"] for target in targets])
            eigenvalues[str(surrogate)] = measures["smoothness"]
    parts = analysis_sections(
        pd.read_csv(root / "results.csv"),
        np.array(similarities),
        [str(s) for s in surrogates],
        targets,
        eigenvalues,
    )
    settings, environment = (
        json.loads((root / f"{name}.json").read_text()) for name in ("config", "environment")
    )
    paths = write_sections(root, parts, f"{config.title}: why", settings, environment, name="analysis")
    print(f"analysis: {paths.html}")


if __name__ == "__main__":
    cli.main(analyse)
