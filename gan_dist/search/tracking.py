"""A search in trackers: a run for it, and below that a nested run for each trial, in its true state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState

from gan_dist.artifacts.search_folder import trial_folder
from gan_dist.artifacts.trackers import State, Trackers
from gan_dist.config import flatten
from gan_dist.core.errors import ConfigError
from gan_dist.search.plan import Plan
from gan_dist.search.study import REASON, SearchStudy, images_trained, lowest_value

STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
}


class SearchTracking:
    """Keeps the trackers of `log.to` up to date with a study while it is entered.

    An update's cost grows with the running trials only. `warn` is called with a sentence for the user, in
    other threads.
    """

    def __init__(self, plan: Plan, study: SearchStudy, warn: Callable[[str], None]) -> None:
        log = plan.config.log
        self._plan, self._study = plan, study
        self._trackers = Trackers(log.to, plan.uri, plan.config.name, log.project, warn)
        self._running: set[int] = set()
        self._ended = self._trained = 0
        self._best = math.inf
        settings = {**flatten(plan.config), **flatten(plan.search, "search.")}
        self._trackers.update("", "running", settings=settings)
        self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._trackers.__exit__(*error)

    def update(self) -> None:
        """Send what has changed."""
        ended, running = self._study.ended(self._ended), self._study.running()
        for trial in ended:
            self._send(trial)
            self._trained += images_trained(trial)
            self._running.discard(trial.number)
        self._ended += len(ended)
        for trial in running:
            if trial.number not in self._running:
                self._running.add(trial.number)
                self._send(trial)
        self._best = min([self._best, *map(lowest_value, [*ended, *running])])
        images = self._trained + sum(map(images_trained, running))
        best = {"best": self._best} if math.isfinite(self._best) else {}
        figures = {"images": images, "trials_ended": float(self._ended), **best}
        self._trackers.update("", "running", figures=figures if images else {})

    def end(self, *, finished: bool) -> None:
        """Send the end of the search."""
        self.update()
        self._trackers.update("", "finished" if finished else "interrupted")

    def _send(self, trial: FrozenTrial) -> None:
        try:
            settings = flatten(self._plan.trial(trial.number, trial.params))
        except ConfigError:
            settings = dict(trial.params)
        self._trackers.update(
            f"{trial.number:05d}",
            STATES[trial.state],
            uri=trial_folder(self._plan.uri, trial.number),
            settings=settings,
            reason=str(trial.user_attrs.get(REASON, "")),
        )
