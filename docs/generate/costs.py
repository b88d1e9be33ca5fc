"""Writes docs/costs.csv: what each view of the papers' configs costs, as the planner estimates.

TFDS_DATA_DIR=<where CIFAR-10 is> python -m docs.generate.costs
"""

import csv
import io
import sys
import tempfile

from docs.generate.papers import COSTS, ROOT, configs
from transferjax.files import write_text
from transferjax.study import config, estimate, views
from transferjax.study.plan import make_plan
from transferjax.study.store import Store

SCALES = {"sp2024": ("cpu", "cifar10"), "pgn": ("cpu",), "digits": ("",), "cifar10_cpu": ("",)}


def rows(name: str, scale: str):
    """A row for each view, of an empty store."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(directory)
        found = dict(configs())[name].get_config(scale)
        study = config.read(found, views.VIEWS, name, store.has)
        for view in study.views:
            demand = dict.fromkeys(s for row in views.rows_of(study, view) for s in row.needs.values())
            plan = make_plan(list(demand), store)
            seconds = sum(estimate.costs(plan, store).values())
            yield (name, scale, view.name, estimate.readable(seconds), f"{estimate.gpu_hours(plan):.2g}")


if __name__ == "__main__":
    chosen = sys.argv[1:] or [name for name, _ in configs() if name in SCALES]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("config", "scale", "view", "cpu", "gpu_hours"))
    for name in chosen:
        for scale in SCALES[name]:
            writer.writerows(rows(name, scale))
    write_text(COSTS, text.getvalue())
    print(f"{COSTS.relative_to(ROOT)}: {len(text.getvalue().splitlines()) - 1} views")
