"""What the literature explains transfer with, of models as people name them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from transferjax import data, metrics
from transferjax.command.given import Model
from transferjax.data import Dataset
from transferjax.typing import Array, Predict

MEASURES: dict[str, Callable[[Predict, Array, Array], Array]] = {
    "accuracy": metrics.correct,
    "gradient_norm": metrics.gradient_norm,
    "smoothness": lambda predict, x, y: metrics.input_hessian_eigenvalues(predict, x, y)[:, 0],
}
"""Of one model: (predict, images, labels) -> `[B]`, of which the mean is told."""


def check_names(names: list[str]) -> None:
    """Raises a ValueError for an unknown measure."""
    if unknown := [name for name in names if name not in (*MEASURES, "similarity")]:
        raise ValueError(
            f"unknown measure {unknown[0]!r}; expected of {', '.join((*MEASURES, 'similarity'))}"
        )


def measure(models: list[Model], images: Dataset, names: list[str], batch_size: int = 32) -> pd.DataFrame:
    """One row for each model, measure and, of "similarity", other model: `model, measure, other, value`.

    What a model has no derivative for is NaN, and `why` says it.

    Raises:
        ValueError: an unknown measure.
    """
    check_names(names)
    rows: list[dict[str, Any]] = []
    for name in names:
        for i, model in enumerate(models):
            if name != "similarity":
                rows.append(_row(model, name, "", MEASURES[name], (model.predict,), images, batch_size))
                continue
            for other in models[:i]:
                pair = model.predict, other.predict
                similar = metrics.gradient_similarity
                rows.append(_row(model, name, other.label, similar, pair, images, batch_size))
    return pd.DataFrame(rows, columns=["model", "measure", "other", "value", "why"])


def _row(
    model: Model, name: str, other: str, function: Any, predicts: tuple, images: Dataset, batch_size: int
) -> dict[str, Any]:
    run = jax.jit(lambda predicts, x, y: function(*predicts, data.to_float(x), y))
    row = {"model": model.label, "measure": name, "other": other, "value": np.nan, "why": ""}
    try:
        parts = []
        for batch in data.eval_batches(images, data.even_batch_size(len(images), batch_size)):
            counted = np.asarray(batch.weights) > 0
            parts.append(np.asarray(run(predicts, jnp.asarray(batch.images), batch.labels))[counted])
        return row | {"value": float(np.concatenate(parts).mean())}
    except TypeError as error:  # a derivative that it has not
        return row | {"why": str(error)}
