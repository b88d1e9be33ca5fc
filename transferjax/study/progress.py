"""One progress bar over the whole plan: what runs now, its rate and key figures, and what remains."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from transferjax.study import estimate
from transferjax.study.plan import Group, Plan
from transferjax.study.run import Done, Executor
from transferjax.study.store import Store

FORMAT = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {desc}{postfix}"


class Bar:
    """A bar whose length is the plan's estimated seconds; quiet without a terminal."""

    def __init__(self) -> None:
        self.bar: Any = tqdm(total=0, bar_format=FORMAT, disable=None)
        self.costs: dict[str, float] = {}
        self.ended = 0.0
        self.waiting: list[Group] = []
        self.text, self.since, self.first = "", time.monotonic(), 0.0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def begin(self, plan: Plan, store: Store) -> None:
        """A plan, whole or what is left of it."""
        if self.bar.disable:
            return
        self.costs = estimate.costs(plan, store)
        self.ended = 0.0
        self.bar.reset(total=max(sum(self.costs.values()), 1e-3))

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.bar.clear()
        print(text, flush=True)
        self.bar.refresh()

    def progress(self, text: str, done: float, total: float, /, **figures: float) -> None:
        """What runs now, images done of all, and figures such as the loss."""
        if self.bar.disable:
            return
        now = time.monotonic()
        if text != self.text or done < self.first:
            self.text, self.since, self.first = text, now, done
        rate = (done - self.first) / (now - self.since) if now > self.since else 0.0
        share = done / max(total, 1)
        if self.waiting and self.waiting[0].kind in ("Network", "Purifier"):  # one sweep, and the longest
            self.bar.n = self.ended + share * self.costs.get(self.waiting[0].key, 0.0)
        self.bar.set_description_str(f"{text} {share:.0%}", refresh=False)
        shown = {
            **({"images/s": f"{rate:.0f}"} if rate else {}),
            **{n: f"{v:.3f}" for n, v in figures.items()},
        }
        self.bar.set_postfix(shown)

    def over(self, execute: Executor) -> Executor:
        """The executor, its finished groups shown."""

        def shown(groups: Sequence[Group]) -> Iterator[tuple[Group, Done]]:
            self.waiting = list(groups)
            for group, done in execute(groups):
                self.waiting.remove(group)
                self.ended += self.costs.get(group.key, 0.0)
                if not self.bar.disable:
                    self.bar.n = self.ended
                    self.bar.refresh()
                yield group, done

        return shown
