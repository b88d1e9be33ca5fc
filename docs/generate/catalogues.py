"""Catalogues of mechanisms, measures, nets, defences and pieces, from the tables that studies use."""

import inspect
from collections.abc import Callable, Iterable, Mapping

from configs.methods import MECHANISMS, magnitudes, method
from configs.sp2024_tables import SWEPT
from transferjax import attacks, defences, metrics, predicts
from transferjax.attacks.vocabulary import ELSEWHERE, RANGES
from transferjax.models.zoo import ZOO
from transferjax.study import views
from transferjax.study.registry import MEASURES, PARTS, Table


def cell(text: str) -> str:
    """Text on one line, its bars escaped, but for those in code: there Markdown shows them as they are."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))


def summary(thing: Callable) -> str:
    """The first line of a docstring."""
    return cell((inspect.getdoc(thing) or "").partition("\n\n")[0])


def signature(thing: Callable) -> str:
    """Names and defaults, without the types."""
    parts = []
    for p in inspect.signature(thing).parameters.values():
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f"={p.default!r}"
        parts.append(f"{star}{p.name}{default}")
    return ", ".join(parts)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A pipe table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([str(cell).replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def functions(things: Mapping[str, Callable]) -> str:
    """Name with its options, and what it does."""
    return table(
        ("name", "what it does"),
        ((f"`{n}({signature(f)})`", summary(f)) for n, f in things.items()),
    )


def _rows(which: Table) -> dict[str, Callable]:
    return {name: row.factory for name, row in which.rows().items()}


def mechanisms() -> str:
    """How a surrogate can be trained."""
    rows = []
    for name in MECHANISMS:
        parts = method(_shown(name), "cifar10")
        filled = "; ".join(f"{PARTS.row(part['name']).slot}: `{_call(part)}`" for part in parts)
        sweep = ", ".join(magnitudes(name, "cifar10")) if name in SWEPT else ""
        rows.append((f"`{name}`", filled or "nothing: standard training", sweep))
    pieces = "".join(
        f"\n### {slot.capitalize()}\n\n"
        + functions({n: f for n, f in _rows(PARTS).items() if PARTS.row(n).slot == slot})
        for slot in ("transforms", "penalties", "rules", "averages")
    )
    return f"""# Training mechanisms

What fills the slots of the one train step; `configs/methods.py` has the mechanisms by name, with the
magnitudes of Table 11 of the S&P paper, and they add up: `SAM&IR` has the parts of both. This page is made
from the code.

## By name, as on CIFAR-10

{table(("mechanism", "what fills which slot", "magnitudes"), rows)}
## The parts
{pieces}"""


def _shown(name: str) -> str:
    """Itself, or with its first magnitude where the paper's tables have several."""
    try:
        method(name)
    except ValueError:
        return f"{name}_1"
    return name


def _call(part: Mapping) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in part["options"].items())
    return f"{part['name']}({options})"


def measures() -> str:
    """What is measured."""
    public = {n: getattr(metrics, n) for n in metrics.__all__ if inspect.isfunction(getattr(metrics, n))}
    names = table(
        ("in a study", "what it measures", "called in reports"),
        ((f"`{n}`", summary(row.factory), row.column) for n, row in MEASURES.rows().items()),
    )
    return f"""# Measures

`transferjax.metrics`, made from the code. [Which to choose](../choosing.md#which-measure).

{functions(public)}
## What a study can ask for

{names}"""


def nets() -> str:
    """The zoo, and what makes another predict of a predict."""
    rows = ((f"`{name}`", summary(factory)) for name, factory in ZOO.items())
    wrappers = {n: getattr(predicts, n) for n in predicts.__all__ if inspect.isfunction(getattr(predicts, n))}
    return f"""# Nets and predicts

Names for `models.build(name, num_classes=…)`; `models.load(name, path)` reads files of weights. Made from
the code.

{table(("name", "net"), rows)}
## What makes a predict, or another of one

{functions(wrappers)}"""


def defended() -> str:
    """Defences."""
    things = {n: getattr(defences, n) for n in defences.__all__}
    return f"""# Defences

Everything here goes before a net: what comes out is a predict again, to be attacked or evaluated. Made from
the code.

{functions(things)}"""


def pieces() -> str:
    """What attacks are made of."""
    parts = ""
    for module in (attacks.rules, attacks.inputs, attacks.ensembles, attacks.updates, attacks.projections):
        own = {
            n: f
            for n, f in vars(module).items()
            if inspect.isfunction(f) and f.__module__ == module.__name__ and not n.startswith("_")
        }
        name = module.__name__.rpartition(".")[2]
        parts += f"\n## attacks.{name}\n\n{summary(module)}\n\n{functions(own)}"
    ranges = table(("option", "may be"), sorted((f"`{n}`", r.words) for n, r in RANGES.items()))
    return f"""# The pieces of attacks

Rules, input transformations, ensembles, updates and projections: what the catalogue combines, and
[an attack of your own](../howto/attack.md). Made from the code.
{parts}
## What options may be

{ranges}"""


def names_elsewhere() -> str:
    """What other libraries call an option; for the page on migration."""
    return table(
        ("here", "elsewhere"),
        ((f"`{here}`", ", ".join(f"`{n}`" for n in there.split())) for here, there in ELSEWHERE.items()),
    )


def shown() -> str:
    """The views of studies."""
    rows = (
        (f"`{n}`", summary(kind.draw), ", ".join(f"`{o}`" for o in kind.options))
        for n, kind in views.VIEWS.items()
    )
    return f"""# Views of a study

A view is what a study asks and how the answer is drawn; a config names them. Made from the code.

{table(("view", "shows", "options"), rows)}"""


def pages() -> dict[str, str | bytes]:
    """By place in the site."""
    return {
        "catalogue/mechanisms.md": mechanisms(),
        "catalogue/measures.md": measures(),
        "catalogue/nets.md": nets(),
        "catalogue/defences.md": defended(),
        "catalogue/pieces.md": pieces(),
        "catalogue/views.md": shown(),
        "catalogue/options.md": f"# Options elsewhere\n\nMade from the code.\n\n{names_elsewhere()}",
    }
