"""The members of a population under Ray Tune: every interval of a member is one of Tune's trials."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from gan_dist.artifacts.best import BestMeasurement, RecordedRun
from gan_dist.artifacts.search_folder import TRIALS, read_search
from gan_dist.cluster.tune.source import WAIT, TrialSource
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, CheckpointError
from gan_dist.models.release import CONFIG
from gan_dist.search.lineage import lineage_values
from gan_dist.search.plan import Plan
from gan_dist.search.population import LOST, Branch, Member, Population, Task
from gan_dist.search.study import SearchStudy
from gan_dist.training.checkpoint import newest_images
from gan_dist.training.promotion import Promotion

LOG = logging.getLogger("gan_dist")


class PopulationTrials(TrialSource):
    """Intervals of a population's members, by Tune's names of them."""

    def __init__(self, plan: Plan, study: SearchStudy, metric: str, on_change: Callable[[], None]) -> None:
        self._plan, self._study, self._metric, self._on_change = plan, study, metric, on_change
        self._tasks: dict[str, Task] = {}
        self._identity = read_search(plan.uri).id
        self._population = Population(
            study, plan.search, plan.space, plan.ends, plan.grace, lambda name: newest_images(self._uri(name))
        )
        for member in self._population.members():  # a kill may have come before the copy
            self._copy(member.branch())

    def next_run(self, trial_id: str) -> dict[str, Any] | object | None:
        if self.error is not None:
            return None
        busy = {task.branch.member for task in self._tasks.values()}
        # All copies are made before anyone trains on: the copied may not.
        for branch in self._population.decide(busy):
            self._copy(branch)
            LOG.info(f"member {branch.member} copies {branch.parent} at {branch.images / 1000:g} kimg")
        task = self._population.next(busy)
        self._on_change()
        if task is None:
            return WAIT if busy else None
        self._tasks[trial_id] = task
        run = self._config(task.branch, task.end)
        return {"run": run.model_dump(mode="json"), "metric": self._metric}

    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        if self.error is not None:
            return True
        if "images" in result:
            value = result.get("value")
            number = self._tasks[trial_id].branch.member
            self._study.report(number, int(result["images"]), math.nan if value is None else float(value))
            self._on_change()
        return False

    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        task = self._tasks.pop(trial_id, None)
        if task is None or self.error is not None:
            return
        number, error = task.branch.member, (result or {}).get("error")
        member = next(one for one in self._population.members() if one.number == number)
        reason = ""
        if died:
            reason = f"its process failed {self._plan.search.retries + 1} times"
        elif error is not None:
            reason = f"{type(error).__name__}: {error}"
        elif task.end not in member.measured:
            reason = f"it ended without a measurement of {self._metric}"
        if reason:
            self._study.note(number, f"{LOST} {task.end}", reason)
        self._population.complete({one.branch.member for one in self._tasks.values()})
        self._on_change()

    def _uri(self, name: str) -> str:
        return storage.join(self._plan.uri, TRIALS, name)

    def _config(self, branch: Branch, end: int) -> RunConfig:
        return self._plan.branch(branch.name, lineage_values(self._study.trials(), branch.name), end)

    def _copy(self, branch: Branch) -> None:
        """Begin a branch's folder with the checkpoint that it copies, unless that was done before.

        Without one that is whole the branch is trained from the start, with the same result.
        """
        if branch.parent is None or CONFIG in storage.list_names(self._uri(branch.name)):
            return
        config = self._config(branch, self._plan.ends[-1])
        uri, donor = self._uri(branch.parent), Member.number_of(branch.parent)
        best = BestMeasurement(0.0, branch.images, donor, 0.0, RecordedRun(uri, donor, ()))
        workers = self._plan.config.scale.workers
        try:
            copy = Promotion(self._plan.uri, self._identity, best, workers, config, (), branch.images)
            copy.begin(LOG.warning)
        except CheckpointError as error:
            LOG.warning(f"{branch.name} is trained from the start, to the same result: {error}")


def require_places(plan: Plan, places: int) -> None:
    """Refuse a population in lock step of which some members would have to wait for others.

    Raises:
        CapacityError: with the arithmetic.
    """
    search, scale = plan.search, plan.config.scale
    if not plan.evolves or not search.synch or search.concurrent or places >= search.trials:
        return
    raise CapacityError(
        f"search.trials={search.trials} members train in lock step (search.synch), each with "
        f"{_resources(scale)}, which there is room for {places} times: {search.trials} > {places}",
        f"use search.trials={max(2, places)}, or search.synch=false; or let them take turns with "
        f"search.concurrent={places}",
        keys=("search.trials", "search.synch", "search.concurrent"),
    )


def _resources(scale: ScaleConfig) -> str:
    each = f"{scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs"
    return f"{scale.workers} workers of {each}"
