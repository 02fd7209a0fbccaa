"""A search under Ray Tune: Optuna's study decides, through Tune's interfaces for searchers and schedulers."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from gan_dist.artifacts.records import METRICS, is_score, read_records
from gan_dist.artifacts.search_folder import trial_folder
from gan_dist.cluster.connect import connect_for
from gan_dist.cluster.jobs.archive import keep_credentials_from_trials
from gan_dist.cluster.nodes.node_checks import check_nodes
from gan_dist.cluster.nodes.resources import cluster_nodes, concurrent_trials
from gan_dist.cluster.tune.population import PopulationTrials, require_places
from gan_dist.cluster.tune.source import WAIT, TrialSource
from gan_dist.cluster.tune.spending import Spending
from gan_dist.cluster.tune.trial import Trial
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import storage
from gan_dist.core.errors import ClusterError, ConfigError, GanDistError, StorageError
from gan_dist.core.interrupts import stop_requests
from gan_dist.search.plan import Plan
from gan_dist.search.replicas import replica_configs
from gan_dist.search.study import SearchStudy

LOG = logging.getLogger("gan_dist")

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}


def run(
    plan: Plan,
    study: SearchStudy,
    metric: str,
    on_change: Callable[[], None],
    spending: Spending | None = None,
) -> bool:
    """Run a search's trials until all have ended, then repeat the best as `search.replicates` says.

    Returns False if the first signal to end (`core/interrupts.py`) has stopped it before. That leaves the
    running trials to the next process; a second one does not wait for them to end. The budget of `spending`
    stops a search in the same way, and then the result is True.

    `metric` is the name of the metric that is minimised, in trials' records; `on_change` is called when the
    study has changed.

    Raises:
        CapacityError: one trial can never be placed.
        ClusterError: the nodes cannot work together, or a trial ended without a value of the metric.
        GanDistError: whatever else kept a trial from its work and is not its own fault, such as missing
            images or a study that cannot be written. The trials that have not ended go on the next time.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    keep_credentials_from_trials()
    with connect_for(plan.config.scale, plan.search):
        check_nodes(plan.uri, plan.config.data.path)
        if spending is not None and spending.check():
            return True
        with stop_requests() as requested:
            if study.unfinished and plan.evolves:
                members = PopulationTrials(plan, study, metric, on_change)
                # One more each than intervals, so that Tune asks again when the last has ended.
                count = study.unfinished * (len(plan.ends) + 1)
                _run_trials(plan, members, count, requested, spending)
            elif study.unfinished:
                source = _StudyTrials(plan, study, metric, on_change)
                _run_trials(plan, source, study.unfinished, requested, spending)
            if not requested.is_set() and not study.unfinished and (configs := replica_configs(plan, study)):
                _run_trials(plan, _Replicas(configs, metric), len(configs), requested, spending)
            return not requested.is_set()


class _Stop(Stopper):
    """Tune's question before each step: should all trials stop?

    Then they write checkpoints and do not end: the next process goes on with them.
    """

    def __init__(self, requested: threading.Event, source: TrialSource) -> None:
        self._requested, self._source = requested, source

    def __getstate__(self) -> dict[str, object]:
        """Return nothing: Tune pickles its stopper, and needs it in this process only."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._requested.is_set() or self._source.spent()


def _run_trials(
    plan: Plan, source: TrialSource, count: float, stop: threading.Event, spending: Spending | None
) -> None:
    """Let Tune run at most `count` runs of a source, until a stop is requested or the budget is spent."""
    source.spending = spending
    # Never more than can be placed: a trial that waits for its place may hold it after its end.
    concurrent = concurrent_trials(plan.config.scale, cluster_nodes(), plan.search.concurrent)
    require_places(plan, concurrent)
    with _scratch_folder() as folder:
        tuner = tune.Tuner(
            tune.with_resources(Trial, _resources(plan.config.scale)),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(source),
                scheduler=_Scheduler(source),
                num_samples=int(count) if math.isfinite(count) else -1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                stop=_Stop(stop, source),
                failure_config=tune.FailureConfig(max_failures=plan.search.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()
    if source.error is not None:
        raise source.error


@contextmanager
def _scratch_folder() -> Iterator[str]:
    """Make a folder for Tune's own files, which nobody reads, on this machine: a store may fail."""
    try:
        with tempfile.TemporaryDirectory(prefix="gan-dist-tune-", ignore_cleanup_errors=True) as folder:
            yield folder
    except OSError as error:
        what = f"Ray Tune's files cannot be written in {tempfile.gettempdir()}: {error}"
        raise StorageError(what, "free some of its space, or set TMPDIR to another folder") from error


def _resources(scale: ScaleConfig) -> dict[str, float]:
    """Return the resources of a trial's actor: those of a single worker; several reserve their own."""
    if scale.workers > 1:
        return {"memory": 2.0**20}  # Tune requires something, and no worker may lack a CPU for it
    return {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}


class _Replicas(TrialSource):
    """Repetitions of the best trials, which all run to their end."""

    def __init__(self, configs: Sequence[RunConfig], metric: str) -> None:
        self._configs, self._metric = list(configs), metric
        self._images: dict[str, int] = {}

    def next_run(self, trial_id: str) -> dict[str, Any] | None:
        if self.error is not None or not self._configs:
            return None
        return {"run": self._configs.pop(0).model_dump(mode="json"), "metric": self._metric}

    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        if "images" in result:
            self._images[trial_id] = int(result["images"])
            self.images = sum(self._images.values())
        return self.error is not None

    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        """Store nothing: their records have the values."""


class _StudyTrials(TrialSource):
    """The trials of a study, by Tune's names of them."""

    def __init__(self, plan: Plan, study: SearchStudy, metric: str, on_change: Callable[[], None]) -> None:
        self._plan, self._study, self._metric, self._on_change = plan, study, metric, on_change
        self._numbers: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._measured: set[str] = set()

    def next_run(self, trial_id: str) -> dict[str, Any] | None:
        while self.error is None and (trial := self._study.next()) is not None:
            try:
                config = self._plan.trial(trial.number, trial.params)
            except ConfigError as error:
                self._study.fail(trial.number, str(error))
                self._on_change()
                continue
            self._numbers[trial_id] = trial.number
            self._on_change()
            names = [*(self._plan.search.objectives or ())]
            return {"run": config.model_dump(mode="json"), "metric": self._metric, "names": names}
        return None

    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        if self.error is not None:
            return True
        if "value" in result:
            self._measured.add(trial_id)
        if (value := result.get("value")) is None:
            return False
        measured = zip(self._plan.search.objectives or (), result.get("measured", ()), strict=False)
        self._study.measure(self._numbers[trial_id], int(result["images"]), dict(measured))
        if self._study.report(self._numbers[trial_id], int(result["images"]), float(value)):
            self._stopped.add(trial_id)
        self._on_change()
        return trial_id in self._stopped

    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None or self.error is not None:
            return  # as after an interrupt: the next process goes on with it
        error = (result or {}).get("error")
        if died:
            self._study.fail(number, f"its process failed {self._plan.search.retries + 1} times")
        elif error is not None:
            self._study.fail(number, f"{type(error).__name__}: {error}")
        elif trial_id in self._stopped:
            self._study.prune(number)
        else:
            self._study.complete(number)
            if trial_id not in self._measured:
                self._require_metric(number)
        self._on_change()

    def _require_metric(self, number: int) -> None:
        """End the search if a trial has recorded other metrics than the search's, and not merely none."""
        uri = trial_folder(self._plan.uri, number)
        records = read_records(uri) if storage.exists(storage.join(uri, METRICS)) else []
        names = ", ".join(sorted({key for record in records for key in record if is_score(key)}))
        if not names:
            return
        extractor = f"eval.extractor={self._plan.config.eval.extractor}"
        error = ClusterError(
            f"trial {number} ended without a measurement of {self._metric}; its records have {names}",
            f"{extractor} and its weights must be the same on every node as they are here",
            keys=("eval.extractor",),
        )
        self.end_with(error)


class _Searcher(Searcher):
    def __init__(self, source: TrialSource) -> None:
        super().__init__()
        self._source = source

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        run = None
        if not self._source.spent():
            run = self._source.guarded(lambda: self._source.next_run(trial_id))
        if run is WAIT:
            return None
        self._source.running += run is not None
        return cast(dict[str, Any] | None, run or Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._source.running -= 1
        cause = (result or {}).get("error")
        if isinstance(cause, GanDistError) and cause.external:
            self._source.end_with(cause)
        self._source.guarded(lambda: self._source.on_end(trial_id, result, died=error))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state of the search is its study."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search that goes on opens its study."""


class _Scheduler(FIFOScheduler):
    """Tune's question after each result: should the trial stop?"""

    def __init__(self, source: TrialSource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source = source

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stop = self._source.guarded(lambda: self._source.on_result(trial.trial_id, result))
        ends = stop or self._source.error is not None
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)
