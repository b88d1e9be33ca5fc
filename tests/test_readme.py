"""The README's example runs as it stands there."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    printed = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert 0.2 < float(printed["transfer success"]) <= 1
    assert float(printed["smoothness"]) > 0
    assert 0 < float(printed["similarity"]) < 1


def test_its_links_and_pictures_exist():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (root / target).exists(), target
