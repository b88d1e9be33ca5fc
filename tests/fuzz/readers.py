"""What readers promise of any bytes: what they hold, or an error of their own, soon and in little memory.

Each property is a strategy and a check. The suite tries some cases of each; `python -m tests.fuzz` goes on
for as long as it is told.
"""

import shutil
from pathlib import Path
from typing import Any

from tests.fuzz import of_kept, of_said, of_weights

PROPERTIES = of_weights.PROPERTIES | of_kept.PROPERTIES | of_said.PROPERTIES


def check(name: str, value: Any, directory: Path) -> None:
    """Whether a property holds of a value, in an empty directory."""
    place = directory / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    PROPERTIES[name].check(value, place)
