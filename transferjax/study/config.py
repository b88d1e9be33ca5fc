"""From a config to a study: every name bound, all data pinned, all mistakes at once.

A config is a ConfigDict of scalars and tuples (configs never import transferjax); a spec in it is a dict:

    c.networks = ((label, tags, spec or tuple of specs), …)   several specs are an ensemble, or snapshots
    c.attacks  = ((label, name, options), …)
    c.blocks   = ((name, {surrogates, attacks, goals, eps_255 or eps, norm, targets, data, measures, …}), …)
    c.views    = ((name, view, options), …)

A label may stand for several networks: a mechanism's seeds. Blocks name labels, so that no global cross
product is computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from transferjax.study import mistakes, said
from transferjax.study.binding import Labels, Stored, network
from transferjax.study.blocks import Block, Member, read_attacks, read_blocks
from transferjax.study.mistakes import Mistakes
from transferjax.study.said import Reader
from transferjax.study.specs import (
    Spec,
)


@dataclass(frozen=True)
class View:
    """A table or figure by name, its kind and options."""

    name: str
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """Networks and questions."""

    name: str
    title: str
    networks: tuple[Member, ...]
    blocks: Mapping[str, Block]
    views: tuple[View, ...]
    batch_size: int = 128
    checkpoint_epochs: int = 10
    error: str = "half_range"

    def labelled(self) -> dict[str, Spec]:
        """What it calls its networks, each member of an ensemble too."""
        return {
            str(member) if len(member.specs) == 1 else f"{member}[{i}]": spec
            for member in self.networks
            for i, spec in enumerate(member.specs)
        }


def read(
    config: ConfigDict | Mapping[str, Any],
    views: Mapping[str, Any],
    name: str = "study",
    stored: Stored = lambda spec: False,
) -> Study:
    """The study of a config; nothing is computed, and no store is touched.

    Args:
        config: see above.
        views: the table of views, name -> row with `rows(study, **options)` and `options`.
        name: of the study, unless the config says one.
        stored: what was made already, and needs no trial.

    Raises:
        Mistakes: all that is wrong, one line each.
    """
    reader = Reader()
    if not isinstance(config, ConfigDict | Mapping):
        raise Mistakes([f"config: expected a ConfigDict; got {mistakes.short(config)}"])
    found = reader.shape(said.Head, {"name": name, **said.plain(config)}, "config")
    if found is None:
        raise Mistakes(reader.wrong)
    head, wrong = found
    known = {
        field: None if field in wrong else _labels(getattr(head, field))
        for field in ("networks", "attacks", "blocks")
    }
    networks = tuple(_networks(reader, head.networks, stored))
    attacks = dict(read_attacks(reader, head.attacks))
    blocks = {b.name: b for b in read_blocks(reader, head.blocks, known, networks, attacks, stored) if b}
    for field in ("networks", "views"):
        if not getattr(head, field) and field not in wrong:
            reader.wrong.append(f"config: {field} is empty, so nothing is asked")
    scalars = head.batch_size, head.checkpoint_epochs, head.error
    study = Study(head.name, head.title or head.name, networks, blocks, (), *scalars)
    study = replace(study, views=tuple(_views(reader, head.views, views, known["blocks"], study)))
    if reader.wrong:
        raise Mistakes(mistakes.together(reader.wrong))
    return study


def _labels(entries: Sequence[Any]) -> Labels:
    """What entries are called, those with mistakes too; None where one says no label."""
    found = [
        entry[0] for entry in entries if isinstance(entry, tuple) and entry and isinstance(entry[0], str)
    ]
    return list(dict.fromkeys(found)) if len(found) == len(entries) else None


def _networks(reader: Reader, entries: Sequence[Any], stored: Stored) -> Iterable[Member]:
    names = []
    bar = tqdm(entries, "networks", disable=None, leave=False)
    for place, entry in enumerate(bar):
        found = reader.entry(said.NetworkEntry, entry, f"networks[{place}]")
        if found is None:
            continue
        label, spec = found.entry.label, found.entry.spec
        tags = {"mechanism": label, "seed": 0, **found.entry.tags.model_dump(exclude_unset=True)}
        where = f"network {label!r}"
        made = [reader.attempt(where, network, fields, where, stored) for fields in spec]
        member = Member(label, tags, tuple(made))
        names.append(str(member))
        if None not in made and not found.wrong:
            yield member
    reader.once(names, "networks:")


def _views(
    reader: Reader, entries: Sequence[Any], table: Mapping[str, Any], blocks: Labels, study: Study
) -> Iterable[View]:
    names = []
    for place, entry in enumerate(entries):
        found = reader.entry(said.ViewEntry, entry, f"views[{place}]")
        if found is None:
            continue
        name, kind, options = found.entry.name, found.entry.view, found.entry.options
        where, before = f"view {name!r}", len(reader.wrong)
        names.append(name)
        reader.expect(table, (kind,), where, "view")
        if kind in table:
            reader.expect(table[kind].options, options, where, "option")
        reader.expect(blocks, (options.get("block", "(none)"),), where, "block")
        if len(reader.wrong) == before and options["block"] in study.blocks:
            reader.attempt(where, lambda k=kind, o=options: list(table[k].rows(study, **o)))
        yield View(name, kind, options)
    reader.once(names, "views:")
