"""From a config to the objects of the library: names become factories, dictionaries their arguments."""

import difflib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from transferjax import attacks, augment, averaging, data, models, penalties, rules, training
from transferjax.objective import objective
from transferjax.typing import Array, Attack, Key, Predict, PyTree

GOALS = ("untargeted", "targeted")
SLOTS = {"transforms": augment, "penalties": penalties, "rules": rules, "averages": averaging}


def plain(value: Any) -> Any:
    """A config entry as plain Python, whatever mixture of ConfigDict and dict it is."""
    return value.to_dict() if isinstance(value, ConfigDict) else value


def call(module: ModuleType, name: str, arguments: dict[str, Any], **offered: Any) -> Any:
    """`module.name(**arguments)`, and of `offered` what the factory has a parameter for.

    Raises:
        ValueError: an unknown name, with the nearest ones; arguments that do not fit; a targeted goal for an
            attack that has none.
    """
    known = {
        n: f
        for n, f in vars(module).items()
        if inspect.isfunction(f) and not n.startswith("_") and f.__module__.startswith(module.__name__)
    }
    if name not in known:
        near = difflib.get_close_matches(name, known, cutoff=0.4) or known
        raise ValueError(f"{module.__name__} has no {name!r}; did you mean {', '.join(near)}?")
    factory = known[name]
    accepted = inspect.signature(factory).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    extra = {key: value for key, value in offered.items() if anything or key in accepted}
    if offered.get("targeted") and "targeted" not in extra:
        raise ValueError(
            f"{module.__name__}.{name} has no targeted goal, and would run away from the targets: take an "
            "attack with the parameter `targeted`, such as pgd or logit, or another goal"
        )
    try:
        return factory(**plain(arguments), **extra)
    except jax.errors.JAXTypeError:
        raise
    except TypeError as error:
        raise ValueError(f"{module.__name__}.{name}: {error}") from error


def slots(rows: tuple, **offered: Any) -> dict[str, tuple]:
    """The pieces of a method: its rows (slot, name, arguments), by slot and in order.

    Args:
        rows: of `configs/methods.py`.
        offered: what factories that have such a parameter are given besides their row's arguments.
    """
    filled: dict[str, tuple] = dict.fromkeys(SLOTS, ())
    for slot, name, arguments in rows:
        if slot not in filled:
            raise ValueError(f"unknown slot {slot!r} of {name!r}: expected one of {tuple(SLOTS)}")
        filled[slot] += (call(SLOTS[slot], name, arguments, **offered),)
    return filled


@dataclass(frozen=True)
class Network:
    """One network of an experiment: what it is, how it is trained, and from which seed."""

    name: str
    model: str
    options: tuple[tuple[str, Any], ...]  # of the model, and `weights`
    mechanism: str
    seed: int
    epoch: int | None = None  # stopped after so many; None for the end of training

    def __str__(self) -> str:
        return f"{self.label} (seed {self.seed})"

    @property
    def label(self) -> str:
        """What tables call it: "SAM", or "SAM@10" when it was stopped early."""
        return self.name if self.epoch is None else f"{self.name}@{self.epoch}"

    @property
    def weights(self) -> str:
        """The file that it is fine-tuned from, "" for none."""
        return dict(self.options).get("weights", "")

    @property
    def directory(self) -> str:
        """Where its own results are."""
        return f"{self.label.replace('&', '+')}-seed{self.seed}"


def _options(entry: Any) -> tuple[tuple[str, Any], ...]:
    weights = {"weights": entry["weights"]} if entry.get("weights") else {}
    return tuple(sorted({**plain(entry.get("options", {})), **weights}.items()))


def surrogates(config: ConfigDict) -> list[Network]:
    """One network for each mechanism and seed, and for each epoch at which it was stopped."""
    surrogate = config.surrogate
    return [
        Network(mechanism, surrogate.model, _options(surrogate), mechanism, config.seed + seed, epoch)
        for mechanism in config.mechanisms
        for epoch in (*config.surrogate_epochs, None)
        for seed in config.seeds
    ]


def targets(config: ConfigDict) -> list[Network]:
    """The networks under attack, standard training unless their entry names a `mechanism`."""
    return [
        Network(name, entry["model"], _options(entry), entry.get("mechanism", "ST"), config.target_seed)
        for name, entry in plain(config.targets).items()
    ]


def _part(config: ConfigDict, split: str, read: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        examples = read(config.data.name, split, **options)
    except TypeError as error:
        raise ValueError(f"config.data: {error}") from error
    size = config.data[split]
    return examples.subset(size, seed=config.seed) if size else examples


def dataset(config: ConfigDict, split: str) -> data.Dataset:
    """A split of the config's data in memory, cut to the size that the config asks for."""
    return _part(config, split, data.load, plain(config.data.options))


def source(config: ConfigDict) -> data.Source:
    """What to train on: the training split, of ImageNette and folders as random crops decoded on the way.

    Raises:
        ValueError: `training.augment` would crop and flip random crops once more.
    """
    options = plain(config.data.options) | plain(config.data.crops)
    images = _part(config, "train", data.source, options)
    if isinstance(images, data.ImageStream) and any(plain(config.training.augment).values()):
        raise ValueError(
            f"{images.name} comes as random crops, flipped half of the time already: set "
            "training.augment.padding=0 and training.augment.flip=False"
        )
    return images


def first(examples: data.Dataset, count: int) -> data.Dataset:
    """The first `count` examples; 0 means all."""
    return examples.subset(count) if count else examples


def validate(config: ConfigDict) -> None:
    """Builds all that costs nothing to build, so that a mistake shows before hours of training.

    Raises:
        ValueError: names, arguments or sizes that do not fit.
    """
    if missing := set(config.surrogate_epochs) - set(config.training.keep_epochs):
        raise ValueError(f"surrogate_epochs {sorted(missing)} are not among training.keep_epochs")
    train, test = source(config), dataset(config, "test")
    if train.class_names != test.class_names:
        raise ValueError(f"training classes {train.class_names}, but test classes {test.class_names}")
    for count in (config.attack.images, config.measure.smoothness_images, config.measure.similarity_images):
        first(test, count)
    steps = data.steps_per_epoch(len(train), config.training.batch_size)
    networks = [*targets(config), *surrogates(config)]
    for network in {repr((n.model, n.options, n.mechanism)): n for n in networks}.values():
        train_step(config, network, test.num_classes, steps, None)
    for network in {repr((n.model, n.options)): n for n in networks}.values():
        net = module(network, test.num_classes)
        fine_tuned(network, net, jax.eval_shape(initializer(net, test.image_shape), 0))
    for goal, eps in itertools.product(config.attack.goals, config.attack.eps_255):
        attack(config, eps / 255, targeted=is_targeted(goal))


def module(network: Network, num_classes: int, **options: Any) -> models.Net:
    """The Flax module of a network."""
    own = {name: value for name, value in network.options if name != "weights"}
    return models.build(network.model, num_classes, **own, **options)


def fine_tuned(network: Network, net: models.Net, fresh: PyTree) -> PyTree:
    """What a network starts from: its file of weights, else (and in a last layer for other classes) `fresh`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read or does not fit the network.
    """
    if not network.weights:
        return fresh
    try:
        return models.pretrained(net, models.read_tensors(network.weights), fresh)
    except ValueError as error:
        raise ValueError(f"{network.name} cannot start from {network.weights}: {error}") from error


def predictor(config: ConfigDict, net: nn.Module, variables: PyTree) -> Predict:
    """The network in evaluation mode, normalization inside."""
    return models.predictor(net, variables, config.network.mean, config.network.std)


def schedule(config: ConfigDict, steps_per_epoch: int) -> optax.ScalarOrSchedule:
    """The learning rate over the updates of `config.training`."""
    t = config.training
    per_epoch = steps_per_epoch / t.accumulate
    if t.schedule == "cosine":
        warmup, steps = round(t.warmup_epochs * per_epoch), round(t.epochs * per_epoch)
        return training.warmup_cosine(t.learning_rate, warmup=warmup, steps=steps)
    if t.schedule == "step":
        return training.step_decay(t.learning_rate, at=[round(e * per_epoch) for e in t.decay_epochs])
    if t.schedule == "constant":
        return t.learning_rate
    raise ValueError(f"training.schedule={t.schedule!r}: expected cosine, step or constant")


def train_step(
    config: ConfigDict, network: Network, num_classes: int, steps_per_epoch: int, axis_name: str | None
) -> training.TrainStep:
    """The train step of one network: its mechanism's pieces in the slots; `init` reads its `weights`."""
    rows = config.methods.get(network.mechanism, () if network.mechanism == "ST" else None)
    if rows is None:
        raise ValueError(f"config.methods has no row {network.mechanism!r}: {sorted(config.methods)}")
    t, total = config.training, config.training.epochs * steps_per_epoch
    filled = slots(rows, axis_name=axis_name, total_steps=total, steps_per_epoch=steps_per_epoch)
    net = module(network, num_classes, axis_name=axis_name, dtype=getattr(jnp, t.dtype))

    def forward(variables: PyTree, keys: Key, images: Array) -> tuple[Array, PyTree]:
        mean, std = config.network.mean, config.network.std
        return models.train_apply(net, variables, images, mean, std, jnp.ravel(keys)[0])

    sgd = training.sgd(
        schedule(config, steps_per_epoch),
        momentum=t.momentum,
        nesterov=t.nesterov,
        weight_decay=t.weight_decay,
    )
    # A stream has cropped and flipped already.
    crop_flip = (call(augment, "crop_flip", t.augment),) if any(plain(t.augment).values()) else ()
    accumulated = optax.MultiSteps(sgd, t.accumulate).gradient_transformation() if t.accumulate > 1 else sgd
    step = training.make_train_step(
        objective(training.rematerialized(forward) if t.remat else forward, penalties=filled["penalties"]),
        optax.chain(accumulated, *filled["averages"]),
        predictor=partial(predictor, config, net),
        transforms=(*crop_flip, *filled["transforms"]),
        rules=filled["rules"],
        axis_name=axis_name,
    )
    return step._replace(init=lambda variables, batch: step.init(fine_tuned(network, net, variables), batch))


@cache
def initializer(net: nn.Module, image_shape: tuple[int, ...]) -> Callable[[int], PyTree]:
    """Seed -> a network's random weights; jitted, because Flax runs `init` op by op otherwise."""
    init = jax.jit(lambda key: net.init(key, jnp.zeros((1, *image_shape))))

    def variables(seed: int) -> PyTree:
        # Per-parameter draws dominate a small run's compile time; the older lowering takes a third of it.
        with jax.threefry_partitionable(False):
            return init(jax.random.key(seed))

    return variables


def attack(config: ConfigDict, eps: Array | float, *, targeted: bool) -> Attack:
    """The config's attack at one budget; `eps` may be traced, so that all budgets share one compilation."""
    return call(attacks, config.attack.name, config.attack.options, eps=eps, targeted=targeted)


def is_targeted(goal: str) -> bool:
    """Whether a goal of the config is the targeted one."""
    if goal not in GOALS:
        raise ValueError(f"unknown goal {goal!r}: expected {' or '.join(GOALS)}")
    return goal == "targeted"


def example_keys(seed: int, indices: Array) -> Key:
    """One key per example, by its place in the data set."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices)
