"""What a plan will cost: from what the same programs cost before, else from their arithmetic.

    seconds = first + work · forward · passes / speed

`first` is what a program costs once, most of it compilation; `forward` the operations of one image through
its networks, counted in what they are traced to; `speed` comes from a convolution that is timed here.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from statistics import median
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transferjax import models
from transferjax.attacks.cost import Spent, spent
from transferjax.models.layers import Attended
from transferjax.programs import operations
from transferjax.study.content import facts, size
from transferjax.study.make import attack_of
from transferjax.study.plan import Plan, clean_of, networks_of, program, work
from transferjax.study.registry import ATTACKS, DERIVED, accepts
from transferjax.study.shapes import abstract, predict_of, traceable
from transferjax.study.specs import (
    Adversarial,
    Apply,
    Call,
    Derived,
    Goal,
    Network,
    Pretrained,
    Spec,
)
from transferjax.study.store import Store

PASSES = {
    "Network": 3.0,
    "Verdicts": 1.0,
    "Measure": 12.0,
    "Derived": 3.0,
    "Purifier": 9.0,
}
"""Forward passes for each image of `plan.work`, of derived data for each step; an attack's are counted
(`attacks.cost`)."""

FIRST = {"Network": 8.0, "Adversarial": 3.0, "Verdicts": 1.0, "Measure": 3.0, "Derived": 5.0, "Purifier": 8.0}
"""Seconds that a program of small networks costs once, where nobody knows: as measured on two cores."""

GRADIENTS: Mapping[str, float | Callable[..., float]] = {
    **dict.fromkeys(("sam", "asam", "gsam", "agsam", "gnp"), 2.0),
    "er": 3.0,
    "score_matching": 3.0,
    "distilled": 4 / 3,
    "esam": lambda gamma=0.5, **_: 1 + 1 / 3 + gamma,
    **dict.fromkeys(("input_gradient", "jacobian"), 2.0),
    "adversarial": lambda steps=10, **_: 1 + steps * 2 / 3,
    "look_sam": lambda every=5, **_: 1 + 1 / every,
}
"""How many times as much a training step costs with a mechanism's part, or that of its options."""


class Rate(NamedTuple):
    """Seconds of a program for each image of `plan.work`, and once."""

    each: float
    first: float


def seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Estimated seconds of every missing result."""
    known, programs = _known(store), defaultdict[str, list[Spec]](list)
    for spec in plan.missing.values():
        programs[program(spec)].append(spec)
    shares, found = _shares(plan), dict[str, float]()
    for name, members in programs.items():
        rate = known.get(name) or _guess(members[0], known)
        found |= {spec.key: work(spec, size) * shares[spec.key] * rate.each for spec in members}
        found[members[0].key] += rate.first
    return found


def _shares(plan: Plan) -> dict[str, float]:
    """What of its own work each result costs where its group makes it of the others'.

    Of the moments of one training the latest costs all up to it; of pairs of networks, each network once.
    """
    shares: dict[str, float] = {}
    for group in plan.groups:
        share = dict.fromkeys((spec.key for spec in group.members), 1.0)
        if group.kind == "Network":
            share = dict.fromkeys(share, 0.0)
            latest = max(group.members, key=_until)
            share[latest.key] = _until(latest) / latest.training.epochs  # type: ignore[attr-defined]
        elif group.kind == "Measure" and len(group.members) > 1:
            networks = {net.key for spec in group.members for net in networks_of(spec)}
            share = dict.fromkeys(share, len(networks) / (2 * len(share)))
        shares |= share
    return shares


def _until(net: Spec) -> float:
    """The epoch that a network is of."""
    return net.training.epochs if net.epoch is None else net.epoch  # type: ignore[attr-defined]


def costs(plan: Plan, store: Store) -> dict[str, float]:
    """Estimated seconds of every group."""
    each = seconds(plan, store)
    return {group.key: sum(each[spec.key] for spec in group.members) for group in plan.groups}


def _known(store: Store) -> Mapping[str, Rate]:
    """What programs cost before."""
    found = defaultdict[str, list[tuple[float, float]]](list)
    for entry in store.entries():
        if (spec := entry.readable) is None:
            continue
        noted = entry.provenance
        if "steps" in noted and "share" not in noted:  # of an older version: the work of the whole training
            continue
        if {"seconds", "work"} <= noted.keys() and noted["work"] > 0:
            found[program(spec)].append((noted["seconds"], noted["work"]))
    rates = {}
    for name, pairs in found.items():
        each = min(took / images for took, images in pairs)
        rates[name] = Rate(each, max(took - each * images for took, images in pairs))
    return rates


def _guess(spec: Spec, known: Mapping[str, Rate]) -> Rate:
    """From the arithmetic of the networks of a program that nobody ran yet."""
    kind = type(spec).__name__
    firsts = [rate.first for name, rate in known.items() if name.split()[0] == kind and rate.first > 0]
    return Rate(_for_each(spec) / _speed(), median(firsts) if firsts else FIRST[kind])


def _for_each(spec: Spec) -> float:
    """Operations for each image of `plan.work`."""
    seen: Any = getattr(spec, "images", None) or getattr(spec, "data", None)
    shape = facts(cast(Any, clean_of(seen))).image_shape
    forward = [_forward(net, shape) for net in networks_of(spec)]
    if isinstance(spec, Adversarial):
        cost = cost_of(spec.attack, spec.goal, spec.norm, len(forward), shape)
        passes = cost.evaluations + 2.0 * cost.gradients  # a backward pass is about two forward ones
        return passes * sum(forward) / max(len(forward), 1) / work(spec, lambda _: 1)
    repeats = 1.0
    if isinstance(spec, Network):
        repeats = training_cost(spec.parts)
    elif isinstance(spec, Derived):
        repeats = spec.call.arguments.get("steps", DERIVED.options(spec.call.name)["steps"].default)
    return sum(forward) * PASSES[type(spec).__name__] * repeats


@cache
def cost_of(call: Call, goal: Goal, norm: str, surrogates: int, shape: tuple[int, int, int]) -> Spent:
    """What an attack spends on an image of that shape; nothing, without surrogates or where it refuses."""
    if not surrogates:
        return Spent(0, 0)
    net = _Probe(str(call.arguments.get("layer", "layer")))
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    predict = models.predictor(net, jax.eval_shape(net.init, jax.random.key(0), image))
    pool = np.zeros((1, *shape), np.uint8) if accepts(ATTACKS, call, "pool") else None
    try:
        attack = attack_of(call, goal, 0.1, norm, pool)
        return spent(attack, (predict,) * surrogates if surrogates > 1 else predict, shape)
    except ValueError:  # a goal, a norm, an image that is too small: said where it is made
        return Spent(0, 0)


class _Probe(nn.Module):
    """A net of one layer by any name, which stands for a surrogate where only calls are counted.

    Pixels are its tokens, and it has an attention, for attacks on transformers.
    """

    layer: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        Attended()(jnp.ones((len(x), 1, 1), x.dtype))
        tokens = x.reshape(len(x), -1, x.shape[-1])
        return nn.Dense(10)(nn.Dense(4, name=self.layer)(tokens).mean(1))


GPU_SPEED = 20e12
"""Operations a second that a data centre's GPU is assumed to sustain; assumed, not measured."""


def gpu_hours(plan: Plan) -> float:
    """Hours that the arithmetic of what is missing takes at `GPU_SPEED`, compilation not counted."""
    shares, each, total = _shares(plan), dict[str, float](), 0.0
    for spec in plan.missing.values():
        name = program(spec)
        if name not in each:
            each[name] = _for_each(spec)
        total += work(spec, size) * shares[spec.key] * each[name]
    return total / GPU_SPEED / 3600


def training_cost(parts: Iterable[Call]) -> float:
    """What a training step with a mechanism's parts costs, in steps of standard training."""
    cost = 1.0
    for part in parts:
        each = GRADIENTS.get(part.name, 1.0)
        cost *= each(**part.arguments) if callable(each) else each
    return cost


def _forward(net: Spec, shape: tuple[int, int, int]) -> float:
    """Operations of one image of that shape through a network, with what is around it; of a service none."""
    if isinstance(net, Network):
        return _operations(net.model, facts(net.data).num_classes, shape)
    if traceable(net):
        return _traced(net, shape)
    if isinstance(net, Apply):  # around weights that another machine has
        return sum(_forward(inner, shape) for inner in net.of)
    return _operations(net.model, 1000, (224, 224, 3)) if isinstance(net, Pretrained) else 0.0


@cache
def _traced(net: Spec, shape: tuple[int, int, int]) -> float:
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        traced = jax.make_jaxpr(lambda v, x: predict_of(net, v)(x))(abstract(net), image)
    except ValueError:  # images that do not fit: said where they are seen
        return 0.0
    return float(operations(traced.jaxpr))


@cache
def _operations(model: Call, num_classes: int, shape: tuple[int, int, int]) -> float:
    net = models.build(model.name, num_classes, **model.arguments)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), image)
    return float(operations(jax.make_jaxpr(net.apply)(variables, image).jaxpr))


@cache
def _speed() -> float:
    """Operations a second, of a convolution in a small network."""
    x, w = jnp.ones((32, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = jax.jit(
        lambda x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
    )
    jax.block_until_ready(convolve(x))
    begin = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(convolve(x))
    return 5 * 2.0 * x.size * w.size / w.shape[-1] / (time.perf_counter() - begin)


def readable(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h", "12 days", "23 years"."""
    for unit, whole, below in _UNITS:
        if seconds < below:
            return f"{seconds / whole:.{int(unit == 'h')}f} {unit}"
    return f"{seconds / _YEAR:,.0f} years"


_DAY, _YEAR = 24 * 3600, 365 * 24 * 3600
_UNITS = (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 3 * _DAY), ("days", _DAY, 2 * _YEAR))
"""A unit, its seconds, and below how many it is the one to read."""
