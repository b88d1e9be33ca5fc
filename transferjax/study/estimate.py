"""What a plan will cost: from what like results cost before, else from a short timing of this machine."""

import time
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from statistics import median

import numpy as np

from transferjax.study.plan import Plan, work
from transferjax.study.resolve import size
from transferjax.study.specs import Adversarial, Measure, Network, Purifier, Spec, Verdicts
from transferjax.study.store import Store

PASSES = {
    "Network": 3.0,
    "Adversarial": 3.0,
    "Verdicts": 1.0,
    "Measure": 12.0,
    "Derived": 300.0,
    "Purifier": 9.0,
}
"""Forward passes for each image of `plan.work`."""


def program(spec: Spec) -> str:
    """Results of one program cost about the same per image."""
    if isinstance(spec, Network):
        return " ".join([spec.kind, spec.model.key, *(part.name for part in spec.parts)])
    if isinstance(spec, Adversarial):
        return f"{spec.kind} {spec.attack.key} {' '.join(_models(spec.surrogates))}"
    if isinstance(spec, Verdicts):
        return f"{spec.kind} {' '.join(_models((spec.target,)))}"
    if isinstance(spec, Measure | Purifier):
        return f"{spec.kind} {spec.call.key}"
    return spec.kind  # type: ignore[attr-defined]


def _models(networks: tuple[Spec, ...]) -> list[str]:
    return [getattr(net, "model", net).key for net in networks]


def seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Estimated seconds of every missing result."""
    rates = _known_rates(store)
    found: dict[str, float] = {}
    for key, spec in plan.missing.items():
        rate = rates.get(program(spec), rates.get(spec.kind))  # type: ignore[attr-defined]
        per_image = median(rate) if rate else _rate_here() * PASSES[spec.kind]  # type: ignore[attr-defined]
        found[key] = work(spec, size) * per_image
    return found


def costs(plan: Plan, store: Store) -> dict[str, float]:
    """Estimated seconds of every group."""
    each = seconds(plan, store)
    return {group.key: sum(each[spec.key] for spec in group.members) for group in plan.groups}


def _known_rates(store: Store) -> Mapping[str, list[float]]:
    """Seconds per image of what was made before, by program and by kind."""
    rates: dict[str, list[float]] = defaultdict(list)
    for entry in store.entries():
        spec, said = entry.spec, entry.provenance
        if "seconds" in said and "work" in said:
            rate = said["seconds"] / max(said["work"], 1e-9)
            rates[program(spec)].append(rate)
            rates[entry.kind].append(rate)
    return rates


@cache
def _rate_here() -> float:
    """Seconds of a small network's forward pass per image: 10 MFLOP at the rate of a matrix product."""
    a = np.ones((512, 512), np.float32)
    begin = time.perf_counter()
    for _ in range(3):
        a @ a
    rate = 3 * 2 * 512**3 / (time.perf_counter() - begin)
    return 1e7 / rate


def readable(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
