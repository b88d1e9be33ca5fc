"""What models say of images, and whether they see them as they are meant to be seen."""

import dataclasses
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import data
from transferjax.checks import check_no_nan, check_outputs
from transferjax.classes import check_classes
from transferjax.command.given import Model, first_line
from transferjax.data import Dataset
from transferjax.data.dataset import rows_of
from transferjax.predicts.conventions import CONVENTIONS, read_preprocessing
from transferjax.predicts.guesses import Guess, better, guess_preprocessing
from transferjax.predicts.preprocessing import Preprocessing
from transferjax.typing import Array, Predict

CLOSER = 0.1
"""A convention that gets so many more images right than the model as it is given is worth a word."""
FEW = 64
"""So many images tell conventions apart."""
CHANCE = 0.05
"""What guesses get right as often as this is no better than chance."""


@jax.jit
def _logits(predict: Predict, images: jax.Array) -> jax.Array:
    return predict(data.to_float(images))


def answers(model: Model, dataset: Dataset, images: np.ndarray, batch_size: int) -> np.ndarray:
    """The classes `[N]` that a model says of uint8 images."""
    said = []
    padded = Dataset(images, dataset.labels, dataset.class_names)
    for batch in data.eval_batches(padded, data.even_batch_size(len(images), batch_size)):
        logits = _logits(model.predict, batch.images)
        check_no_nan(logits, f"{model.label} returned NaN")  # whose largest would be class 0
        said.append(np.asarray(logits.argmax(-1)))
    return np.concatenate(said)[: len(images)]


def introduce(models: Sequence[Model], dataset: Dataset, batch_size: int) -> dict[int, np.ndarray]:
    """The answers to clean images, by `id` of the predict; a line for each model says what it sees of them.

    Another line doubts a model that is no better than chance, or far better with another preprocessing.

    Raises:
        ValueError: a model that fails on such images, or does not know these classes.
    """
    different = list({id(model.predict): model for model in reversed(models)}.values())[::-1]
    for model in different:
        _check(model, dataset)
    found = {}
    for model in different:
        said = found[id(model.predict)] = answers(model, dataset, dataset.images, batch_size)
        wrong = int((said != dataset.labels).sum())
        print(
            f"{model.label}: {model.what}; sees {in_words(model.seen)}; "
            f"{wrong} of {len(dataset)} clean images wrong"
        )
        _doubt(model, dataset, said)
    return found


def in_words(seen: Preprocessing | None) -> str:
    """What a net sees of an image: what differs from the image itself."""
    fields = dataclasses.fields(Preprocessing)
    said = [(f.name, getattr(seen, f.name)) for f in fields if seen and getattr(seen, f.name) != f.default]
    if not said:
        return "images as they are, RGB in 0 … 1"
    return f"Preprocessing({', '.join(f'{name}={value!r}' for name, value in said)})"


def _check(model: Model, dataset: Dataset) -> None:
    def asked(x: Array) -> Array:
        logits = model.predict(x)
        if not hasattr(logits, "shape"):
            raise TypeError(f"it returned {type(logits).__name__} where logits [N, K] are wanted")
        return logits

    shape = (1, *dataset.image_shape)
    try:
        logits = jax.eval_shape(asked, jax.ShapeDtypeStruct(shape, jnp.float32))
        check_outputs(logits, 1)
        check_classes(dataset.class_names, logits.shape[-1], dataset.name)
    except Exception as error:  # of somebody's net: whatever it raises
        said = f"{'' if isinstance(error, ValueError) else type(error).__name__ + ': '}{first_line(error)}"
        if model.takes:
            raise ValueError(
                f"{model.label}: {model.what} takes an argument {model.takes!r}, and so was called with "
                f"images {shape}: {said}; a function without arguments that returns a net is wanted, or one "
                "of images that returns logits"
            ) from error
        raise ValueError(f"{model.label}: {model.what} on images {shape}, [N, H, W, C]: {said}") from error


def _doubt(model: Model, images: Dataset, clean: np.ndarray) -> None:
    from scipy.stats import binom  # slow

    right, count, classes = int((clean == images.labels).sum()), len(images), images.num_classes
    best = _better(model, images, clean)
    if best is not None:
        guess, own = best
        how = "is its preprocessing another" if model.seen else "is its preprocessing missing"
        print(
            f"warning: {model.label}: {own:.0%} of the images right as they are seen, {guess.accuracy:.0%} "
            f"with {guess.name!r}: {how}? {_how_to_say(model, guess)}"
        )
    elif classes > 1 and binom.sf(right - 1, count, 1 / classes) > CHANCE:
        print(
            f"warning: {model.label}: {right} of {count} clean images right, no better than chance among "
            f"{classes} classes: is what it sees another (predicts.guess_preprocessing tries what is usual), "
            f"or the order of its classes ({', '.join(images.class_names[:3])}, … here)?"
        )


def _better(model: Model, images: Dataset, clean: np.ndarray) -> tuple[Guess, float] | None:
    """A convention that is surely far better, and how many images are right now."""
    if model.bare is None or (clean == images.labels).mean() > 1 - CLOSER:
        return None
    few = images.subset(min(len(images), FEW), seed=0)
    own = (clean == images.labels)[rows_of(images, len(few), 0)]
    x, labels = data.to_float(jnp.asarray(few.images)), jnp.asarray(few.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not fit well is not worth a word here
        try:
            guess = guess_preprocessing(model.bare, x, labels, model.seen, num_classes=images.num_classes)[0]
        except ValueError:  # logits of other classes than the labels'
            return None
    if guess.accuracy <= own.mean() + CLOSER:
        return None
    said = np.asarray(_logits(guess.preprocessing(model.bare), few.images).argmax(-1))
    sure = better(said == few.labels, own, tries=2 * len(CONVENTIONS))
    return (guess, float(own.mean())) if sure else None


def _how_to_say(model: Model, guess: Guess) -> str:
    if model.given and guess.preprocessing == read_preprocessing(guess.name):
        return f"Say it: '{model.given}:{guess.name}'"
    return f"Say it: {in_words(guess.preprocessing)} beside the net, or as JSON behind the model's name"
