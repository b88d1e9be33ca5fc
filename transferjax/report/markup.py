"""The frame of `report.html`: one file that loads nothing and runs no script but its own."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files


@cache
def asset(name: str) -> str:
    """A stylesheet or script of the page."""
    return files("transferjax.report").joinpath("assets", name).read_text(encoding="utf-8")


def escape(value: object) -> str:
    """A name as text of a page or of an attribute, whatever is in it."""
    return html.escape(str(value), quote=True)


def png_source(data: bytes) -> str:
    """PNG bytes as the `src` of an image."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def slug(name: str) -> str:
    """A name as a part of a file's: "MI_ε_8_255" of "MI, ε = 8/255"."""
    return re.sub(r"[^\w.&+-]+", "_", name).strip("_")


def anchors(titles: Iterable[str]) -> list[str]:
    """An id for each heading, none twice."""
    found: list[str] = []
    for title in titles:
        base = name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        number = 1
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.append(name)
    return found


def document(title: str, sections: list[tuple[str, str]], end: str = "") -> str:
    """A whole page.

    Its content security policy allows the page's own script, by its hash, and pictures that are in it: a
    browser runs no other script and asks no server for anything, whatever a class is called.

    Args:
        title: the heading.
        sections: headings and what is under them, as HTML.
        end: HTML after the sections.
    """
    script = asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    names = anchors(heading for heading, _ in sections)
    links = "".join(
        f'<li><a href="#{name}">{escape(heading)}</a></li>'
        for name, (heading, _) in zip(names, sections, strict=True)
    )
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(heading)}</h2>{inner}</section>'
        for name, (heading, inner) in zip(names, sections, strict=True)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{asset('page.css')}</style></head>\n"
        '<body><a class="skip" href="#content">Skip to the content</a><main>'
        f'<h1>{escape(title)}</h1><nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>'
        f'<div id="content" tabindex="-1">{body}{end}</div></main><script>{script}</script></body></html>\n'
    )
