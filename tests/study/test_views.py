"""What views are called on a page."""

import pytest

from transferjax.study import views


@pytest.mark.parametrize(
    ("name", "place"),
    [("table2", "Table 2"), ("figures4to6", "Figures 4 to 6"), ("theorem1", "Theorem 1"), ("tables", "")],
)
def test_sections_of_a_paper_begin_with_its_table_or_figure(name, place):
    assert views.in_paper(name) == place
