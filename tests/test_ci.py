"""CI runs what a checkout runs, and what is written down about the project agrees with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS = WORKFLOW["jobs"]


def commands(job):
    """What a job runs, beside the actions that prepare its machine."""
    return [step["run"] for step in job["steps"] if "run" in step]


def targets(text):
    """What `make` is asked for in a text."""
    return {name for line in re.findall(r"^make (.+)$", text, re.M) for name in line.split()}


def test_the_workflow_runs_what_ci_runs():
    """Every command of .ci/run is a step, under the same name."""
    there = {name for job in JOBS.values() for line in commands(job) for name in targets(line)}
    assert targets((ROOT / ".ci/run").read_text()) <= there


def test_every_step_is_a_make_target():
    """What fails there fails in the same way in a checkout."""
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name, job in JOBS.items():
        (line,) = commands(job)
        assert targets(line) == {line.removeprefix("make ")}, name
        assert targets(line) <= defined, name


def test_the_pythons_that_are_tested_are_those_that_are_promised():
    """The classifiers', and no other."""
    promised = [re.search(r"Python :: (3\.\d+)$", line) for line in PROJECT["classifiers"]]
    assert JOBS["test"]["strategy"]["matrix"]["python"] == [found[1] for found in promised if found]


def test_the_workflow_may_only_read():
    """No job gets a token that writes."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in JOBS.values())


def needed(extra):
    """Requirements of an extra, those of the extras that it names too."""
    for line in PROJECT["optional-dependencies"][extra]:
        if inner := re.fullmatch(r"transferjax\[(.+)\]", line):
            for name in inner[1].split(","):
                yield from needed(name)
        else:
            yield line


def test_the_lowest_versions_are_the_bounds():
    """`make lowest` tests what pyproject.toml allows: each bound once, and nothing below or above it."""
    lines = (ROOT / "constraints/lowest.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    bounds = [*PROJECT["dependencies"], *needed("test")]
    assert sorted(pinned) == sorted(line.replace(">=", "==") for line in bounds)


def test_what_is_cited_is_what_is_released():
    """Version, license and title of CITATION.cff."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["title"].startswith(f"{PROJECT['name']}: ")
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "authors", "type"} <= cited.keys()
