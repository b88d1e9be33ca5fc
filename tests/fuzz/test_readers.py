"""Some cases of every property, the same ones each time; `make fuzz` tries many."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.readers import PROPERTIES, check


@pytest.mark.parametrize("name", PROPERTIES)
def test_any_bytes_are_read_or_refused(name, tmp_path_factory):
    """A damaged or hostile file, config or answer is read or refused in one error of the reader's own."""
    values, _, examples = PROPERTIES[name]
    directory = tmp_path_factory.mktemp("fuzz")

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(values)
    def holds(value):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of averages, and of what is left out
            check(name, value, directory)

    holds()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ArrayRecord", ("*array_record*", [(0.5, "cut", b"\x00")]))],  # records that lost their labels
)
def test_what_fuzzing_found_before(name, value, tmp_path):
    check(name, value, tmp_path)
