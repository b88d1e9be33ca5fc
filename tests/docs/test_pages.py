"""Every code block of the site runs, in the order of its page, after the blocks of the start."""

import importlib
import re
from pathlib import Path

import pytest

from transferjax import attacks, predicts
from transferjax.attacks.vocabulary import named_elsewhere

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(?:<!-- needs: ([^>]*?) -->\n)?```python\n(.*?)```", re.DOTALL)
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if "results" not in page.relative_to(DOCS).parts
    and page.name != "services.md"  # runs beside a service: `tests/predicts`
    and BLOCK.search(page.read_text())
)


def there(name):
    """Whether a module, or a name in one, exists."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_there_knows_what_exists():
    assert there("transferjax.attacks.pgd")
    assert not there("transferjax.attacks.nothing")
    assert not there("no_such_package.part")


def run(page, names):
    """Runs a page's blocks in one namespace; those whose needs are not there are left out, and named."""
    missing = []
    for number, (needs, code) in enumerate(BLOCK.findall(page.read_text()), start=1):
        lacks = [need for need in needs.split() if not there(need)]
        missing += lacks
        if not lacks:
            exec(compile(code, f"{page.relative_to(DOCS)}, block {number}", "exec"), names)
    return sorted(set(missing))


@pytest.fixture(scope="module")
def started():
    """What the start leaves behind."""
    names = {}
    assert run(DOCS / "index.md", names) == []
    return names


def test_the_start_transfers(started, capsys):
    from transferjax import metrics

    hit = metrics.transfer_success(started["target"], started["adversarial"], started["labels"])
    accuracy = metrics.correct(started["target"], started["images"], started["labels"]).mean()
    assert accuracy > 0.6
    assert hit > 1 - accuracy + 0.1


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "index.md"], ids=lambda p: str(p.relative_to(DOCS))
)
def test_blocks_run(page, started):
    if missing := run(page, dict(started)):
        pytest.skip(f"some of its blocks need {', '.join(missing)}")


def test_names_for_migrants_exist_and_are_recipes():
    rows = re.findall(
        r"^\| `((?:attacks|predicts)\.[^`]*)` \|", (DOCS / "migrating.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 30
    for row in rows:
        if row.startswith("predicts."):
            assert hasattr(predicts, row.partition(".")[2]), row
            continue
        name = re.match(r"attacks\.(\w+)", row).group(1)
        assert callable(getattr(attacks, name)), row
        if "=" not in row or "norm" in row or "variant" in row:  # of what needs more, the name alone
            assert isinstance(eval(row, {"attacks": attacks, "eps": 8 / 255}), attacks.Recipe), row


def test_names_of_other_libraries_are_known():
    """Every name of the table leads to its row, spelt as they spell it."""
    known, seen = set(attacks.__all__), 0
    for line in (DOCS / "migrating.md").read_text().splitlines():
        if not line.startswith("| `attacks."):
            continue
        here, *others = line.strip("| ").split(" | ")
        name = re.match(r"`attacks\.(\w+)", here).group(1)
        for other in re.findall(r"`(\w+)`", " ".join(others[:2])):
            seen += 1
            said = named_elsewhere(other, known)
            assert said == ("" if other == name else f"that is {name} here"), other
    assert seen > 60


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PGD", "that is pgd here"),
        ("DIFGSM", "that is dim here"),
        ("cw", "looks for the smallest perturbation, which no attack here does"),
        ("OnePixel", "changes few pixels"),
    ],
)
def test_a_name_of_another_library_says_what_it_is_here(name, message):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}': .*{message}"):
        getattr(attacks, name)


def test_golden_names_are_golden():
    from tests.golden.peers import PEERS

    text = (DOCS / "migrating.md").read_text()
    named = {
        line.split("`")[1]
        for line in text.splitlines()
        if line.startswith("| `attacks.") and "golden" in line
    }
    assert {re.match(r"attacks\.(\w+)", name).group(1) for name in named} == {a.name for a in PEERS.values()}
