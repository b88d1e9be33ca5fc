"""Explains the transfer of a finished run: regression, magnitudes, similarity matrices, smoothness.

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
from experiments.measure import measures_file, similarity_file
from transferjax.report import write_sections
from transferjax.report.analysis import analysis_sections


def analyse(config: ConfigDict, root: Path) -> None:
    """Tables and figures from `results.csv` and the measurements, image by image."""
    if not (root / "results.csv").exists():
        raise FileNotFoundError(f"{root / 'results.csv'}: run python -m experiments.blueprint first")
    surrogates, targets = build.surrogates(config), build.targets(config)
    names = [s.label if len(config.seeds) == 1 else str(s) for s in surrogates]
    with np.load(similarity_file(root)) as saved:
        similarities = saved["similarity"]
    eigenvalues = {}
    for name, surrogate in zip(names, surrogates, strict=True):
        with np.load(measures_file(root, surrogate)) as measures:
            eigenvalues[name] = measures["smoothness"]
    columns = [*names, *(f"{target.name} (target)" for target in targets)]
    results = pd.read_csv(root / "results.csv")
    parts = analysis_sections(results, similarities, names, columns, eigenvalues)
    settings, environment = (
        json.loads((root / f"{name}.json").read_text()) for name in ("config", "environment")
    )
    paths = write_sections(root, parts, f"{config.title}: why", settings, environment, name="analysis")
    print(f"analysis: {paths.html}")


if __name__ == "__main__":
    cli.main(analyse)
