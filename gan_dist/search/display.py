"""What a search shows: a table on a terminal, a line for each trial that ends elsewhere."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import Counter
from typing import TextIO

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gan_dist.core.console import LiveConsole, time_left
from gan_dist.search.study import REASON, SearchStudy

ROWS = 11
QUIET_S = 60.0
"""Seconds after which a log in which no trial has ended is told how things stand; then twice as many."""


class SearchView(LiveConsole):
    """Shows a search's state whenever it changes, at a cost that does not grow with the number of trials.

    Args:
        ledger: The study.
        trials: Trials in all.
        length: Images of a trial that is not stopped.
        metric: Name of what is minimised.
        stream: Where to show it; standard error when None.
    """

    def __init__(
        self, ledger: SearchStudy, trials: int, length: int, metric: str, stream: TextIO | None = None
    ) -> None:
        super().__init__(stream)
        self._ledger, self._trials, self._length, self._metric = ledger, trials, length, metric
        self._states: Counter[TrialState] = Counter()
        self._spent = self._saved = 0
        self._best: list[tuple[float, int, FrozenTrial]] = []
        self._note_ended()
        self._before = self._ended
        self._began = self._said_at = time.monotonic()
        self._quiet_s = QUIET_S

    def update(self) -> None:
        """Show what has changed."""
        ended, running = self._note_ended(), self._ledger.running()
        if self.is_live:
            self.display(Group(Text("\n".join(self._summary(running))), self._table(running)))
            return
        now = time.monotonic()
        for trial in ended:
            self._said_at, self._quiet_s = now, QUIET_S
            self.print(f"{_line(trial)}  [{'  '.join(self._summary(running))}]")
        if now - self._said_at >= self._quiet_s:
            self._said_at, self._quiet_s = now, 2 * self._quiet_s
            self.print("  ".join(self._summary(running)))

    @property
    def _ended(self) -> int:
        return self._states.total()

    def _note_ended(self) -> list[FrozenTrial]:
        """Return the trials that have ended since it was called last, and add up what they come to."""
        ended = self._ledger.ended(self._ended)
        for trial in ended:
            self._states[trial.state] += 1
            self._spent += images(trial)
            self._saved += self._length - images(trial) if trial.state == TrialState.PRUNED else 0
            insort(self._best, (lowest(trial), trial.number, trial))
        del self._best[ROWS:]
        return ended

    def _summary(self, running: list[FrozenTrial]) -> list[str]:
        """Return three short lines."""
        ended, states = self._ended, self._states
        spent = self._spent + sum(images(trial) for trial in running)
        found = f"{ended}/{self._trials} trials"
        state = f"{len(running)} running, {states[TrialState.PRUNED]} stopped early, "
        state += f"{states[TrialState.FAIL]} failed"
        trained = f"{spent / 1000:,.0f} kimg trained, {self._saved / 1000:,.0f} saved"
        known = [*(trial for _, _, trial in self._best[:1]), *running]
        best = min(known, key=lambda trial: (lowest(trial), trial.number), default=None)
        if best is not None and math.isfinite(lowest(best)):
            found += f"  best {self._metric} {lowest(best):.3f} (trial {best.number})"
        done = ended - self._before
        if done > 0 and ended < self._trials:
            seconds = (time.monotonic() - self._began) / done * (self._trials - ended)
            trained += f"  {', '.join(time_left(seconds))}"
        return [found, state, trained]

    def _table(self, running: list[FrozenTrial]) -> Table:
        """The trials that run, and the best of the others."""
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        for name in ("trial", "state", "kimg", self._metric):
            table.add_column(name, no_wrap=True, min_width=len(name))
        table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
        for trial in [*running[-ROWS:], *(trial for _, _, trial in self._best)][:ROWS]:
            table.add_row(*_cells(trial))
        return table


def images(trial: FrozenTrial) -> int:
    """Return the images that a trial has trained with, as far as it has told."""
    return max(trial.intermediate_values, default=0)


def lowest(trial: FrozenTrial) -> float:
    """Return the lowest finite value that a trial has told, or infinity."""
    values = trial.intermediate_values.values()
    return min((value for value in values if math.isfinite(value)), default=math.inf)


def _cells(trial: FrozenTrial) -> list[str]:
    value = lowest(trial)
    values = "  ".join(f"{key}={_short(given)}" for key, given in trial.params.items())
    state = {TrialState.PRUNED: "stopped", TrialState.COMPLETE: "complete", TrialState.FAIL: "failed"}
    shown = f"{value:.3f}" if math.isfinite(value) else "-"
    return [str(trial.number), state.get(trial.state, "running"), f"{images(trial) / 1000:g}", shown, values]


def _line(trial: FrozenTrial) -> str:
    number, state, kimg, value, values = _cells(trial)
    reason = f"  ({trial.user_attrs[REASON]})" if REASON in trial.user_attrs else ""
    return f"trial {number} {state} at {kimg} kimg, best {value}  {values}{reason}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
