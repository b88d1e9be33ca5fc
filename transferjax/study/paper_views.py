"""Views that lay a study beside published tables, and those of the S&P paper's Figure 11 and Theorem 1.

Each is `rows` and `draw` as in `views`, and `files`, the tables that are written beside the page: in the
paper's own columns and names, our rows behind them, and how far both agree.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from transferjax.report.agreement import agreement_section, cells, orders, ranks
from transferjax.report.analysis import regression_section, similarity_maps
from transferjax.report.figures import against, asr_by_mechanism, metric_by_mechanism
from transferjax.report.markup import slug
from transferjax.report.page import Section, split, success_section, surrogates_section, warned
from transferjax.report.published import BASELINE, OF_ATTACKS, SHAPES, called, in_its_columns
from transferjax.report.tables import NOISE, apart, of_surrogates, ordered, said, value_table
from transferjax.study import registry
from transferjax.study.binding import call_of
from transferjax.study.blocks import Block, Member
from transferjax.study.config import Study
from transferjax.study.rows import PAIRS, Arrays, Row, adversarial, block_of, is_right, transfer_rows
from transferjax.study.specs import Measure, Spec, Verdicts

Files = dict[str, pd.DataFrame]
"""What stands behind a view's name in a file's -> its rows."""


def known(study: Study, block: str) -> Block:
    """A block by name.

    Raises:
        ValueError: there is none.
    """
    if block not in study.blocks:
        raise ValueError(f"there is no block {block!r}; the config has {', '.join(study.blocks)}")
    return study.blocks[block]


def scalars(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold one value a row."""
    return frame[[name for name in frame if frame.empty or np.ndim(frame[name].iloc[0]) == 0]]


def explained(frame: pd.DataFrame, goals: tuple[str, ...] = ()) -> list[Section]:
    """A regression for each attack and goal: a surrogate's rows of several attacks are no new surrogates."""
    return split(
        of_surrogates(frame),
        lambda own: [
            regression_section(own, str(goal)) for goal in ordered(own["goal"]) if goal in goals or not goals
        ],
        ("attack",),
    )


StandsFor = tuple[tuple[Any, Any], ...]
"""Pairs (our network or budget, the paper's whose place it takes)."""


def _beside(
    table: str, frame: pd.DataFrame, study: Study, dataset: str, stands_for: StandsFor
) -> tuple[pd.DataFrame, ...]:
    """In the paper's columns; cell by cell beside it; the orders."""
    ours = in_its_columns(table, frame, dataset, study.error, dict(stands_for))
    found = cells(table, ours, dataset)
    return ours, found, ranks(table, found)


def beside(
    frame: pd.DataFrame,
    study: Study,
    block: str,
    table: str = "",
    dataset: str = "cifar10",
    stands_for: StandsFor = (),
    **more: Any,
) -> Files:
    """The table in the paper's columns, its rows, the agreement; the rows alone without a table."""
    if not table:
        return {"": scalars(frame)}
    ours, found, ranked = _beside(table, frame, study, dataset, stands_for)
    return {"": ours, "_rows": scalars(frame), "_agreement": found, "_order": ranked}


def _agreement(
    table: str, frame: pd.DataFrame, study: Study, dataset: str, stands_for: StandsFor = ()
) -> list[Section]:
    if not table:
        return []
    _, found, ranked = _beside(table, frame, study, dataset, stands_for)
    section = agreement_section(table, found, ranked)
    if not stands_for:
        return [section]
    place = lambda it: it if isinstance(it, str) else f"{it:g}/255"  # noqa: E731
    places = ", ".join(f"{place(ours)} for {place(theirs)}" for ours, theirs in stands_for)
    return [section._replace(text=f"{section.text} What stands in for the table's: {places}.")]


def paper_rows(study: Study, block: str, table: str, dataset: str = "cifar10") -> Iterator[Row]:
    """The rows of transfer of a block; `same_as_target` where surrogate and target were trained alike.

    Raises:
        ValueError: no table of transfer success of the paper.
    """
    if table not in SHAPES or table in ("table7", "table12", *OF_ATTACKS):
        raise ValueError(
            f"table {table!r} is none of surrogates' success: view it as 'pairs', 'clean' or 'attacks'"
        )
    b = known(study, block)
    parts = {m.label: getattr(m.specs[0], "parts", None) for m in (*b.surrogates, *b.targets)}
    for row in transfer_rows(study, block):
        own, target = parts.get(row.tags["mechanism"]), parts[row.tags["target"]]
        yield row._replace(tags={**row.tags, "same_as_target": own == target and own is not None})


def paper(
    frame: pd.DataFrame, study: Study, block: str, table: str, dataset: str = "cifar10"
) -> list[Section]:
    """A table of the paper from our rows, and how far both agree."""
    sections = []
    if table == "table6":
        sections += explained(frame, ("untargeted",))
    elif table == "smoothness_imagenette":
        sections += [surrogates_section(frame, study.error)]
    else:
        for attack, own in apart(frame, ("attack",)):
            for goal in ordered(own["goal"]):
                part = success_section(own, str(goal), study.error)
                figures = {slug(f"{table}_{name}_{attack}"): figure for name, figure in part.figures.items()}
                title = f"Table {table.removeprefix('table')}, {goal}: {attack}"
                sections.append(part._replace(title=title, figures=figures))
        sections[:1] = [warned(part, frame) for part in sections[:1]]
    return [*sections, *_agreement(table, frame, study, dataset)]


def attack_rows(study: Study, block: str, table: str = "", stands_for: StandsFor = ()) -> Iterator[Row]:
    """The rows of transfer of a block.

    Raises:
        ValueError: a published table whose rows are no attacks.
    """
    if table and table not in OF_ATTACKS:
        raise ValueError(f"table {table!r} is none of attacks: expected one of {', '.join(OF_ATTACKS)}")
    known(study, block)
    return transfer_rows(study, block)


def attacks(
    frame: pd.DataFrame, study: Study, block: str, table: str = "", stands_for: StandsFor = ()
) -> list[Section]:
    """Attacks down, targets across, a table for each surrogate, goal and budget; beside a published one."""
    figures, tables = {}, []
    surrogates = ordered(of_surrogates(frame)["mechanism"])
    for surrogate, goal in product(surrogates, map(str, ordered(frame["goal"]))):
        chosen = frame[frame["mechanism"].isin((surrogate, NOISE)) & (frame["goal"] == goal)]
        caption = f"{goal.capitalize()} success from {surrogate} by attack; a marker per target."
        figure = asr_by_mechanism(chosen, goal, study.error, rows="attack")
        figures[slug(f"{block}_{surrogate}_{goal}")] = (figure, caption)
        for budget, cell in apart(chosen.assign(asr=100 * chosen["asr"]), ("eps_255",)):
            title = f"{goal} success (%) from {surrogate}, {budget}"
            tables.append(
                value_table(cell, "asr", title, rows="attack", columns=("target",), error=study.error)
            )
    title = f"Attacks: {block}" if not table else called(table).removeprefix("the paper's ")
    text = (
        "Transfer success of each attack; every image counts. noise is what random signs of the budget reach."
    )
    section = Section(title, text, tables, figures)
    return [section, *_agreement(table, frame, study, "", stands_for)]


def pair_rows(study: Study, block: str, table: str = "", dataset: str = "cifar10") -> Iterator[Row]:
    """A row per surrogate and target: the mean of each measure of pairs; nothing is attacked."""
    b = block_of(study, block, "targets", "measures")
    for surrogate, target in product(b.surrogates, b.targets):
        needs: dict[str, Spec] = {
            column: Measure(call=call, of=(surrogate.specs[0], target.specs[0]), data=images)
            for column, call, images in b.measures
            if call.name in PAIRS
        }
        yield Row({**surrogate.tags, "target": target.label}, needs, _means)


def _means(found: Mapping[str, Arrays]) -> dict[str, float]:
    return {column: float(np.mean(arrays["values"], dtype=np.float64)) for column, arrays in found.items()}


def pairs(
    frame: pd.DataFrame, study: Study, block: str, table: str = "", dataset: str = "cifar10"
) -> list[Section]:
    """Every measure of pairs: surrogates down, targets across; with `table`, beside the paper's."""
    large_is_good = {"similarity": True}
    tables = [
        value_table(
            frame,
            column,
            column.replace("_", " "),
            columns=("target",),
            error=study.error,
            largest=large_is_good.get(call.name),
        )
        for column, call, _ in known(study, block).measures
        if call.name in PAIRS
    ]
    shifts = [name for name, call, _ in known(study, block).measures if call.name == "augmentation_shift"]
    more = []
    if "similarity" in frame and (frame["mechanism"] == BASELINE).any():
        gains, title = _gained(frame), f"similarity, difference to {BASELINE}"
        if len(gains):  # of a training besides
            tables.append(value_table(gains, "gained", title, columns=("target",), error=study.error))
            more = _lost(gains, shifts) if shifts else []
    text = "Means over images of what is measured of a surrogate and a target."
    first = Section("Pairs of networks", text, tables, {})
    return [first, *more, *_agreement(table, frame, study, dataset)]


def _gained(frame: pd.DataFrame) -> pd.DataFrame:
    """All but the baseline's rows, `gained`: how much more similar than it they are to the target."""
    plain = frame[frame["mechanism"] == BASELINE].set_index(["target", "seed"])["similarity"]
    of_each = plain.reindex(pd.MultiIndex.from_frame(frame[["target", "seed"]])).to_numpy()
    return frame.assign(gained=frame["similarity"] - of_each)[frame["mechanism"] != BASELINE]


def _lost(gains: pd.DataFrame, shifts: list[str]) -> list[Section]:
    """Hypothesis 1: the similarity that a training loses, against how far it moves the data."""
    gains = gains.assign(
        **{name: gains[name] / gains.groupby("target")[name].transform("mean") for name in shifts}
    )
    rows = gains.groupby("mechanism", sort=False)[["gained", *shifts]].mean().reset_index()
    rows = rows.assign(lost=-rows["gained"])
    text = (
        "frechet: the squared Fréchet distance of the training data's features to those of clean data; "
        "off_subspace: the share of the training data's features outside of the clean ones' directions; both "
        "in units of their mean over the trainings, target by target: features of targets differ in scale. "
        f"Hypothesis 1 expects more similarity to be lost against {BASELINE} where these rise. Spearman's ρ "
        f"of both over {len(rows)} trainings, means over targets and seeds (95 %, bootstrap): "
        f"{', '.join(orders(rows, shifts, 'lost'))}."
    )
    figures = {
        f"lost_{name}": (
            against(rows, name, "lost", "mechanism", name.replace("_", " "), "similarity lost"),
            f"Similarity lost against {BASELINE}, and {name.replace('_', ' ')} of the training data.",
        )
        for name in shifts
    }
    return [Section("Similarity lost by moving the data", text, [], figures)]


MAGNITUDES = {
    "eps": "ε (L2 norm, pixels in [0, 1])",
    "prob": "probability p",
    "size": "side of the hole (pixels)",
    "weight": "weight λ",
    "rho": "ρ (L2 norm of the step in weights)",
}
"""What the hyper-parameters of Table 11 are, with their units."""


def _parameters(m: Member, tag: str = "strength") -> list[str]:
    """The hyper-parameters of a network's parts that have the value of its tag."""
    options = [option for part in getattr(m.specs[0], "parts", ()) for option in part.options]
    return [name for name, value in options if value == m.tags.get(tag)]


def magnitude_of(study: Study, block: str, mechanisms: tuple[str, ...], tag: str) -> str:
    """What a tag of these mechanisms' networks is, with its unit; nothing where it is several things."""
    found = [
        set(_parameters(m, tag))
        for m in known(study, block).surrogates
        if tag in m.tags and (not mechanisms or m.label.rpartition("_")[0] in mechanisms)
    ]
    shared = set.intersection(*found) if found else set()
    return next(MAGNITUDES.get(name, name) for name in shared) if len(shared) == 1 else ""


def magnitude_rows(
    study: Study, block: str, shown: tuple[str, ...], table: str = "table11", dataset: str = "cifar10"
) -> Iterator[Row]:
    """A row per network with a magnitude ("IR_3") and its hyper-parameter; nothing is made.

    Args:
        shown: those of the block that tables of success show, by whatever name ("IR").

    Raises:
        ValueError: a network that is named as if it had a magnitude, and has none.
    """
    members = known(study, block).surrogates
    used_parts = [getattr(m.specs[0], "parts", None) for m in members if m.label in shown]
    for m in members:
        if re.fullmatch(r"[A-Z]+_\d+", m.label):
            parts, found = getattr(m.specs[0], "parts", ()), _parameters(m)
            if len(parts) != 1 or len(found) != 1:
                raise ValueError(f"network {m.label!r}: expected one part, its magnitude the tag `strength`")
            (parameter,), used = found, int(parts in used_parts)
            values = {"parameter": parameter, "value": m.tags["strength"], "used_in_tables_2_3": used}
            yield Row({"mechanism": m.label, "seed": m.tags["seed"], **values}, {}, lambda found: {})


def magnitudes(
    frame: pd.DataFrame,
    study: Study,
    block: str,
    shown: tuple[str, ...],
    table: str = "table11",
    dataset: str = "cifar10",
) -> list[Section]:
    """Table 11: the hyper-parameters."""
    text = "The hyper-parameters of networks with these names: what differs from the paper's is a mistake."
    sections = _agreement(table, frame, study, dataset)
    return [section._replace(title="Table 11: magnitudes", text=text) for section in sections]


def clean_rows(
    study: Study, block: str, train: str, table: str = "table12", dataset: str = "cifar10"
) -> Iterator[Row]:
    """A row per surrogate: how often it is right on the block's images, and on those of the block `train`."""
    test, fitted = block_of(study, block, "accuracy"), known(study, train)
    if not fitted.accuracy:
        raise ValueError(f"block {train!r} has no accuracy: name the training images there")
    for member in test.surrogates:
        needs: dict[str, Spec] = {
            name: Verdicts(target=member.specs[0], images=images)
            for name, images in (("train", fitted.accuracy), ("test", test.accuracy))
        }
        yield Row(
            member.tags,
            needs,
            lambda found: {name: is_right(arrays).mean() for name, arrays in found.items()},
        )


def clean(
    frame: pd.DataFrame,
    study: Study,
    block: str,
    train: str,
    table: str = "table12",
    dataset: str = "cifar10",
) -> list[Section]:
    """Table 12: accuracy on training and test images, and the gap."""
    percent = frame.assign(**{name: 100 * frame[name] for name in ("train", "test")})
    percent["gap"] = percent["train"] - percent["test"]
    titles = {"train": "train accuracy (%)", "test": "test accuracy (%)", "gap": "gap (points)"}
    tables = [
        value_table(percent, name, title, error=study.error, largest=None if name == "gap" else True)
        for name, title in titles.items()
    ]
    text = "Accuracy without any attack, on training images as they are tested, and on test images."
    figure = metric_by_mechanism(percent, "test", titles["test"], study.error, log=False)
    figures = {"clean_accuracy": (figure, "Accuracy on test images.")}
    return [
        Section("Table 12: clean accuracy", text, tables, figures),
        *_agreement(table, frame, study, dataset),
    ]


def seed_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per pair of surrogates of different seeds, each pair once."""
    b = block_of(study, block, "surrogates")
    measured = [(call, images) for _, call, images in b.measures if call.name == "similarity"]
    if len(measured) != 1:
        raise ValueError(f"block {block!r} measures similarity {len(measured)} times: this view shows one")
    ((call, images),) = measured
    for place, one in enumerate(b.surrogates):
        for other in b.surrogates[place:]:
            if one.tags["seed"] != other.tags["seed"]:
                spec = Measure(call=call, of=(one.specs[0], other.specs[0]), data=images)
                tags = {"row": one.tags["mechanism"], "column": other.tags["mechanism"]}
                yield Row(tags, {"similarity": spec}, lambda found: {"each": found["similarity"]["values"]})


def seeds(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Figure 11: gradient similarity of mechanism and mechanism, means over pairs of different seeds."""
    names = list(dict.fromkeys(m.tags["mechanism"] for m in known(study, block).surrogates))
    names = [name for name in names if name in set(frame["row"]) | set(frame["column"])]
    pairs = seed_files(frame, study, block)[""]
    both = pd.concat([pairs, pairs.rename(columns={"row": "column", "column": "row"})])
    cells = both.groupby(["row", "column"])[["mean", "infimum"]].mean()
    mean, infimum = (cells[name].unstack().reindex(index=names, columns=names) for name in cells)
    section = similarity_maps(mean.to_numpy(), infimum.to_numpy(), len(frame["each"].iloc[0]), names, names)
    figures = {f"seeds_{name}": figure for name, figure in section.figures.items()}
    text = "Means over pairs of surrogates of different seeds, the same mechanism's too. " + section.text
    return [section._replace(title="Figure 11: similarity between surrogates", text=text, figures=figures)]


def seed_files(frame: pd.DataFrame, study: Study, block: str) -> Files:
    """Mean and infimum of each pair."""
    tags = frame[["row", "column"]]
    return {"": tags.assign(mean=[v.mean() for v in frame["each"]], infimum=[v.min() for v in frame["each"]])}


def bound_rows(study: Study, block: str) -> Iterator[Row]:
    """A row per surrogate, budget and target with every term of Theorem 1."""
    b, theorem = block_of(study, block, "attacks", "targets"), call_of(registry.MEASURES, "bound", {})
    for surrogate, (attack, call), (goal_name, goal), (_, eps_255, eps) in product(
        b.surrogates, b.attacks, b.goals, b.budgets
    ):
        if goal.targeted:
            raise ValueError(f"block {block!r}: Theorem 1 is viewed untargeted; leave goal {goal_name!r} out")
        images = adversarial(b, surrogate, call, goal, eps)
        for target in b.targets:
            spec = Measure(call=theorem, of=(surrogate.specs[0], target.specs[0]), data=images)
            tags = {**surrogate.tags, "attack": attack, "eps_255": eps_255, "target": target.label}
            yield Row(tags, {"bound": spec}, _terms)


def _terms(found: Mapping[str, Arrays]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in found["bound"].items()}


TERMS = (
    *("value", "transfer", "alpha", "risk_f", "risk_g", "c_f", "c_g", "similarity", "eps"),
    *("sigma_f", "sigma_g", "proposition_1"),
)


def bound(frame: pd.DataFrame, study: Study, block: str) -> list[Section]:
    """Theorem 1, for each attack and budget: every term by surrogate and target."""
    return split(frame, partial(_bound, error=study.error))


def _bound(frame: pd.DataFrame, error: str) -> list[Section]:
    """A table of the terms, and how many bounds say anything."""
    vacuous = (frame["value"] <= 0).mean()
    text = (
        "value is the lower bound of transfer, the share of images that both models know and that fool both; "
        f"{100 * vacuous:.0f} % of these bounds are vacuous (0 or less). c_f and c_g are gains along the "
        "gradients, σ the largest |λ| of these images, which bounds the true constant from below; "
        "alpha, risk f and risk g are shares of images, similarity is the smallest over the images, ε the "
        "largest L2 norm of a perturbation; "
        "proposition 1 is the largest ‖∇ℓ‖ / (√2 ‖J‖), at most 1."
    )
    pair = frame["mechanism"].astype(str) + " → " + frame["target"]
    terms = frame.assign(**{"surrogate → target": pair}).melt(
        ["surrogate → target", "seed"], list(TERMS), "term", "number"
    )
    terms = terms.assign(term=terms["term"].map(lambda term: said("", term)))
    table = value_table(
        terms, "number", "terms", rows="surrogate → target", columns=("term",), error=error, largest=None
    )
    each = frame.groupby("mechanism", sort=False)[["sigma_f", "transfer"]].mean().reset_index()
    figure = against(each, "sigma_f", "transfer", "mechanism", "largest |λ| of the surrogate, σ", "transfer")
    figures = {"transfer_by_sigma": (figure, "Transfer against the surrogate's σ, means over targets.")}
    return [Section("Theorem 1", text, [table._replace(title="Terms of Theorem 1")], figures)]
