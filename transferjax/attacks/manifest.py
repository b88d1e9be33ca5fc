"""What decides the images of a directory, so that it goes on only with what it was begun with.

Attacks are told apart by their names (see `naming`), and models by their names, which hold the weights, and
by their answers to a few images: bit for bit where a model has no name, such as a lambda around its weights;
else roughly, since the last bits of an answer hang on the device.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import __version__, data
from transferjax.attacks.recipe import Recipe
from transferjax.naming import UnstableName, described, digest, stable_name
from transferjax.predicts.snapshots import Snapshots
from transferjax.typing import Attack, Predict


def manifest_of(
    attack: Attack,
    predict: Predict,
    dataset: data.Source,
    targets: np.ndarray | None,
    seed: int,
    eps: float,
    norm: str,
    format: str,
) -> dict[str, Any]:
    """All that decides the images; equal manifests mean equal images."""
    return {
        "attack": repr(attack) if isinstance(attack, Recipe) else described(attack),
        "attack_digest": _mark(attack.run if isinstance(attack, Recipe) else attack),
        "predict": _mark(predict),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "images": len(dataset),
        "labels": digest(stable_name(np.asarray(dataset.labels))),
        "targets": None if targets is None else digest(stable_name(np.asarray(targets))),
        "eps": eps,
        "norm": norm,
        "seed": seed,
        "format": format,
        "transferjax": __version__,
        "jax": jax.__version__,
        "platform": jax.default_backend(),
    }


UNSEEN = "unseen, beside "
"""Before the digest of the arrays that can be seen, where a value has no name."""


def _mark(value: object) -> str:
    """A digest of a value's name, and with it of a model's weights."""
    try:
        return digest(stable_name(value))
    except UnstableName:
        leaves = [leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, np.ndarray | jax.Array)]
        return UNSEEN + digest(stable_name(leaves))


def is_unseen(manifest: dict[str, Any]) -> bool:
    """Whether the model has no name, so that its outputs must agree bit for bit."""
    return manifest["predict"].startswith(UNSEEN)


def check_named(attack: Attack) -> None:
    """A directory outlives the process, so its attack needs a name that the next one gives it too.

    Raises:
        ValueError: with the option that has none.
    """
    parts = dict(attack.settings) if isinstance(attack, Recipe) else {}
    for option, value in (*parts.items(), ("", getattr(attack, "run", attack))):
        try:
            stable_name(value)
        except UnstableName as error:
            where = f"{option} of {getattr(attack, 'name', '')}" if option else "the attack"
            raise ValueError(
                f"{where} has no stable name ({error}), so that a directory could not tell it from others: "
                "define a function at the top level of a module, or take functools.partial of one; or craft "
                "without a directory"
            ) from error


def members(predict: Any) -> list[Predict]:
    """The functions of images in what an attack takes; the first of snapshots, which have one in common."""
    if isinstance(predict, Snapshots):
        return [predict.at(0)]
    several = predict if isinstance(predict, tuple | list) else (predict,)
    return [member for member in several if callable(member)]


def outputs_of(predict: Predict, images: np.ndarray, exactly: bool) -> list[float] | None:
    """Numbers that tell models apart: random sums of each image's logits, and of the gradient of such a sum.

    None for a model that answers differently when it is asked again.
    """

    def sums() -> np.ndarray:
        bits, total = np.random.Philox(key=np.uint64(0)), np.zeros((2, len(images)))
        for member in members(predict):
            logits, pull = jax.vjp(member, data.to_float(jnp.asarray(images)))
            signs = _signs(bits, logits.shape)
            gradients = np.asarray(pull(jnp.asarray(signs, logits.dtype))[0], np.float64)
            total[0] += (signs * np.asarray(logits, np.float64)).sum(1)
            total[1] += (_signs(bits, gradients.shape) * gradients).sum((1, 2, 3))
        return total

    if exactly and not members(predict):
        return None
    first = sums().ravel().tolist()
    return first if _alike(first, sums().ravel().tolist(), exactly) else None


def _signs(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Random signs; every image's sum weighs every entry."""
    return 1.0 - 2.0 * (bits.random_raw(math.prod(shape)) & np.uint64(1)).reshape(shape)


def _alike(there: list[float], here: list[float], exactly: bool) -> bool:
    """Whether outputs are of one model: bit for bit, or up to a hundredth, which devices do not reach."""
    one, other = (np.reshape(sums, (2, -1)) for sums in (there, here))
    if exactly or one.shape != other.shape:
        return np.array_equal(one, other)
    return bool((np.abs(one - other).max(1) <= 0.01 * np.abs(one).max(1)).all())


def refuse_other(path: Path, manifest: dict[str, Any]) -> None:
    """Compares with the manifest that is there.

    Raises:
        ValueError: with the differences.
    """
    try:
        there = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {path.parent}, or name another") from error
    differences = [
        f"{key}: {there.get(key)!r} there, {manifest.get(key)!r} here"
        for key in sorted({*there, *manifest} - {"outputs"})
        if there.get(key) != manifest.get(key)
    ]
    outputs = there.get("outputs", []), manifest["outputs"]
    if None in outputs:
        differences.append("outputs: predict answers the same images differently from call to call")
    elif not _alike(*outputs, exactly=is_unseen(manifest)):
        differences.append("outputs: the same images give other logits or gradients here")
    if differences:
        raise ValueError(
            f"{path.parent} holds other adversarial images; choose another directory, or delete it\n  "
            + "\n  ".join(differences)
        )
