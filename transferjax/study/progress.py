"""One progress bar over the whole plan: what runs now, its rate and key figures, and what remains."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from transferjax.study import estimate
from transferjax.study.plan import Group, Plan
from transferjax.study.run import Done, Executor
from transferjax.study.store import Store

FORMAT = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {desc}{postfix}"
EVERY = 60.0  # seconds from one line of a log to the next


class Bar:
    """A bar whose length is the plan's estimated seconds; without a terminal, a line every minute."""

    def __init__(self) -> None:
        self.bar: Any = tqdm(total=0, bar_format=FORMAT, disable=None)
        self.logged = time.monotonic()
        self.groups = self.made = 0
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
        self.groups, self.made = len(plan.groups), 0
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
        now = time.monotonic()
        if text != self.text or done < self.first:
            self.text, self.since, self.first = text, now, done
        rate = (done - self.first) / (now - self.since) if now > self.since else 0.0
        if self._silent():  # figures are on the device until they are asked for
            return
        share = done / max(total, 1)
        shown = {
            **({"images/s": f"{rate:.0f}"} if rate else {}),
            **{n: f"{v:.3f}" for n, v in figures.items()},
        }
        if self.bar.disable:
            self._log(f"{text} {share:.0%}", shown)
            return
        if self.waiting and self.waiting[0].kind in ("Network", "Purifier"):  # one sweep, and the longest
            self.bar.n = self.ended + share * self.costs.get(self.waiting[0].key, 0.0)
        self.bar.set_description_str(f"{text} {share:.0%}", refresh=False)
        self.bar.set_postfix(shown)

    def _silent(self) -> bool:
        return self.bar.disable and time.monotonic() - self.logged < EVERY

    def _log(self, text: str, figures: Mapping[str, str]) -> None:
        """What a file or a pipe gets in place of the bar."""
        self.logged = time.monotonic()
        ended = f"{time.strftime('%X')} {self.made} of {self.groups} tasks done"
        said = ", ".join([text, *(f"{name}={value}" for name, value in figures.items())])
        print(f"{ended}; {said}", file=sys.stderr, flush=True)

    def over(self, execute: Executor) -> Executor:
        """The executor, its finished groups shown."""

        def shown(groups: Sequence[Group]) -> Iterator[tuple[Group, Done]]:
            self.waiting = list(groups)
            for group, done in execute(groups):
                self.waiting.remove(group)
                self.made += 1
                self.ended += self.costs.get(group.key, 0.0)
                if not self.bar.disable:
                    self.bar.n = self.ended
                    self.bar.refresh()
                elif not self._silent():  # a cluster's workers say nothing in between
                    self._log(f"last a {group.kind}", {})
                yield group, done

        return shown
