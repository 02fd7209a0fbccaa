"""Runs in MLflow: found again by a tag, since MLflow itself chooses the identities of its runs."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

from gan_dist.artifacts.trackers import numbers
from gan_dist.artifacts.trackers.tracker import TrackedRun
from gan_dist.core.storage import redact

ID, STATE, REASON = "gan_dist.id", "gan_dist.state", "gan_dist.reason"
"""Names of tags: our identity of a run, its state in our words, and why it failed."""
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "stopped early": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
PARAMS = 100
"""Most parameters in a request, and characters of a value: limits of MLflow's server."""
LONGEST = 6000


class MlflowTracker:
    """The server at MLFLOW_TRACKING_URI; parameters are the configuration, pictures have steps."""

    remedy = ""

    def __init__(self, project: str | None) -> None:
        # The library's own patience, seven tries of two minutes, would hide from users that nobody answers.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self.address = f"MLflow at {redact(os.environ['MLFLOW_TRACKING_URI'])}"
        self._client = MlflowClient()
        self._project = project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "gan-dist"
        self._runs: dict[str, str] = {}
        """MLflow's identities by ours."""

    def open(self, run: TrackedRun) -> int:
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'", max_results=1)
        opened = found[0] if found else self._create(experiment, run)
        self._runs[run.id] = opened.info.run_id
        if opened.info.status != "RUNNING":
            self._client.update_run(opened.info.run_id, status="RUNNING")
        self._client.set_tag(opened.info.run_id, STATE, "running")
        self._add_settings(opened, run.settings)
        return int(opened.data.metrics.get("images", -1))

    def log(self, run: TrackedRun, record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        own, step = self._runs[run.id], int(record["images"])
        at = datetime.fromisoformat(record["time"]).timestamp() if "time" in record else time.time()
        for name, content in pictures.items():
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                self._client.log_image(own, picture, key=name, step=step, synchronous=True)
        metrics = [Metric(key, value, int(1000 * at), step) for key, value in numbers(record).items()]
        self._client.log_batch(own, metrics)

    def close(self, run: TrackedRun) -> None:
        own = self._runs[run.id]
        tags = [RunTag(STATE, run.state)] + ([RunTag(REASON, run.reason[:LONGEST])] if run.reason else [])
        self._client.log_batch(own, tags=tags)
        self._client.set_terminated(own, STATUS[run.state])

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._project)
        if found is None:
            with suppress(MlflowException):  # another process may have made it
                return str(self._client.create_experiment(self._project))
            found = self._client.get_experiment_by_name(self._project)
        if found is None:
            raise MlflowException(f"there is no experiment {self._project}, and none can be made")
        return str(found.experiment_id)

    def _create(self, experiment: str, run: TrackedRun) -> Run:
        tags = {ID: run.id}
        if run.parent is not None:
            tags["mlflow.parentRunId"] = self._runs[run.parent.id]
        return self._client.create_run(experiment, run_name=run.name, tags=tags)

    def _add_settings(self, opened: Run, settings: Mapping[str, str]) -> None:
        """Add parameters; those of MLflow never change, so that later values of a key are tags."""
        known, own = opened.data.params, opened.info.run_id
        new = [Param(key, value[:LONGEST]) for key, value in settings.items() if key not in known]
        for start in range(0, len(new), PARAMS):
            self._client.log_batch(own, params=new[start : start + PARAMS])
        changed = {key: value[:LONGEST] for key, value in settings.items() if key in known}
        for key, value in changed.items():
            if value != known[key]:
                self._client.set_tag(own, f"now.{key}", value)
