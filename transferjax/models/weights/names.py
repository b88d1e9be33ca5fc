"""Which of a file's tensors are the net's, and what the net calls them.

People save nets inside of others: of `DataParallel`, of a class that normalizes, of a training module with
its criterion, of an average of the weights. All names then begin alike: `module.conv1.weight`,
`1.conv1.weight`. The net's first layer tells where it begins.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from transferjax.models.layers import Net
from transferjax.models.weights.layouts import is_hwio, torch_layout, transposed

COUNTER = "num_batches_tracked"
"""What PyTorch's batch normalization counts and no net here needs."""
_STRAY = re.compile(
    r"^(criterion|loss|loss_?fn|loss_?func|loss_?function)\.|(^|\.)(n_averaged|total_ops|total_params)$"
)
"""Names that no net has a use for: of losses, of `swa_utils`, of the profiler `thop`."""
_STATISTIC = re.compile(r"(^|\.)(new_)?(mean|std)$")
MOST_COPIES = 100
AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|averag\w*|shadow|teacher|momentum)([._]|$)", re.IGNORECASE)
"""What averages of the weights over training are called."""


class Own(NamedTuple):
    """The net's tensors by its own names, the names that were left out, and what the user should hear."""

    tensors: dict[str, np.ndarray]
    rest: list[str]
    notes: list[str]


def is_stray(name: str) -> bool:
    """Whether a tensor of that name belongs to no net."""
    return bool(_STRAY.search(name))


def own_tensors(module: Net, state_dict: Mapping[str, Any]) -> Own:
    """The tensors that a net is made of; without counters, auxiliary heads, and what lies around the net.

    Raises:
        ValueError: two tensors for one name, or several nets of this kind among which nothing tells.
    """
    state_dict = torch_layout(state_dict)
    if flipped := is_hwio(state_dict):
        state_dict = transposed(state_dict)
    prefix, copies = _prefix(module, state_dict)
    tensors: dict[str, np.ndarray] = {}
    rest, statistics = [], []
    for key, value in state_dict.items():
        inside = key.removeprefix(prefix)
        if _STATISTIC.search(inside) and np.size(value) <= 4:  # of a layer that normalizes
            statistics.append(f"{key} = {np.ravel(np.asarray(value, float)).tolist()}")
        elif not key.startswith(prefix) or is_stray(inside):
            rest.append(key)
        elif not any(key.startswith(copy) for copy in copies if copy.startswith(prefix)):
            name = _ours(module, inside)
            if name is None or name.endswith(COUNTER):
                continue
            if name in tensors:
                raise ValueError(f"{key} is a second tensor for {name} of {type(module).__name__}")
            tensors[name] = np.asarray(value)
    rest = [key for key in rest if not any(key.startswith(copy) for copy in copies)]
    notes = ["its kernels were read as HWIO"] if flipped else []
    notes += _notes(prefix, copies, statistics, rest)
    return Own(tensors, rest, notes + module.remarks([key.removeprefix(prefix) for key in state_dict]))


def _notes(prefix: str, copies: list[str], statistics: list[str], rest: list[str]) -> list[str]:
    notes = [f"the prefix {prefix!r} was taken off the names"] if prefix else []
    notes += [f"the net under {prefix!r} was taken, not the one under {copy!r}" for copy in copies]
    if statistics:
        notes.append(f"give the file's normalization to predictor(mean=…, std=…): {', '.join(statistics)}")
    if rest:
        notes.append(f"left out, as not of the net: {some(rest)}")
    return notes


def some(names: list[str]) -> str:
    """The first names, and how many there are besides."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _prefix(module: Net, state_dict: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What stands before the net's names, and before those of other copies of it.

    The net is where its first and its last layer are; of several, the one that is no average.
    """
    stem, head = f"{module.stem}.weight", f"{module.head}.weight"
    begins, ends = _places(module, state_dict, stem), _places(module, state_dict, head)
    if len(begins) > MOST_COPIES:
        raise ValueError(f"{len(begins)} nets begin in it, expected at most {MOST_COPIES}")
    size = lambda prefix: sum(key.startswith(prefix) for key in state_dict)  # noqa: E731
    rank = lambda prefix: (bool(AVERAGE.search(prefix)), len(prefix), prefix)  # noqa: E731
    if not begins & ends:
        return max(sorted(begins), key=size, default=""), []
    first, *copies = sorted(begins & ends, key=rank)
    rivals = [copy for copy in copies if first and rank(copy)[0] == rank(first)[0]]
    rivals = [copy for copy in rivals if not _equal(_under(state_dict, first), _under(state_dict, copy))]
    if rivals:
        raise ValueError(
            f"nets with different weights lie under {', '.join(map(repr, [first, *rivals]))}: choose one, "
            f"{{k.removeprefix({first!r}): v for k, v in state_dict.items() if k.startswith({first!r})}}"
        )
    return first, copies


def _ours(module: Net, name: str) -> str | None:
    try:
        return module.canonical(name)
    except (ValueError, LookupError):  # the name of another net where one of this is looked for
        return name


def _places(module: Net, names: Iterable[str], wanted: str) -> set[str]:
    """The prefixes under which a tensor of the net is."""
    found = set()
    for parts in (name.split(".") for name in names if name.endswith("weight")):
        for i in range(len(parts)):
            if _ours(module, ".".join(parts[i:])) == wanted:
                found.add(".".join([*parts[:i], ""]) if i else "")
    return found


def _under(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): v for key, v in state_dict.items() if key.startswith(prefix)}


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
