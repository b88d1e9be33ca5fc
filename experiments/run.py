"""A run directory: one config, finished stages that are never repeated, files that are whole or absent.

config.json  environment.json
networks/<network>/            checkpoints/ metrics.csv
adversarial/<surrogate>/       <goal>-<eps>.npz
transfer/<surrogate>.csv       measures/<surrogate>.npz      similarity.npz
results.csv report.md report.html figures/
"""

import difflib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import jax
import pandas as pd
from ml_collections import ConfigDict

from transferjax.files import replacing, write_text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transferjax")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Writes a table atomically, with six decimals: the same numbers are the same bytes."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6f")


EXTRAS = ("collect", "features")  # stages that add to a finished run, and note their settings themselves


def config_text(config: ConfigDict) -> str:
    """What a run is made with, as JSON with sorted keys."""
    plain = {name: value for name, value in config.to_dict().items() if name not in EXTRAS}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def open_run(workdir: str | Path, config: ConfigDict) -> Path:
    """The run directory of `config`, made if it is new.

    Raises:
        ValueError: it was made with another config; the message shows the difference.
    """
    root, text = Path(workdir), config_text(config)
    saved = root / "config.json"
    if saved.exists() and saved.read_text() != text:
        difference = difflib.unified_diff(
            saved.read_text().splitlines(), text.splitlines(), str(saved), "this config", lineterm="", n=1
        )
        raise ValueError(
            f"{root} holds a run with another config; use another --workdir, or the config it was made "
            "with:\n" + "\n".join(difference)
        )
    if not saved.exists():
        write_text(root / "environment.json", json.dumps(environment(config), indent=2) + "\n")
        write_text(saved, text)
    return root


def environment(config: ConfigDict) -> dict[str, object]:
    """What a reader needs to repeat the run: versions, devices, seed, git commit."""
    command = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    git = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return {
        "commit": git.stdout.strip() or "unknown",
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": config.seed,
    }
