"""The catalogue of attacks: a page each, and one table of all."""

import inspect
import re
from functools import cache

from docs.generate.catalogues import cell
from docs.generate.tried import EPS, run
from tests.golden.peers import PEERS
from transferjax.attacks.recipe import MEANINGS
from transferjax.attacks.vocabulary import RANGES
from transferjax.report.maps import image_grid
from transferjax.report.page import png
from transferjax.study.registry import ATTACKS

FAMILIES = {
    "steps": "One gradient a step",
    "transformed": "Transformed inputs",
    "neighbors": "Neighbourhoods and flatness",
    "targeted": "Towards a target",
    "features": "Features in the middle",
    "transformers": "Vision transformers",
    "committees": "Several surrogates",
    "auto_attack": "AutoAttack and its parts",
}
_ARGUMENT = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)


def family(name: str) -> str:
    """By the module that holds the recipe."""
    module = inspect.unwrap(ATTACKS.row(name).factory).__module__
    return next(title for part, title in FAMILIES.items() if part in module.split("."))


def said(name: str) -> dict[str, str]:
    """A recipe's docstring: its `summary`, the `text` below, and the `reference`."""
    text = inspect.getdoc(inspect.unwrap(ATTACKS.row(name).factory)) or ""
    summary, _, rest = text.partition("\n\n")
    rest, _, reference = rest.partition("Reference: ")
    body = re.split(r"^(?:Args|Raises|Returns):", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return {"summary": summary, "text": body.strip(), "reference": " ".join(reference.split())}


def goldens(name: str) -> list[str]:
    """The peers whose pixels it has, as "torchattacks' MIFGSM"."""
    found = [peer.partition("__") for peer, attack in PEERS.items() if attack.name == name]
    return sorted(
        {f"{library}' {which.replace('__', ', ').replace('_', ' ')}" for library, _, which in found}
    )


def options(name: str) -> list[tuple[str, str, str]]:
    """Each hyper-parameter: name, default, meaning."""
    factory = ATTACKS.row(name).factory
    text = inspect.getdoc(factory) or ""
    own = {one: " ".join(why.split()) for names, why in _ARGUMENT.findall(text) for one in names.split(", ")}
    rows = []
    for parameter in inspect.signature(factory).parameters.values():
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        allowed = RANGES[parameter.name].words if parameter.name in RANGES else "see above"
        meaning = own.get(parameter.name) or MEANINGS.get(parameter.name, allowed)
        rows.append((parameter.name, default, cell(meaning)))
    return rows


@cache
def made(name: str):
    """What the attack does to one digit: a picture and the work."""
    clean, adversarial, label, (before, after), work = run(name)
    examples = {
        **{"clean": clean, "adversarial": adversarial, "labels": [label]},
        **{"clean_predictions": [before], "adversarial_predictions": [after]},
    }
    return png(image_grid(examples, columns=4)), work


def work_of(name: str) -> str:
    """Gradients per image; those that stop where they succeed take at most so many."""
    _, work = made(name)
    said = (
        f"{work.gradients:,}"
        if work.gradients or not work.evaluations
        else f"{work.evaluations:,} evaluations"
    )
    return f"at most {said}" if family(name) == FAMILIES["auto_attack"] else said


def page(name: str) -> str:
    """One attack."""
    text, peers = said(name), goldens(name)
    signature = ", ".join(n if d == "required" else f"{n}={d.strip('`')}" for n, d, _ in options(name))
    golden = f"yes: {'; '.join(peers)}" if peers else "no: tested against its equations and laws"
    rows = "\n".join(f"| `{n}` | {d} | {m} |" for n, d, m in options(name))
    body = f"\n{text['text']}\n" if text["text"] else ""
    return f"""# {name}

{text["summary"]}
{body}
![One digit before and after {name}]({name}.png){{ align=right width=190 }}

| | |
|---|---|
| Reference | {text["reference"] or "of this library"} |
| Gradients per image, at the defaults | {work_of(name)} |
| Equal to a peer's pixels | {golden} |
| Family | {family(name)} |

```python
from transferjax import attacks

attacks.{name}  # {signature}
```

## Options

| option | default | meaning |
|---|---|---|
{rows}

The picture is a handwritten digit, attacked at the defaults with a budget of {round(255 * EPS)}/255 on a
small net (two of them where it takes several), the perturbation enlarged. The gradients are counted while
it is made.
"""


def index() -> str:
    """All of them in one table."""
    lines = [
        "# Attacks",
        "",
        "Each is a combination of the pieces of [the four slots](../../slots.md). All take `norm`; those",
        "made of `ascend` take `outer_rules` and `inner_rules`, so that they nest. This table is made from",
        "the code; gradients per image are counted on a small net, at the defaults.",
        "",
        "| attack | what it does | gradients per image | golden |",
        "|---|---|---:|---|",
    ]
    for title in FAMILIES.values():
        lines.append(f"| **{title}** | | | |")
        for name in ATTACKS.rows():
            if family(name) == title:
                what = cell(said(name)["summary"])
                lines.append(
                    f"| [{name}]({name}.md) | {what} | {work_of(name)} | {'yes' if goldens(name) else ''} |"
                )
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str | bytes]:
    """By place in the site."""
    found: dict[str, str | bytes] = {"catalogue/attacks/index.md": index()}
    for name in ATTACKS.rows():
        found[f"catalogue/attacks/{name}.md"] = page(name)
        found[f"catalogue/attacks/{name}.png"] = made(name)[0]
    return found


def nav() -> list:
    """The table, then each family."""
    places: list = ["catalogue/attacks/index.md"]
    for title in FAMILIES.values():
        members = [name for name in ATTACKS.rows() if family(name) == title]
        places.append({title: [{name: f"catalogue/attacks/{name}.md"} for name in members]})
    return places
