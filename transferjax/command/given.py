"""Models and data as people name them.

Their names are `flags.FORMS`. In Python, and as what a function returns, a net itself may stand there: a
predict, a PyTorch module, an NNX, Equinox or Linen module (with its variables), a service with `as_predict`;
and `(net, Preprocessing(…))`.
"""

import difflib
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from transferjax import data, models
from transferjax.data import Dataset
from transferjax.data.dataset import digest, rows_of
from transferjax.data.folders import image_folder
from transferjax.lazy import named
from transferjax.predicts.conventions import read_preprocessing
from transferjax.predicts.foreign import from_callable
from transferjax.predicts.preprocessing import Preprocessing
from transferjax.predicts.stochastic import Stochastic
from transferjax.predicts.torch_modules import from_torch_module
from transferjax.typing import Predict


class Model(NamedTuple):
    """A predict by its label, what it is, and what it sees of an image."""

    label: str
    predict: Predict
    what: str
    seen: Preprocessing | None = None
    """None for images as they are."""
    bare: Predict | None = None
    """The predict without its preprocessing; None for a service, which nobody asks twice."""
    given: str = ""
    """How it was named, if it was."""
    takes: str = ""
    """The argument of a function that was taken for a predict."""
    files: tuple[Path, ...] = ()


def read_models(
    given: Any, num_classes: int | Callable[[], int], known: dict[Any, Model] | None = None
) -> list[Model]:
    """Models with labels that are theirs alone.

    Args:
        given: one, several, or label -> model; see above.
        num_classes: of the labels, or a function that says it: what a service has no other way to know.
        known: models that were read before, which is filled: what is in it is not read again.

    Raises:
        ValueError: what is no model, or two of one label.
    """
    if isinstance(given, Mapping) and _is_state(given):
        raise ValueError(f"that is {STATE}")
    if isinstance(given, Mapping):
        labelled = list(given.items())
    else:
        several = given if isinstance(given, list) else [given]
        labelled = [_labelled(one, i) for i, one in enumerate(several, 1)]
    known, found = {} if known is None else known, []
    for label, one in labelled:
        key = one if isinstance(one, str) else id(one)
        if key not in known:
            known[key] = _read(one, num_classes)
        found.append(known[key]._replace(label=str(label)))
    labels = [model.label for model in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two models are called {twice[0]!r}: give labels, LABEL=model or {{label: model}}")
    if not found:
        raise ValueError("no model was given")
    return found


def identity(model: Model) -> dict[str, Any]:
    """What tells a model from others, and how to have it again: as plain values."""
    arrays = [leaf for leaf in jax.tree.leaves(model.predict) if isinstance(leaf, np.ndarray | jax.Array)]
    return {
        **({"given": model.given} if model.given else {}),
        "what": model.what,
        "sees": str(model.seen or Preprocessing()),
        **{f"sha256 of {file}": hashlib.sha256(file.read_bytes()).hexdigest() for file in model.files},
        **({"weights": digest(*map(np.asarray, arrays))} if arrays else {}),
    }


def _labelled(given: Any, place: int) -> tuple[str, Any]:
    if not isinstance(given, str):
        return getattr(given, "__name__", f"{type(_net_of(given)).__name__} {place}"), given
    label, equals, rest = given.partition("=")
    if equals and not {":", "/"} & set(label):  # else it stands in a path
        return label, rest
    head, _, tail = given.partition(":")
    return head if head in models.ZOO else tail.partition(":")[0] or head, given


def _net_of(given: Any) -> Any:
    return given[0] if isinstance(given, tuple) else given


def _read(given: Any, num_classes: int | Callable[[], int], seen: Preprocessing | None = None) -> Model:
    """The model, yet without a label; `seen` is what was said about it outside."""
    if isinstance(given, str):
        return _named(given, num_classes, seen)
    if isinstance(given, tuple) and len(given) == 2:
        net, more = given
        if isinstance(more, Preprocessing):
            if seen is not None:
                raise ValueError(f"what the net sees is said twice: {seen} and {more}; leave one out")
            return _read(net, num_classes, more)
        return _seen(from_callable(net, more), type(net).__name__, seen)
    if hasattr(given, "as_predict"):
        count = num_classes() if callable(num_classes) else num_classes
        predict, what = given.as_predict(count), f"service {getattr(given, 'url', '')}".strip()
        return _seen(predict, what, seen)._replace(bare=None)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.nn.Module):
        return _of_torch(given, seen)
    if isinstance(given, jax.tree_util.Partial | Stochastic):
        return _seen(given, "predict", seen)
    if callable(given):
        needed = _needed(given) if inspect.isfunction(given) else []
        model = _seen(from_callable(given), getattr(given, "__name__", type(given).__name__), seen)
        return model._replace(takes=needed[0] if needed else "")
    if isinstance(given, Mapping) and _is_state(given):
        raise ValueError(f"that is {STATE}")
    raise ValueError(
        "expected a model (a file 'resnet50:weights.pth', 'mynets.py:name', 'package.module:name', a net or "
        f"a predict); got {type(given).__name__} {given!r:.60}"
    )


STATE = (
    "a state dict, weights without a net: build the net and load them, or name the file, ARCHITECTURE:FILE"
)


def _is_state(given: Mapping) -> bool:
    return bool(given) and all(
        hasattr(value, "shape") and hasattr(value, "dtype") for value in given.values()
    )


def _seen(bare: Predict, what: str, seen: Preprocessing | None) -> Model:
    return Model("", seen(bare) if seen else bare, what, seen, bare)


def _of_torch(module: Any, seen: Preprocessing | None) -> Model:
    weights = [np.asarray(w.detach().cpu().float()) for w in module.state_dict().values()]
    what = f"PyTorch {type(module).__name__} with weights {digest(*weights)}"
    if seen is None and getattr(module, "pretrained_cfg", None):
        seen, what = read_preprocessing(module), f"{what}, by its pretrained_cfg"
    return _seen(from_torch_module(module), what, seen)


def _named(given: str, num_classes: int | Callable[[], int], seen: Preprocessing | None) -> Model:
    head, _, rest = given.partition(":")
    name, _, third = rest.partition(":")
    if head not in models.ZOO and not name:
        near = difflib.get_close_matches(head, models.ZOO, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(
            f"model {given!r}: expected ARCHITECTURE:FILE, file.py:name or package.module:name{hint}"
        )
    if head not in models.ZOO and Path(name).is_file() and not head.endswith(".py"):
        near = difflib.get_close_matches(head, models.ZOO, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(models.ZOO)}"
        raise ValueError(f"unknown architecture {head!r} of {rest}; {hint}")
    if third and seen is not None:
        raise ValueError(f"{given!r}: what the net sees is said twice: {third!r} and {seen}; leave one out")
    seen = _preprocessing(third) if third else seen
    if head in models.ZOO:
        return _of_file(head, name, seen)._replace(given=given)
    value, file = _imported(head, name)
    try:
        model = _read(value, num_classes, seen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{head}:{name}: {error}") from error.__cause__
    what = f"{head}:{name}" if model.takes else f"{head}:{name}, {model.what}"
    return model._replace(what=what, given=given, files=(file,) if file else ())


def _preprocessing(text: str) -> Preprocessing:
    """What a net sees, by the third part of a model's name."""
    try:
        return read_preprocessing(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{text!r} is no JSON that says what a net sees of an image; weights are loaded by the function, "
            "or stand behind an architecture, ARCHITECTURE:FILE"
        ) from error


def _of_file(name: str, file: str, seen: Preprocessing | None) -> Model:
    if not file:
        raise ValueError(f"model {name!r}: which weights? For example {name}:weights.pth")
    if not Path(file).exists():
        raise FileNotFoundError(f"model {name!r}: there is no file {file!r}")
    tensors = models.read_tensors(file)
    predict = models.predictor(models.build_for(name, tensors), models.from_torch(name, tensors))
    files = (Path(file),) if Path(file).is_file() else ()
    return _seen(predict, f"{name} from {file}", seen)._replace(files=files)


def _imported(module: str, name: str) -> tuple[Any, Path | None]:
    """A net or what makes one, made; and the file it stands in."""
    found, value = named(f"{module}:{name}", lambda stem: _run(module, lambda: import_module(stem)))
    made = (inspect.isfunction(value) or inspect.isclass(value)) and not _needed(value)
    file = getattr(found, "__file__", None)
    return _run(f"{module}:{name}", value) if made else value, Path(file) if file else None


def _run(what: str, function: Callable[[], Any]) -> Any:
    """What somebody else's function returns; what it raises is told with its place."""
    try:
        return function()
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """An error of somebody else's, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _needed(function: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def read_data(given: Any, split: str = "", count: int = 0, **options: Any) -> Dataset:
    """Images and labels in memory.

    Args:
        given: a `Dataset`, `(images uint8, labels)`, or a name or path for `data.load`.
        split: of a data set by name; "test" unless it is a folder.
        count: how many of a seeded order, which mixes the classes; 0 for all.
        options: `size`, `crop` of `data.load`.
    """
    if isinstance(given, tuple):
        images, labels = (np.asarray(part) for part in given)
        if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
            raise ValueError(
                f"images are {images.shape}; [N, H, W, C] is wanted: images.transpose(0, 2, 3, 1)"
            )
        given = Dataset(images, labels, num_classes=int(labels.max()) + 1)
    if not isinstance(given, Dataset):
        asked = {name: value for name, value in options.items() if value is not None}
        given = data.load(str(given), _split(given, split), **asked)
    return take(given, count)


def take(dataset: Dataset, count: int) -> Dataset:
    """So many images of a seeded order, which mixes the classes; all of them for 0."""
    if not 0 < count < len(dataset):
        return dataset
    print(f"{count} of these {len(dataset)} images are taken, in a seeded order that mixes the classes")
    return dataset.subset(count, seed=0)


def read_sources(given: Any, whole: Dataset, split: str = "", count: int = 0) -> list[str]:
    """Where each image is from that `take(whole, count)` has: its file, or its place in the data set."""
    if _is_folder(given):
        files: Any = image_folder(str(given), split).encoded
        names = [files.where(i) for i in range(len(whole))]
    else:
        named = f"{given} {_split(given, split)}" if isinstance(given, str) else whole.name
        names = [f"{named} {i}" for i in range(len(whole))]
    return [names[i] for i in rows_of(whole, count, 0)] if 0 < count < len(whole) else names


def _is_folder(given: Any) -> bool:
    return (
        isinstance(given, str | Path) and Path(given).is_dir() and not data.storage.saved_splits(str(given))
    )


def _split(given: Any, split: str) -> str:
    return split or ("" if _is_folder(given) else "test")
