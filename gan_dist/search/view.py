"""What a search shows: a table on a terminal, a line for each trial that ends elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from datetime import datetime, timedelta
from typing import TextIO

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gan_dist.screen import Screen
from gan_dist.search.ledger import ENDED, REASON, Ledger

ROWS = 11


class SearchView(Screen):
    """Shows a search's state whenever it changes.

    Args:
        ledger: The study.
        trials: Trials in all.
        length: Images of a trial that is not stopped.
        metric: Name of what is minimised.
        stream: Where to show it; standard error when None.
    """

    def __init__(
        self, ledger: Ledger, trials: int, length: int, metric: str, stream: TextIO | None = None
    ) -> None:
        super().__init__(stream)
        self._ledger, self._trials, self._length, self._metric = ledger, trials, length, metric
        known = ledger.trials()
        self._shown = {trial.number for trial in known if trial.state in ENDED}
        self._began, self._before = time.monotonic(), len(self._shown)

    def update(self) -> None:
        """Show what has changed."""
        trials = self._ledger.trials()
        if self.is_live:
            self.show(Group(Text(self._summary(trials)), self._table(trials)))
            return
        for trial in trials:
            if trial.state in ENDED and trial.number not in self._shown:
                self._shown.add(trial.number)
                self.note(f"{_line(trial)}  [{self._summary(trials)}]")

    def _summary(self, trials: list[FrozenTrial]) -> str:
        states = Counter(trial.state for trial in trials)
        ended = sum(states[state] for state in ENDED)
        spent = sum(images(trial) for trial in trials)
        saved = sum(self._length - images(trial) for trial in trials if trial.state == TrialState.PRUNED)
        parts = [
            f"{ended}/{self._trials} trials",
            f"{states[TrialState.RUNNING]} running, {states[TrialState.PRUNED]} stopped early, "
            f"{states[TrialState.FAIL]} failed",
            f"{spent / 1000:,.0f} kimg trained, {saved / 1000:,.0f} saved",
        ]
        best = min(trials, key=lowest, default=None)
        if best is not None and math.isfinite(lowest(best)):
            parts.insert(1, f"best {self._metric} {lowest(best):.3f} (trial {best.number})")
        done = ended - self._before
        if done > 0 and ended < self._trials:
            left = timedelta(seconds=round((time.monotonic() - self._began) / done * (self._trials - ended)))
            parts.append(f"{left} left, until {datetime.now().astimezone() + left:%H:%M:%S}")
        return "  ".join(parts)

    def _table(self, trials: list[FrozenTrial]) -> Table:
        """The trials that run, and the best of the others."""
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        others = sorted((trial for trial in trials if trial.state in ENDED), key=lowest)
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        for name in ("trial", "state", "kimg", self._metric):
            table.add_column(name, no_wrap=True, min_width=len(name))
        table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
        for trial in [*running[-ROWS:], *others][:ROWS]:
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
