"""What a net wants to see, as it shows in its answers."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from transferjax.checks import check_examples, check_labels, check_outputs
from transferjax.classes import check_vocabulary
from transferjax.data import even_batch_size
from transferjax.devices import mapped
from transferjax.models.predict import Selection
from transferjax.predicts.conventions import CONVENTIONS, FROM_ONE
from transferjax.predicts.preprocessing import Preprocessing
from transferjax.proportions import proportion_interval
from transferjax.typing import Array, Predict

LEVEL = 0.99
"""Of the test whether two conventions differ: many are compared."""
POOR = 0.5
MOST_NAMES = 5


class Guess(NamedTuple):
    """A convention, the share of images that the net gets right with it, and the value to put around the net.

    `low` and `high` are Wilson's 95 % interval of the accuracy. `tied` says that these images do not tell the
    convention from the best: of those that only one of both gets right, about as many are its own. The names
    are those of `read_preprocessing`.
    """

    name: str
    accuracy: float
    preprocessing: Preprocessing
    low: float
    high: float
    tied: bool


def guess_preprocessing(
    predict: Predict,
    images: Array,
    labels: Array,
    base: Preprocessing | None = None,
    *,
    num_classes: int | None = None,
    batch_size: int = 16,
) -> list[Guess]:
    """The accuracy of a net with each convention of normalization, channels and labels, the best first.

    A net that is given another one answers, and is silently worse. It runs once for each of 16 conventions
    (those of `read_preprocessing`), compiled, with a bar in a terminal. A hundred images of all classes tell
    those apart that differ much, such as 0..255 and 0..1; "imagenet", "clip" and "cifar10" are close to each
    other and may stay tied on a thousand. The net's own papers know better.

    Warns where the best is tied with others, where none gets half of the images right, and where the answers
    are right but for the order of the classes.

    Args:
        predict: of what the net wants to see.
        images, labels: `[B, H, W, C]` in [0, 1] and classes `[B]`; 100 to 200 of them, mixed.
        base: size, crop, interpolation, layout and classes, which all of them share.
        num_classes: how many classes the labels are of, as in `metrics.correct`; None if nobody knows.
        batch_size: images at once.

    Raises:
        ValueError: labels that are no classes of predict.
    """
    check_examples(images, labels)
    base, known = base or Preprocessing(), np.asarray(labels)
    answers: dict[str, tuple[Preprocessing, np.ndarray]] = {}
    for name, convention, logits in _tried(predict, images, base, batch_size):
        if not answers:
            _check_labels(base.classes, logits.shape[1], known, num_classes)
        for offset in (0, 1):
            width, classes = logits.shape[1] - offset, base.classes
            if known.max() < (len(classes) or width) and max(classes, default=0) < width:
                said = logits[:, offset:][:, list(classes) or slice(None)].argmax(-1)
                answers[name + FROM_ONE * offset] = replace(convention, label_offset=offset), said
    guesses = _ranked(answers, known)
    _say(guesses, {name: said for name, (_, said) in answers.items()}, known)
    return guesses


def _check_labels(classes: tuple[int, ...], logits: int, labels: np.ndarray, num_classes: int | None) -> None:
    if classes:
        Selection(classes).check(logits)
    check_vocabulary(labels, len(classes) or logits, num_classes)
    check_labels(labels, len(labels), len(classes) or logits)


def _tried(
    predict: Predict, images: Array, base: Preprocessing, batch_size: int
) -> Iterator[tuple[str, Preprocessing, np.ndarray]]:
    """Logits `[B, K]` with each convention; images are resized once, and all conventions share a program."""
    devices, count = jax.local_device_count(), len(images)
    size = even_batch_size(count, batch_size, devices)
    rows = [np.arange(start, start + size) % count for start in range(0, count, size)]
    plain = replace(base, scale=1.0, mean=(0.0,), std=(1.0,), channels="RGB", layout="NHWC")
    resize, last = mapped(lambda x, _: plain.see(x)), Preprocessing(layout=base.layout)
    seen = [np.asarray(resize(jnp.asarray(images)[some], None)) for some in rows]

    def logits_of(x: Array, shared: tuple[Predict, Array, Array, Array]) -> Array:
        predict, scale, mean, std = shared
        return predict(last.see((x * scale - mean) / std))

    # A function that is no pytree becomes a constant of the program.
    net = jax.tree.map(lambda leaf: jax.tree_util.Partial(leaf) if callable(leaf) else leaf, predict)
    run = mapped(logits_of)
    with tqdm(total=count * len(CONVENTIONS), unit=" images", disable=None, leave=False) as bar:
        for name, known in CONVENTIONS.items():
            bar.set_description(f"preprocessing {name}")
            gray = images.shape[-1] != 3
            if gray and known.channels == "BGR":
                continue
            mean, std = (values[:1] if gray else values for values in (known.mean, known.std))
            numbers = [jnp.asarray(values, jnp.float32) for values in (known.scale, mean, std)]
            parts = []
            for x in seen:
                x = x[..., ::-1] if known.channels == "BGR" else x
                parts.append(np.asarray(run(jnp.asarray(x), (net, *numbers))))
                check_outputs(parts[-1], size)
                bar.update(min(size, count - bar.n % count))
            used = replace(base, scale=known.scale, mean=mean, std=std, channels=known.channels)
            yield name, used, np.concatenate(parts)[:count]


def _ranked(answers: dict[str, tuple[Preprocessing, np.ndarray]], labels: np.ndarray) -> list[Guess]:
    right = {name: said == labels for name, (_, said) in answers.items()}
    order = sorted(right, key=lambda name: -int(right[name].sum()))
    guesses = []
    for name in order:
        interval = proportion_interval(int(right[name].sum()), len(labels))
        tied = not better(right[order[0]], right[name])
        accuracy = float(right[name].mean())
        guesses.append(Guess(name, accuracy, answers[name][0], *interval, tied))
    return guesses


def better(one: np.ndarray, other: np.ndarray, tries: int = 1) -> bool:
    """Whether of the images that only one of both has, more are the first one's, beyond chance.

    Args:
        one, other: which images each has, bool `[N]`.
        tries: how many were looked at for the one.
    """
    differ = one != other
    level = 1 - (1 - LEVEL) / tries
    return proportion_interval(int(one[differ].sum()), int(differ.sum()), level=level)[0] > 0.5


def _say(guesses: list[Guess], answers: dict[str, np.ndarray], labels: np.ndarray) -> None:
    """Warns of what the order of the guesses does not tell."""
    best, known = guesses[0], answers[guesses[0].name] == labels
    told = f"{best.accuracy:.0%} of the images right ({best.low:.0%} to {best.high:.0%}) with {best.name!r}"
    other = {name: _relabelled(said, labels) for name, said in answers.items()}
    name = max(other, key=lambda name: int(other[name].sum()))
    tied = [guess.name for guess in guesses[1:] if guess.tied]
    if other[name].mean() >= POOR and better(other[name], known):
        modes = {int(c): _mode(answers[name][labels == c]) for c in np.unique(labels)}
        moved = ", ".join([f"class {c} as {mode}" for c, mode in modes.items() if mode != c][:3])
        said = (
            f"with {name!r} {other[name].mean():.0%} of the images get an answer of their class alone, at "
            f"best are {told}: the classes seem to be in another order ({moved}, …); give labels in "
            "predict's, or as base Preprocessing(classes=…), its logits in the labels' order"
        )
    elif best.accuracy < POOR:
        said = (
            f"none fits, at best are {told}: are the classes in the model's order, the size and crop (base) "
            "its own?"
        )
    elif tied:
        names = ", ".join(tied[:MOST_NAMES]) + (
            f" and {len(tied) - MOST_NAMES} more" if tied[MOST_NAMES:] else ""
        )
        said = (
            f"{len(labels)} images do not tell {best.name!r} ({best.accuracy:.0%} right) from {names}: give "
            "more of them, or take what the net's papers say"
        )
    else:
        return
    warnings.warn(said, stacklevel=3)


def _relabelled(said: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images get the answer that others of their class get mostly, and no other class does."""
    classes = np.unique(labels)
    alone = Counter(_mode(said[labels == c]) for c in classes)
    agree = np.zeros(len(labels), bool)
    for c in classes:
        here, mode = np.flatnonzero(labels == c), _mode(said[labels == c])
        for i in here:
            others = said[here[here != i]]
            agree[i] = len(others) > 0 and said[i] == mode == _mode(others) and alone[mode] == 1
    return agree


def _mode(said: np.ndarray) -> int:
    return int(Counter(said.tolist()).most_common(1)[0][0])
