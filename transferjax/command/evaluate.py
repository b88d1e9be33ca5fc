"""The transfer table of one's own models: surrogates x attacks x budgets x targets."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from transferjax import data as library
from transferjax.attacks.craft import craft
from transferjax.attacks.recipe import Recipe
from transferjax.classes import check_classes
from transferjax.command.given import Model, read_data, read_models
from transferjax.data import Dataset
from transferjax.files import replacing
from transferjax.metrics import proportion_interval
from transferjax.predicts.guesses import guess_preprocessing
from transferjax.report import NOISE, Section, Table, write_sections
from transferjax.study import registry
from transferjax.typing import Predict

COLUMNS = ("surrogate", "attack", "eps_255", "norm", "target", "images", "target_error", "asr", "asr_low",
           "asr_high", "both_right", "asr_both", "asr_both_low", "asr_both_high")  # fmt: skip
CLOSER = 0.1
"""A convention that gets so many more images right than the model as it is given is worth a word."""


@dataclass(frozen=True)
class Question:
    """An attack with its options and a budget; `eps` in pixel units of [0, 1]."""

    label: str
    name: str
    options: tuple[tuple[str, Any], ...]
    eps: float
    norm: str

    def attack(self) -> Recipe:
        """The attack itself."""
        return registry.ATTACKS.row(self.name).factory(self.eps, norm=self.norm, **dict(self.options))


def evaluate(
    surrogates: Any,
    targets: Any,
    data: Any,
    attacks: Any = ("mi_fgsm",),
    eps_255: float | Sequence[float] = 8,
    *,
    norm: str = "linf",
    split: str = "",
    count: int = 0,
    size: int | None = None,
    crop: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    out: str | Path | None = None,
) -> pd.DataFrame:
    """How often images that attacks make on surrogates fool targets: one row for each of all combinations.

    Untargeted; images are rounded to 8 bits inside the ball. Success counts all images (`asr`), and those
    that surrogate and target both get right (`asr_both`); both with Wilson's 95 % interval. Rows of the
    surrogate "noise" are random signs of the budget, which every attack must beat.

    Args:
        surrogates, targets: models as `command.given` takes them: one, a list, or `{label: model}`.
        data: a `Dataset`, `(images uint8, labels)`, a folder `<class>/<image>`, or a name of `data.load`.
        attacks: names of the catalogue, one or several, or `{label: (name, options)}`.
        eps_255: budgets in 1/255, one or several.
        norm: "linf" or "l2" (then eps_255 is an L2 norm in 1/255).
        split, count, size, crop: which images, and what is done to them; see `command.given.read_data`.
        seed: of the attacks.
        batch_size: images at once.
        out: where to write `results.csv`, `report.md` and `report.html`; nothing is written if None.

    Returns:
        A tidy table with the columns `COLUMNS`; rates in [0, 1].

    Raises:
        ValueError: models, data or attacks that are not there or do not fit together.
    """
    images = read_data(data, split, count, size=size, crop=crop)
    sources, judges = (read_models(given, images.num_classes) for given in (surrogates, targets))
    questions = list(_questions(attacks, eps_255, norm))
    clean = {id(m.predict): _answers(m, images, images.images, batch_size) for m in (*sources, *judges)}
    for model in {m.what: m for m in (*judges, *sources)}.values():
        _doubt(model, images, clean[id(model.predict)])
    rows: list[dict[str, Any]] = []
    noises = {(q.eps, q.norm): Question(NOISE, "noise", (), q.eps, q.norm) for q in questions}
    tries = [(source, q) for source in sources for q in questions] + [(None, q) for q in noises.values()]
    for source, question in tries:
        predict = (source or sources[0]).predict
        crafted = craft(question.attack(), predict, images, seed=seed, batch_size=batch_size)
        for judge in judges:
            said = _answers(judge, images, crafted.images, batch_size)
            known = clean[id(judge.predict)], clean[id(source.predict)] if source else images.labels
            rows.append(_row(question, source, judge, images.labels, said, *known))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if out is not None:
        settings = {"images": images.name, "count": len(images), "seed": seed}
        settings |= {"attacks": [asdict(q) for q in questions]}
        settings |= {"models": {m.label: m.what for m in (*sources, *judges)}}
        write(Path(out), table, settings)
    return table


def _questions(attacks: Any, eps_255: float | Sequence[float], norm: str) -> Iterator[Question]:
    if isinstance(attacks, Mapping):
        named = [(label, *_call(given)) for label, given in attacks.items()]
    else:
        several = [attacks] if isinstance(attacks, str) else list(attacks)
        named = [(_call(given)[0], *_call(given)) for given in several]
    for label, name, options in named:
        for eps in [eps_255] if isinstance(eps_255, int | float) else eps_255:
            question = Question(label, name, tuple(options.items()), float(eps) / 255, norm)
            try:
                question.attack()
            except TypeError as error:
                raise ValueError(f"attack {name!r}: {error}") from error
            yield question


def _call(given: Any) -> tuple[str, dict[str, Any]]:
    return (given, {}) if isinstance(given, str) else (given[0], dict(given[1]))


@jax.jit
def _logits(predict: Predict, images: jax.Array) -> jax.Array:
    return predict(library.to_float(images))


def _answers(model: Model, dataset: Dataset, images: np.ndarray, batch_size: int) -> np.ndarray:
    """The classes `[N]` that a model says of uint8 images."""
    said = []
    padded = Dataset(images, dataset.labels, dataset.class_names)
    for batch in library.eval_batches(padded, min(batch_size, len(images))):
        logits = _logits(model.predict, batch.images)
        try:
            check_classes(dataset.class_names, logits.shape[-1], dataset.name)
        except ValueError as error:
            raise ValueError(f"{model.label}: {error}") from error
        said.append(np.asarray(logits.argmax(-1)))
    return np.concatenate(said)[: len(images)]


def _doubt(model: Model, images: Dataset, clean: np.ndarray) -> None:
    """Says where another preprocessing would make far more of the answers right."""
    if not model.what.endswith("images as they are"):
        return
    few = images.subset(min(len(images), 128), seed=0)
    x = library.to_float(jax.numpy.asarray(few.images))
    count = images.num_classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not fit well is not worth a word here
        best = guess_preprocessing(model.predict, x, jax.numpy.asarray(few.labels), num_classes=count)[0]
    own = float((clean == images.labels).mean())
    if best.accuracy > own + CLOSER:
        print(
            f"{model.label}: {own:.0%} of the images right as they are, {best.accuracy:.0%} with "
            f"{best.name!r}: is its preprocessing missing? Say it: ARCHITECTURE:FILE:{best.name}"
        )


def _row(
    question: Question,
    source: Model | None,
    judge: Model,
    labels: np.ndarray,
    said: np.ndarray,
    before: np.ndarray,
    of_source: np.ndarray,
) -> dict[str, Any]:
    fooled, both = said != labels, (before == labels) & (of_source == labels)
    row = {
        "surrogate": source.label if source else NOISE,
        "attack": question.label,
        "eps_255": round(255 * question.eps, 6),
        "norm": question.norm,
        "target": judge.label,
        "images": len(labels),
        "target_error": float((before != labels).mean()),
        "both_right": int(both.sum()),
    }
    for name, hits in (("asr", fooled), ("asr_both", fooled[both])):
        low, high = proportion_interval(int(hits.sum()), len(hits))
        row |= {name: float(hits.mean()) if len(hits) else np.nan, f"{name}_low": low, f"{name}_high": high}
    return row


def tables(results: pd.DataFrame) -> list[Table]:
    """Success in percent, surrogates and attacks down, budgets and targets across; then the clean error."""
    views = {
        "asr": "Success on all images (%)",
        "asr_both": "Success on images that both models get right (%)",
    }
    made = [_table(results, value, title) for value, title in views.items()]
    clean = results.drop_duplicates("target").assign(row="error on clean images", eps_255=0.0)
    center = 100 * clean.pivot(index="row", columns="target", values="target_error")
    center.columns = pd.MultiIndex.from_tuples([("target", name) for name in center.columns])
    none = pd.DataFrame(np.nan, center.index, center.columns)
    return [*made, Table("Targets (%)", center, none, none.notna(), lambda x: f"{x:.1f}", "")]


def _table(results: pd.DataFrame, value: str, title: str) -> Table:
    named = results.assign(
        row=[s if s == a else f"{s}: {a}" for s, a in zip(results.surrogate, results.attack, strict=True)],
        half=(results[f"{value}_high"] - results[f"{value}_low"]) / 2,
        budget=[f"ε = {eps:g}/255" for eps in results.eps_255],
    )
    rows, columns = named["row"].unique(), named[["budget", "target"]].drop_duplicates()
    order = pd.MultiIndex.from_frame(columns, names=[None, None])
    center, half = (
        100 * named.pivot(index="row", columns=["budget", "target"], values=v).loc[rows, order]
        for v in (value, "half")
    )
    best = center.drop(index=NOISE, errors="ignore")
    best = best.eq(best.max()).reindex(center.index, fill_value=False)
    return Table(title, center, half, best, lambda x: f"{x:.1f}", "surrogate: attack")


def write(out: Path, results: pd.DataFrame, settings: Mapping[str, Any]) -> None:
    """The rows as `results.csv`, the page as `report.html` and `report.md`."""
    with replacing(out / "results.csv") as partial:
        results.round(6).to_csv(partial, index=False)
    text = (
        "Images that an attack made on a surrogate, rounded to 8 bits inside the ball, shown to targets. "
        f"± is half of Wilson's 95 % interval, {NOISE!r} random signs of that budget. A target that is "
        "the surrogate itself is a white box."
    )
    plain = json.loads(json.dumps(settings, default=str))
    write_sections(out, [Section("Transfer", text, tables(results), {})], "Transfer table", plain, {})
