"""Models and data as people name them.

    resnet50:weights.pth                     a file of weights of a known architecture
    resnet50:weights.pth:preprocessor.json   and what it wants to see: a file, or a name of read_preprocessing
    package.module:name, mynets.py:name      a net, or a function without arguments that returns one
    LABEL=…                                  any of these, by that label

In Python a net itself may stand there: a predict, a PyTorch module, an NNX, Equinox or Linen module (with its
variables), a service with `as_predict`; and `(net, Preprocessing(…))`.
"""

import difflib
import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from transferjax import data, models
from transferjax.data import Dataset
from transferjax.predicts.conventions import read_preprocessing
from transferjax.predicts.foreign import from_callable
from transferjax.predicts.preprocessing import Preprocessing
from transferjax.predicts.stochastic import Stochastic
from transferjax.predicts.torch_modules import from_torch_module
from transferjax.typing import Predict


class Model(NamedTuple):
    """A predict by its label, and in words what it is."""

    label: str
    predict: Predict
    what: str


def read_models(given: Any, num_classes: int) -> list[Model]:
    """Models with labels that are theirs alone.

    Args:
        given: one, several, or label -> model; see above.
        num_classes: of the labels; what a service has no other way to know.

    Raises:
        ValueError: what is no model, or two of one label.
    """
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        several = given if isinstance(given, list) else [given]
        named = [_labelled(one, i) for i, one in enumerate(several, 1)]
    found = [Model(str(label), *_read(one, num_classes)) for label, one in named]
    labels = [model.label for model in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two models are called {twice[0]!r}: give labels, LABEL=model or {{label: model}}")
    if not found:
        raise ValueError("no model was given")
    return found


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


def _read(given: Any, num_classes: int) -> tuple[Predict, str]:
    """The predict, and what it is."""
    if isinstance(given, str):
        return _named(given, num_classes)
    if isinstance(given, tuple) and len(given) == 2:
        net, more = given
        if isinstance(more, Preprocessing):
            predict, what = _read(net, num_classes)
            return more(predict), f"{what}, {more}"
        return from_callable(net, more), type(net).__name__
    if hasattr(given, "as_predict"):
        return given.as_predict(num_classes), f"service {getattr(given, 'url', '')}".strip()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.nn.Module):
        return _of_torch(given)
    if isinstance(given, jax.tree_util.Partial | Stochastic):
        return given, "predict"
    if callable(given):
        return from_callable(given), getattr(given, "__name__", type(given).__name__)
    raise ValueError(
        f"expected a model (a file 'resnet50:weights.pth', 'package.module:name', a net or a predict); got "
        f"{type(given).__name__} {given!r:.60}"
    )


def _of_torch(module: Any) -> tuple[Predict, str]:
    predict, what = from_torch_module(module), f"PyTorch {type(module).__name__}"
    if getattr(module, "pretrained_cfg", None):
        seen = read_preprocessing(module)
        return seen(predict), f"{what}, by its pretrained_cfg {seen}"
    return predict, what


def _named(given: str, num_classes: int) -> tuple[Predict, str]:
    head, _, rest = given.partition(":")
    if head in models.ZOO:
        return _of_file(head, *rest.partition(":")[::2])
    if not rest:
        near = difflib.get_close_matches(head, models.ZOO, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"model {given!r}: expected ARCHITECTURE:FILE or package.module:name{hint}")
    if Path(rest.partition(":")[0]).is_file() and not head.endswith(".py"):
        near = difflib.get_close_matches(head, models.ZOO, n=3, cutoff=0.3)
        raise ValueError(f"unknown architecture {head!r} of {rest}; did you mean {', '.join(near)}?")
    return _read(_imported(head, rest), num_classes)


def _of_file(name: str, file: str, seen: str) -> tuple[Predict, str]:
    if not file:
        raise ValueError(f"model {name!r}: which weights? For example {name}:weights.pth")
    if not Path(file).exists():
        raise FileNotFoundError(f"model {name!r}: there is no file {file!r}")
    tensors = models.read_tensors(file)
    predict = models.predictor(models.build_for(name, tensors), models.from_torch(name, tensors))
    if not seen:
        return predict, f"{name} from {file}, images as they are"
    preprocessing = read_preprocessing(seen)
    return preprocessing(predict), f"{name} from {file}, {preprocessing}"


def _imported(module: str, name: str) -> Any:
    """What a module holds by that name; what a function without arguments returns."""
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {module!r}")
        sys.path.insert(0, str(path.absolute().parent))
        found = import_module(path.stem)
    else:
        found = import_module(module)
    if not hasattr(found, name):
        near = difflib.get_close_matches(name, vars(found), n=3)
        raise ValueError(f"{module} has no {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    value = getattr(found, name)
    made = (inspect.isfunction(value) or inspect.isclass(value)) and not _needed(value)
    return value() if made else value


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
        given = Dataset(images, labels, num_classes=int(labels.max()) + 1)
    if not isinstance(given, Dataset):
        asked = {name: value for name, value in options.items() if value is not None}
        folder = Path(str(given)).is_dir() and not data.storage.saved_splits(str(given))
        given = data.load(str(given), split or ("" if folder else "test"), **asked)
    return given.subset(min(count, len(given)), seed=0) if count else given
