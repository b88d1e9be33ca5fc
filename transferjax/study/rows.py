"""Rows of a view: their tags, the results that they read, and what they make of them."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from transferjax.report.tables import NOISE
from transferjax.study import registry
from transferjax.study.binding import call_of
from transferjax.study.blocks import Block, Member
from transferjax.study.config import Study
from transferjax.study.content import facts
from transferjax.study.specs import Adversarial, Call, Data, Measure, Spec, Verdicts

Arrays = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """One row of a frame: its tags, the results that it reads by name, and what it makes of them."""

    tags: Mapping[str, Any]
    needs: Mapping[str, Spec]
    reduce: Callable[[Mapping[str, Arrays]], Mapping[str, Any]]


def adversarial(
    block: Block, surrogate: Member, call: Call, goal: Any, eps: float, seed: int = 0
) -> Adversarial:
    """One cell of a block: what an attack makes on a surrogate."""
    return Adversarial(
        surrogates=surrogate.specs,
        attack=call,
        goal=goal,
        eps=eps,
        norm=block.norm,
        data=block.data,
        seed=block.seed + seed,
    )


def block_of(study: Study, name: str, *needs: str) -> Block:
    """A block that has what a view shows.

    Raises:
        ValueError: it lacks some of it.
    """
    block = study.blocks[name]
    if lacks := [need for need in needs if not getattr(block, need)]:
        raise ValueError(f"block {name!r} has no {' and no '.join(lacks)}, which this view shows")
    return block


def photographed(study: Study, name: str, *needs: str) -> Block:
    """A block whose images can be shown.

    Raises:
        ValueError: it lacks something, or a network makes its data.
    """
    block = block_of(study, name, *needs)
    if not isinstance(block.data, Data):
        raise ValueError(f"block {name!r} has data that a network makes; this view shows those of a data set")
    return block


@cache
def _no_attack() -> Call:
    return call_of(registry.ATTACKS, "noise", {})


def transfer_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per surrogate, attack, goal, budget and target; then of noise, which needs no surrogate.

    `asr` counts every image, `asr_correct` those that surrogate and target both get right beforehand, and
    `transferred` is the paper's T_r: of all images, those that both get right beforehand and that fool both
    (see `metrics.transferability`). `fooling_rate` is the success on the surrogate itself,
    `noise_fooling_rate` that of noise; `chance` is the accuracy of guessing.
    """
    b = block_of(study, block, "attacks", "targets")
    seeds = dict.fromkeys(member.tags["seed"] for member in b.surrogates)
    noise = [Member(NOISE, {"mechanism": NOISE, "seed": seed}, ()) for seed in seeds] if b.noise else []
    for surrogate in (*b.surrogates, *noise):
        attacks = b.attacks if surrogate.specs else ((NOISE, _no_attack()),)
        for (attack, call), (goal_name, goal), (_, eps_255, eps) in product(attacks, b.goals, b.budgets):
            seed = 0 if surrogate.specs else surrogate.tags["seed"]
            images = adversarial(b, surrogate, call, goal, eps, seed)
            tags = {**surrogate.tags, "attack": attack, "goal": goal_name, "eps_255": eps_255}
            for target in b.targets:
                yield _transfer_row(b, surrogate, target, images, tags)


def _transfer_row(
    block: Block, surrogate: Member, target: Member, images: Adversarial, tags: Mapping[str, Any]
) -> Row:
    needs = _verdicts("target", target.specs[0], images, block) | _measured(block, surrogate, target.specs[0])
    for i, own in enumerate(surrogate.specs):
        needs |= _verdicts(f"own {i}", own, images, block)
        if block.noise:
            nobody, seed = Member(NOISE, {}, ()), surrogate.tags["seed"]
            noise = adversarial(block, nobody, _no_attack(), images.goal, images.eps, seed)
            needs[f"own {i} noise"] = Verdicts(target=own, images=noise)
    members = range(len(surrogate.specs))

    def reduce(found: Mapping[str, Arrays]) -> dict[str, Any]:
        hit, both = hit_and_right(found, images)
        fooled = hit
        for i in members:
            fooled = fooled & _hits(found[f"own {i}"], images)
        said: dict[str, Any] = {
            "asr": hit.mean(),
            "asr_correct": hit[both].mean() if both.any() else np.nan,
            "transferred": (both & fooled).mean() if members else np.nan,
            "fooling_rate": _mean(_hits(found[f"own {i}"], images).mean() for i in members),
            "surrogate_accuracy": _mean(is_right(found[f"own {i} accuracy"]).mean() for i in members),
            "target_accuracy": is_right(found["target accuracy"]).mean(),
            "chance": 1 / facts(block.accuracy).num_classes,
            "smoothness": np.nan,
            "similarity": np.nan,
        }
        if block.noise:
            said["noise_fooling_rate"] = _mean(_hits(found[f"own {i} noise"], images).mean() for i in members)
        for column, _, _ in block.measures:
            values = (found[f"{column} {i}"]["values"] for i in members)
            said[column] = _mean(np.mean(value, dtype=np.float64) for value in values)
        return said

    return Row({**tags, "target": target.label}, needs, reduce)


def hit_and_right(found: Mapping[str, Arrays], images: Adversarial) -> tuple[np.ndarray, np.ndarray]:
    """Of what a row of transfer reads: which images fool the target, and which all got right beforehand."""
    both = is_right(found["target clean"])
    for i in range(len(images.surrogates)):
        both = both & is_right(found[f"own {i} clean"])
    return _hits(found["target"], images), both


def _verdicts(name: str, network: Any, images: Adversarial, block: Block) -> dict[str, Spec]:
    """What a network says of attacked images, of the same clean ones, and of those that tell its accuracy."""
    seen = {name: images, f"{name} clean": block.data, f"{name} accuracy": block.accuracy}
    return {key: Verdicts(target=network, images=image) for key, image in seen.items()}


def _measured(block: Block, surrogate: Member, target: Any) -> dict[str, Spec]:
    """What a block measures of a surrogate, or of it and a target; of an ensemble member by member."""
    found: dict[str, Spec] = {}
    for column, call, images in block.measures:
        for i, own in enumerate(surrogate.specs):
            of = (own, target) if call.name in PAIRS else (own,)
            found[f"{column} {i}"] = Measure(call=call, of=of, data=images)
    return found


PAIRS = ("similarity", "augmentation_shift", "bound", "transfer_loss")
"""Measures of two networks."""


def _hits(verdicts: Arrays, images: Adversarial) -> np.ndarray:
    """Which images do what their goal says, `[N]`."""
    if images.goal.targeted:
        return verdicts["classes"] == verdicts["aims"]
    return verdicts["classes"] != verdicts["labels"]


def is_right(verdicts: Arrays) -> np.ndarray:
    return verdicts["classes"] == verdicts["labels"]


def _mean(values: Iterator[Any]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else np.nan
