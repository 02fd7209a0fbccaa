"""A search on the screen: a table on a terminal, elsewhere a line for each trial that ends."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable
from typing import TextIO

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gan_dist.core.console import LiveConsole, time_left
from gan_dist.search.objectives import front, released_point
from gan_dist.search.population import Member
from gan_dist.search.study import REASON, SearchStudy, images_trained, lowest_value

ROWS = 11
QUIET_S = 60.0
"""Seconds without a trial's end after which a log has a summary; the next comes after twice as many."""
_STATES = {TrialState.PRUNED: "stopped", TrialState.COMPLETE: "complete", TrialState.FAIL: "failed"}


class SearchView(LiveConsole):
    """Shows a search's state whenever it changes, at a cost that does not grow with the number of trials.

    Args:
        study: The search's study.
        trials: Trials in all; infinite without a limit.
        length: Images of a trial that is not stopped.
        metric: Name of the metric.
        stream: Standard error when None.
        outlook: Returns a forecast in words.
    """

    def __init__(
        self,
        study: SearchStudy,
        trials: float,
        length: int,
        metric: str,
        stream: TextIO | None = None,
        outlook: Callable[[], str] = str,
    ) -> None:
        super().__init__(stream)
        self._outlook = outlook
        self._study, self._trials, self._length, self._metric = study, trials, length, metric
        self._measured = study.objectives.names if study.objectives else (metric,)
        self._states: Counter[TrialState] = Counter()
        self._trained = self._saved = 0
        self._best: list[tuple[float, int, FrozenTrial]] = []
        self._count_ended()
        self._ended_before = self._states.total()
        self._began = self._logged_at = time.monotonic()
        self._quiet_s = QUIET_S

    def update(self) -> None:
        """Show what has changed."""
        ended, running = self._count_ended(), self._study.running()
        if self.is_live:
            for trial in ended:
                if trial.state == TrialState.FAIL:  # the table has no room for the reason
                    self.print(_format_trial(trial))
            self.display(Group(Text("\n".join(self._summary(running))), self._table(running)))
            return
        now = time.monotonic()
        for trial in ended:
            self._logged_at, self._quiet_s = now, QUIET_S
            self.print(f"{_format_trial(trial)}  [{'  '.join(self._summary(running))}]")
        if now - self._logged_at >= self._quiet_s:
            self._logged_at, self._quiet_s = now, 2 * self._quiet_s
            self.print("  ".join(self._summary(running)))

    def _count_ended(self) -> list[FrozenTrial]:
        """Return the trials that have ended since the last call, and add them to the totals."""
        ended = self._study.ended(self._states.total())
        for trial in ended:
            images = images_trained(trial)
            self._states[trial.state] += 1
            self._trained += images
            self._saved += self._length - images if trial.state == TrialState.PRUNED else 0
            insort(self._best, (lowest_value(trial), trial.number, trial))
        if self._study.objectives:
            found = front(self._study.objectives, (trial for _, _, trial in self._best))
            self._best = [(lowest_value(trial), trial.number, trial) for trial, _ in found]
        else:
            del self._best[ROWS:]
        return ended

    def _summary(self, running: list[FrozenTrial]) -> list[str]:
        states, ended = self._states, self._states.total()
        images = self._trained + sum(map(images_trained, running))
        found = f"{ended}/{self._trials} trials" if math.isfinite(self._trials) else f"{ended} trials"
        state = f"{len(running)} running, {states[TrialState.PRUNED]} stopped early, "
        state += f"{states[TrialState.FAIL]} failed"
        trained = f"{images / 1000:,.0f} kimg trained, {self._saved / 1000:,.0f} saved"
        found += self._describe_best(running)
        if self._study.target_reached:
            state += "; search.target reached"
        ended_now, left = ended - self._ended_before, self._study.unfinished
        if ended_now > 0 and 0 < left < math.inf:
            seconds = (time.monotonic() - self._began) / ended_now * left
            trained += f"  {', '.join(time_left(seconds))}"
        return [found, state, trained, *filter(None, [self._outlook()])]

    def _describe_best(self, running: list[FrozenTrial]) -> str:
        if self._study.objectives is not None:
            points = [point for _, _, trial in self._best if (point := released_point(trial))]
            found = f", at best {self._study.objectives.describe_best(points)}" if points else ""
            return f"  front of {len(points)}{found}"
        known = [*(trial for _, _, trial in self._best[:1]), *running]
        best = min(known, key=lambda trial: (lowest_value(trial), trial.number), default=None)
        if best is None or not math.isfinite(lowest_value(best)):
            return ""
        return f"  best {self._metric} {lowest_value(best):.3f} (trial {best.number})"

    def _table(self, running: list[FrozenTrial]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        for name in ("trial", "state", "kimg", *self._measured):
            table.add_column(name, no_wrap=True, min_width=len(name))
        table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
        for trial in [*running[-ROWS:], *(trial for _, _, trial in self._best)][:ROWS]:
            number, state, kimg, lowest, values = _cells(trial)
            point = released_point(trial) or {}
            several = [f"{point[name]:.3f}" if point else "-" for name in self._measured]
            table.add_row(number, state, kimg, *(several if self._study.objectives else [lowest]), values)
        return table


def _cells(trial: FrozenTrial) -> list[str]:
    lowest = lowest_value(trial)
    now = Member.of(trial).branch().values  # a member of a population changes them
    values = (f"{key}={at:.3g}" if isinstance(at, float) else f"{key}={at}" for key, at in now.items())
    state = _STATES.get(trial.state, "running")
    measured = f"{lowest:.3f}" if math.isfinite(lowest) else "-"
    return [str(trial.number), state, f"{images_trained(trial) / 1000:g}", measured, "  ".join(values)]


def _format_trial(trial: FrozenTrial) -> str:
    number, state, kimg, measured, values = _cells(trial)
    reason = f"  ({trial.user_attrs[REASON]})" if REASON in trial.user_attrs else ""
    return f"trial {number} {state} at {kimg} kimg, best {measured}  {values}{reason}"
