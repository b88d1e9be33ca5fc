"""MkDocs' hooks: the generated pages join the written ones."""

from functools import cache

from mkdocs.structure.files import File

from docs.generate import attacks, catalogues, papers, reference


@cache
def pages() -> dict[str, str | bytes]:
    """Every generated file by its place in the site."""
    made: dict[str, str | bytes] = {}
    for module in (attacks, catalogues, papers, reference):
        made |= module.pages()
    return made


def on_config(config):
    """The navigation lists what is generated, where the configuration leaves a gap."""
    sections = {"Attacks": attacks.nav(), "API": reference.nav()}
    config.nav = _filled(config.nav, sections)
    return config


def _filled(nav, sections):
    if isinstance(nav, list):
        return [_filled(entry, sections) for entry in nav]
    if isinstance(nav, dict):
        return {
            name: sections[name] if inner == "generated" else _filled(inner, sections)
            for name, inner in nav.items()
        }
    return nav


def on_files(files, config):
    """Adds the pages."""
    for place, content in pages().items():
        files.append(File.generated(config, place, content=content))
    return files
