"""A search under Ray Tune: Optuna's study decides through a searcher and a scheduler of Tune's interfaces."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from gan_dist.artifacts.best import is_figure
from gan_dist.artifacts.records import METRICS, read_records
from gan_dist.artifacts.search_folder import trial_folder
from gan_dist.cluster.connect import connect_for
from gan_dist.cluster.jobs.secrets import keep_credentials_from_trials
from gan_dist.cluster.nodes.node_checks import check_nodes
from gan_dist.cluster.nodes.resources import cluster_nodes, concurrent_trials
from gan_dist.cluster.tune.trial import Trial
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import storage
from gan_dist.core.errors import ClusterError, ConfigError, GanDistError
from gan_dist.search.plan import Plan
from gan_dist.search.replicas import replicas
from gan_dist.search.study import SearchStudy

FOLDER = "ray"
"""Tune's own files, in the search's folder while it runs: the study and the trials' runs are what is kept."""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}


def run(plan: Plan, ledger: SearchStudy, metric: str, changed: Callable[[], None]) -> None:
    """Run a search's trials until all have ended, then those of the best again that `replicates` asks for.

    An interrupt leaves the trials that run for the next process.

    Args:
        plan: The search.
        ledger: Its study.
        metric: Name of what is minimised, in trials' records.
        changed: Called when the study has changed.

    Raises:
        CapacityError: one trial can never be placed.
        ClusterError: the nodes cannot work together, or a trial came to its end without having been measured
            by the metric, as all others would.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    keep_credentials_from_trials()
    with connect_for(plan.config.scale, plan.search):
        check_nodes(plan.uri, plan.config.data.path)
        if ledger.unfinished:
            _fit(plan, _Trials(plan, ledger, metric, changed), ledger.unfinished)
        if not ledger.unfinished:
            again = replicas(plan, ledger)
            if again:
                _fit(plan, _Replicas(again, metric), len(again))


def _fit(plan: Plan, book: TrialSource, count: int) -> None:
    """Let Tune run what a book gives out, `count` runs at most."""
    filesystem, path = storage.open_uri(plan.uri)
    scratch = storage.join(plan.uri, FOLDER)
    storage.delete_tree(scratch)
    tuner = tune.Tuner(
        tune.with_resources(Trial, _resources(plan.config.scale)),
        tune_config=tune.TuneConfig(
            search_alg=_Search(book),
            scheduler=_Stops(book),
            num_samples=count,
            # Never more than can be placed: what waits for its place may keep it after its end.
            max_concurrent_trials=concurrent_trials(
                plan.config.scale, cluster_nodes(), plan.search.concurrent
            ),
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
    if book.error is not None:
        raise book.error


def _resources(scale: ScaleConfig) -> dict[str, float]:
    """Return what a trial's actor reserves: a single worker's part; several reserve for themselves."""
    if scale.workers > 1:
        return {"memory": 2.0**20}  # Tune wants it to reserve something, and no worker may lack a CPU for it
    return {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}


class TrialSource(ABC):
    """What Tune's searcher and scheduler ask. It is never pickled: a study's storage knows its password."""

    error: GanDistError | None = None
    """Why the whole search should end; once it is set nothing more is given out."""

    def __getstate__(self) -> dict[str, object]:
        return {}

    @abstractmethod
    def next(self, trial_id: str) -> dict[str, Any] | None:
        """Return the configuration of a run for Tune's trial of that name, or None when none is left."""

    @abstractmethod
    def result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Note a measurement, and return whether the run should stop."""

    @abstractmethod
    def ended(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        """Note the end of a run."""


class _Replicas(TrialSource):
    """Runs of the best again: all to their end."""

    def __init__(self, configs: Sequence[RunConfig], metric: str) -> None:
        self._configs, self._metric = list(configs), metric

    def next(self, trial_id: str) -> dict[str, Any] | None:
        if not self._configs:
            return None
        return {"run": self._configs.pop(0).model_dump(mode="json"), "metric": self._metric}

    def result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def ended(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        """Nothing: their records tell."""


class _Trials(TrialSource):
    """Tune's trials and the ledger's, one beside the other."""

    def __init__(self, plan: Plan, ledger: SearchStudy, metric: str, changed: Callable[[], None]) -> None:
        self._plan, self._ledger, self._metric, self._changed = plan, ledger, metric, changed
        self._numbers: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._measured: set[str] = set()

    def next(self, trial_id: str) -> dict[str, Any] | None:
        while self.error is None and (task := self._ledger.next()) is not None:
            self._changed()
            try:
                config = self._plan.trial(task.number, task.values)
            except ConfigError as error:
                self._ledger.fail(task.number, str(error))
                continue
            self._numbers[trial_id] = task.number
            return {"run": config.model_dump(mode="json"), "metric": self._metric}
        return None

    def result(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        value = result.get("value")
        if self.error is not None:
            return True
        if "value" in result:
            self._measured.add(trial_id)
        if value is None:
            return False
        if self._ledger.report(self._numbers[trial_id], int(result["images"]), float(value)):
            self._stopped.add(trial_id)
        self._changed()
        return trial_id in self._stopped

    def ended(self, trial_id: str, result: Mapping[str, Any] | None, *, died: bool) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None or self.error is not None:
            return  # as an interrupt would leave it: it goes on in the next process
        failed = (result or {}).get("failed")
        if died:
            self._ledger.fail(number, f"its process failed {self._plan.search.retries + 1} times")
        elif failed:
            self._ledger.fail(number, str(failed))
        elif trial_id in self._stopped:
            self._ledger.prune(number)
        else:
            self._ledger.complete(number)
            if trial_id not in self._measured:
                self.error = self._measured_otherwise(number)
        self._changed()

    def _measured_otherwise(self, number: int) -> ClusterError | None:
        """Return the error of a trial whose node measures by something else; None if it measured nothing."""
        uri = trial_folder(self._plan.uri, number)
        records = read_records(uri) if storage.exists(storage.join(uri, METRICS)) else []
        found = sorted({key for record in records for key in record if is_figure(key)})
        if not found:
            return None
        return ClusterError(
            f"trial {number} came to its end without a measurement of {self._metric}, and so would all "
            f"others: its records have {', '.join(found)}. eval.extractor={self._plan.config.eval.extractor} "
            "and its weights must be on every node what they are here"
        )


class _Search(Searcher):
    """What Tune asks for trials."""

    def __init__(self, book: TrialSource) -> None:
        super().__init__()
        self._book = book

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return self._book.next(trial_id) or cast(None, Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._book.ended(trial_id, result, died=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is what is kept."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search that goes on opens the study."""


class _Stops(FIFOScheduler):
    """What Tune asks whether a trial should stop."""

    def __init__(self, book: TrialSource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._book = book

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stop = self._book.result(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
