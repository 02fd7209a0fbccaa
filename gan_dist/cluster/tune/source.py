"""What Ray Tune runs in a search, and the decisions about it, without Tune."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gan_dist.cluster.tune.spending import Spending
from gan_dist.core.errors import GanDistError
from gan_dist.search.database import plain_study_errors

LOG = logging.getLogger("gan_dist")
T = TypeVar("T")
WAIT = object()
"""Answer of a source that has no run now, and may have one when another has ended."""


class TrialSource(ABC):
    """The runs that Tune gets, and the decisions about them."""

    error: GanDistError | None = None
    """Reason to end the whole search; once it is set no more runs are started, and the others end."""
    running = 0
    """Runs that Tune has been given and that have not ended."""
    images = 0
    """Images that they have trained with and that are not in the study."""
    spending: Spending | None = None

    def __getstate__(self) -> dict[str, object]:
        """Return nothing: Tune pickles its searcher and scheduler, and a study's storage has a password."""
        return {}

    def end_with(self, error: GanDistError) -> None:
        """End the search for a reason that is in its surroundings; the first one counts."""
        if self.error is None:
            self.error = error
            LOG.warning("the search ends: the trials that run write checkpoints, and no more begin")

    def guarded(self, call: Callable[[], T]) -> T | None:
        """Return the result of a call, or None where an error ends the search: Tune cannot handle any."""
        try:
            with plain_study_errors():
                return call()
        except GanDistError as error:
            self.end_with(error)
            return None

    def spent(self) -> bool:
        """Charge what runs; return whether the budget is spent."""
        spending = self.spending
        return spending is not None and bool(self.guarded(lambda: spending.check(self.running, self.images)))

    @abstractmethod
    def next_run(self, trial_id: str) -> dict[str, Any] | object | None:
        """Return the actor's configuration for Tune's trial of that name, WAIT, or None when none is left."""

    @abstractmethod
    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Store a measurement; return whether the run is to stop."""

    @abstractmethod
    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        """Store the end of a run."""
