"""A search under Ray Tune: Optuna's study decides, through Tune's interfaces for searchers and schedulers."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from gan_dist.artifacts.records import METRICS, is_score, read_records
from gan_dist.artifacts.search_folder import trial_folder
from gan_dist.cluster.connect import connect_for
from gan_dist.cluster.jobs.archive import keep_credentials_from_trials
from gan_dist.cluster.nodes.node_checks import check_nodes
from gan_dist.cluster.nodes.resources import cluster_nodes, concurrent_trials
from gan_dist.cluster.tune.trial import Trial
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import storage
from gan_dist.core.errors import ClusterError, ConfigError, GanDistError
from gan_dist.search.plan import Plan
from gan_dist.search.replicas import replica_configs
from gan_dist.search.study import SearchStudy

FOLDER = "ray"
"""Tune's own files in the search's folder; deleted at its end; the study and the trials stay."""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}


def run(plan: Plan, study: SearchStudy, metric: str, on_change: Callable[[], None]) -> None:
    """Run a search's trials until all have ended, then repeat the best as `search.replicates` says.

    An interrupt leaves the running trials to the next process.

    `metric` is the name of the metric that is minimised, in trials' records; `on_change` is called when the
    study has changed.

    Raises:
        CapacityError: one trial can never be placed.
        ClusterError: the nodes cannot work together, or a trial ended without a value of the metric.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    keep_credentials_from_trials()
    with connect_for(plan.config.scale, plan.search):
        check_nodes(plan.uri, plan.config.data.path)
        if study.unfinished:
            _run_trials(plan, _StudyTrials(plan, study, metric, on_change), study.unfinished)
        if not study.unfinished and (configs := replica_configs(plan, study)):
            _run_trials(plan, _Replicas(configs, metric), len(configs))


class TrialSource(ABC):
    """The runs that Tune gets, and the decisions about them."""

    error: GanDistError | None = None
    """Reason to end the whole search; once it is set no more runs are started."""

    def __getstate__(self) -> dict[str, object]:
        """Return nothing: Tune pickles its searcher and scheduler, and a study's storage has a password."""
        return {}

    @abstractmethod
    def next_run(self, trial_id: str) -> dict[str, Any] | None:
        """Return the actor's configuration for Tune's trial of that name, or None when none is left."""

    @abstractmethod
    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Store a measurement; return whether the run is to stop."""

    @abstractmethod
    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        """Store the end of a run."""


def _run_trials(plan: Plan, source: TrialSource, count: int) -> None:
    """Let Tune run at most `count` runs of a source."""
    filesystem, path = storage.open_uri(plan.uri)
    scratch = storage.join(plan.uri, FOLDER)
    storage.delete_tree(scratch)
    # Never more than can be placed: a trial that waits for its place may hold it after its end.
    concurrent = concurrent_trials(plan.config.scale, cluster_nodes(), plan.search.concurrent)
    tuner = tune.Tuner(
        tune.with_resources(Trial, _resources(plan.config.scale)),
        tune_config=tune.TuneConfig(
            search_alg=_Searcher(source),
            scheduler=_Scheduler(source),
            num_samples=count,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=plan.search.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()
    storage.delete_tree(scratch)
    if source.error is not None:
        raise source.error


def _resources(scale: ScaleConfig) -> dict[str, float]:
    """Return the resources of a trial's actor: those of a single worker; several reserve their own."""
    if scale.workers > 1:
        return {"memory": 2.0**20}  # Tune requires something, and no worker may lack a CPU for it
    return {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}


class _Replicas(TrialSource):
    """Repetitions of the best trials, which all run to their end."""

    def __init__(self, configs: Sequence[RunConfig], metric: str) -> None:
        self._configs, self._metric = list(configs), metric

    def next_run(self, trial_id: str) -> dict[str, Any] | None:
        if not self._configs:
            return None
        return {"run": self._configs.pop(0).model_dump(mode="json"), "metric": self._metric}

    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        """Nothing: their records have the values."""


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
            return {"run": config.model_dump(mode="json"), "metric": self._metric}
        return None

    def on_result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        if self.error is not None:
            return True
        if "value" in result:
            self._measured.add(trial_id)
        value = result.get("value")
        if value is None:
            return False
        if self._study.report(self._numbers[trial_id], int(result["images"]), float(value)):
            self._stopped.add(trial_id)
        self._on_change()
        return trial_id in self._stopped

    def on_end(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None or self.error is not None:
            return  # as after an interrupt: the next process goes on with it
        failed = (result or {}).get("failed")
        if died:
            self._study.fail(number, f"its process failed {self._plan.search.retries + 1} times")
        elif failed:
            self._study.fail(number, str(failed))
        elif trial_id in self._stopped:
            self._study.prune(number)
        else:
            self._study.complete(number)
            if trial_id not in self._measured:
                self.error = self._other_metrics(number)
        self._on_change()

    def _other_metrics(self, number: int) -> ClusterError | None:
        """Return an error if a trial recorded only other metrics than the search's; None if none at all."""
        uri = trial_folder(self._plan.uri, number)
        records = read_records(uri) if storage.exists(storage.join(uri, METRICS)) else []
        names = ", ".join(sorted({key for record in records for key in record if is_score(key)}))
        if not names:
            return None
        extractor = f"eval.extractor={self._plan.config.eval.extractor}"
        return ClusterError(
            f"trial {number} ended without a measurement of {self._metric}; its records have {names}",
            f"{extractor} and its weights must be the same on every node as they are here",
            keys=("eval.extractor",),
        )


class _Searcher(Searcher):
    def __init__(self, source: TrialSource) -> None:
        super().__init__()
        self._source = source

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return self._source.next_run(trial_id) or cast(None, Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._source.on_end(trial_id, result, died=error)

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
        stop = self._source.on_result(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
