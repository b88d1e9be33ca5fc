"""From a spec to what the library works with: data, weights, predicts; least recently used out, by bytes."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import flax
import jax
import jax.numpy as jnp
import numpy as np

from transferjax import data, models
from transferjax.devices import mapped
from transferjax.predicts.preprocessing import Preprocessing
from transferjax.predicts.stochastic import with_keys
from transferjax.random import fold_in
from transferjax.stopping import Stopped, never
from transferjax.study import registry
from transferjax.study.content import check_file, checked, facts, place_of
from transferjax.study.nets import module_of, net_of, predict_with
from transferjax.study.specs import (
    Adversarial,
    Apply,
    Data,
    Derived,
    Goal,
    Network,
    Pretrained,
    Purifier,
    Spec,
)
from transferjax.study.store import Store
from transferjax.typing import Array, Predict, PyTree


class Progress(Protocol):
    """Is told what runs: (what, done, of how many, key figures)."""

    def __call__(self, text: str, done: float, total: float, /, **figures: float) -> None: ...


def silent(text: str, done: float, total: float, /, **figures: float) -> None:
    """Nobody looks."""


@dataclass
class Context:
    """Everything that making a result reads; what it holds is a cache and nothing else.

    Args:
        store: where results are.
        batch_size: of evaluation and attacks.
        checkpoint_epochs: epochs between checkpoints of a training.
        keep_bytes: how much of data, weights and images stays in memory.
        progress: is told what runs.
        run: for whom, where several processes work for one run; provenance says it.
        stopped: whether somebody asked to stop.
    """

    store: Store
    batch_size: int = 128
    checkpoint_epochs: int = 10
    keep_bytes: int = 4 << 30
    progress: Progress = silent
    run: str = ""
    stopped: Callable[[], bool] = never
    _cache: OrderedDict[Any, tuple[Any, int]] = field(default_factory=OrderedDict)

    def cached(self, key: Any, make: Callable[[], Any], size: int | None = None) -> Any:
        """What `make` returns, remembered; the least recently used go when there are too many bytes."""
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key][0]
        value = make()
        self._cache[key] = value, _bytes(value) if size is None else size
        large = [key for key, (_, size) in self._cache.items() if size]
        while sum(size for _, size in self._cache.values()) > self.keep_bytes and len(large) > 1:
            del self._cache[large.pop(0)]
        return value

    def forget(self) -> None:
        """What was made of a result that turned out to be damaged."""
        self._cache.clear()

    def arrays(self, spec: Spec) -> dict[str, np.ndarray]:
        """A stored result."""
        return self.cached(("arrays", spec.key), lambda: self.store.get(spec))

    def source(self, spec: Data | Derived) -> data.Source:
        """What to train on; with the option `scale`, random crops that are decoded on the way."""
        if isinstance(spec, Derived):
            return self.dataset(spec)
        return self.cached(("source", *place_of(spec)), lambda: checked(spec))

    def dataset(self, spec: Data | Derived | Adversarial) -> data.Dataset:
        """Images and labels in memory."""
        if isinstance(spec, Adversarial):
            clean = self.dataset(spec.data)
            return data.Dataset(self.arrays(spec)["images"], clean.labels, clean.class_names, clean.name)
        if isinstance(spec, Derived):
            made = self.arrays(spec)
            return data.Dataset(
                made["images"], made["labels"], self.dataset(spec.data).class_names, spec.call.name
            )
        found = self.source(spec)
        return found.to_dataset() if isinstance(found, data.ImageStream) else cast(data.Dataset, found)

    def variables(self, spec: Network | Purifier | Pretrained) -> PyTree:
        """The weights of a network, on the device."""
        if isinstance(spec, Pretrained):
            variables = models.from_torch(self.module(spec), self.tensors(spec))
        else:
            variables = nested(self.arrays(spec))
        return jax.tree.map(jnp.asarray, variables)

    def tensors(self, spec: Pretrained) -> Any:
        """What a file of weights holds.

        Raises:
            ValueError: it is not the file whose sha256 the study named.
        """

        def read() -> dict[str, Any]:
            if not spec.file:
                named = f"weights of {spec.model.name} (sha256 {spec.sha256[:12]}…)"
                raise ValueError(f"{named}: `file` must say where they are")
            check_file(spec.file, spec.sha256)
            return models.read_tensors(spec.file)

        return self.cached(("tensors", spec.sha256), read)

    def module(self, spec: Network | Pretrained) -> models.Net:
        """The Flax module of a network."""
        if isinstance(spec, Network):
            return module_of(spec, facts(spec.data).num_classes)
        return models.build_for(spec.model.name, self.tensors(spec), **spec.model.arguments)

    def num_classes(self, spec: Spec) -> int:
        """How many logits a network of the study has."""
        if isinstance(spec, Network):
            return facts(spec.data).num_classes
        if isinstance(spec, Pretrained):
            logits, seen = self.module(spec).num_classes, spec.preprocessing.arguments
            skipped = 0 if logits == seen.get("num_classes") else seen.get("label_offset", 0)
            return len(spec.label_map) or logits - skipped
        if isinstance(spec, Apply):
            return len(spec.call.arguments.get("indices", ())) or self.num_classes(spec.of[0])
        raise TypeError(f"{type(spec).__name__} says no number of classes")

    def check_classes(self, networks: Iterable[Spec], images: Data | Derived | Adversarial) -> None:
        """A net of a thousand classes says nothing about the labels of ten.

        Raises:
            ValueError: another number of logits than the data have classes.
        """
        expected = self.dataset(images).num_classes
        for spec in networks:
            if (found := self.num_classes(spec)) != expected:
                name = (spec.call if isinstance(spec, Apply) else spec.model).name  # type: ignore[attr-defined]
                raise ValueError(
                    f"{name} has {found} logits, the data {expected} classes: choose them with `label_map` "
                    "or `select_classes`"
                )

    def predict(self, spec: Spec) -> Predict:
        """A network in evaluation mode, whatever kind of network it is."""
        return self.cached(("predict", spec.key), lambda: self._predict(spec))

    def with_weights(self, spec: Network | Pretrained, variables: PyTree) -> Predict:
        """A network in evaluation mode, with any weights."""
        return predict_with(spec, self.module(spec), variables)

    def _predict(self, spec: Spec) -> Predict:
        if isinstance(spec, Network | Pretrained):
            return self.with_weights(spec, self.variables(spec))
        if isinstance(spec, Purifier):
            return models.predictor(net_of(spec), self.variables(spec))
        if isinstance(spec, Apply):
            return registry.make(
                registry.APPLY, spec.call, *map(self.predict, spec.of), key=jax.random.key(0)
            )
        raise ValueError(
            f"{getattr(spec, 'name', spec)!r} has no weights: a service answers, and nothing else"
        )

    def each(self, function: Callable[..., Any], images: data.Dataset, shared: PyTree, text: str) -> Any:
        """What a `mapped` function says of every example: arrays `[N, …]`, without the padding."""
        devices = jax.local_device_count()
        batch_size = data.even_batch_size(len(images), self.batch_size, devices)
        parts, put = [], (jax.device_put if devices == 1 else lambda batch: batch)
        for batch in data.eval_batches(images, batch_size, put=put):
            parts.append(jax.device_get(function(batch, shared)))
            self.progress(text, min(len(parts) * batch_size, len(images)), len(images))
            if self.stopped():
                raise Stopped
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(images)], *parts)

    def watch(
        self, last: int, batch_size: int, text: str = "train"
    ) -> Callable[[int, dict[str, float]], None]:
        """Progress of a training of `last` steps."""
        return lambda step, metrics: self.progress(text, step * batch_size, last * batch_size, **metrics)


def _bytes(value: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(value) if hasattr(leaf, "nbytes")]
    images = getattr(value, "images", None)
    return sum(leaf.nbytes for leaf in leaves) + (images.nbytes if images is not None else 0)


def flat(tree: PyTree) -> dict[str, np.ndarray]:
    """A tree of arrays as `{"params/layer1.0/…": array}`, of the host."""
    return jax.tree.map(np.asarray, flax.traverse_util.flatten_dict(jax.device_get(tree), sep="/"))


def nested(arrays: dict[str, np.ndarray]) -> PyTree:
    """The variables of `flat`; what does not belong to them, such as the history, stays out."""
    kept = {name: a for name, a in arrays.items() if name.split("/")[0] in ("params", "batch_stats")}
    return flax.traverse_util.unflatten_dict(kept, sep="/")


def normalize(mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)) -> Preprocessing:
    """The network sees `(images - mean) / std`."""
    return Preprocessing(mean=mean, std=std)


def resized(predict: Predict, size: int, method: str = "bilinear") -> Predict:
    """The network sees images of another size, antialiased; budgets stay in the image's own pixels."""
    return jax.tree_util.Partial(_Resized(size, method), predict)


@dataclass(frozen=True)
class _Resized:
    size: int
    method: str

    def __call__(self, predict: Predict, x: Array) -> Array:
        return predict(jax.image.resize(x, (x.shape[0], self.size, self.size, x.shape[3]), self.method))


def classes_of(context: Context, goal: Goal, images: Data | Derived) -> np.ndarray:
    """What an attack is given `[N]`: labels, or the goal's classes."""
    dataset = context.dataset(images)
    labels, count = np.asarray(dataset.labels), dataset.num_classes
    if goal.aim == "untargeted":
        return labels
    if goal.aim == "next":
        return (labels + 1) % count
    if goal.aim == "random":
        bits = np.random.Philox(goal.seed).random_raw(len(labels))  # whose stream NumPy never changes
        drawn = (bits % np.uint64(count - 1)).astype(np.int64)
        return (drawn + (drawn >= labels)).astype(np.int32)
    if goal.aim == "file":
        return _from_file(goal, labels, count)
    assert goal.of is not None  # the spec says so
    context.check_classes((goal.of,), images)
    logits = context.each(_logits(context), dataset, context.predict(goal.of), "least likely classes")
    logits[np.arange(len(labels)), labels] = np.inf  # never the label
    return logits.argmin(-1).astype(np.int32)


def drawn(predict: Predict, examples: data.Examples) -> Predict:
    """A predict that draws, if it does, by an example's index: the batch and the devices are no matter."""
    return with_keys(predict, fold_in(jax.random.key(0), examples.indices))


def logits_of(examples: data.Examples, predict: Predict) -> Array:
    """Logits `[B, K]`."""
    return drawn(predict, examples)(data.to_float(examples.images))


def _logits(context: Context) -> Callable[..., Any]:
    return context.cached("logits", lambda: mapped(logits_of), 0)


def _from_file(goal: Goal, labels: np.ndarray, classes: int) -> np.ndarray:
    count = len(labels)
    if not goal.file:
        raise ValueError(f"targets with sha256 {goal.sha256[:12]}…: `file` must say where they are")
    check_file(goal.file, goal.sha256)
    try:
        with open(goal.file, "rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # of zip files too
        raise ValueError(f"{goal.file} holds no array of NumPy ({type(error).__name__}: {error})") from error
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ValueError(f"{goal.file}: expected {count} integer classes; got {found.dtype} {found.shape}")
    if found.min() < 0 or found.max() >= classes:
        raise ValueError(f"{goal.file}: classes {found.min()} … {found.max()}, but the data has {classes}")
    if len(same := np.flatnonzero(found == labels)):
        raise ValueError(f"{goal.file}: the target of image {same[0]} is its label ({len(same)} such images)")
    return found.astype(np.int32)
