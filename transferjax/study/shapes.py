"""A plan's programs traced with abstract arrays: what would fail after hours of training fails now.

    per device ≈ 4 bytes · (copies · parameters + 3 · batch · outputs of convolutions and products)

Nothing is compiled and no array is made. Copies are weights, gradient, momentum and those that a mechanism
keeps; 3 stands for an output before and after its normalization and its ReLU.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from transferjax import models
from transferjax.data import Examples, steps_per_epoch, to_float
from transferjax.losses import one_hot
from transferjax.predicts.snapshots import Snapshots
from transferjax.programs import outputs
from transferjax.study import registry
from transferjax.study.content import facts
from transferjax.study.make import alike, attack_of
from transferjax.study.mistakes import Mistakes, one_line
from transferjax.study.nets import module_of, net_of, predict_with
from transferjax.study.networks import train_step
from transferjax.study.plan import Plan, clean_of, networks_of, program
from transferjax.study.specs import Adversarial, Apply, Network, Pretrained, Purifier, Spec, Verdicts
from transferjax.typing import Array, Batch, PyTree

IMAGES = 2  # a trace's batch
COPIES = {
    "sam": 1,
    "asam": 1,
    "gsam": 2,
    "agsam": 2,
    "look_sam": 2,
    "msam": 1,
    "esam": 2,
    "gnp": 2,
    "er": 1,
    "swa": 1,
    "ema": 1,
}


class Size(NamedTuple):
    """Parameters of a network, and bytes that training or attacking it takes on each device."""

    parameters: int
    bytes: float


def check_plan(plan: Plan) -> None:
    """Traces each program of a plan once.

    Raises:
        Mistakes: one line for each that would fail.
    """
    wrong, seen = [], set[str]()
    for spec in tqdm(plan.missing.values(), "programs", disable=None, leave=False):
        name = program(spec)
        if name in seen or not all(map(traceable, networks_of(spec))):
            continue
        seen.add(name)
        try:
            _trace(spec)
        except (ValueError, TypeError) as error:
            wrong.append(f"{type(spec).__name__} {spec.key[:12]}: {one_line(error)}")
    if wrong:
        raise Mistakes(wrong)


def traceable(net: Spec) -> bool:
    """Whether a network's shapes can be known here: a service has none, nor has a file on another machine."""
    if isinstance(net, Apply):
        return all(map(traceable, net.of))
    return isinstance(net, Network | Purifier) or (isinstance(net, Pretrained) and bool(net.file))


def _trace(spec: Spec) -> None:
    if isinstance(spec, Network):
        traced(spec)
    elif isinstance(spec, Adversarial) and spec.surrogates:
        variables = [abstract(net) for net in spec.surrogates]
        jax.eval_shape(lambda v, key, e: _attacked(spec, v, key, e), variables, _key(), _examples(spec.data))
    elif isinstance(spec, Verdicts):
        images = clean_of(spec.images)
        jax.eval_shape(lambda v, e: _says(spec.target, v, e), abstract(spec.target), _examples(images))


def traced(net: Network) -> Any:
    """The program of one training step."""
    return jax.make_jaxpr(partial(_trained, net))(abstract(net), _key(), _examples(net.data))


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _examples(images: Any) -> Examples:
    """A batch of the data, as shapes."""
    shape = facts(images).image_shape
    integer = jax.ShapeDtypeStruct((IMAGES,), jnp.int32)
    weights = jax.ShapeDtypeStruct((IMAGES,), jnp.float32)
    return Examples(jax.ShapeDtypeStruct((IMAGES, *shape), jnp.uint8), integer, integer, weights)  # type: ignore[arg-type]


def abstract(net: Any) -> PyTree:
    """The variables of a network, as shapes; of what stands around several, a list."""
    if isinstance(net, Apply):
        return [abstract(inner) for inner in net.of]
    if isinstance(net, Pretrained):
        return of_file(net)[1]
    return _variables(_module(net), image_of(net).shape)


@cache
def _variables(module: Any, shape: tuple[int, ...]) -> PyTree:
    """What many networks of a study have in common, traced once."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image)


@cache
def of_file(net: Pretrained) -> tuple[models.Net, PyTree]:
    """The module whose weights a file has, and their shapes.

    Raises:
        ValueError, OSError: the file is not there, or its weights do not fit.
    """
    tensors = models.read_tensors(net.file)
    module = models.build_for(net.model.name, tensors, **net.model.arguments)
    return module, jax.eval_shape(lambda tree: tree, models.from_torch(module, tensors))


def _module(net: Network | Purifier | Pretrained) -> Any:
    if isinstance(net, Pretrained):
        return of_file(net)[0]
    return net_of(net) if isinstance(net, Purifier) else module_of(net, facts(net.data).num_classes)


def image_of(net: Any) -> Any:
    """One image of the data of the first network inside, as a shape."""
    while isinstance(net, Apply):
        net = net.of[0]
    return jax.ShapeDtypeStruct((1, *facts(net.data).image_shape), jnp.float32)


def predict_of(net: Any, variables: PyTree) -> Any:
    """A network with variables of `abstract`, inside of a trace."""
    if isinstance(net, Apply):
        inner = [predict_of(one, v) for one, v in zip(net.of, variables, strict=True)]
        return registry.make(registry.APPLY, net.call, *inner, key=jax.random.key(0))
    if isinstance(net, Purifier):
        return models.predictor(_module(net), variables)
    return predict_with(net, _module(net), variables)


def _trained(net: Network, variables: PyTree, key: Array, examples: Examples) -> PyTree:
    """One update from some weights."""
    known = facts(net.data)
    teacher = None if net.teacher is None else predict_of(net, variables)  # any that is as large
    steps = steps_per_epoch(known.size, net.training.batch_size)
    step = train_step(net, known.num_classes, steps, teacher=teacher)
    batch = Batch(to_float(examples.images), one_hot(examples.labels, known.num_classes))
    return step.update(step.init(dict(variables), batch), key, batch)


def _attacked(spec: Adversarial, variables: list[PyTree], key: Array, examples: Examples) -> Array:
    several = [predict_of(net, v) for net, v in zip(spec.surrogates, variables, strict=True)]
    predict: Any = several[0]
    if len(several) > 1:
        predict = Snapshots.stack(several) if alike(several) else tuple(several)
    mixes = registry.accepts(registry.ATTACKS, spec.attack, "pool")
    pool = np.zeros((IMAGES, *examples.images.shape[1:]), np.uint8) if mixes else None
    attack = attack_of(spec.attack, spec.goal, spec.eps, spec.norm, pool)
    return attack(key, predict, to_float(examples.images), examples.labels)


def _says(net: Any, variables: PyTree, examples: Examples) -> Array:
    return predict_of(net, variables)(to_float(examples.images))


def sizes(plan: Plan, batch_size: int, devices: int = 1) -> dict[str, Size]:
    """Of each architecture that is trained: the largest of its mechanisms, a batch split over the devices.

    Args:
        plan: what is missing.
        batch_size: of attacks.
        devices: how many share a batch.
    """
    found: dict[str, Size] = {}
    for net in plan.missing.values():
        if not isinstance(net, Network):
            continue
        copies = 3 + sum(COPIES.get(part.name, 0) for part in net.parts)
        batch = -(-max(batch_size, net.training.batch_size) // devices)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract(net)["params"]))
        size = Size(parameters, 4.0 * (copies * parameters + 3 * batch * _outputs(net)))
        name = " ".join([net.model.name, *(f"{k}={v}" for k, v in net.model.options)])
        found[name] = max(size, found.get(name, size))
    return found


_OUTPUTS: dict[str, int] = {}


def _outputs(net: Network) -> int:
    """Numbers that convolutions and products give for one image."""
    key = f"{net.model.key} {facts(net.data).image_shape}"
    if key not in _OUTPUTS:
        image = jax.ShapeDtypeStruct((1, *facts(net.data).image_shape), jnp.float32)
        traced = jax.make_jaxpr(lambda v, x: predict_of(net, v)(x))(abstract(net), image)
        _OUTPUTS[key] = outputs(traced.jaxpr)
    return _OUTPUTS[key]
