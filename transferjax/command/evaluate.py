"""The transfer table of one's own models: surrogates x attacks x budgets x targets."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transferjax.attacks.craft import craft
from transferjax.command.answers import answers, introduce
from transferjax.command.given import Model, identity, read_data, read_models
from transferjax.command.questions import Question, read_questions, warn_of_thin
from transferjax.command.shown import Seen, some, write
from transferjax.data import Dataset
from transferjax.metrics import proportion_interval
from transferjax.report import NOISE

COLUMNS = ("surrogate", "attack", "eps_255", "norm", "target", "white_box", "images", "surrogate_error",
           "target_error", "asr", "asr_low", "asr_high", "noise", "noise_p", "both_right", "asr_both",
           "asr_both_low", "asr_both_high", "noise_both", "noise_both_p")  # fmt: skip


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
    that surrogate and target both get right (`asr_both` of `both_right`); both with Wilson's 95 % interval.
    `noise` and `noise_both` are what random signs of the budget reach on the very same images, and `noise_p`
    how likely so much more than noise would be if the attack were no better (one-sided sign test). Rows of
    the surrogate "noise" are these signs; they have no surrogate that could be right. `white_box` rows have
    the surrogate itself as the target.

    Args:
        surrogates, targets: one model, a list, or `{label: model}`. A model is a name (`transferjax evaluate
            --help` has the forms), a net of PyTorch, Flax or Equinox, a predict, or
            `(net, Preprocessing(…))`. A net in a list is called by its class and place, "ResNet 1"; a label
            in `{label: net}` says more.
        data: a `Dataset`, `(images uint8, labels)`, a folder `<class>/<image>`, or a name of `data.load`.
        attacks: names of the catalogue, one or several, with options ("dim:rate=0.7", or
            `("dim", {"rate": 0.7})`), functions `eps, **options -> attack` in their place, or
            `{label: any of these}`.
        eps_255: budgets in 1/255, one or several: 8 is 8/255.
        norm: "linf" or "l2" (then eps_255 is an L2 norm in 1/255: 127.5 is 0.5).
        split, count, size, crop: which images, and what is done to them; see `command.given.read_data`.
        seed: of the attacks.
        batch_size: images at once.
        out: where to write `results.csv`, `report.md` and `report.html`; nothing is written if None.

    Returns:
        A tidy table with the columns `COLUMNS`; rates in [0, 1].

    Raises:
        ValueError: models, data, attacks or budgets that are not there or do not fit together.
    """
    questions = read_questions(attacks, eps_255, norm)
    reading = cache(lambda: read_data(data, split, count, size=size, crop=crop))
    known: dict[Any, Model] = {}
    sources, judges = (
        read_models(given, lambda: reading().num_classes, known) for given in (surrogates, targets)
    )
    images = reading()
    warn_of_thin(questions[0], images.image_shape)
    clean = introduce([*sources, *judges], images, batch_size)
    shown: list[Seen] = []
    few = some(len(images))

    def tried(question: Question, source: Model | None) -> list[np.ndarray]:
        """What each target says of the images of an attack."""
        predict = (source or sources[0]).predict
        crafted = craft(
            question.attack(images.images), predict, images, seed=seed, batch_size=batch_size
        ).images
        said = [answers(judge, images, crafted, batch_size) for judge in judges]
        label = source.label if source else NOISE
        shown.append(Seen(question, label, crafted[few], [answer[few] for answer in said]))
        return said

    noises = {q.eps_255: Question(NOISE, "noise", (), q.eps_255, q.norm) for q in questions}
    random = {eps: tried(question, None) for eps, question in noises.items()}
    rows: list[dict[str, Any]] = []
    for source in sources:
        for question in questions:
            several = zip(judges, tried(question, source), random[question.eps_255], strict=True)
            rows += [
                _row(question, source, judge, images, clean, said, noise) for judge, said, noise in several
            ]
    for question in noises.values():
        for judge, said in zip(judges, random[question.eps_255], strict=True):
            rows.append(_row(question, None, judge, images, clean, said, said))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"both_right": "Int64"})
    if out is not None:
        settings = {
            "images": images.name,
            "count": len(images),
            "classes": list(images.class_names),
            "norm": norm,
        }
        settings |= {
            "eps_255": list(noises),
            "attacks": {q.label: [q.name, dict(q.options)] for q in questions},
        }
        settings |= {"seed": seed, "models": {m.label: identity(m) for m in (*sources, *judges)}}
        looked = {m.label: clean[id(m.predict)][few] for m in judges}
        write(Path(out), table, settings, images.subset(few), looked, shown)
    return table


def _row(
    question: Question,
    source: Model | None,
    judge: Model,
    images: Dataset,
    clean: dict[int, np.ndarray],
    said: np.ndarray,
    noise: np.ndarray,
) -> dict[str, Any]:
    labels, before = images.labels, clean[id(judge.predict)]
    row = {
        "surrogate": source.label if source else NOISE,
        "attack": question.label,
        "eps_255": question.eps_255,
        "norm": question.norm,
        "target": judge.label,
        "white_box": source is not None and source.predict is judge.predict,
        "images": len(labels),
        "target_error": float((before != labels).mean()),
    }
    row |= _rates("asr", said != labels)
    if source is None:
        return row
    of_source, fooled, by_noise = clean[id(source.predict)], said != labels, noise != labels
    both = (before == labels) & (of_source == labels)
    row |= {"surrogate_error": float((of_source != labels).mean()), "both_right": int(both.sum())}
    row |= _rates("asr_both", fooled[both])
    for name, which in (("noise", np.ones_like(both)), ("noise_both", both)):
        row |= {name: _mean(by_noise[which]), f"{name}_p": _sign_test(fooled[which], by_noise[which])}
    return row


def _rates(name: str, hits: np.ndarray) -> dict[str, float]:
    low, high = proportion_interval(int(hits.sum()), len(hits))
    return {name: _mean(hits), f"{name}_low": low, f"{name}_high": high}


def _mean(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else float("nan")


def _sign_test(more: np.ndarray, less: np.ndarray) -> float:
    """How likely, if neither hits more often, `more` is alone with a hit so many times."""
    from scipy.stats import binom  # slow

    alone, against = int((more & ~less).sum()), int((less & ~more).sum())
    return float(binom.sf(alone - 1, alone + against, 0.5))
