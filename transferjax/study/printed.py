"""What the command prints: plans, counts, messages, a config as a list."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import pandas as pd

from transferjax.report.page import Section
from transferjax.report.tables import Table, significant
from transferjax.study import estimate, shapes, walk
from transferjax.study.config import Study
from transferjax.study.content import size
from transferjax.study.plan import Plan, group_key
from transferjax.study.rows import Row
from transferjax.study.run import Outcome
from transferjax.study.specs import Adversarial, Spec, Verdicts
from transferjax.study.store import Store

MOST_SURROGATES = 6


def messages_of(study: Study, outcome: Outcome) -> dict[str, list[str]]:
    """By kind a line for each cause: what fails together, fails once."""
    causes: dict[tuple[str, str], list[Spec]] = defaultdict(list)
    for spec, why in outcome.failed.values():
        causes[group_key(spec), why].append(spec)
    labels = {spec.key: label for label, spec in study.labelled().items()}
    lines: dict[str, list[str]] = {}
    for (_, why), several in causes.items():
        more = f" and {len(several) - 1} more of its task" if len(several) > 1 else ""
        line = f"{_called(several[0], labels)}{more}: {why}"
        lines.setdefault(type(several[0]).__name__, []).append(line)
    return lines


def _called(spec: Spec, labels: Mapping[str, str]) -> str:
    """What a line calls a result: its kind, label or name, and key."""
    said = walk.plain(spec)
    name = said.get("model", said.get("call", said.get("attack", {}))).get("name", "")
    of = [labels[net.key] for net in walk.children(spec) if net.key in labels]
    called = labels.get(spec.key) or " ".join(filter(None, (name, ", ".join(of))))
    return f"{type(spec).__name__} {called} ({spec.key[:12]})"


def cost_section(rows: Sequence[Row], store: Store) -> Section:
    """What a view's results took to make; of several attacks also each one's seconds for an image."""
    took = seconds((spec for row in rows for spec in row.needs.values()), store)
    table = seconds_per_image(rows, took)
    return Section("Cost", spent(took), [] if table is None else [table], {})


def seconds(demand: Iterable[Spec], store: Store) -> dict[Spec, float]:
    """What the results behind a demand took to make, as their makers noted it.

    Also of those that are not there (any more), but that others were made of.
    """
    everything, noted, own = walk.everything(demand), dict[str, float](), dict[str, float]()
    for spec in filter(store.has, everything.values()):
        entry = store.entry(spec)
        noted |= entry.of
        if entry.seconds is not None:
            own[spec.key] = entry.seconds
    found = noted | own
    return {spec: found[key] for key, spec in everything.items() if key in found}


def seconds_per_image(rows: Sequence[Row], took: Mapping[Spec, float]) -> Table | None:
    """Attacks by surrogate, the median over seeds, goals and budgets; None of one attack or fewer.

    Of more than `MOST_SURROGATES` surrogates there is the median alone. Seconds are those of the machine that
    made them, with compilation, beside whatever else it did.
    """
    found: dict[Adversarial, tuple[Any, Any, float]] = {}
    for row in rows:
        for spec in row.needs.values():
            images = spec.images if isinstance(spec, Verdicts) else None
            if isinstance(images, Adversarial) and images.surrogates and images in took:
                each_image = took[images] / size(images.data)
                found[images] = (row.tags.get("attack"), row.tags.get("mechanism"), each_image)
    each = pd.DataFrame(found.values(), columns=["attack", "mechanism", "seconds"])
    if each["attack"].nunique() < 2:
        return None
    if (count := each["mechanism"].nunique()) > MOST_SURROGATES:
        each["mechanism"] = f"median of {count} surrogates"
    center = each.groupby(["attack", "mechanism"], sort=False)["seconds"].median().unstack()
    center = center.reindex(index=each["attack"].unique(), columns=each["mechanism"].unique())
    center.columns = pd.MultiIndex.from_product([["seconds"], center.columns])
    nothing = pd.DataFrame(float("nan"), center.index, center.columns)
    best = nothing.notna()
    return Table("Seconds per image, compilation included", center, nothing, best, significant, "attack")


def spent(took: Mapping[Spec, float]) -> str:
    """Seconds of results, kind by kind."""
    if not took:
        return "Nothing had to be made for this page."
    parts = []
    for kind in sorted({type(spec).__name__ for spec in took}):
        each = [value for spec, value in took.items() if type(spec).__name__ == kind]
        parts.append(f"{len(each)} {kind} in {estimate.readable(sum(each))}")
    total = estimate.readable(sum(took.values()))
    return f"{', '.join(parts)}; {total} in all, shared with every other view of the same results."


def counts(found: Mapping[str, Spec]) -> dict[str, int]:
    return dict(sorted(Counter(type(spec).__name__ for spec in found.values()).items()))


def counted(found: Mapping[str, Spec]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts(found).items()) or "nothing"


def print_plan(plan: Plan, store: Store, batch_size: int = 128) -> None:
    """What is there, what is missing, what that costs.

    Raises:
        Mistakes: programs that would fail, see `shapes.check_plan`.
    """
    print(f"there:   {counted(plan.found)}")
    print(f"missing: {counted(plan.missing)}")
    if not plan.missing:
        return
    costs = estimate.costs(plan, store)
    by_kind: dict[str, float] = defaultdict(float)
    for group in plan.groups:
        by_kind[group.kind] += costs[group.key]
    for kind, seconds in by_kind.items():
        print(f"  {kind}: about {estimate.readable(seconds)}")
    print(f"  in all: about {estimate.readable(sum(by_kind.values()))}, {len(plan.groups)} tasks")
    devices = jax.local_device_count()
    for name, (parameters, needed) in shapes.sizes(plan, batch_size, devices).items():
        share = f"each of {devices} devices" if devices > 1 else "a device"
        print(f"  {name}: {parameters:,} parameters, about {needed / 2**20:,.0f} MiB on {share}")
    took, speed = estimate.readable(3600 * estimate.gpu_hours(plan)), estimate.GPU_SPEED / 1e12
    print(f"  on a GPU that sustains {speed:g} TFLOP/s (an assumption): about {took}")
    shapes.check_plan(plan)


def print_list(study: Study) -> int:
    for member in study.networks:
        print(f"network {member}: {', '.join(_called(spec, {}) for spec in member.specs)}")
    for name, block in study.blocks.items():
        attacks = ", ".join(label for label, _ in block.attacks)
        print(f"block {name}: {len(block.surrogates)} surrogates, {attacks}, {len(block.targets)} targets")
    for view in study.views:
        print(f"view {view.name}: {view.kind} {dict(view.options)}")
    return 0
