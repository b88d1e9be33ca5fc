"""Writes docs/costs.csv: what each view of the configs costs, as the planner estimates.

TFDS_DATA_DIR=<where CIFAR-10 and ImageNette are> python -m docs.generate.costs [config…]

Seconds are those of the machine that it runs on, and want it idle; hours of a GPU are arithmetic.
"""

import csv
import io
import sys
import tempfile

from tqdm import tqdm

from docs.generate.papers import COSTS, HERE, ROOT, SCALES, configs
from transferjax.files import write_text
from transferjax.study import config, estimate, views
from transferjax.study.plan import make_plan
from transferjax.study.store import Store


def rows(name: str, scale: str, where: str):
    """A row for each view, of an empty store."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(directory)
        found = dict(configs())[name].get_config(*filter(None, [scale]))
        study = config.read(found, views.VIEWS, name, store.has)
        for view in tqdm(study.views, desc=f"{name} {scale}", disable=None):
            demand = dict.fromkeys(s for row in views.rows_of(study, view) for s in row.needs.values())
            plan = make_plan(list(demand), store)
            if where == HERE:
                cost = estimate.readable(sum(estimate.costs(plan, store).values()))
            else:
                cost = f"{estimate.gpu_hours(plan):.3g} GPU h"
            yield name, scale, view.name, cost


def main(names: list[str]) -> None:
    """Costs of these configs; the others' stay as they were written."""
    old = list(csv.reader(COSTS.read_text().splitlines()))[1:] if COSTS.is_file() else []
    kept = [tuple(row) for row in old if row[0] in SCALES and row[0] not in names]
    new = [row for name in names for scale, where in SCALES[name].items() for row in rows(name, scale, where)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("config", "scale", "view", "cost"), *sorted(kept + new, key=lambda row: row[0])])
    write_text(COSTS, text.getvalue())
    print(f"{COSTS.relative_to(ROOT)}: {len(kept + new)} views")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SCALES))
